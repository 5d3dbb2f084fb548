# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages over a pair of pipes: length-prefixed JSON, then raw bytes. Both ends trust each other.

Blocking on purpose: each end reads in its own thread, and a blocking read of a large body releases the interpreter
lock, so that a picture never holds up the event loop of the front.
"""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO

_PREFIX = struct.Struct("<II")


def write_message(stream: BinaryIO, message: dict[str, Any], payload: bytes = b"") -> None:
    """Write one message. Raises OSError when the other end is gone."""
    text = json.dumps(message, separators=(",", ":")).encode()
    stream.write(_PREFIX.pack(len(text), len(payload)) + text)
    if payload:
        stream.write(payload)
    stream.flush()


def read_message(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """Read one message; None at the end of the stream, also in the middle of a message."""
    prefix = _read_exactly(stream, _PREFIX.size)
    if prefix is None:
        return None
    length, size = _PREFIX.unpack(prefix)
    text = _read_exactly(stream, length)
    payload = _read_exactly(stream, size)
    if text is None or payload is None:
        return None
    return json.loads(text), payload


def _read_exactly(stream: BinaryIO, size: int) -> bytes | None:
    data = stream.read(size)  # a buffered reader returns less only at the end
    return data if data is not None and len(data) == size else None
