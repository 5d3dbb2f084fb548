# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries out on the canvas what the job table decided: at most one picture of ours per document at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from krita_sd import job_events as ev
from krita_sd import plan
from krita_sd.canvas import host, overlay, place
from krita_sd.geometry import Bounds
from krita_sd.jobs import JobTable, Result
from krita_sd.qt import QtCore
from krita_sd.wire.frames import Picture


class Stage(QtCore.QObject):
    """Holds the documents of jobs and what the jobs show in them. `read` gives the pixels of a result."""

    def __init__(self, table: JobTable, read: Callable[[Result], Picture], parent: Any = None) -> None:
        super().__init__(parent)
        self._table = table
        self._read = read
        self._documents: dict[str, Any] = {}
        self._placements: dict[str, place.Placement] = {}

    def remember(self, document: str, doc: Any) -> None:
        """A job is bound to that document."""
        self._documents[document] = doc

    def forget_closed(self) -> list[str]:
        """Ids of remembered documents that Krita has closed since the last call."""
        closed = [key for key, doc in self._documents.items() if not host.is_open(doc)]
        for key in closed:
            del self._documents[key]
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
                    self._show(result.job, self._read(result))
            case ev.Withdraw(job):
                placement = self._placements.pop(job, None)
                if placement is not None:
                    placement.discard()

    def apply(self, result: Result, parked: Callable[[], None]) -> bool:
        """Make `result` a layer of its document. False when that is closed; `parked` when it closes meanwhile."""
        placement = self._placement(result.job)
        if placement is None:
            return False
        # Not ours any more from here on: nothing may withdraw what the painter has applied.
        del self._placements[result.job]
        placement.parked.connect(parked)
        placement.apply(self._read(result).data, plan.layer_name(result.recipe))
        return True

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
        placement = place.Placement(doc, job.bounds, f"Krita SD: {plan.layer_name(job.recipe)}", self)
        for finished in (placement.applied, placement.discarded, placement.parked):
            finished.connect(placement.deleteLater)
        self._placements[job_id] = placement
        return placement


def open_as_document(result: Result, picture: Picture) -> None:
    """A result whose document is closed becomes a document of its own."""
    place.open_as_document(picture.data, picture.width, picture.height, plan.layer_name(result.recipe))


class ContextFrame:
    """The rectangle that a job would use, over the canvas while the painter is about to start one."""

    def __init__(self) -> None:
        self._document = ""
        self._frame: overlay.Frame | None = None

    def show(self, doc: Any, document: str, bounds: Bounds) -> None:
        """Draw `bounds` over `doc`."""
        if self._frame is None or document != self._document:
            self.hide()
            self._document, self._frame = document, overlay.Frame(doc)
        self._frame.show(bounds)

    def hide(self) -> None:
        """Take it away."""
        if self._frame is not None:
            self._frame.hide()
        self._frame = None
