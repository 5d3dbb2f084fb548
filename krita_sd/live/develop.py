# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames as QImages that only need to be drawn. QImage may be used in any thread: this is for the link thread."""

from __future__ import annotations

import time
from typing import Any

from krita_sd import pictures
from krita_sd.geometry import Bounds, Extent
from krita_sd.qt import QtCore, QtGui
from krita_sd.wire.frames import Picture


def develop(picture: Picture, opaque: bool = False) -> Any:
    """A QImage that a painter draws without converting it every time: premultiplied, with bytes of its own; where all
    of it is `opaque`, the bytes of the picture as they are, which the image keeps.

    A few rows at a time: Qt holds Python's lock meanwhile, which the GUI thread would wait for.
    """
    source = pictures.image_of(picture)
    if opaque and picture.format == "bgra8":
        kind = QtGui.QImage.Format.Format_RGB32
        image = QtGui.QImage(picture.data, picture.width, picture.height, picture.width * 4, kind)
        image.kept = picture.data
        return image
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


def whole(picture: Picture, extent: Extent, box: Bounds) -> Picture:
    """The frame as bgra8 of the region's `extent`: stretched over `box`, transparent beside it.

    Not for the GUI thread.
    """
    if picture.format != "bgra8":
        picture = pictures.picture_of(pictures.image_of(picture))
    if (picture.width, picture.height) != box.extent:
        picture = pictures.scaled(picture, *box.extent)
    if box.extent == extent:
        return picture
    rows = [bytes(extent.width * 4)] * extent.height
    left, right = bytes(box.x * 4), bytes((extent.width - box.right) * 4)
    row = box.width * 4
    for y in range(box.height):
        rows[box.y + y] = b"".join((left, picture.data[y * row : (y + 1) * row], right))
    return Picture("bgra8", extent.width, extent.height, b"".join(rows))


def whole_image(picture: Picture, extent: Extent, box: Bounds) -> Any:
    """The same as a QImage, which keeps the bytes that it shows."""
    made = whole(picture, extent, box)
    image = pictures.image_of(made)
    image.kept = made.data
    return image
