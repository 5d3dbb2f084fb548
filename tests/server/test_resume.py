# SPDX-License-Identifier: GPL-3.0-or-later
"""Broken connections, killed servers and killed workers: nothing computed is lost, nothing arrives twice."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from krita_sd.wire import limits
from krita_sd.wire.client import ClientCore, JobState, ResultReady
from krita_sd.wire.errors import Code, WireError
from server.client import open_socket
from tests.server.harness import LONG, PATIENCE, Painter, ServerProcess, alive, running, tiny, wait_for
from tests.server.test_jobs import canvas
from tests.tiny import make_model


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, models: Path):  # type: ignore[no-untyped-def]
    """A server that these tests may harm."""
    with running(tmp_path_factory.mktemp("own") / "state", "--models", models) as process:
        yield process


@pytest.mark.parametrize("seed", range(3))
async def test_dropping_the_connection_anywhere_delivers_everything_once(server: ServerProcess, seed: int) -> None:
    """Cut without a handshake after random numbers of messages, with uploads and results on the way."""
    source = random.Random(seed)
    core = ClientCore(f"drop-{seed}-{os.urandom(4).hex()}", "test")
    picture = canvas(300, 300, seed)
    jobs = [f"drop-{seed}-{i}-{os.urandom(4).hex()}" for i in range(2)]
    async with server.client() as client:
        model = Painter(client).tiny_model()
    recipe = tiny(kind="img2img", model=model, width=300, height=300, strength=0.7, image=picture.hash)
    core.submit(jobs[0], recipe, {picture.hash: picture}, count=2)
    core.submit(jobs[1], tiny(seed=seed, model=model), {})
    ended: list[str] = []
    results: list[tuple[str, int]] = []

    async def one_connection(messages: int) -> None:
        socket = await open_socket(server.url, server.token)
        core.connect()
        try:
            while messages > 0 and len(ended) < 2:
                while (out := core.outgoing()) is not None and messages > 0:
                    await socket.send(out)
                    messages -= 1
                if messages <= 0:
                    return
                data = await asyncio.wait_for(socket.recv(), PATIENCE)
                messages -= 1
                for event in core.receive(data):
                    if isinstance(event, ResultReady):
                        results.append((event.result.job, event.result.index))
                        core.stored(event.result.seq)
                    elif isinstance(event, JobState) and event.state.state == "done":
                        ended.append(event.state.job)
        finally:
            socket.transport.abort()
            core.disconnect()

    for _ in range(200):
        if len(ended) >= 2:
            break
        await one_connection(source.randrange(1, 25))
    assert sorted(ended) == sorted(jobs)
    assert sorted(results) == sorted([(jobs[0], 0), (jobs[0], 1), (jobs[1], 0)])


async def test_a_client_that_reconnects_by_itself_gets_each_result_once(server: ServerProcess) -> None:
    async with server.client() as client:
        painter = Painter(client)
        job = painter.submit(tiny(steps=10), count=4)
        for step in ("loading", "sampling"):
            await painter.reaches(job, step)
            client.drop()
        await painter.until(lambda: len(painter.outcome(job).results) == 2)
        client.drop()
        outcome = await painter.ended(job)
    assert [item.result.index for item in outcome.results] == [0, 1, 2, 3]
    assert len(outcome.terminals) == 1


async def test_a_result_waits_for_a_client_that_left(server: ServerProcess) -> None:
    async with server.client() as client:
        session, core = client.core.session, client.core
        painter = Painter(client)
        job = painter.submit(tiny(steps=20))
        await painter.reaches(job, "sampling")
        last = core.last_seq
    await asyncio.sleep(1.0)  # time for the job to end without anybody listening
    async with server.client(session) as again:
        again.core._low = again.core._acked = last
        painter = Painter(again)
        outcome = await painter.ended(job)
        assert len(outcome.results) == 1


async def test_a_killed_server_keeps_results_and_waiting_jobs_and_says_what_was_interrupted(
    tmp_path: Path, models: Path
) -> None:
    state = tmp_path / "state"
    picture = canvas(seed=3)
    with running(state, "--models", models) as first:
        async with first.client("krita") as client:
            painter = Painter(client)
            done = painter.submit(tiny(seed=11))
            # Neither stored nor acknowledged by this client.
            await painter.until(lambda: any(isinstance(event, ResultReady) for event in painter.events))
            long = painter.submit(tiny(steps=LONG["steps"]), count=LONG["count"])
            recipe = tiny(kind="img2img", strength=0.5, image=picture.hash)
            waiting = painter.submit(recipe, (picture,))
            await painter.reaches(waiting, "queued")
            async with first.client("absent") as absent:
                other = Painter(absent)
                others = other.submit(tiny(seed=12))
                await other.reaches(others, "queued")
            await painter.reaches(long, "sampling")
            seen = painter.outcome(done).results[0].picture.data
            workers = first.children()
            first.kill()
        wait_for(lambda: not any(alive(pid) for pid in workers), "the worker's end")
        assert not list((state / "pictures").glob("*.tmp"))
    with running(state, "--models", models) as second:
        async with second.client("krita") as client:
            welcome = client.core.welcome
            assert welcome is not None and welcome.resumed
            assert waiting in [job["job"] for job in welcome.jobs]
            painter = Painter(client)
            await painter.ended(long, waiting)
            problem = painter.outcome(long).last.error
            assert problem is not None and problem.code is Code.INTERRUPTED and problem.retryable
            assert painter.outcome(waiting).names[-1] == "done", "its input picture survived too"
            # Replayed: this client object has never seen it.
            replayed = [item for item in painter.outcome(done).results if item.picture.data == seen]
            assert len(replayed) <= 1
            assert len(painter.outcome(long).terminals) == len(painter.outcome(waiting).terminals) == 1
        # What waits belongs to its own client: nobody else's coming runs it.
        async with second.client("absent") as absent:
            assert absent.core.welcome is not None
            (job,) = absent.core.welcome.jobs
            assert job["job"] == others and job["state"] == "queued"
            other = Painter(absent)
            other.cancel(others)
            await other.ended(others)


async def test_a_killed_worker_fails_its_job_in_a_sentence_and_the_queue_goes_on(own: ServerProcess) -> None:
    async with own.client() as client:
        painter = Painter(client)
        kept = painter.submit(tiny())
        await painter.ended(kept)
        job = painter.submit(tiny(steps=LONG["steps"]), count=LONG["count"])
        after = painter.submit(tiny(seed=4))
        await painter.reaches(job, "sampling")
        (worker,) = own.children()
        os.kill(worker, signal.SIGKILL)
        await painter.ended(job, after)
        problem = painter.outcome(job).last.error
        assert problem is not None and problem.code is Code.WORKER_DIED and problem.retryable
        assert problem.message.endswith(".") and problem.hint
        assert painter.outcome(after).names[-1] == "done"
        assert len(painter.outcome(job).terminals) == 1
        assert own.children() and own.children() != [worker]


async def test_a_worker_killed_while_idle_is_replaced_without_a_word(own: ServerProcess) -> None:
    async with own.client() as client:
        painter = Painter(client)
        await painter.ended(painter.submit(tiny()))
        (worker,) = own.children()
        os.kill(worker, signal.SIGKILL)
        assert (await painter.ended(painter.submit(tiny(seed=8)))).names[-1] == "done"


@pytest.mark.parametrize("how", ["cancel", "finish"])
async def test_a_stopped_job_of_a_worker_that_dies_ends_too(own: ServerProcess, how: str) -> None:
    async with own.client() as client:
        painter = Painter(client)
        await painter.ended(painter.submit(tiny()))
        (worker,) = own.children()
        os.kill(worker, signal.SIGSTOP)
        job = painter.submit(tiny())
        await painter.reaches(job, "queued")
        painter.cancel(job) if how == "cancel" else painter.finish(job)
        await painter.quiet(0.3)
        os.kill(worker, signal.SIGKILL)
        outcome = await painter.ended(job)
        assert len(outcome.terminals) == 1
        assert outcome.names[-1] == ("cancelled" if how == "cancel" else "failed")


async def test_a_worker_that_hangs_is_ended_after_a_cancel(own: ServerProcess) -> None:
    async with own.client() as client:
        painter = Painter(client)
        await painter.ended(painter.submit(tiny()))
        (worker,) = own.children()
        job = painter.submit(tiny(steps=LONG["steps"]), count=LONG["count"])
        await painter.reaches(job, "sampling")
        os.kill(worker, signal.SIGSTOP)
        painter.cancel(job)
        assert (await painter.ended(job)).names[-1] == "cancelled"
        assert not alive(worker)
        assert (await painter.ended(painter.submit(tiny()))).names[-1] == "done"


async def test_a_client_that_remembers_less_than_it_acknowledged_still_acknowledges(server: ServerProcess) -> None:
    """Krita was killed before it wrote down the last sequence number; the session must not grow for ever."""
    async with server.client() as client:
        session = client.core.session
        painter = Painter(client)
        await painter.ended(painter.submit(tiny()))
        await painter.quiet(0.3)
        assert client.core.last_seq > 0
    async with server.client(session) as again:  # begins at 0
        painter = Painter(again)
        outcome = await painter.ended(painter.submit(tiny(seed=2)))
        assert len(outcome.results) == 1
        await painter.until(lambda: again.core.last_seq == outcome.last.seq)
    async with server.client(session) as third:
        welcome = third.core.welcome
        assert welcome is not None and welcome.acked == welcome.seq == outcome.last.seq


async def test_a_client_whose_session_was_taken_does_not_fight_for_it(server: ServerProcess) -> None:
    async with server.client("shared") as old, server.client("shared") as new:
        with pytest.raises(WireError, match="another client"):
            await asyncio.wait_for(Painter(old).until(lambda: False), PATIENCE)
        painter = Painter(new)
        assert (await painter.ended(painter.submit(tiny()))).names[-1] == "done"


IMPATIENT = """
import runpy
from krita_sd.wire import limits
limits.PING_SECONDS = limits.PING_TIMEOUT_SECONDS = 0.5
runpy.run_module("server", run_name="__main__")
"""


def test_a_half_open_connection_would_be_noticed_within_25_seconds() -> None:
    assert limits.PING_SECONDS + limits.PING_TIMEOUT_SECONDS < 25


async def test_a_half_open_connection_is_noticed(tmp_path: Path, models: Path) -> None:
    """A peer that is frozen answers no ping: the server ends the connection in time, and its session lives."""
    with running(tmp_path / "state", "--models", models, program=("-c", IMPATIENT)) as server:
        await frozen(server)


async def frozen(server: ServerProcess) -> None:
    async with server.client("frozen") as client:
        assert client._socket is not None
        client._socket.transport.pause_reading()  # type: ignore[attr-defined]
        assert client._socket.keepalive_task is not None
        client._socket.keepalive_task.cancel()
        before = server_connections(server)
        started = time.monotonic()
        while server_connections(server) >= before:
            assert time.monotonic() - started < 25
            await asyncio.sleep(0.1)
    async with server.client("frozen") as client:
        assert client.core.welcome is not None and client.core.welcome.resumed


def server_connections(server: ServerProcess) -> int:
    """Established TCP connections of the server's side."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[3] == "01" and int(row[1].split(":")[1], 16) == server.port for row in rows)


async def test_a_model_that_is_replaced_or_removed_while_loaded(tmp_path: Path) -> None:
    root = tmp_path / "models"
    make_model(root / "one", seed=1)
    with running(tmp_path / "state", "--models", root) as server:
        async with server.client() as client:
            painter = Painter(client)
            first = (await painter.ended(painter.submit(tiny()))).results[0].picture.data
            make_model(root / "one", seed=2)
            second = (await painter.ended(painter.submit(tiny()))).results[0].picture.data
            assert first != second, "the old weights were still used"
            weights = root / "one" / "unet" / "diffusion_pytorch_model.safetensors"
            whole = weights.read_bytes()
            weights.write_bytes(whole[:-100])
            outcome = await painter.ended(painter.submit(tiny()))
            assert outcome.last.error is not None and outcome.last.error.code is Code.MODEL_CORRUPT
            weights.write_bytes(whole)
            again = (await painter.ended(painter.submit(tiny()))).results[0].picture.data
            assert again == second, "a failed load left something behind"
            shutil.rmtree(root / "one")
            outcome = await painter.ended(painter.submit(tiny()))
            assert outcome.last.error is not None
            assert outcome.last.error.code in (Code.MODEL_MISSING, Code.MODEL_CORRUPT)
