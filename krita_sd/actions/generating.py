# SPDX-License-Identifier: GPL-3.0-or-later
"""From the press of the button to the submitted job, and ending jobs early."""

from __future__ import annotations

import functools
import uuid
from typing import Any

from krita_sd import control_pictures, plan, view
from krita_sd import job_events as ev
from krita_sd.actions.connection import Connection
from krita_sd.actions.controlling import Controlling
from krita_sd.actions.core import Core
from krita_sd.actions.part import Part
from krita_sd.actions.reading import Reading
from krita_sd.canvas import capture, surroundings, watch
from krita_sd.canvas.context_frame import ContextFrame
from krita_sd.controls import ControlLayer
from krita_sd.guarded import guarded
from krita_sd.link import Draft
from krita_sd.stage import Stage
from krita_sd.text import tr
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.frames import Picture
from krita_sd.wire.messages import PreviewWish
from krita_sd.wire.recipe import Control

PREVIEW_PIXELS = 512 * 512
"""Largest preview asked for; it is scaled to the region here."""


class Generating(Part):
    """Captures the document and submits."""

    def __init__(self, core: Core, connection: Connection, stage: Stage, controlling: Controlling) -> None:
        super().__init__(core)
        self._connection = connection
        self._stage = stage
        self._controlling = controlling
        self._readings: dict[str, Reading] = {}
        self._frame = ContextFrame()
        self._asked: Any = None

    @guarded
    def generate(self) -> None:
        """Start a job for the active document, bound to it and to its rectangle from here on."""
        core = self.core
        doc = core.begin()
        if self._connection.is_hopeless:
            # The status line says why; the next press works once that is put right.
            core.link.reconnect()
            return
        scene = capture.describe(doc)
        if scene.selection_empty:
            raise WireError(
                Code.BAD_REQUEST, tr("The selection lies outside the canvas."), tr("Select something on it.")
            )
        if not core.settings.seed_fixed:
            core.change(seed=plan.draw_seed())
        self.begin(doc, scene.doc_id, core.plan(scene.extent, scene.selection, core.settings.seed))

    def begin(self, doc: Any, document: str, made: plan.Plan, mask: bytes | None = None) -> str:
        """Start the planned job; its id. mask: grey8 of its rectangle, where that is not the selection. Raises
        WireError."""
        controls = self._controlling.active_in(document)
        job = uuid.uuid4().hex
        self._stage.remember(document, doc)
        self.core.feed(ev.Created(job, document, made.bounds, made.recipe, self.core.settings.count))
        if made.kind == "txt2img" and not controls:
            self._submit(job, None, None, ())
            return job
        self._readings[job] = Reading(
            doc,
            made.bounds,
            made.kind,
            self.core.settings.source,
            controls,
            self._controlling.not_read(document),
            functools.partial(self._captured, job),
            functools.partial(self._unread, job),
            mask,
        )
        return job

    @guarded
    def cancel(self) -> None:
        """Cancel the current job; it leaves no trace."""
        job = self.core.table.current
        if job is not None:
            self.cancel_job(job.id)

    def cancel_job(self, job: str) -> None:
        """Cancel that job, wherever it is."""
        self.core.link.cancel(job)
        reader = self._readings.pop(job, None)
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
    def _captured(
        self, job_id: str, picture: bytes | None, mask: bytes | None, controls: list[tuple[ControlLayer, bytes]]
    ) -> None:
        self._readings.pop(job_id, None)
        job = self.core.table.jobs[job_id]
        if not job.active:
            return
        if job.recipe.kind == "inpaint" and mask is None:
            self._unread(job_id, tr("Nothing is selected any more."))
            return
        size = job.bounds.width, job.bounds.height
        image = Picture("bgra8", *size, picture) if picture is not None else None
        selected = Picture("grey8", *size, mask) if mask else None
        drawn = [(control, Picture("bgra8", *size, data)) for control, data in controls]
        if not drawn:
            self._submit(job_id, image, selected, ())
            return

        def prepare() -> None:
            ready = tuple((control.wire(), control_pictures.prepared(data, control.type)) for control, data in drawn)
            self.core.later(functools.partial(self._submit, job_id, image, selected, ready))

        self.core.link.run(prepare)

    @guarded
    def _unread(self, job_id: str, text: str) -> None:
        self._readings.pop(job_id, None)
        self.core.feed(ev.JobFailed(job_id, WireError(Code.BAD_REQUEST, text)))

    def _submit(
        self, job_id: str, image: Picture | None, mask: Picture | None, controls: tuple[tuple[Control, Picture], ...]
    ) -> None:
        job = self.core.table.jobs[job_id]
        if not job.active:
            return
        wish = PreviewWish(self.core.settings.previews, PREVIEW_PIXELS)
        place = self.core.settings.place
        draft = Draft(job_id, job.recipe, image, mask, job.count, place, previews=wish, controls=controls)
        self.core.link.submit(draft)
        self.core.feed(ev.Captured(job_id))

    # The rectangle that a job would use ------------------------------------------------------------------------------

    def looked(self, doc: Any, scene: Any) -> None:
        core = self.core
        self._look_closer(doc, scene)
        # Before a job, not over its pictures.
        attention = core.table.current is None and any(docker.has_attention for docker in core.dockers())
        free = scene is not None and scene.doc_id not in core.table.stage
        if scene is None or scene.selection is None or not attention or not free:
            self._frame.hide()
            return
        settings = core.settings
        context = plan.region(settings, view.model_entry(core.models, settings.model), scene.extent, scene.selection)
        mask = plan.mask_shape(settings, scene.selection)
        self._frame.show(doc, scene.doc_id, context, mask, scene.selection)

    def _look_closer(self, doc: Any, scene: Any) -> None:
        """Wrap-around mode, and whether what is selected is empty; the latter when the selection is another one."""
        core = self.core
        wrap = surroundings.wrap_axes() if scene is not None else ""
        selection = scene.selection if scene is not None else None
        asked = (scene.doc_id, selection, scene.active_layer) if scene is not None else None
        empty = core.is_transparent
        if asked != self._asked and not watch.pen().pen_down:
            self._asked = asked
            empty = selection is not None and surroundings.is_empty(doc, selection)
        if (wrap, empty) != (core.wrap, core.is_transparent):
            core.wrap, core.is_transparent = wrap, empty
            core.redraw()

    def hidden(self) -> None:
        self._frame.hide()

    def stopped(self) -> None:
        self._frame.hide()
