# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames as QImages that only need to be drawn. QImage may be used in any thread: this is for the link thread."""

from __future__ import annotations

import time
from typing import Any

from krita_sd import pictures
from krita_sd.qt import QtCore, QtGui
from krita_sd.wire.frames import Picture


def develop(picture: Picture) -> Any:
    """A QImage with its own bytes, premultiplied: what a painter draws without converting every time.

    A few rows at a time: Qt holds Python's lock meanwhile, which the GUI thread would wait for.
    """
    source = pictures.image_of(picture)
    image = QtGui.QImage(picture.width, picture.height, QtGui.QImage.Format.Format_ARGB32_Premultiplied)
    rows = max(1, pictures.BAND * 2 // picture.width)
    for top in range(0, picture.height, rows):
        count = min(rows, picture.height - top)
        box = QtCore.QRect(0, top, picture.width, count)
        painter = QtGui.QPainter(image)
        painter.setCompositionMode(QtGui.QPainter.CompositionMode.CompositionMode_Source)
        painter.drawImage(box, source, box)
        painter.end()
        if top + count < picture.height:
            time.sleep(0)
    return image
