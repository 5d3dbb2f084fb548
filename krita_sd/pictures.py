# SPDX-License-Identifier: GPL-3.0-or-later
"""Scaling of raw pictures with QImage, which may be used in any thread: called in the link thread only."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Any

from krita_sd.qt import Qt, QtCore, QtGui
from krita_sd.text import tr
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
        # A reader, because QImage.loadFromData holds Python's lock while it decodes.
        data = QtCore.QBuffer()
        data.setData(picture.data)
        data.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        image = QtGui.QImageReader(data).read()
        if image.isNull():
            raise bad_request(tr("A {format} picture from the server could not be read.", format=picture.format))
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


def encoded(picture: Picture, kind: str) -> bytes:
    """The file content as png, webp (both lossless, if Qt can write it) or jpg. Raises WireError.

    Qt lets go of Python's lock while it encodes; nevertheless not in the GUI thread: 2048 x 2048 take a second.
    """
    name, quality = {"png": ("PNG", 80), "webp": ("WEBP", 100), "jpg": ("JPG", 93), "jpeg": ("JPG", 93)}.get(
        kind, ("", 0)
    )
    if name.lower().encode() not in [bytes(known.data()) for known in QtGui.QImageWriter.supportedImageFormats()]:
        raise bad_request(
            tr("This Krita cannot write {kind}.", kind=kind or tr("files without an ending")),
            tr("Save it as .png or .jpg."),
        )
    image = image_of(picture)
    if name == "JPG":
        image = _opaque(image)
    out = QtCore.QBuffer()
    out.open(QtCore.QIODevice.OpenModeFlag.WriteOnly)
    if not image.save(out, name, quality):
        raise bad_request(
            tr(
                "Qt could not write a picture of {width} x {height} pixels as {kind}.",
                width=picture.width,
                height=picture.height,
                kind=kind,
            )
        )
    return bytes(out.data().data())


def write_png(picture: Picture, path: Path) -> None:
    """Write a PNG, losslessly. Raises OSError. Qt writes the file itself: nothing passes through Python's lock."""
    if not image_of(picture).save(str(path), "PNG", 80):
        raise OSError(errno.EIO, tr("the disk is full or cannot be written"), str(path))


def _opaque(image: Any) -> Any:
    """On white: a JPEG has no transparency."""
    out = QtGui.QImage(image.size(), QtGui.QImage.Format.Format_RGB32)
    out.fill(Qt.GlobalColor.white)
    painter = QtGui.QPainter(out)
    painter.drawImage(0, 0, image)
    painter.end()
    return out


def read_file(path: str) -> Picture | None:
    """A picture file as bgra8; None when it cannot be read. Not in the GUI thread."""
    image = QtGui.QImageReader(path).read()
    if image.isNull():
        return None
    return picture_of(image)


def small_file(picture: Picture) -> bytes:
    """A thumbnail as the content of a JPEG file."""
    return encoded(picture_of(thumbnail(picture)), "jpg")


def small_image(data: bytes) -> Any | None:
    """The QImage of a `small_file`; None when that is damaged."""
    image = QtGui.QImage()
    return image if data and image.loadFromData(data) else None


def picture_of(image: Any) -> Picture:
    """A QImage as bgra8."""
    return Picture("bgra8", image.width(), image.height(), _bits(image))


def _bits(image: Any) -> bytes:
    image = image.convertToFormat(QtGui.QImage.Format.Format_ARGB32)
    return bytes(image.constBits().asstring(image.width() * image.height() * 4))


def over(below: Picture, above: Picture) -> Picture:
    """`above` (straight alpha) laid over `below`, both bgra8 of one extent; in bands as `scaled`."""
    lower, upper = image_of(below), image_of(above)
    rows = max(1, BAND // below.width)
    parts = []
    for top in range(0, below.height, rows):
        band = lower.copy(0, top, below.width, min(rows, below.height - top))
        painter = QtGui.QPainter(band)
        painter.drawImage(0, -top, upper)
        painter.end()
        parts.append(_bits(band))
        time.sleep(0)
    return Picture("bgra8", below.width, below.height, b"".join(parts))


def thumbnail(picture: Picture) -> Any:
    """A small QImage of `picture`, own bytes."""
    image = image_of(picture)
    aspect = Qt.AspectRatioMode.KeepAspectRatio
    if max(picture.width, picture.height) > 4 * THUMBNAIL:
        # Coarsely first: a smooth step from a large picture reads all of it.
        image = image.scaled(4 * THUMBNAIL, 4 * THUMBNAIL, aspect)
    small = image.scaled(THUMBNAIL, THUMBNAIL, aspect, _SMOOTH)
    return small.copy() if small.cacheKey() == image.cacheKey() else small
