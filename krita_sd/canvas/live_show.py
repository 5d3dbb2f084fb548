# SPDX-License-Identifier: GPL-3.0-or-later
"""Where frames of Live appear in the document's window, and how one becomes a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..geometry import Bounds
from . import insert, place
from .active import active_node
from .overlay import Overlay


class LiveShow:
    """Frames of one rectangle of `doc`: a widget over the canvas, a locked layer, or only the rectangle itself.

    where: "canvas", "both" or "docker" of the settings, or "layer". outline: draw the edge of the rectangle.
    """

    def __init__(self, doc: Any, bounds: Bounds, where: str, name: str, outline: bool) -> None:
        self._bounds = bounds
        self._where = where
        self._outline = outline
        self._overlay = Overlay(doc)
        self._placement: place.Placement | None = None
        if where == "layer":
            self._placement = place.Placement(doc, bounds, name)
        if outline:
            self._overlay.show_outline(bounds)

    def show(self, image: Any, data: bytes, box: Bounds, painted: Callable[[], None]) -> None:
        """Show a frame: QImage and the same as bgra8, stretched over `box` of the rectangle; for a layer it has the
        rectangle's size. `painted`: it is on the screen, or, as a layer or beside the canvas, on its way there."""
        if self._where in ("canvas", "both"):
            part = Bounds(self._bounds.x + box.x, self._bounds.y + box.y, *box.extent)
            self._overlay.show_image(image, self._bounds, painted, part)
            return
        if self._placement is not None:
            self._placement.show_preview(data, self._bounds.width, self._bounds.height)
        painted()

    def set_look(self, opacity: float, thin: Bounds) -> None:
        """opacity: 0..1. thin: document pixels where the painter's fresh strokes are seen through the picture."""
        self._overlay.set_look(opacity, thin, self._outline)

    def close(self) -> None:
        """Take everything away, without a trace."""
        self._overlay.close()
        if self._placement is not None:
            placement, self._placement = self._placement, None
            _keep(placement, placement.applied, placement.discarded, placement.parked)
            placement.discard()


def apply(doc: Any, bounds: Bounds, data: bytes, name: str, way: str, done: Callable[[], None]) -> str:
    """bgra8 `data` of bounds' size goes into the document, "top" or "into" the active layer (`insert.WAYS`).

    Returns a sentence when that is impossible now; otherwise "", and `done` follows unless `doc` is closed meanwhile.
    """
    problem = insert.problem_with(way, doc)
    if problem:
        return problem
    insertion = insert.Insertion(doc, active_node(doc), bounds, data, name, way)
    insertion.applied.connect(lambda _node: done())
    _keep(insertion, insertion.applied, insertion.parked)
    insertion.start()
    return ""


_ending: list[Any] = []  # what finishes by itself: without a reference Python would end it early


def _keep(work: Any, *ends: Any) -> None:
    """Hold a QObject until one of its signals says that it is done."""
    _ending.append(work)

    def gone(*_: Any) -> None:
        if work in _ending:
            _ending.remove(work)
            work.deleteLater()

    for end in ends:
        end.connect(gone)
