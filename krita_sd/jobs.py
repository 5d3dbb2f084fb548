# SPDX-License-Identifier: GPL-3.0-or-later
"""What the plugin knows about each job: a table fed with events, which answers with what the canvas should show.

Pure: no Qt, no sockets, no clock. Everything the docker shows as busy, cancellable or applicable is derived from this
table, so no order of events can leave it stuck. `JobTable.feed(event)` returns effects for the canvas:

    Prepare         make a place for the job in its document
    ShowPreview     the newest estimate of a running job
    ShowResult      a finished picture, not yet applied
    Withdraw        remove what this job has on the canvas, without a trace
    Forget          the pixels of a result are no longer needed
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from krita_sd.geometry import Bounds
from krita_sd.job_events import (
    Adopted,
    Applied,
    Bound,
    CancelPressed,
    Captured,
    Connected,
    Created,
    Discarded,
    Disconnected,
    DocumentClosed,
    Effect,
    Forget,
    Hidden,
    JobFailed,
    JobLost,
    KeepPressed,
    Phase,
    Picked,
    Prepare,
    PreviewArrived,
    Progress,
    Reordered,
    ResultArrived,
    ShowPreview,
    ShowResult,
    Starred,
    StateChanged,
    Withdraw,
)
from krita_sd.text import tr
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.recipe import Recipe

# The picture has begun: there is something that "stop and keep" can keep.
_KEEPABLE = (Phase.SAMPLING, Phase.DECODING)


@dataclass
class Job:
    """One press of the button. `index`, `step` and `total` say how far it is; `results` are keys, in order."""

    id: str
    document: str
    bounds: Bounds
    recipe: Recipe
    count: int = 1
    phase: Phase = Phase.CAPTURING
    index: int = 0
    step: int = 0
    total: int = 0
    error: WireError | None = None
    keeping: bool = False
    pinned: bool = False
    document_open: bool = True
    results: list[str] = field(default_factory=list)

    @property
    def active(self) -> bool:
        return not self.phase.terminal

    @property
    def can_keep(self) -> bool:
        return self.phase in _KEEPABLE and not self.keeping


@dataclass
class Result:
    """A finished picture in the strip. `job` may be unknown to the table when Krita was restarted meanwhile."""

    key: str
    job: str
    index: int
    recipe: Recipe
    partial: bool
    applied: bool = False
    starred: bool = False
    reading: str = ""


_LOST = WireError(
    Code.INTERRUPTED,
    tr("The server was restarted and no longer knows this job."),
    tr("Press Generate again."),
    retryable=True,
)


class JobTable:
    """All jobs and results of this Krita. `stage` says which job has something on the canvas of which document."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.results: dict[str, Result] = {}
        self.selected: str | None = None
        self.connected = False
        self.stage: dict[str, str] = {}
        self._order: dict[str, int] = {}  # the server's order of the jobs that have not ended
        self._shown: dict[str, str] = {}  # document -> the result on its canvas; none while it is a preview

    def feed(self, event: Any) -> list[Effect]:
        """Take one event; return what the canvas has to do, in order."""
        return list(self._feed(event))

    def _feed(self, event: Any) -> Iterator[Effect]:
        match event:
            case Created():
                yield from self._created(event)
            case Disconnected():
                self.connected = False
            case Connected():
                yield from self._resume(event)
            case DocumentClosed():
                self._close(event.document)
            case Picked() | Hidden() | Applied() | Discarded():
                yield from self._chosen(event)
            case Starred():
                if event.key in self.results:
                    self.results[event.key].starred = event.on
            case Reordered():
                self._order = {job: place for place, job in enumerate(event.jobs)}
            case Adopted():
                yield from self._adopt(event)
            case Bound():
                self._bind(event)
            case ResultArrived():
                yield from self._result(event)
            case _:
                job = self.jobs.get(event.job)
                if job is not None and job.active:
                    yield from self._step(job, event)

    def _step(self, job: Job, event: Any) -> Iterator[Effect]:
        match event:
            case Captured():
                if job.phase is Phase.CAPTURING:
                    job.phase = Phase.SENDING
                    if job.document_open and job.document not in self.stage:
                        yield from self._prepare(job)
            case StateChanged(phase=phase) if phase.terminal:
                yield from self._end(job, phase, event.error)
            case StateChanged():
                # Reliable and in order: also a step back is true (a worker died and the job starts again).
                job.phase = event.phase
                job.index, job.step, job.total = event.index, event.step, event.total or job.total
                if event.phase is not Phase.QUEUED and self.wants_preview(job.id):
                    yield from self._prepare(job)
            case Progress():
                if not event.phase.terminal and (event.index, event.step) >= (job.index, job.step):
                    job.phase = event.phase
                    job.index, job.step, job.total = event.index, event.step, event.total or job.total
            case PreviewArrived():
                if self.wants_preview(job.id):
                    yield from self._take_stage(job)
                    self._shown.pop(job.document, None)
                    yield ShowPreview(job.id, event.picture)
            case JobFailed():
                yield from self._end(job, Phase.FAILED, event.error)
            case JobLost():
                yield from self._end(job, Phase.FAILED, _LOST)
            case CancelPressed():
                # The painter's word is final at once: also without a server nothing stays busy.
                yield from self._end(job, Phase.CANCELLED, None)
            case KeepPressed():
                if job.can_keep:
                    job.keeping = True
                elif job.phase not in _KEEPABLE:
                    yield from self._end(job, Phase.CANCELLED, None)

    def is_shown(self, key: str) -> bool:
        """Whether that result is what the canvas of its document shows, or is about to show."""
        return key in self._shown.values()

    def wants_preview(self, job_id: str) -> bool:
        """Whether a preview of this job would be shown; asked before the work of fetching one."""
        job = self.jobs.get(job_id)
        return job is not None and job.active and job.document_open and not job.pinned

    def _created(self, event: Created) -> Iterator[Effect]:
        if event.job in self.jobs:
            return
        staged = self.jobs.get(self.stage.get(event.document, ""))
        if staged is not None and not staged.active:
            # Before the pixels are read: an unapplied result must not be part of the next input.
            yield from self._leave_stage(staged)
        self.jobs[event.job] = Job(event.job, event.document, event.bounds, event.recipe, event.count)

    def _adopt(self, event: Adopted) -> Iterator[Effect]:
        if event.job in self.jobs:
            return
        staged = self.jobs.get(self.stage.get(event.document, ""))
        self.jobs[event.job] = Job(event.job, event.document, event.bounds, event.recipe, phase=Phase.DONE)
        if staged is not None:
            # The painter looks at a picture that they asked for: what runs goes on without previews.
            self._pin(event.document, True)
            yield from self._leave_stage(staged)

    def _bind(self, event: Bound) -> None:
        job = self.jobs.get(event.job)
        if job is not None and not job.document:
            job.document, job.bounds, job.document_open = event.document, event.bounds, True

    def _resume(self, event: Connected) -> Iterator[Effect]:
        self.connected = True
        for job in list(self.jobs.values()):
            sent = job.phase not in (Phase.CAPTURING, Phase.SENDING)
            gone = job.id in event.lost or (sent and not event.resumed and job.id not in event.known)
            if job.active and gone:
                yield from self._end(job, Phase.FAILED, _LOST)
        for known in event.jobs:
            if known.id not in self.jobs and known.id not in event.lost and not known.phase.terminal:
                # Of an earlier run of the plugin. Nothing tells its document until it is bound to one.
                box = Bounds(0, 0, known.recipe.width, known.recipe.height)
                job = Job(known.id, "", box, known.recipe, known.count, known.phase, known.index, document_open=False)
                self.jobs[known.id] = job
        if event.jobs:
            self._order = {known.id: place for place, known in enumerate(event.jobs)}

    def _close(self, document: str) -> None:
        self.stage.pop(document, None)
        self._shown.pop(document, None)
        for job in self.jobs.values():
            if job.document == document:
                job.document_open = False

    def _end(self, job: Job, phase: Phase, error: WireError | None) -> Iterator[Effect]:
        job.phase = phase
        job.error = error if phase is Phase.FAILED else None
        if phase is Phase.FAILED and job.error is None:
            job.error = WireError(Code.INTERNAL, tr("The server reported a failure without a reason."))
        kept = [key for key in job.results if key in self.results]
        if phase is not Phase.DONE or not kept:
            yield from self._leave_stage(job)
        elif job.document_open and not job.pinned:
            own = self.selected if self.selected in kept else kept[-1]
            if self.results[own].applied:
                yield from self._leave_stage(job)
            else:
                yield from self._show_result(job, own)

    def _result(self, event: ResultArrived) -> Iterator[Effect]:
        key = f"{event.job}:{event.index}"
        job = self.jobs.get(event.job)
        if key in self.results or (job is not None and (job.phase is Phase.CANCELLED or key in job.results)):
            return
        self.results[key] = Result(key, event.job, event.index, event.recipe, event.partial, reading=event.reading)
        if job is None:
            self.selected = self.selected or key
            return
        job.results.append(key)
        if self.selected is None:
            self.selected = key
        # The result of a job that failed later stays in the strip, but does not come back to the canvas.
        if not job.document_open:
            self.selected = key if not job.pinned else self.selected
        elif not job.pinned and job.phase is not Phase.FAILED:
            yield from self._show_result(job, key)

    def _chosen(self, event: Picked | Hidden | Applied | Discarded) -> Iterator[Effect]:
        result = self.results.get(event.key)
        if result is None:
            return
        job = self.jobs.get(result.job)
        match event:
            case Picked():
                self.selected = result.key
                if job is not None and job.document_open:
                    self._pin(job.document, True)
                    yield from self._show_result(job, result.key)
            case Hidden():
                if job is not None:
                    self._pin(job.document, False)
                    yield from self._leave_stage(job)
            case Applied():
                result.applied = True
                if job is not None:
                    # The next image of a batch may show its previews again, in a new layer.
                    self._pin(job.document, False)
                    if self.stage.get(job.document) == job.id:
                        del self.stage[job.document]
                        self._shown.pop(job.document, None)
            case Discarded():
                yield from self._discard(result, job)

    def _pin(self, document: str, on: bool) -> None:
        """Whether the painter looks at a result of that document, which running jobs then leave alone."""
        for job in self.jobs.values():
            if job.document == document and job.active:
                job.pinned = on

    def _discard(self, result: Result, job: Job | None) -> Iterator[Effect]:
        keys = list(self.results)
        place = keys.index(result.key)
        del self.results[result.key]
        if self.selected == result.key:
            rest = keys[place + 1 :] + keys[:place][::-1]
            self.selected = rest[0] if rest else None
        if job is not None and self._shown.get(job.document) == result.key:
            follower = self.results.get(self.selected or "")
            if follower is not None and follower.job == job.id:
                yield from self._show_result(job, follower.key)
            else:
                self._pin(job.document, False)
                yield from self._leave_stage(job)
        yield Forget(result.key)

    def _show_result(self, job: Job, key: str) -> Iterator[Effect]:
        """What is on the canvas is what Apply and Discard are about."""
        yield from self._take_stage(job)
        self._shown[job.document] = key
        self.selected = key
        yield ShowResult(key)

    def _prepare(self, job: Job) -> Iterator[Effect]:
        if self.stage.get(job.document) != job.id:
            yield from self._take_stage(job)
            yield Prepare(job.id)

    def _take_stage(self, job: Job) -> Iterator[Effect]:
        other = self.stage.get(job.document)
        if other is not None and other != job.id:
            self._shown.pop(job.document, None)
            yield Withdraw(other)
        self.stage[job.document] = job.id

    def _leave_stage(self, job: Job) -> Iterator[Effect]:
        if self.stage.get(job.document) == job.id:
            del self.stage[job.document]
            self._shown.pop(job.document, None)
            yield Withdraw(job.id)

    @property
    def active(self) -> list[Job]:
        """Jobs without a terminal state, oldest first."""
        return [job for job in self.jobs.values() if job.active]

    @property
    def queue(self) -> list[Job]:
        """Jobs without a terminal state as the server will do them: the running one first, then its order, then those
        that it does not know yet."""
        waiting = (Phase.CAPTURING, Phase.SENDING, Phase.QUEUED)
        last = len(self._order)
        return sorted(self.active, key=lambda job: (job.phase in waiting, self._order.get(job.id, last)))

    @property
    def current(self) -> Job | None:
        """The job that the progress bar, Cancel and Stop are about: the one that is running, else the oldest."""
        active = self.active
        running = [job for job in active if job.phase not in (Phase.CAPTURING, Phase.SENDING, Phase.QUEUED)]
        return next(iter(running or active), None)

    @property
    def current_result(self) -> Result | None:
        """The picture that Apply and Discard are about."""
        return self.results.get(self.selected) if self.selected is not None else None

    def neighbour(self, direction: int) -> str | None:
        """Key of the result `direction` places right of the selected one; the ends hold."""
        keys = list(self.results)
        if not keys:
            return None
        if self.selected not in self.results:
            return keys[0]
        place = keys.index(self.selected) + direction
        return keys[min(max(place, 0), len(keys) - 1)]
