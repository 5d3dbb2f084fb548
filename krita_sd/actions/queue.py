# SPDX-License-Identifier: GPL-3.0-or-later
"""The queue as the painter orders it, and which document each job belongs to, kept over a reload of the plugin."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from typing import Any

from krita_sd import job_events as ev
from krita_sd.actions.core import Core
from krita_sd.actions.generating import Generating
from krita_sd.actions.part import Part
from krita_sd.actions.results import Results
from krita_sd.canvas import host
from krita_sd.geometry import Bounds
from krita_sd.guarded import guarded
from krita_sd.text import tr
from krita_sd.view import WAITING, progress_of
from krita_sd.wire.queries import Move

log = logging.getLogger(__name__)

MAX_BOUND = 1000
"""Jobs whose documents are kept."""


@dataclass(frozen=True)
class QueueItem:
    """One line of the queue. `can_move`: it waits."""

    job: str
    text: str
    state: str
    can_move: bool


class Queue(Part):
    """Reads the job table; `items` is what the view shows."""

    def __init__(self, core: Core, results: Results, generating: Generating) -> None:
        super().__init__(core)
        self._results = results
        self._generating = generating
        self._path = core.folder / "jobs.json"
        # job -> (document, rectangle, file of the document); None: not read yet
        self._bound: dict[str, tuple[str, Bounds, str]] | None = None
        self._written: list[str] = []

    def items(self) -> list[QueueItem]:
        """Jobs that have not ended, in the order in which they will run."""
        items = []
        for job in self.core.table.queue:
            prompt = " ".join(job.recipe.prompt.split())[:200] or tr("(no prompt)")
            many = f"{job.count} x " if job.count > 1 else ""
            items.append(QueueItem(job.id, many + prompt, progress_of(job)[1], job.phase in WAITING and job.index == 0))
        return items

    @guarded
    def move(self, job: str, before: str) -> None:
        """Put a waiting job before another one; "" = at the end. The list follows when the server has said so."""
        self.core.link.ask(Move(job, before))

    @guarded
    def move_up(self, job: str) -> None:
        """One place earlier."""
        names = [item.job for item in self.items() if item.can_move]
        if job in names[1:]:
            self.core.link.ask(Move(job, names[names.index(job) - 1]))

    @guarded
    def move_down(self, job: str) -> None:
        """One place later."""
        names = [item.job for item in self.items() if item.can_move]
        if job in names[:-1]:
            place = names.index(job)
            self.core.link.ask(Move(job, names[place + 2] if place + 2 < len(names) else ""))

    @guarded
    def cancel(self, job: str) -> None:
        """Cancel that one."""
        self._generating.cancel_job(job)

    @guarded
    def cancel_waiting(self) -> None:
        """Cancel all but the running one."""
        for item in self.items():
            if item.can_move:
                self._generating.cancel_job(item.job)

    # Over a reload of the plugin -------------------------------------------------------------------------------------

    def started(self) -> None:
        self.core.link.run(self._load)

    def _load(self) -> None:
        """In the link's thread, before it connects."""
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
            self._bound = {
                str(job): (str(doc), Bounds(*map(int, box)), str(*file)) for job, (doc, box, *file) in data.items()
            }
        except FileNotFoundError:
            self._bound = {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            log.warning("the documents of waiting jobs are not known any more (%s)", error)
            self._bound = {}

    def fed(self, event: Any) -> None:
        if isinstance(event, ev.Connected):
            self._bind()
        if isinstance(event, (ev.Created, ev.StateChanged, ev.Connected, ev.CancelPressed, ev.JobFailed)):
            self._keep()

    def looked(self, doc: Any, scene: Any) -> None:
        if any(not job.document for job in self.core.table.active):
            self._bind()  # the painter may open the document again while the job runs

    def _bind(self) -> None:
        """Jobs of an earlier run find their documents again, where those are open."""
        lost = [job for job in self.core.table.jobs.values() if not job.document and job.id in (self._bound or {})]
        if not lost:
            return
        opened = {host.document_id(doc): doc for doc in host.open_documents()}
        # A document that was opened again has another id; its file is the same.
        files = {str(doc.fileName()): document for document, doc in opened.items() if doc.fileName()}
        for job in lost:
            document, bounds, file = (self._bound or {})[job.id]
            document = document if document in opened else files.get(file, "")
            if document in opened and bounds.extent == job.bounds.extent:
                self._results.stage.remember(document, opened[document])
                self.core.feed(ev.Bound(job.id, document, bounds))

    def _keep(self) -> None:
        """Write down what belongs where, in the link's thread, when it has changed."""
        if self._bound is None:
            return
        active = self.core.table.active[-MAX_BOUND:]
        names = [job.id for job in active]
        if names == self._written:
            return
        self._written = names
        old = self._bound
        told = {job.id: (job.document, job.bounds, self._file(job.id)) for job in active if job.document}
        told |= {job.id: old[job.id] for job in active if not job.document and job.id in old}
        self._bound = told
        self.core.link.run(lambda: self._write({job: [doc, list(box), file] for job, (doc, box, file) in told.items()}))

    def _file(self, job: str) -> str:
        """Of the document of that job; "" when it has none."""
        doc = self._results.stage.document_of(job)
        return str(doc.fileName()) if doc is not None else ""

    def _write(self, data: dict[str, Any]) -> None:
        draft = self._path.with_suffix(".tmp")
        try:
            draft.write_text(json.dumps(data), encoding="utf-8")
            os.replace(draft, self._path)
        except OSError as error:
            log.warning("the documents of waiting jobs were not written (%s)", error)
