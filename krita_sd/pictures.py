# SPDX-License-Identifier: GPL-3.0-or-later
"""Scaling of raw pictures with QImage, which may be used in any thread: called in the link thread only."""

from __future__ import annotations

from typing import Any

from krita_sd.qt import Qt, QtGui
from krita_sd.wire.errors import bad_request
from krita_sd.wire.frames import Picture

THUMBNAIL = 96
"""Pixels of the longer side of a thumbnail."""

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
    """`picture` as bgra8 of exactly that extent."""
    image = image_of(picture).convertToFormat(QtGui.QImage.Format.Format_ARGB32)
    if (image.width(), image.height()) != (width, height):
        image = image.scaled(width, height, Qt.AspectRatioMode.IgnoreAspectRatio, _SMOOTH)
        image = image.convertToFormat(QtGui.QImage.Format.Format_ARGB32)
    # 32-bit rows have no padding in QImage.
    return Picture("bgra8", width, height, image.constBits().asstring(width * height * 4))


def thumbnail(picture: Picture) -> Any:
    """A small QImage of `picture`, own bytes."""
    image = image_of(picture)
    aspect = Qt.AspectRatioMode.KeepAspectRatio
    small = image.scaled(THUMBNAIL, THUMBNAIL, aspect, _SMOOTH)
    return small.copy() if small.cacheKey() == image.cacheKey() else small
