# SPDX-License-Identifier: GPL-3.0-or-later
"""What the front keeps: the queue's order, blobs within their bounds, a journal that survives, a full disk."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from krita_sd.wire.errors import WireError
from krita_sd.wire.frames import Picture
from krita_sd.wire.messages import PreviewWish, parse_from_server
from krita_sd.wire.recipe import Recipe
from server.front.blobs import Blobs
from server.front.journal import Journal
from server.front.queue import Job, Queue
from server.front.session import Mailbox, Preview, Session
from server.front.state import StateFolder
from tests.server.harness import ROOT, Painter, ServerProcess, environment, tiny
from tests.server.test_jobs import canvas


def job(id: str, session: str = "a", count: int = 1) -> Job:
    return Job(id, session, Recipe(), count, PreviewWish())


def drained(queue: Queue) -> list[str]:
    """The order in which images run when one worker takes one after another."""
    order = []
    while (found := queue.next()) is not None:
        order.append(found.id)
        found.next_index += 1
        if found.next_index >= found.count:
            queue.remove(found)
    return order


def test_sessions_take_turns_image_by_image() -> None:
    queue = Queue()
    for item in (job("a1", "a", 3), job("b1", "b", 2), job("a2", "a"), job("c1", "c")):
        queue.add(item)
    for session in "abc":
        queue.activate(session)
    assert drained(queue) == ["a1", "b1", "c1", "a1", "b1", "a1", "a2"]
    assert len(queue) == 0


def test_a_session_nobody_has_seen_waits() -> None:
    queue = Queue()
    queue.add(job("old", "gone"))
    queue.add(job("new", "here"))
    queue.activate("here")
    assert drained(queue) == ["new"]
    queue.activate("gone")
    assert drained(queue) == ["old"]


def test_places_order_a_line_and_survive_as_numbers() -> None:
    queue = Queue()
    queue.add(job("one"))
    queue.add(job("two"))
    queue.add(job("zero"), front=True)
    queue.add(job("first"), front=True)
    jobs = queue.of("a")
    assert [item.id for item in jobs] == ["first", "zero", "one", "two"]
    assert sorted(jobs, key=lambda item: item.place) == jobs


def picture(size: int, value: int) -> Picture:
    return Picture("grey8", size, 1, bytes([value]) * size)


async def test_blobs_stay_within_their_bounds_and_pinned_ones_stay(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path, memory_bytes=3000, disk_bytes=5000)
    blobs.load()
    items = [picture(1000, value) for value in range(12)]
    blobs.pin([items[0].hash])
    for item in items:
        await blobs.receive(item.hash, item)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 5000
    assert (await blobs.get(items[0].hash)) == items[0], "pinned, and read back from disk"
    assert (await blobs.get(items[-1].hash)) == items[-1]
    assert await blobs.get(items[1].hash) is None and items[1].hash in blobs.missing([items[1].hash])
    again = Blobs(tmp_path)
    again.load()
    assert items[0].hash in again and items[-1].hash in again and items[1].hash not in again


async def test_a_blob_that_is_not_what_it_claims_is_refused(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    with pytest.raises(WireError):
        await blobs.receive("0" * 32, picture(10, 1))
    assert "0" * 32 not in blobs and not list(tmp_path.iterdir())


async def test_damaged_and_half_written_blobs_are_not_offered(tmp_path: Path) -> None:
    good = picture(10, 1)
    (tmp_path / ("a" * 32)).write_bytes(b"grey8 10 1\nshort")
    (tmp_path / f"{good.hash}.1234.tmp").write_bytes(b"half")
    blobs = Blobs(tmp_path)
    blobs.load()
    assert await blobs.get("a" * 32) is None and "a" * 32 not in blobs
    assert [file.name for file in tmp_path.iterdir()] == ["a" * 32]


async def test_a_journal_gives_back_what_was_committed_and_survives_damage(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    assert journal.load().items == []
    journal.start(asyncio.get_running_loop())
    committed = asyncio.Event()
    journal.do("insert into items values (?,?,?,?)", ("s", 1, "text", None))
    journal.do("insert into sessions values (?,?,?)", ("s", 1, 0.0), committed.set)
    await asyncio.wait_for(committed.wait(), 30)
    journal.close()
    again = Journal(tmp_path / "journal.db").load()
    assert again.items == [("s", 1, "text", None)] and again.sessions == [("s", 1, 0.0)]
    (tmp_path / "journal.db").write_bytes(b"this is not a database at all" * 100)
    assert Journal(tmp_path / "journal.db").load().items == []
    assert (tmp_path / "journal.db.damaged").exists()


async def test_where_no_journal_can_be_kept_the_server_works_without(tmp_path: Path) -> None:
    (tmp_path / "journal.db").mkdir()
    (tmp_path / "journal.db.damaged").mkdir()
    (tmp_path / "journal.db.damaged" / "x").touch()
    journal = Journal(tmp_path / "journal.db")
    assert journal.load().items == []
    journal.start(asyncio.get_running_loop())
    committed = asyncio.Event()
    journal.do("insert into items values (?,?,?,?)", ("s", 1, "text", None), committed.set)
    await asyncio.wait_for(committed.wait(), 30)
    journal.close()


async def test_a_session_replays_what_is_not_acknowledged(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    journal.load()
    journal.start(asyncio.get_running_loop())
    session = Session("s", journal, Blobs(tmp_path))
    for number in range(5):
        session.push_state(f"job{number}", "queued")
    assert session.acked == 0
    session.acknowledge(2)
    first, second = Mailbox(lambda: None), Mailbox(lambda: None)
    session.attach(first)
    session.attach(second)
    session.detach(first)
    assert session.attached, "the clean-up of an old connection does not evict the new one"
    assert [item.seq for item in second.items] == [3, 4, 5] and session.acked == 2
    for number in range(2):
        session.push_preview(picture(9, number), {"job": "job0"})
    session.push_state("job0", "done")
    session.acknowledge(5)
    third = Mailbox(lambda: None)
    session.attach(third)
    assert [item.seq for item in third.items] == [0, 0, 6], "promised previews outlive the states before them"
    session.drop_previews("job0")
    assert [item.seq for item in third.items] == [6]
    session.acknowledge(6)
    assert session.acked == 6
    journal.close()


async def test_results_that_nobody_fetches_are_bounded_and_leave_no_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.front.session.MAX_RESULT_BYTES", 250)
    blobs = Blobs(tmp_path)
    session = Session("s", Journal(tmp_path / "journal.db"), blobs)
    data = {"recipe": {}, "steps_run": 1, "partial": False, "ms": {}, "reading": {}}
    for number in range(4):
        item = picture(100, number)
        session.push_result("job", number, 4, {"id": item.hash, **item.describe()}, data)
    mailbox = Mailbox(lambda: None)
    session.attach(mailbox)
    assert [item.seq for item in mailbox.items] == [1, 2, 3, 4]
    assert [item.picture is not None for item in mailbox.items] == [False, False, True, True]
    kinds = [type(parse_from_server(item.text)).__name__ for item in list(mailbox.items)[:2]]
    assert kinds == ["State", "State"]


async def test_lossy_slots_keep_the_newest_and_give_credit_when_it_leaves(tmp_path: Path) -> None:
    session = Session("s", Journal(tmp_path / "journal.db"), Blobs(tmp_path))
    taken: list[int] = []
    for number in range(3):
        session.set_progress("job", f"progress {number}")
        session.set_preview("job", Preview(picture(1, number), {}, lambda number=number: taken.append(number)))  # type: ignore[misc]
    assert session.take_progress() == "progress 2" and session.take_progress() is None
    assert taken == []
    preview = session.take_preview()
    assert preview is not None and preview.picture == picture(1, 2) and taken == [2]
    session.set_progress("job", "late")
    session.drop_lossy("job")
    assert session.take_progress() is None and session.take_preview() is None


def test_one_server_per_state_folder(tmp_path: Path) -> None:
    one, two = StateFolder(tmp_path / "state"), StateFolder(tmp_path / "state")
    one.open()
    token = one.token()
    assert (tmp_path / "state" / "token").stat().st_mode & 0o777 == 0o600
    with pytest.raises(WireError, match="already running"):
        two.open()
    one.close()
    two.open()
    assert two.token() == token, "a client that knows the token may come back"
    two.close()


async def test_a_full_disk_does_not_stop_the_painter(tmp_path: Path, models: Path) -> None:
    """Files may not grow beyond 48 KiB in this server: neither the input nor the result can be saved."""
    code = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (48 * 1024, 48 * 1024)); "
        "sys.argv[0] = 'server'; runpy.run_module('server', run_name='__main__')"
    )
    command = [sys.executable, "-c", code, "--state", str(tmp_path / "state"), "--models", str(models)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment())
    assert process.stdout is not None
    server = ServerProcess(process, process.stdout.readline().split("listening on ")[1].strip(), tmp_path / "state")
    try:
        async with server.client() as client:
            painter = Painter(client)
            large = canvas(300, 300)
            recipe = tiny(kind="img2img", width=300, height=300, strength=0.5, image=large.hash)
            for _ in range(2):
                assert (await painter.ended(painter.submit(recipe, (large,)))).results
        saved = [file for file in (tmp_path / "state" / "pictures").iterdir() if file.stat().st_size > 48 * 1024]
        assert not saved and not list((tmp_path / "state" / "pictures").glob("*.tmp"))
    finally:
        server.stop()
    assert (tmp_path / "state" / "token").exists()
