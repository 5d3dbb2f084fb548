# SPDX-License-Identifier: GPL-3.0-or-later
"""Any colour model, depth and profile <-> sRGB with 8 bits per channel, by letting Krita convert."""

from __future__ import annotations

import re
from typing import Any

from ..qt import QtGui
from . import host

SRGB = "sRGB-elle-V2-srgbtrc.icc"
"""Krita's own name for its default 8-bit profile."""

_SRGB_NAMES = re.compile(
    r"srgb-elle-v\d-srgbtrc\.icc|srgb built-in|srgb iec61966.*|artifex software srgb icc profile", re.I
)
_CHANNELS = {"RGBA": 4, "GRAYA": 2, "CMYKA": 5, "LABA": 4, "XYZA": 4, "YCBCRA": 4, "A": 1}
_SAMPLE = {"U8": 1, "U16": 2, "F16": 2, "F32": 4}


def is_plain(model: str, depth: str, profile: str) -> bool:
    """Whether pixel data of that colour space already is bgra8 in sRGB."""
    return model == "RGBA" and depth == "U8" and _SRGB_NAMES.fullmatch(profile) is not None


def pixel_size(model: str, depth: str) -> int:
    """Bytes per pixel; 0 for a space we do not know."""
    return _CHANNELS.get(model, 0) * _SAMPLE.get(depth, 0)


def image_bytes(image: Any) -> bytes:
    """bgra8 straight alpha of a QImage, rows without padding."""
    wanted = QtGui.QImage.Format.Format_ARGB32
    if image.format() != wanted:
        image = image.convertToFormat(wanted)
    pointer = image.constBits()
    pointer.setsize(image.width() * image.height() * 4)
    return bytes(pointer)


def image_of(picture: bytes, width: int, height: int) -> Any:
    """A QImage over bgra8 `picture`; the caller keeps the bytes alive as long as the image."""
    return QtGui.QImage(picture, width, height, width * 4, QtGui.QImage.Format.Format_ARGB32)


def scratch_document(width: int, height: int, model: str, depth: str, profile: str) -> Any:
    """A document without a view; `drop` it in the same turn if possible: Krita lists it among the open ones."""
    return host.krita().createDocument(max(1, width), max(1, height), "krita_sd scratch", model, depth, profile, 72.0)


def drop(doc: Any) -> None:
    """Close a scratch document or a clone without a question."""
    doc.setModified(False)
    doc.close()


class Converter:
    """Pixels of one colour space to bgra8 sRGB: `feed` rows top-down, then `read` them back converted.

    Krita's API converts documents only, so the pixels pass through a document of the same space.
    """

    def __init__(self, width: int, height: int, model: str, depth: str, profile: str) -> None:
        self._doc = scratch_document(width, height, model, depth, profile)
        self._layer = self._doc.topLevelNodes()[0]
        self._width = width

    def feed(self, data: bytes, y: int, rows: int) -> None:
        """Take `rows` rows of raw pixels that begin at row `y`."""
        self._layer.setPixelData(data, 0, y, self._width, rows)

    def finish(self) -> None:
        """All rows are in."""
        self._doc.refreshProjection()

    def read(self, y: int, rows: int) -> bytes:
        """`rows` converted rows, bgra8."""
        return image_bytes(self._doc.projection(0, y, self._width, rows))

    def close(self) -> None:
        drop(self._doc)
