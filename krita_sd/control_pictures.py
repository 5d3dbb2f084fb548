# SPDX-License-Identifier: GPL-3.0-or-later
"""What a painter drew as a control layer, made into what a control model expects. QImage only: for the link's thread.

Lines are white on black for the model, however they were drawn: dark on paper, any colour on a transparent layer, or
as a preprocessor makes them. Everything else is laid on black; pictures that are looked at as a whole, on white.
"""

from __future__ import annotations

from typing import Any

from krita_sd.controls import LINES
from krita_sd.pictures import image_of
from krita_sd.qt import Qt, QtGui
from krita_sd.wire.frames import Picture
from krita_sd.wire.recipe import REFERENCES

_CLEAR = 250
"""Mean alpha below which a layer counts as drawn on nothing."""


def prepared(picture: Picture, type: str) -> Picture:
    """The bgra8 picture for a control of that type; opaque, of the same size."""
    image = image_of(picture)
    if type in LINES:
        alpha = image.convertToFormat(QtGui.QImage.Format.Format_Alpha8)
        if _mean(_as_grey(alpha)) < _CLEAR:
            image = _as_grey(alpha)
        elif _mean(image.convertToFormat(QtGui.QImage.Format.Format_Grayscale8)) > 127:
            image = image.convertToFormat(QtGui.QImage.Format.Format_RGB32)
            image.invertPixels()
    below = Qt.GlobalColor.white if type in REFERENCES else Qt.GlobalColor.black
    flat = QtGui.QImage(picture.width, picture.height, QtGui.QImage.Format.Format_ARGB32)
    flat.fill(below)
    painter = QtGui.QPainter(flat)
    painter.drawImage(0, 0, image)
    painter.end()
    return Picture(
        "bgra8", picture.width, picture.height, flat.constBits().asstring(picture.width * picture.height * 4)
    )


def _as_grey(alpha: Any) -> Any:
    """The same bytes, read as brightness."""
    return QtGui.QImage(
        alpha.constBits(), alpha.width(), alpha.height(), alpha.bytesPerLine(), QtGui.QImage.Format.Format_Grayscale8
    ).copy()


def _mean(grey: Any) -> int:
    smooth = Qt.TransformationMode.SmoothTransformation
    return int(QtGui.qGray(grey.scaled(1, 1, Qt.AspectRatioMode.IgnoreAspectRatio, smooth).pixel(0, 0)))
