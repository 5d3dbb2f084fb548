# SPDX-License-Identifier: GPL-3.0-or-later
"""The lane `generate`: jobs in order per session, sessions in turn. Pure: no clock, no sockets, no workers.

The unit of scheduling is one image, so that a batch of 200 in one window does not keep a second window waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from krita_sd.wire.messages import PreviewWish
from krita_sd.wire.recipe import Recipe

MAX_JOBS = 1000
"""Unfinished jobs of one session."""

TOLD = 60
"""Characters of a prompt in the welcome: it must stay one message also with as many jobs as there can be."""


@dataclass
class Job:
    """One submitted job that has not ended. `wish`: None, "cancel" or "finish". `unit`: its running image, or 0.

    `place`: where it stands among the jobs of its session, smaller first. `next_index`: the image to run next.
    """

    id: str
    session: str
    recipe: Recipe
    count: int
    previews: PreviewWish
    place: float = 0.0
    state: str = "queued"
    next_index: int = 0
    results: int = 0
    unit: int = 0
    retries: int = 0
    wish: str | None = None
    submitted: float = 0.0
    queued_ms: float = 0.0
    sampling_since: float = 0.0
    loading_since: float = 0.0

    def describe(self) -> dict[str, object]:
        """What welcome says about a job that is alive: enough for a client that remembers nothing of it."""
        told = {"job": self.id, "state": self.state, "index": self.next_index, "count": self.count}
        recipe = self.recipe
        seen = {"prompt": recipe.prompt[:TOLD], "seed": recipe.seed, "width": recipe.width, "height": recipe.height}
        return {**told, **seen}


class Queue:
    """All unfinished jobs. Sessions take turns, image by image; a session without a client waits (`active`)."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._lines: dict[str, list[Job]] = {}
        self._turn: deque[str] = deque()
        self._active: set[str] = set()

    def __contains__(self, job: object) -> bool:
        return job in self._jobs

    def __len__(self) -> int:
        return len(self._jobs)

    def get(self, job: str) -> Job | None:
        return self._jobs.get(job)

    def of(self, session: str) -> list[Job]:
        """The unfinished jobs of a session in their order."""
        return list(self._lines.get(session, ()))

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    def add(self, job: Job, front: bool = False) -> None:
        """Append a job to its session's line, or put it before every other; sets its `place`."""
        line = self._lines.setdefault(job.session, [])
        if job.session not in self._turn:
            self._turn.append(job.session)
        if front:
            job.place = line[0].place - 1.0 if line else job.place
            line.insert(0, job)
        else:
            job.place = max(job.place, line[-1].place + 1.0) if line else job.place
            line.append(job)
        self._jobs[job.id] = job

    def move(self, job: Job, before: Job | None) -> bool:
        """Put a waiting job before another one of its session (behind it when that runs), or at the end; numbers the
        places of the line anew. False when nothing changes."""
        line = self._lines[job.session]
        if job.unit or before is job or (before is not None and before.session != job.session):
            return False
        old = list(line)
        line.remove(job)
        line.insert(len(line) if before is None else line.index(before) + (1 if before.unit else 0), job)
        for place, other in enumerate(line):
            other.place = float(place)
        return line != old

    def remove(self, job: Job) -> None:
        """Forget a job that has ended."""
        if self._jobs.pop(job.id, None) is None:
            return
        line = self._lines[job.session]
        line.remove(job)
        if not line:
            del self._lines[job.session]
            self._turn.remove(job.session)

    def activate(self, session: str) -> None:
        """The session has been seen since this server started: its jobs may run, also when it leaves again."""
        self._active.add(session)

    def next(self) -> Job | None:
        """The job whose next image shall run now; its session goes to the end of the turn."""
        for session in list(self._turn):
            if session not in self._active:
                continue
            for job in self._lines[session]:
                if job.unit == 0 and job.wish is None and job.next_index < job.count:
                    self._turn.remove(session)
                    self._turn.append(session)
                    return job
        return None
