# SPDX-License-Identifier: GPL-3.0-or-later
"""Continues the picture beyond an edge: enlarges the canvas, then paints what is new, without any selection."""

from __future__ import annotations

import functools
from typing import Any

from krita_sd import beyond, plan
from krita_sd.actions.connection import Connection
from krita_sd.actions.core import Core
from krita_sd.actions.generating import Generating
from krita_sd.actions.part import Part
from krita_sd.canvas import host
from krita_sd.geometry import Extent
from krita_sd.guarded import guarded
from krita_sd.job_events import Phase
from krita_sd.qt import QtCore
from krita_sd.text import tr
from krita_sd.wire.errors import bad_request

LOOK_MS = 30
PATIENCE = 400
"""Looks until an enlargement that Krita has not done is given up: 12 s."""


class Enlarging(Part):
    """The enlarging is an undo step of the painter's, the picture another one when it is applied."""

    def __init__(self, core: Core, connection: Connection, generating: Generating) -> None:
        super().__init__(core)
        self._connection, self._generating = connection, generating
        self._waiting = False
        self._jobs: set[str] = set()

    @guarded
    def expand(self, side: str) -> None:
        """Continue the picture towards one of `beyond.SIDES`."""
        core = self.core
        doc = core.begin()
        if self._waiting or not host.is_idle(doc):
            raise bad_request(tr("The document is busy."), tr("Try again when the pen is up."))
        if self._connection.is_hopeless:
            core.link.reconnect()
            return
        made = beyond.beyond(Extent(doc.width(), doc.height()), side, core.settings.reach)
        size = made.canvas.extent
        job = self._plan(made)  # before anything is changed: what cannot be done is said now
        canvas = made.canvas
        doc.resizeImage(canvas.x, canvas.y, canvas.width, canvas.height)
        self._waiting = True
        self._look(doc, size, functools.partial(self._begin, doc, job, beyond.mask(made, job.bounds)), PATIENCE)

    def _plan(self, made: beyond.Beyond) -> plan.Plan:
        core = self.core
        if not core.settings.seed_fixed:
            core.change(seed=plan.draw_seed())
        # What lies there is nothing, so all of it is painted, beginning with what is beside it.
        fill = "border" if core.settings.fill == "original" else core.settings.fill
        settings = core.settings.replace(strength=1.0, exact_mask=False, fill=fill)
        return core.plan(made.canvas.extent, made.painted, core.settings.seed, settings)

    @guarded
    def _look(self, doc: Any, size: Extent, then: Any, left: int) -> None:
        """Krita enlarges in threads of its own."""
        is_there = host.is_open(doc)
        if is_there and (Extent(doc.width(), doc.height()) != size or not host.is_idle(doc)) and left:
            QtCore.QTimer.singleShot(LOOK_MS, functools.partial(self._look, doc, size, then, left - 1))
            return
        self._waiting = False
        if not is_there:
            return
        if Extent(doc.width(), doc.height()) != size:
            raise bad_request(tr("Krita did not enlarge the canvas."), tr("Use Image > Resize Canvas, then Expand."))
        then()

    @guarded
    def _begin(self, doc: Any, job: plan.Plan, mask: bytes) -> None:
        self._jobs.add(self._generating.begin(doc, host.document_id(doc), job, mask))

    def fed(self, event: Any) -> None:
        """A cancelled one leaves the larger canvas: only the painter's undo may take that step back."""
        job = self.core.table.jobs.get(getattr(event, "job", ""))
        if job is None or job.active or job.id not in self._jobs:
            return
        self._jobs.remove(job.id)
        if job.phase is Phase.CANCELLED:
            self.say(tr("Cancelled. The canvas stays larger; Undo takes that back."))
