# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries out on the canvas what the job table decided: at most one picture of ours per document at a time."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from krita_sd import job_events as ev
from krita_sd import plan
from krita_sd.canvas import host, insert, layer_recipes, place, previews
from krita_sd.canvas.active import active_node
from krita_sd.jobs import Job, JobTable, Result
from krita_sd.qt import QtCore, Signal
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.frames import Picture
from krita_sd.wire.recipe import Recipe

log = logging.getLogger(__name__)


Read = Callable[[str, Callable[[Picture | None], None]], None]


@dataclass(eq=False)
class _Application:
    """One result on its way into its document. `placement` is its preview, `above` the active layer at the click."""

    result: Result
    doc: Any
    way: str
    above: Any
    placement: place.Placement | None
    model: str
    parked: Callable[[], None]


class Stage(QtCore.QObject):
    """Holds the documents of jobs and what the jobs show in them. `read(key, done)` calls `done` with the pixels of a
    result, or None when they are gone: at once when they are in memory, otherwise later."""

    application_ended = Signal(str)  # key of a result that is a layer now, or parked
    layer_made = Signal(object, object, object)  # document, the new layer, the result that it shows

    def __init__(self, table: JobTable, read: Read, parent: Any = None) -> None:
        super().__init__(parent)
        self._table = table
        self._read = read
        self._documents: dict[str, Any] = {}
        self._placements: dict[str, place.Placement] = {}
        self._applying: list[_Application] = []

    def remember(self, document: str, doc: Any) -> None:
        """A job is bound to that document."""
        self._documents[document] = doc

    def forget_closed(self) -> list[str]:
        """Ids of remembered documents that Krita has closed since the last call."""
        closed = [key for key, doc in self._documents.items() if not host.is_open(doc)]
        for key in closed:
            del self._documents[key]
        for job_id, placement in list(self._placements.items()):
            job = self._table.jobs.get(job_id)
            if job is None or job.document in closed:
                del self._placements[job_id]
                placement.discard()  # notices that its document is gone, and ends
        return closed

    def perform(self, effect: ev.Effect) -> None:
        """One effect of the table."""
        match effect:
            case ev.Prepare(job):
                self._placement(job)
            case ev.ShowPreview(job, picture):
                self._show(job, picture)
            case ev.ShowResult(key):
                result = self._table.results[key]
                if self._placement(result.job) is not None:
                    self._read(key, functools.partial(self._show_result, key, result.job))
            case ev.Withdraw(job):
                placement = self._placements.pop(job, None)
                if placement is not None:
                    placement.discard()

    def document_of(self, job_id: str) -> Any | None:
        """The open document of a job; None when it is closed or was never known."""
        job = self._table.jobs.get(job_id)
        doc = self._documents.get(job.document) if job is not None else None
        return doc if doc is not None and host.is_open(doc) else None

    def apply(self, result: Result, way: str, model: str, parked: Callable[[], None]) -> bool:
        """Make `result` a layer of its document, in one of `insert.WAYS`; `model` is its name, kept with the recipe.

        False when the document is closed; `parked` is called when it closes meanwhile. Several come one after the
        other. Raises WireError when it cannot be done that way.
        """
        doc = self.document_of(result.job)
        if doc is None:
            return False
        problem = insert.problem_with(way, doc)
        if problem:
            raise WireError(Code.BAD_REQUEST, problem)
        above = active_node(doc)
        placement = self._placements.pop(result.job, None)
        if placement is not None and above is not None and previews.is_preview(doc, above):
            above = None
        self._applying.append(_Application(result, doc, way, above, placement, model, parked))
        # What is on the canvas is the painter's from here on: nothing may withdraw it.
        if len(self._applying) == 1:
            self._apply_next()
        return True

    def _apply_next(self) -> None:
        """Begin with the first one that waits."""
        if self._applying:
            task = self._applying[0]
            if not host.is_open(task.doc):
                self._parked(task)
                return
            self._read(task.result.key, functools.partial(self._begin, task))

    def _begin(self, task: _Application, picture: Picture | None) -> None:
        if picture is None:
            log.warning("the pixels of a result that was to be applied are gone")
            if task.placement is not None:
                task.placement.discard()
            self._leave(task)
            return
        if not host.is_open(task.doc):
            self._parked(task)
            return
        name = plan.layer_name(task.result.recipe)
        job = self._table.jobs[task.result.job]
        if task.way == "top":
            placement = task.placement or self._make(task.doc, job)
            placement.applied.connect(lambda: self._applied(task, placement.node))
            placement.parked.connect(lambda: self._parked(task))
            placement.apply(picture.data, name)
            return
        inserted = insert.Insertion(task.doc, task.above, job.bounds, picture.data, name, task.way, self)
        inserted.applied.connect(lambda node: self._applied(task, node))
        for finished in (inserted.applied, inserted.parked):
            finished.connect(inserted.deleteLater)
        inserted.parked.connect(lambda: self._parked(task))
        if task.placement is None:
            inserted.start()
            return
        # The preview lies on top and cannot be moved in one undo step: it goes without a trace, then the layer comes.
        task.placement.discarded.connect(inserted.start)
        task.placement.parked.connect(inserted.start)
        task.placement.discard()

    def _applied(self, task: _Application, node: Any) -> None:
        if node is not None and host.is_open(task.doc):
            layer_recipes.remember(task.doc, node, task.result.recipe, task.model)
            self.layer_made.emit(task.doc, node, task.result)
        self._leave(task)

    def _parked(self, task: _Application) -> None:
        task.parked()
        self._leave(task)

    def _leave(self, task: _Application) -> None:
        self._applying.remove(task)
        self.application_ended.emit(task.result.key)
        self._apply_next()

    def is_applying(self, key: str) -> bool:
        """Whether the pixels of that result are still needed to make it a layer."""
        return any(task.result.key == key for task in self._applying)

    def _show_result(self, key: str, job: str, picture: Picture | None) -> None:
        # The painter may have gone on to another one while this was read.
        if picture is not None and self._table.is_shown(key):
            self._show(job, picture)

    def _show(self, job: str, picture: Picture) -> None:
        placement = self._placement(job)
        if placement is not None:
            placement.show_preview(picture.data, picture.width, picture.height)

    def _placement(self, job_id: str) -> place.Placement | None:
        """The job's place in its document, made when there is none; None when the document is closed."""
        placement = self._placements.get(job_id)
        if placement is not None and not placement.is_finished:
            return placement
        job = self._table.jobs.get(job_id)
        doc = self._documents.get(job.document) if job is not None else None
        if job is None or doc is None or not host.is_open(doc):
            return None
        placement = self._placements[job_id] = self._make(doc, job)
        return placement

    def _make(self, doc: Any, job: Job) -> place.Placement:
        placement = place.Placement(doc, job.bounds, f"Krita SD: {plan.layer_name(job.recipe)}", self)
        placement.moved.connect(lambda bounds: setattr(job, "bounds", bounds))
        for finished in (placement.applied, placement.discarded, placement.parked):
            finished.connect(functools.partial(self._forget, job.id, placement))
            finished.connect(placement.deleteLater)
        return placement

    def _forget(self, job_id: str, placement: place.Placement) -> None:
        if self._placements.get(job_id) is placement:
            del self._placements[job_id]


def open_as_document(recipe: Recipe, picture: Picture) -> None:
    """A result whose document is closed becomes a document of its own."""
    insert.open_as_document(picture.data, picture.width, picture.height, plan.layer_name(recipe))
