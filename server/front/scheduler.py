# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs from submit to their one terminal state: gives images to the pool and what comes back to the sessions.

One task handles the pool's events in order; clients' requests are handled at once. Both run on the event loop, so a
job changes hands only at an `await`, and every `await` is followed by a look at whether the job still exists.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from krita_sd.wire.client import with_seed
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.frames import Picture
from krita_sd.wire.messages import PreviewWish, Progress, Submit
from krita_sd.wire.queries import QueueOrder
from krita_sd.wire.recipe import Recipe
from krita_sd.wire.values import Fields
from server.library import Library
from server.pool import Pool, Unit, WorkerEvent

from .blobs import Blobs
from .journal import Journal, Row
from .queue import MAX_JOBS, Job, Queue
from .resolve import Resolved, Resolver
from .session import Preview, Session

log = logging.getLogger(__name__)

MAX_RETRIES = 2
BUILT = ("txt2img", "img2img", "inpaint", "upscale", "preprocess")
"""Kinds that the worker can make."""

REMEMBERED = 4096
"""Ended jobs, and cancels that came before their submit, that are remembered so that repeats are harmless."""


class Scheduler:
    """The only writer of job states."""

    def __init__(
        self, pool: Pool, library: Library, blobs: Blobs, journal: Journal, session: Callable[[str], Session]
    ) -> None:
        self.queue = Queue()
        self.resolver = Resolver(library)
        self._pool = pool
        self._blobs = blobs
        self._journal = journal
        self._session = session
        self._units: dict[int, Job] = {}
        self._readings: dict[int, asyncio.Task[dict[str, Any]]] = {}
        self._last_unit = 0
        self._ended: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._early: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._events: asyncio.Queue[WorkerEvent | None] = asyncio.Queue()

    async def run(self) -> None:
        """Handle the pool's events for ever."""
        while True:
            event = await self._events.get()
            if event is not None:
                await self._handle(event)
            await self._pump()

    def on_event(self, event: WorkerEvent) -> None:
        """What the pool calls."""
        self._events.put_nowait(event)

    def wake(self) -> None:
        """Something changed: look for work."""
        self._events.put_nowait(None)

    # Requests ----------------------------------------------------------------------------------------------------

    def submit(self, session: Session, message: Submit) -> None:
        """Accept a job. A repeat is ignored. Raises WireError when it cannot be accepted; then there is no job."""
        key = (session.id, message.job)
        if message.job in self.queue or key in self._ended:
            return
        if self._early.pop(key, 0) is None:
            session.push_state(message.job, "cancelled", 0, message.count)
            self._remember(self._ended, key)
            return
        recipe = message.recipe
        self._check(session, message)
        if message.place == "replace":
            for other in self.queue.of(session.id):
                if other.unit == 0 and other.next_index == 0:
                    self._end(other, "cancelled")
        job = Job(message.job, session.id, recipe, message.count, message.previews, submitted=time.monotonic())
        self.queue.add(job, front=message.place != "back")
        self._blobs.pin(recipe.blobs())
        body = {"recipe": recipe.to_json(), "count": job.count, "previews": job.previews.to_json()}
        self._journal.do(
            "insert or replace into jobs values (?,?,?,?,0)", (job.id, job.session, job.place, json.dumps(body))
        )
        session.push_state(job.id, "queued", 0, job.count)
        self._tell_order(session)
        self.wake()

    def _check(self, session: Session, message: Submit) -> None:
        recipe = message.recipe
        missing = self._blobs.missing(recipe.blobs())
        if missing:
            raise WireError(
                Code.BLOB_MISSING,
                "The server no longer has a picture that this job needs.",
                "It will be sent again.",
                retryable=True,
                job=message.job,
                details={"missing": missing},
            )
        if len(self.queue.of(session.id)) >= MAX_JOBS:
            raise WireError(
                Code.QUEUE_FULL,
                f"More than {MAX_JOBS} jobs are waiting already.",
                "Wait until some are done.",
                retryable=True,
                job=message.job,
            )
        try:
            self.resolver.check(recipe)
        except WireError as error:
            error.job = message.job
            raise

    def cancel(self, session: Session, id: str) -> None:
        """Stop a job; takes effect within one step. Raises WireError(unknown_job) for one that never was."""
        job = self._find(session, id)
        if job is None:
            return
        job.wish = "cancel"
        if job.unit:
            self._pool.stop(job.unit, "cancel")
        else:
            self._end(job, "cancelled")

    def move(self, session: Session, id: str, before: str) -> None:
        """Change the order of a session's waiting jobs; one that runs or has ended is left alone."""
        job = self._find(session, id)
        if job is not None and self.queue.move(job, self.queue.get(before)):
            for other in self.queue.of(session.id):
                self._journal.do("update jobs set place=? where job=?", (other.place, other.id))
        self._tell_order(session)

    def _tell_order(self, session: Session) -> None:
        session.set_queue(QueueOrder(tuple(job.id for job in self.queue.of(session.id))).to_text())

    def finish(self, session: Session, id: str) -> None:
        """Stop a job and keep what there is; a job that has not begun has nothing and is cancelled."""
        job = self._find(session, id)
        if job is None or job.wish is not None:
            return
        job.wish = "finish"
        if job.unit:
            self._pool.stop(job.unit, "finish")
        else:
            self._end(job, "done" if job.results else "cancelled")

    def _find(self, session: Session, id: str) -> Job | None:
        job = self.queue.get(id)
        if job is not None and job.session == session.id:
            return job
        key = (session.id, id)
        if key in self._ended:
            return None
        # Remembered: a cancel that overtakes its submit must not be lost.
        self._remember(self._early, key)
        raise WireError(Code.UNKNOWN_JOB, "The server does not know this job.", job=id)

    # Work --------------------------------------------------------------------------------------------------------

    async def _pump(self) -> None:
        while self._pool.idle():
            job = self.queue.next()
            if job is None:
                return
            await self._dispatch(job)

    async def _dispatch(self, job: Job) -> None:
        self._last_unit += 1
        number = job.unit = self._last_unit
        try:
            recipe = with_seed(job.recipe, job.next_index)
            resolved = await asyncio.to_thread(self.resolver.resolve, recipe)
            pictures = await self._pictures(job.recipe)
        except WireError as error:
            job.unit = 0
            if job.id in self.queue:
                self._end(job, "failed", error)
            return
        if job.wish is not None:
            job.unit = 0
            self._end(job, "done" if job.wish == "finish" and job.results else "cancelled")
            return
        if job.next_index == 0:
            job.queued_ms = (time.monotonic() - job.submitted) * 1000.0
            self._journal.do("update jobs set started=1 where job=?", (job.id,))
        self._units[number] = job
        # Counting tokens takes as long as it takes, beside the work.
        self._readings[number] = asyncio.create_task(self._read(resolved))
        body = {
            "recipe": recipe.to_json(),
            "words": resolved.words_json(),
            "model": resolved.model,
            "first": job.next_index == 0,
            "previews": job.previews.to_json(),
            "blobs": list(job.recipe.blobs()),
        }
        self._pool.run(Unit(number, job.id, body, pictures))

    async def _read(self, resolved: Resolved) -> dict[str, Any]:
        try:
            return await asyncio.to_thread(self.resolver.reading, resolved)
        except Exception:  # a line of text about the prompt is not worth a picture
            log.exception("the prompt could not be put into words")
            return {}

    async def _pictures(self, recipe: Recipe) -> dict[str, Picture]:
        out = {}
        for digest in recipe.blobs():
            picture = await self._blobs.get(digest)
            if picture is None:
                raise WireError(
                    Code.INTERRUPTED, "An input picture of this job was lost.", "Generate again.", retryable=True
                )
            out[digest] = picture
        return out

    async def _handle(self, event: WorkerEvent) -> None:
        job = self._units.get(event.unit)
        if job is None:
            return
        data = event.data
        if event.kind == "state":
            job.state = data["state"]
            if job.state == "sampling":
                job.sampling_since = time.monotonic()
            elif job.state in ("loading", "encoding"):
                job.loading_since = time.monotonic()
            self._session(job.session).drop_progress(job.id)  # of the state before
            numbers = {"step": data.get("step", 0), "total": data.get("total", 0), "text": data.get("text", "")}
            self._session(job.session).push_state(job.id, job.state, job.next_index, job.count, **numbers)
        elif event.kind == "step":
            self._progress(job, data)
        elif event.kind == "preview":
            self._preview(job, event)
        else:
            del self._units[event.unit]
            await self._conclude(job, event)

    def _progress(self, job: Job, data: dict[str, Any]) -> None:
        if job.wish == "cancel":
            return
        step, total, state = data["step"], data["total"], data["state"]
        since = job.sampling_since if state == "sampling" else job.loading_since
        eta = (time.monotonic() - since) / max(step, 1) * (total - step)
        message = Progress(job.id, state, job.next_index, job.count, step, total, round(eta, 2))
        self._session(job.session).set_progress(job.id, message.to_text())

    def _preview(self, job: Job, event: WorkerEvent) -> None:
        if job.wish == "cancel":
            return
        data, unit = event.data, event.unit
        picture = Picture(data["format"], data["width"], data["height"], event.payload)
        header = {"job": job.id, "index": job.next_index, "step": data["step"], "total_steps": data["total"]}
        if job.previews.reliable:
            self._session(job.session).push_preview(picture, header)
        else:
            taken = lambda: self._pool.credit(unit)  # noqa: E731
            self._session(job.session).set_preview(job.id, Preview(picture, header, taken))

    async def _conclude(self, job: Job, event: WorkerEvent) -> None:
        job.unit = 0
        reading = self._readings.pop(event.unit, None)
        if event.kind == "image":
            await self._deliver(job, event, reading)
        elif job.wish == "cancel" or event.kind == "cancelled":
            self._end(job, "done" if job.wish == "finish" and job.results else "cancelled")
        elif event.kind == "failed":
            self._end(job, "failed", WireError.from_json(event.data["error"]))
        elif job.wish == "finish" and job.results:
            self._end(job, "done")
        elif job.wish is None and not event.data.get("begun") and job.retries < MAX_RETRIES:
            # The process had died before it heard of this unit, which is not to blame: the queue gives it out again.
            job.retries += 1
        else:
            self._end(job, "failed", _death(event.data.get("exit")))

    async def _deliver(self, job: Job, event: WorkerEvent, reading: asyncio.Task[dict[str, Any]] | None) -> None:
        index = job.next_index
        job.next_index += 1
        await self._pump()  # the machine works on while the picture is written
        described = event.data["picture"]
        picture = Picture(described["format"], described["width"], described["height"], event.payload)
        if job.wish != "cancel":
            await self._blobs.store(described["id"], picture)
        event.data["reading"] = await reading if reading is not None else {}
        if self.queue.get(job.id) is not job:
            return  # ended while the picture was written
        if job.wish == "cancel":
            if job.unit == 0:
                self._end(job, "cancelled")
            return
        job.results += 1
        if index == 0:
            event.data["ms"]["queued"] = round(job.queued_ms, 3)
        session = self._session(job.session)
        session.drop_lossy(job.id)
        session.push_result(job.id, index, job.count, described, event.data)
        if job.unit == 0 and (job.next_index >= job.count or job.wish is not None or event.data["partial"]):
            self._end(job, "done", ms=event.data["ms"])

    def _end(self, job: Job, state: str, error: WireError | None = None, ms: dict[str, Any] | None = None) -> None:
        self.queue.remove(job)
        self._blobs.unpin(job.recipe.blobs())
        self._remember(self._ended, (job.session, job.id))
        self._journal.do("delete from jobs where job=?", (job.id,))
        if error is not None:
            error.job = job.id
        session = self._session(job.session)
        session.drop_lossy(job.id)
        if state == "cancelled":
            session.drop_previews(job.id)
        index = min(job.next_index, job.count - 1)
        session.push_state(job.id, state, index, job.count, error, ms=ms or {})
        self._tell_order(session)

    @staticmethod
    def _remember(table: OrderedDict[tuple[str, str], None], key: tuple[str, str]) -> None:
        table[key] = None
        while len(table) > REMEMBERED:
            table.popitem(last=False)

    # Start -------------------------------------------------------------------------------------------------------

    def restore(self, rows: list[Row]) -> None:
        """Take back the jobs of a server that is gone: waiting ones wait for their client, begun ones are over."""
        for id, session, place, body, started in rows:
            try:
                data = json.loads(body)
                recipe = Recipe.from_json(data["recipe"])
                previews = PreviewWish.read(Fields(data["previews"], "saved job"))
                job = Job(id, session, recipe, int(data["count"]), previews, place=place, submitted=time.monotonic())
            except (ValueError, KeyError, WireError) as error:
                log.error("a saved job cannot be read: %s", error)
                self._journal.do("delete from jobs where job=?", (id,))
                continue
            self.queue.add(job)
            self._blobs.pin(recipe.blobs())
            if started:
                problem = WireError(
                    Code.INTERRUPTED,
                    "The server stopped while this job was running.",
                    "Generate again; finished pictures are kept.",
                    retryable=True,
                )
                self._end(job, "failed", problem)

    def forget(self, session: str) -> None:
        """Drop the waiting jobs of a session that has expired."""
        for job in self.queue.of(session):
            self.queue.remove(job)
            self._blobs.unpin(job.recipe.blobs())
            self._journal.do("delete from jobs where job=?", (job.id,))


def _death(code: int | None) -> WireError:
    if code in (-9, 137):
        why = "was ended by the system, probably because memory ran out"
        hint = "Close other programs or choose a smaller region, then generate again."
    else:
        why, hint = "stopped unexpectedly", "It was started again; generate once more."
    return WireError(Code.WORKER_DIED, f"The process that computes pictures {why}.", hint, retryable=True)
