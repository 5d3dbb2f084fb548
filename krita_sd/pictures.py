# SPDX-License-Identifier: GPL-3.0-or-later
"""Scaling of raw pictures with QImage, which may be used in any thread: called in the link thread only."""

from __future__ import annotations

import time
from typing import Any

from krita_sd.qt import Qt, QtCore, QtGui
from krita_sd.wire.errors import bad_request
from krita_sd.wire.frames import Picture

THUMBNAIL = 96
"""Pixels of the longer side of a thumbnail."""

BAND = 64 * 1024
"""Pixels that are scaled in one call into Qt: under a millisecond."""

_SMOOTH = Qt.TransformationMode.SmoothTransformation


def image_of(picture: Picture) -> Any:
    """A QImage that shares the bytes of `picture`: keep the picture alive as long as the image."""
    if picture.format == "bgra8":
        kind, stride = QtGui.QImage.Format.Format_ARGB32, picture.width * 4
    elif picture.format == "grey8":
        kind, stride = QtGui.QImage.Format.Format_Grayscale8, picture.width
    else:
        image = QtGui.QImage()
        if not image.loadFromData(picture.data):
            raise bad_request(f"A {picture.format} picture from the server could not be read.")
        return image.convertToFormat(QtGui.QImage.Format.Format_ARGB32)
    return QtGui.QImage(picture.data, picture.width, picture.height, stride, kind)


def scaled(picture: Picture, width: int, height: int) -> Picture:
    """`picture` as bgra8 of exactly that extent, smoothly enlarged.

    Qt holds Python's lock while it scales, and the GUI thread would wait for it: so a few rows at a time, with the
    lock given away between them. 2048 x 2048 pixels in one go would be a jerk of the brush.
    """
    image = image_of(picture).convertToFormat(QtGui.QImage.Format.Format_ARGB32)
    whole = QtCore.QRectF(0, 0, width, height)
    rows = max(1, BAND // width)
    parts = []
    for top in range(0, height, rows):
        band = QtGui.QImage(width, min(rows, height - top), QtGui.QImage.Format.Format_ARGB32)
        band.fill(0)
        painter = QtGui.QPainter(band)
        painter.setCompositionMode(QtGui.QPainter.CompositionMode.CompositionMode_Source)
        painter.setRenderHint(QtGui.QPainter.RenderHint.SmoothPixmapTransform)
        painter.drawImage(whole.translated(0, -top), image)
        painter.end()
        # 32-bit rows have no padding in QImage.
        parts.append(band.constBits().asstring(width * band.height() * 4))
        time.sleep(0)
    return Picture("bgra8", width, height, b"".join(parts))


def thumbnail(picture: Picture) -> Any:
    """A small QImage of `picture`, own bytes."""
    image = image_of(picture)
    aspect = Qt.AspectRatioMode.KeepAspectRatio
    if max(picture.width, picture.height) > 4 * THUMBNAIL:
        # Coarsely first: a smooth step from a large picture reads all of it.
        image = image.scaled(4 * THUMBNAIL, 4 * THUMBNAIL, aspect)
    small = image.scaled(THUMBNAIL, THUMBNAIL, aspect, _SMOOTH)
    return small.copy() if small.cacheKey() == image.cacheKey() else small
