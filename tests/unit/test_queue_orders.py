# SPDX-License-Identifier: GPL-3.0-or-later
"""The queue in the docker and the one of the server: whatever is moved, cancelled and lost on the way, they meet."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from krita_sd.geometry import Bounds
from krita_sd.job_events import (
    CancelPressed,
    Captured,
    Connected,
    Created,
    Disconnected,
    KnownJob,
    Phase,
    Reordered,
    ResultArrived,
    StateChanged,
)
from krita_sd.jobs import JobTable
from krita_sd.wire.recipe import Recipe

BOX = Bounds(0, 0, 8, 8)
RECIPE = Recipe(width=8, height=8)


class Server:
    """A server with one line of jobs, as the docker hears of it: late, but in order."""

    def __init__(self, table: JobTable) -> None:
        self.table = table
        self.waiting: list[str] = []
        self.running = ""
        self.wire: list[Any] = []
        self.asked: list[str] = []  # cancellations on their way
        self.count = 0

    def tell(self, *events: Any) -> None:
        self.wire += [*events, Reordered(tuple([self.running] * bool(self.running) + self.waiting))]

    def submit(self, place: int) -> None:
        self.count += 1
        job = f"j{self.count}"
        self.table.feed(Created(job, "one", BOX, RECIPE))
        self.table.feed(Captured(job))
        self.waiting.insert({0: 0}.get(place, len(self.waiting)), job)
        self.tell(StateChanged(job, Phase.QUEUED))

    def move(self, number: int, before: int) -> None:
        if self.waiting:
            job = self.waiting.pop(number % len(self.waiting))
            self.waiting.insert(before % (len(self.waiting) + 1), job)
            self.tell()

    def begin(self) -> None:
        if not self.running and self.waiting:
            self.running = self.waiting.pop(0)
            self.tell(StateChanged(self.running, Phase.SAMPLING, 0, 1, 12))

    def end(self) -> None:
        if self.running:
            done, self.running = self.running, ""
            self.tell(ResultArrived(done, 0, RECIPE), StateChanged(done, Phase.DONE))

    def cancel(self, number: int) -> None:
        """The painter cancels one of what the docker shows; the server hears of it later."""
        shown = self.table.queue
        if shown:
            job = shown[number % len(shown)].id
            others = [other.id for other in shown if other.id != job]
            self.table.feed(CancelPressed(job))
            assert [other.id for other in self.table.queue] == others, "that one and no other"
            self.asked.append(job)

    def hear(self, number: int) -> None:
        for job in self.asked[: number % 3]:
            self.asked.remove(job)
            if job in self.waiting or job == self.running:
                self.waiting = [other for other in self.waiting if other != job]
                self.running = self.running if self.running != job else ""
                self.tell(StateChanged(job, Phase.CANCELLED))

    def deliver(self, number: int) -> None:
        for event in self.wire[:number]:
            self.table.feed(event)
        del self.wire[:number]

    def reconnect(self) -> None:
        """What was on its way is lost; the welcome tells what there is, and ended jobs are told again."""
        ended = [event for event in self.wire if isinstance(event, StateChanged) and event.phase.terminal]
        self.wire = []
        here = [self.running] * bool(self.running) + self.waiting
        known = [KnownJob(job, Phase.SAMPLING if job == self.running else Phase.QUEUED, RECIPE) for job in here]
        ended_jobs = frozenset(event.job for event in ended)
        self.table.feed(Disconnected())
        self.table.feed(Connected(frozenset(here) | ended_jobs, resumed=True, jobs=tuple(known)))
        for event in ended:
            self.table.feed(event)


NUMBER = st.integers(0, 7)
DEEDS = st.one_of(
    st.tuples(st.just("submit"), st.integers(0, 1)),
    st.tuples(st.just("move"), NUMBER, NUMBER),
    st.tuples(st.just("cancel"), NUMBER),
    st.tuples(st.just("hear"), NUMBER),
    st.tuples(st.just("deliver"), NUMBER),
    st.tuples(st.sampled_from(["begin", "end", "reconnect"])),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(DEEDS, max_size=60))
def test_whatever_is_moved_and_cancelled_the_docker_ends_with_the_queue_of_the_server(deeds: list[Any]) -> None:
    server = Server(JobTable())
    for name, *numbers in deeds:
        getattr(server, name)(*numbers)
    while server.asked or server.wire:
        server.hear(2)
        server.deliver(len(server.wire))
    here = [server.running] * bool(server.running) + server.waiting
    assert [job.id for job in server.table.queue] == here
    while server.running or server.waiting:
        server.begin()
        server.end()
        server.deliver(len(server.wire))
    assert server.table.current is None
