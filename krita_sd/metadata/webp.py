# SPDX-License-Identifier: GPL-3.0-or-later
"""The EXIF chunk of a WebP (RFC 9649, section 2: RIFF container)."""

from __future__ import annotations

import struct
from typing import BinaryIO

from . import exif

_MAX_CHUNKS = 10_000
_ALPHA, _EXIF = 0x10, 0x08


def is_webp(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def read(file: BinaryIO) -> bytes:
    """The EXIF block, b"" when there is none or it is too large. `file` stands at the signature."""
    if not is_webp(file.read(12)):
        return b""
    for _ in range(_MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return b""
        kind, length = struct.unpack("<4sI", head)
        if kind == b"EXIF":
            return file.read(length) if length <= exif.MAX_BLOCK else b""
        file.seek(length + length % 2, 1)
    return b""


def insert(webp: bytes, block: bytes) -> bytes:
    """`webp` (written by a codec, still) with an EXIF block behind its pixels."""
    if not is_webp(webp):
        raise ValueError("no WebP")
    body = webp[12:]
    if body[:4] == b"VP8X":
        body = body[:8] + bytes((body[8] | _EXIF,)) + body[9:]
    else:
        body = _extended(body) + body
    body += b"\0" * (len(body) % 2)
    body += b"EXIF" + struct.pack("<I", len(block)) + block + b"\0" * (len(block) % 2)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _extended(body: bytes) -> bytes:
    """The header that a WebP with more than pixels begins with: flags and extent, out of the pixels' own header."""
    flags = _EXIF
    if body[:4] == b"VP8L":
        (bits,) = struct.unpack_from("<I", body, 9)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        flags |= _ALPHA if bits >> 28 & 1 else 0
    elif body[:4] == b"VP8 ":
        width, height = (value & 0x3FFF for value in struct.unpack_from("<HH", body, 14))
    else:
        raise ValueError("no WebP that can be extended")
    extent = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"VP8X" + struct.pack("<I", 10) + bytes((flags, 0, 0, 0)) + extent
