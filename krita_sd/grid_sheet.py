# SPDX-License-Identifier: GPL-3.0-or-later
"""The contact sheet of a compare grid: cells with labels above and at the left. Not in the GUI thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from krita_sd import pictures
from krita_sd.grid import Grid
from krita_sd.qt import Qt, QtCore, QtGui
from krita_sd.wire.frames import Picture

MAX_SIDE = 8192
"""Pixels of the longer side of a sheet; cells become smaller to fit."""

_GAP = 8


def draw(grid: Grid, width: int, height: int, read: Callable[[int], Picture | None]) -> Picture:
    """The sheet as bgra8. width, height: of one cell's picture; `read(i)` gives that of cell i, or None."""
    columns, rows = len(grid.x.labels), len(grid.y.labels)
    scale = min(1.0, (MAX_SIDE - 400) / (columns * (width + _GAP)), (MAX_SIDE - 400) / (rows * (height + _GAP)))
    cell_width, cell_height = max(1, int(width * scale)), max(1, int(height * scale))
    font = QtGui.QFont()
    font.setPixelSize(max(11, min(cell_width, cell_height) // 16))
    metrics = QtGui.QFontMetrics(font)
    top = metrics.height() + 2 * _GAP if any(grid.x.labels) else _GAP
    widest = max(metrics.boundingRect(text).width() for text in grid.y.labels)
    left = min(widest, 380) + 2 * _GAP if any(grid.y.labels) else _GAP
    full = left + columns * (cell_width + _GAP), top + rows * (cell_height + _GAP)
    sheet = QtGui.QImage(*full, QtGui.QImage.Format.Format_ARGB32)
    sheet.fill(Qt.GlobalColor.white)
    painter = QtGui.QPainter(sheet)
    painter.setFont(font)
    painter.setPen(QtGui.QColor(20, 20, 20))

    def label(box: Any, text: str, align: Any) -> None:
        painter.drawText(box, align, metrics.elidedText(text, Qt.TextElideMode.ElideRight, box.width()))

    centre = Qt.AlignmentFlag.AlignCenter
    for column, text in enumerate(grid.x.labels):
        label(QtCore.QRect(left + column * (cell_width + _GAP), 0, cell_width, top), text, centre)
    for row, text in enumerate(grid.y.labels):
        box = QtCore.QRect(_GAP, top + row * (cell_height + _GAP), left - 2 * _GAP, cell_height)
        label(box, text, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignRight)
    for number, cell in enumerate(grid.cells):
        picture = read(number)
        if picture is not None:
            small = pictures.scaled(picture, cell_width, cell_height) if scale < 1.0 else picture
            x, y = left + cell.column * (cell_width + _GAP), top + cell.row * (cell_height + _GAP)
            painter.drawImage(x, y, pictures.image_of(small))
    painter.end()
    return pictures.picture_of(sheet)
