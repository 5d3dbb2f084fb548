# SPDX-License-Identifier: GPL-3.0-or-later
"""Two texts in an EXIF block: UserComment, where programs of the field put "parameters", and MakerNote, ours.

A block is a small TIFF file (TIFF 6.0, section 2; CIPA DC-008): byte order, then tables of 12-byte entries.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

USER_COMMENT = 0x9286
MAKER_NOTE = 0x927C
MAX_BLOCK = 1024 * 1024
"""Bytes of a block that is read."""

MAGIC = b"Exif\0\0"
_POINTER = 0x8769
_UNDEFINED, _LONG = 7, 4
_OURS = b"KritaSD\0"
_MAX_ENTRIES = 512


def build(comment: str, note: str) -> bytes:
    """A block (without `MAGIC`) with a user comment and our own note."""
    values = [
        # In ascending order of tags, as the standard wants it.
        (MAKER_NOTE, _OURS + note.encode("utf-8")),
        (USER_COMMENT, b"UNICODE\0" + comment.encode("utf-16-be", "replace")),
    ]
    table = 8 + 2 + 12 + 4
    out = b"MM\0*" + struct.pack(">I", 8)
    out += struct.pack(">HHHIII", 1, _POINTER, _LONG, 1, table, 0)
    place = table + 2 + 12 * len(values) + 4
    entries, bodies = b"", b""
    for tag, value in values:
        entries += struct.pack(">HHII", tag, _UNDEFINED, len(value), place + len(bodies))
        bodies += value + b"\0" * (len(value) % 2)
    return out + struct.pack(">H", len(values)) + entries + struct.pack(">I", 0) + bodies


def read(block: bytes) -> tuple[str, str]:
    """(user comment, our own note) of a block with or without `MAGIC`; "" for what is not there or damaged."""
    data = block.removeprefix(MAGIC)[:MAX_BLOCK]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return "", ""
    comment = note = b""
    try:
        (first,) = struct.unpack_from(f"{order}I", data, 4)
        pointers = [value for tag, _, value in _entries(data, order, first) if tag == _POINTER]
        for tag, count, value in _entries(data, order, pointers[0]) if pointers else ():
            if tag == USER_COMMENT:
                comment = data[value : value + count]
            elif tag == MAKER_NOTE:
                note = data[value : value + count]
    except struct.error:
        pass  # cut off: what was found so far counts
    ours = note[len(_OURS) :].decode("utf-8", "replace") if note.startswith(_OURS) else ""
    return _comment(comment, order), ours


def _entries(data: bytes, order: str, place: int) -> Iterator[tuple[int, int, int]]:
    (count,) = struct.unpack_from(f"{order}H", data, place)
    for row in range(min(count, _MAX_ENTRIES)):
        tag, _, size, value = struct.unpack_from(f"{order}HHII", data, place + 2 + 12 * row)
        yield tag, size, value


def _comment(data: bytes, order: str) -> str:
    head, body = data[:8], data[8:]
    if head == b"UNICODE\0":
        # The standard leaves the byte order open: the zeros of Latin letters tell which half comes first.
        little = body[1::2].count(0) > body[0::2].count(0) or (order == "<" and 0 not in body)
        return body.decode("utf-16-le" if little else "utf-16-be", "replace").rstrip("\0")
    if head in (b"ASCII\0\0\0", b"\0" * 8):
        return body.decode("utf-8", "replace").rstrip("\0")
    return ""
