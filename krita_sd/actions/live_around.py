# SPDX-License-Identifier: GPL-3.0-or-later
"""What Live finds around it: which pixels it is about, what it asks for, and what is in its way."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from krita_sd import plan, view
from krita_sd.actions.controlling import Controlling
from krita_sd.actions.core import Core
from krita_sd.canvas import capture, host
from krita_sd.controls import ControlLayer
from krita_sd.geometry import Bounds, NativeRange
from krita_sd.live import region
from krita_sd.live.power import on_battery
from krita_sd.text import tr
from krita_sd.wire.errors import WireError

_POWER_SECONDS = 20.0  # between two looks at the battery


@dataclass(frozen=True)
class Seen:
    """document: its id. plan: rectangle and recipe, None when there can be none. obstacle: "" or a sentence."""

    document: str
    plan: plan.Plan | None
    obstacle: str


class Around:
    """Made once; `begin` for every document that Live is turned on for.

    plan: as `look` found it. controls: the layers that steer it. hidden: ids of layers that are no part of the input.
    """

    def __init__(self, core: Core, controlling: Controlling) -> None:
        self._core = core
        self._controlling = controlling
        self.controls: tuple[ControlLayer, ...] = ()
        self.hidden: tuple[str, ...] = ()
        self.docker_visible = False
        self.plan: plan.Plan | None = None
        self._window: Bounds | None = None
        self._scene: capture.Scene | None = None
        self._battery = False
        self._power_at = float("-inf")

    def begin(self, doc: Any) -> None:
        """Live is turned on for that document."""
        self._window, self.plan, self._scene = None, None, None

    @property
    def selection(self) -> Bounds | None:
        """Of the selection at the last look."""
        return self._scene.selection if self._scene is not None else None

    def look(self, doc: Any) -> Seen:
        """Look at an open document."""
        scene = self._scene = capture.describe(doc)
        obstacle = self._obstacle(doc, scene)
        settings = self._core.settings
        try:
            made = region.make(
                settings,
                settings.live,
                self._native(),
                scene.extent,
                scene.selection,
                self._window,
                lambda chosen: self._core.plan(scene.extent, scene.selection, chosen.seed, chosen),
            )
            self.controls = tuple(self._controlling.active_in(scene.doc_id))
            self.hidden = tuple(self._controlling.not_read(scene.doc_id))
            recipe = made.recipe.replace(controls=tuple(control.wire() for control in self.controls))
            self.plan = replace(made, recipe=recipe)
        except WireError as error:
            self.plan, obstacle = None, str(error)
        return Seen(scene.doc_id, self.plan, obstacle)

    def painted(self, box: Bounds) -> bool:
        """The pen crossed `box` (document pixels). True when the rectangle around the strokes has to move."""
        scene = self._scene
        if scene is None or scene.selection is not None or self.plan is None:
            return False
        window = region.follow(self._window, box, scene.extent, self._native())
        moved, self._window = window != self._window, window
        return moved and self.plan.bounds != window

    def _native(self) -> NativeRange:
        return plan.native_range(view.model_entry(self._core.models, self._core.settings.model))

    def _obstacle(self, doc: Any, scene: capture.Scene) -> str:
        """In the order in which a painter would put it right."""
        core = self._core
        place = core.settings.live.place
        if not core.table.connected:
            return tr("Waiting for the server.")
        if not host.is_active(doc):
            return tr("Another document is in front.")
        if not _on_screen():
            return tr("Krita's window is hidden.")
        if place == "docker" and not self.docker_visible:
            return tr("The Live docker is closed.")
        if scene.selection_empty:
            return tr("The selection lies outside the canvas.")
        if core.table.current is not None:
            return tr("A job is running.")
        if scene.doc_id in core.table.stage:
            return tr("A result waits on the canvas: apply, hide or discard it.")
        if core.settings.live.battery and self._on_battery():
            return tr("This machine runs on battery.")
        return ""

    def _on_battery(self) -> bool:
        if time.monotonic() - self._power_at > _POWER_SECONDS:
            self._power_at = time.monotonic()
            self._core.link.run(self._read_battery)
        return self._battery

    def _read_battery(self) -> None:
        """In the link's thread: such files can be slow."""
        self._battery = on_battery()


def _on_screen() -> bool:
    window = host.krita().activeWindow()
    main = window.qwindow() if window is not None else None
    canvas = host.active_canvas_widget()
    return main is not None and not main.isMinimized() and canvas is not None and canvas.isVisible()
