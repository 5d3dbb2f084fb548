# SPDX-License-Identifier: GPL-3.0-or-later
"""From the press of the button to the submitted job, and ending jobs early."""

from __future__ import annotations

import uuid
from typing import Any

from krita_sd import job_events as ev
from krita_sd import plan, view
from krita_sd.actions.connection import Connection
from krita_sd.actions.core import Core
from krita_sd.actions.part import Part
from krita_sd.canvas import capture, host
from krita_sd.guarded import guarded
from krita_sd.link import Draft
from krita_sd.stage import ContextFrame, Stage
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.frames import Picture
from krita_sd.wire.messages import PreviewWish

PREVIEW_PIXELS = 512 * 512
"""Largest preview asked for; it is scaled to the region here."""


class Generating(Part):
    """Captures the document and submits."""

    def __init__(self, core: Core, connection: Connection, stage: Stage) -> None:
        super().__init__(core)
        self._connection = connection
        self._stage = stage
        self._captures: dict[str, capture.Capture] = {}
        self._frame = ContextFrame()

    @guarded
    def generate(self) -> None:
        """Start a job for the active document, bound to it and to its rectangle from here on."""
        core = self.core
        self.say("")
        core.start()
        doc = host.krita().activeDocument()
        if doc is None:
            raise WireError(Code.BAD_REQUEST, "There is no document.", "Open or create one first.")
        if self._connection.is_hopeless:
            # The status line says why; the next press works once that is put right.
            core.link.reconnect()
            return
        scene = capture.describe(doc)
        if scene.selection_empty:
            raise WireError(Code.BAD_REQUEST, "The selection lies outside the canvas.", "Select something on it.")
        if not core.settings.seed_fixed:
            core.change(seed=plan.draw_seed())
        entry = view.model_entry(core.models, core.settings.model)
        made = plan.make(
            core.settings,
            entry,
            scene.extent,
            scene.selection,
            core.settings.seed,
            style=core.style,
            models=core.models,
            wrap=core.wrap,
        )
        job = uuid.uuid4().hex
        self._stage.remember(scene.doc_id, doc)
        core.feed(ev.Created(job, scene.doc_id, made.bounds, made.recipe, core.settings.count))
        if made.kind == "txt2img":
            self._submit(job, None, None)
            return
        reader = capture.Capture(doc, made.bounds, core.settings.source, made.kind == "inpaint")
        self._captures[job] = reader
        reader.start(lambda picture, mask: self._captured(job, picture, mask), lambda text: self._unread(job, text))

    @guarded
    def cancel(self) -> None:
        """Cancel the current job; it leaves no trace."""
        job = self.core.table.current
        if job is not None:
            self.cancel_job(job.id)

    def cancel_job(self, job: str) -> None:
        """Cancel that job, wherever it is."""
        self.core.link.cancel(job)
        reader = self._captures.pop(job, None)
        if reader is not None:
            reader.cancel()
        self.core.feed(ev.CancelPressed(job))

    @guarded
    def keep(self) -> None:
        """Stop the current job and keep what is there."""
        job = self.core.table.current
        if job is None or not job.can_keep:
            return
        self.core.link.finish(job.id)
        self.core.feed(ev.KeepPressed(job.id))

    @guarded
    def _captured(self, job_id: str, picture: bytes, mask: bytes | None) -> None:
        self._captures.pop(job_id, None)
        job = self.core.table.jobs[job_id]
        if not job.active:
            return
        if job.recipe.kind == "inpaint" and mask is None:
            self._unread(job_id, "Nothing is selected any more.")
            return
        size = job.bounds.width, job.bounds.height
        self._submit(job_id, Picture("bgra8", *size, picture), Picture("grey8", *size, mask) if mask else None)

    @guarded
    def _unread(self, job_id: str, text: str) -> None:
        self._captures.pop(job_id, None)
        self.core.feed(ev.JobFailed(job_id, WireError(Code.BAD_REQUEST, text)))

    def _submit(self, job_id: str, image: Picture | None, mask: Picture | None) -> None:
        job = self.core.table.jobs[job_id]
        wish = PreviewWish(self.core.settings.previews, PREVIEW_PIXELS)
        self.core.link.submit(Draft(job_id, job.recipe, image, mask, job.count, self.core.settings.place, wish))
        self.core.feed(ev.Captured(job_id))

    # The rectangle that a job would use ------------------------------------------------------------------------------

    def looked(self, doc: Any, scene: Any) -> None:
        core = self.core
        # Before a job, not over its pictures.
        attention = core.table.current is None and any(docker.has_attention for docker in core.dockers())
        free = scene is not None and scene.doc_id not in core.table.stage
        if scene is not None and scene.selection is not None and attention and free:
            entry = view.model_entry(core.models, core.settings.model)
            self._frame.show(doc, scene.doc_id, plan.region(core.settings, entry, scene.extent, scene.selection))
        else:
            self._frame.hide()

    def hidden(self) -> None:
        self._frame.hide()

    def stopped(self) -> None:
        self._frame.hide()
