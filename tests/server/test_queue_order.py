# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of the queue: a painter may change that of their own waiting jobs, and is told of every change."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from krita_sd.wire.client import Answered
from krita_sd.wire.errors import Code
from krita_sd.wire.limits import MAX_MESSAGE
from krita_sd.wire.messages import PreviewWish
from krita_sd.wire.queries import Move, QueueOrder
from krita_sd.wire.recipe import Recipe
from krita_sd.wire.values import dump
from server.front.hub import MODELS_BYTES
from server.front.journal import Journal
from server.front.queue import MAX_JOBS, Job, Queue
from tests.server.harness import LONG, Painter, tiny


def filled(count: int = 4) -> tuple[Queue, list[Job]]:
    queue = Queue()
    jobs = [Job(f"job{number}", "s", Recipe(), 1, PreviewWish()) for number in range(count)]
    for job in jobs:
        queue.add(job)
    return queue, jobs


def order(queue: Queue) -> list[int]:
    return [int(job.id[3:]) for job in queue.of("s")]


def test_a_waiting_job_moves_and_a_running_one_stays_first() -> None:
    queue, jobs = filled()
    jobs[0].unit = 1
    assert queue.move(jobs[3], jobs[1]) and order(queue) == [0, 3, 1, 2]
    assert queue.move(jobs[1], None) and order(queue) == [0, 3, 2, 1]
    assert queue.move(jobs[2], jobs[0]) and order(queue) == [0, 2, 3, 1], "behind the one that runs"
    assert not queue.move(jobs[0], None) and not queue.move(jobs[2], jobs[2]) and not queue.move(jobs[1], None)
    stranger = Job("x", "other", Recipe(), 1, PreviewWish())
    queue.add(stranger)
    assert not queue.move(jobs[1], stranger) and order(queue) == [0, 2, 3, 1]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), max_size=12), st.booleans())
def test_places_always_name_the_order_so_that_it_survives_a_restart(moves: list[tuple[int, int]], front: bool) -> None:
    queue, jobs = filled(5)
    for job, before in moves:
        queue.move(jobs[job], jobs[before] if before < 5 else None)
    queue.add(Job("job9", "s", Recipe(), 1, PreviewWish()), front)
    line = queue.of("s")
    assert sorted(line, key=lambda job: job.place) == line and len({job.place for job in line}) == 6
    assert line[0 if front else -1].id == "job9"


def test_a_welcome_with_as_many_jobs_as_there_can_be_is_one_message() -> None:
    job = Job("f" * 32, "s", Recipe(prompt="\U0001f600" * 20_000, seed=2**63 - 1), 200, PreviewWish())
    assert MAX_JOBS * (len(dump(job.describe()).encode()) + 1) + MODELS_BYTES < MAX_MESSAGE


async def test_moved_jobs_run_in_their_new_order(painter: Painter, tmp_path: Path) -> None:
    running = painter.submit(tiny(steps=LONG["steps"]), count=LONG["count"])
    waiting = [painter.submit(tiny(seed=number)) for number in range(3)]
    await painter.reaches(running, "sampling")
    await painter.reaches(waiting[2], "queued")
    painter.client.core.ask(Move(waiting[2], waiting[0]))
    painter.client.core.ask(Move("f" * 32, ""))
    painter.client.flush()

    def told() -> list[tuple[str, ...]]:
        asked = [event.message for event in painter.events if isinstance(event, Answered)]
        return [message.jobs for message in asked if isinstance(message, QueueOrder)]

    await painter.until(lambda: (running, waiting[2], waiting[0], waiting[1]) in told(), "the new order")
    painter.cancel(running)
    await painter.ended(*waiting)
    done = [event.state.job for event in painter.events if hasattr(event, "state") and event.state.state == "done"]
    assert done == [waiting[2], waiting[0], waiting[1]]
    assert painter.outcome("f" * 32).refused[0].error.code is Code.UNKNOWN_JOB
    await painter.until(lambda: told()[-1] == (), "an empty queue")


def test_the_journal_reads_jobs_by_place(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.load()
    base = journal._connect()
    base.executemany("insert into jobs values (?,?,?,?,0)", [("a", "s", 2.0, "{}"), ("b", "s", 1.0, "{}")])
    base.close()
    assert [row[0] for row in Journal(tmp_path / "journal").load().jobs] == ["b", "a"]
