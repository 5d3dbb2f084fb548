# SPDX-License-Identifier: GPL-3.0-or-later
"""The EXIF block of a JPEG (ITU T.81, annex B: markers and segments)."""

from __future__ import annotations

import struct
from typing import BinaryIO

from . import exif

SIGNATURE = b"\xff\xd8"
MAX_SEGMENT = 0xFFFF - 2
"""Bytes of one segment; a longer block does not fit into a JPEG."""

_MAX_SEGMENTS = 1000
_APP0, _APP1, _START_OF_SCAN = 0xE0, 0xE1, 0xDA


def read(file: BinaryIO) -> bytes:
    """The EXIF block, b"" when there is none. `file` stands at the signature."""
    if file.read(2) != SIGNATURE:
        return b""
    for _ in range(_MAX_SEGMENTS):
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] == _START_OF_SCAN:
            return b""
        length = struct.unpack(">H", head[2:])[0] - 2
        if length < 0:
            return b""
        if head[1] != _APP1:
            file.seek(length, 1)
            continue
        body = file.read(length)
        if body.startswith(exif.MAGIC):
            return body
    return b""


def insert(jpeg: bytes, block: bytes) -> bytes:
    """`jpeg` (written by a codec) with an EXIF block. Raises ValueError when that is longer than a segment."""
    body = exif.MAGIC + block
    if jpeg[:2] != SIGNATURE or len(body) > MAX_SEGMENT:
        raise ValueError("no JPEG, or more than a JPEG can hold")
    place = 2
    if jpeg[2:4] == bytes((0xFF, _APP0)):  # JFIF wants to be first
        place += 2 + struct.unpack(">H", jpeg[4:6])[0]
    segment = bytes((0xFF, _APP1)) + struct.pack(">H", len(body) + 2) + body
    return jpeg[:place] + segment + jpeg[place:]
