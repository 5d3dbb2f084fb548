# SPDX-License-Identifier: GPL-3.0-or-later
"""Text chunks of a PNG (PNG specification, 11.3.3): read within bounds, inserted without touching pixels."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNK = 1024 * 1024
"""Bytes of one text chunk that are read, and of its text when it is unpacked; larger ones are skipped."""

MAX_CHUNKS = 65_536
"""Chunks of a file that are looked at: a picture of 8192 x 8192 pixels in pieces of 8 KiB has half as many."""

_PIECE = 256 * 1024
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")


def read(file: BinaryIO, wanted: frozenset[str]) -> dict[str, str]:
    """The texts with these keywords, the first of each. `file` is seekable and stands at the signature.

    Pixels are skipped, not read. What is damaged or too large is left out.
    """
    found: dict[str, str] = {}
    if file.read(8) != SIGNATURE:
        return found
    for _ in range(MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            break
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND" or length > 0x7FFFFFFF:
            break
        if kind not in _TEXTS or length > MAX_CHUNK:
            file.seek(length + 4, 1)
            continue
        body = file.read(length)
        file.seek(4, 1)
        for keyword, text in _text(kind, body):
            if keyword in wanted:
                found.setdefault(keyword, text)
    return found


def _text(kind: bytes, body: bytes) -> Iterator[tuple[str, str]]:
    """(keyword, text) of a text chunk; nothing when it cannot be read."""
    name, zero, rest = body.partition(b"\0")
    if not zero or not 1 <= len(name) <= 79:
        return
    keyword = name.decode("latin-1")
    packed = False
    if kind == b"zTXt":
        packed, rest = True, rest[1:]
    elif kind == b"iTXt":
        packed = rest[:1] == b"\1"
        # Past both flags: language tag, translated keyword, text.
        parts = rest[2:].split(b"\0", 2)
        if len(parts) < 3:
            return
        rest = parts[2]
    if packed:
        unpacked = _unpack(rest)
        if unpacked is None:
            return
        rest = unpacked
    yield keyword, rest.decode("utf-8" if kind == b"iTXt" else "latin-1", "replace")


def _unpack(data: bytes) -> bytes | None:
    """At most MAX_CHUNK bytes; None for more or for damage: a few KiB can unpack to a gigabyte."""
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(data, MAX_CHUNK)
    except zlib.error:
        return None
    return text if stream.eof else None


def insert(png: bytes, texts: Mapping[str, str]) -> bytes:
    """`png` (written by a codec) with `texts` in front of its pixels. A keyword has 1 to 79 Latin-1 characters."""
    if png[:8] != SIGNATURE:
        raise ValueError("no PNG")
    end = 8 + 12 + struct.unpack(">I", png[8:12])[0]  # behind IHDR, which is first
    chunks = [_chunk(keyword, text) for keyword, text in texts.items()]
    return b"".join([png[:end], *chunks, png[end:]])


def copy_with(source: BinaryIO, target: BinaryIO, texts: Mapping[str, str]) -> None:
    """The same from file to file, a piece at a time: joining a large picture would hold Python's lock for long."""
    head = source.read(33)  # signature and IHDR
    if head[:8] != SIGNATURE:
        raise ValueError("no PNG")
    target.write(head)
    for keyword, text in texts.items():
        target.write(_chunk(keyword, text))
    while piece := source.read(_PIECE):
        target.write(piece)


def _chunk(keyword: str, text: str) -> bytes:
    text = text.replace("\0", " ")
    name = keyword.encode("latin-1") + b"\0"
    try:
        kind, body = b"tEXt", name + text.encode("latin-1")
    except UnicodeEncodeError:
        kind, body = b"iTXt", name + b"\0\0\0\0" + text.encode("utf-8")
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
