# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job would meet: is the selected area empty, how does the mask run out, does the canvas wrap around.

All by samples: at most `GRID` rows of a document of any size are read, so that it may be asked while the painter works.
"""

from __future__ import annotations

from typing import Any

from ..geometry import Bounds
from ..qt import QtGui
from . import host
from .capture import Selection

GRID = 40
"""Samples along each side."""

_EMPTY = 0.5
"""Share of the selection that must be transparent to count as empty."""


def wrap_axes() -> str:
    """The axes of the active view's wrap-around mode: "", "x", "y" or "xy". Before Krita 5.2 it is always both."""
    window = host.krita().activeWindow()
    view = window.activeView() if window is not None else None
    canvas = view.canvas() if view is not None else None
    if canvas is None or not hasattr(canvas, "wrapAroundMode") or not canvas.wrapAroundMode():
        return ""
    for name, axes in (("wrap_around_h_axis", "x"), ("wrap_around_v_axis", "y")):
        action = host.krita().action(name)
        if action is not None and action.isCheckable() and action.isChecked():
            return axes
    return "xy"


def _steps(start: int, length: int) -> list[int]:
    count = min(GRID, length)
    return [start + (2 * number + 1) * length // (2 * count) for number in range(count)]


def is_empty(doc: Any, bounds: Bounds) -> bool:
    """Whether what is selected inside `bounds` (document pixels, on the canvas) is mostly transparent."""
    selection = Selection.of(doc)
    if selection is None or bounds.is_empty:
        return False
    selected = empty = 0
    columns = [x - bounds.x for x in _steps(bounds.x, bounds.width)]
    for y in _steps(bounds.y, bounds.height):
        mask = selection.pixels(bounds.x, y, bounds.width, 1)
        row = bytes(doc.pixelData(bounds.x, y, bounds.width, 1))
        size = len(row) // bounds.width
        if size == 0 or len(mask) != bounds.width:
            return False
        # The last channel is alpha in every colour model; its bytes are all zero exactly when it is.
        sample = {1: 1, 2: 1, 4: 1, 5: 1, 8: 2, 10: 2, 16: 4, 20: 4}.get(size, 1)
        for x in columns:
            if mask[x] > 127:
                selected += 1
                empty += not any(row[(x + 1) * size - sample : (x + 1) * size])
    return selected > 0 and empty >= _EMPTY * selected


def mask_image(doc: Any, context: Bounds, grow: int, feather: int, colour: Any) -> Any | None:
    """A small QImage of `colour` over `context` (document pixels): as opaque as the denoise mask is strong there, with
    the selection grown and feathered by so many pixels. None without a selection."""
    selection = Selection.of(doc)
    if selection is None or context.is_empty:
        return None
    columns = [x - context.x for x in _steps(context.x, context.width)]
    cells = []
    for y in _steps(context.y, context.height):
        row = selection.pixels(context.x, y, context.width, 1)
        if len(row) != context.width:
            return None
        cells.append([row[x] / 255 for x in columns])
    across, down = len(columns) / context.width, len(cells) / context.height
    for reach, spread in ((grow, _highest), (feather / 2, _mean)):
        cells = [spread(row, round(reach * across)) for row in cells]
        cells = _turned([spread(column, round(reach * down)) for column in _turned(cells)])
    image = QtGui.QImage(len(cells[0]), len(cells), QtGui.QImage.Format.Format_ARGB32)
    for y, values in enumerate(cells):
        for x, value in enumerate(values):
            image.setPixelColor(
                x, y, QtGui.QColor(colour.red(), colour.green(), colour.blue(), round(value * colour.alpha()))
            )
    return image


def _turned(cells: list[list[float]]) -> list[list[float]]:
    return [list(column) for column in zip(*cells)]


def _highest(values: list[float], reach: int) -> list[float]:
    return [max(values[max(0, at - reach) : at + reach + 1]) for at in range(len(values))]


def _mean(values: list[float], reach: int) -> list[float]:
    out = []
    for at in range(len(values)):
        near = values[max(0, at - reach) : at + reach + 1]
        out.append(sum(near) / len(near))
    return out
