# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures as binary frames: self-describing chunks that control messages can slip between.

    frame = b"KSD1" + u32 little-endian header length + JSON header + payload
    header = role, id, offset, total, format, width, height and what the role adds (job, index, step, ...)

A picture or blob travels as chunks of at most `limits.CHUNK` bytes, in order per id; an interrupted upload resumes at
`offset`. Formats: `bgra8` (Krita's own order, straight alpha) and `grey8`, rows top-down without padding; `png`,
`webp` and `jpeg` are encoded files whose width and height the header states.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .errors import Code, WireError, bad_request
from .limits import CHUNK, MAX_HEADER, MAX_NAME, MAX_OPEN_BYTES, MAX_OPEN_UPLOADS, MAX_PICTURE, MAX_SIDE
from .values import Fields, dump, parse_object

MAGIC = b"KSD1"
_PREFIX = struct.Struct("<4sI")

BYTES_PER_PIXEL = {"bgra8": 4, "grey8": 1}
ENCODED = ("png", "webp", "jpeg")
FORMATS = (*BYTES_PER_PIXEL, *ENCODED)
ROLES = ("blob", "preview", "result", "canvas", "live")


@dataclass(frozen=True)
class Picture:
    """A picture: `data` has width * height * bytes-per-pixel bytes for raw formats, a whole file for encoded ones."""

    format: str
    width: int
    height: int
    data: bytes

    def __post_init__(self) -> None:
        check_extent(self.format, self.width, self.height, len(self.data))

    @property
    def hash(self) -> str:
        """blake2b-128 over format, extent and bytes, 32 hexadecimal digits. Reads every byte: not for event loops."""
        digest = hashlib.blake2b(f"{self.format}:{self.width}x{self.height}:".encode(), digest_size=16)
        digest.update(self.data)
        return digest.hexdigest()

    def describe(self) -> dict[str, Any]:
        """JSON values naming this picture without its bytes and without hashing it."""
        return {"format": self.format, "width": self.width, "height": self.height, "bytes": len(self.data)}


def check_extent(format: str, width: int, height: int, total: int) -> None:
    """Raise unless a picture of `total` bytes can have this format and extent."""
    if format not in FORMATS:
        raise bad_request(f"The picture format {format!r} is not known.", "Use one of " + ", ".join(FORMATS) + ".")
    if not 1 <= width <= MAX_SIDE or not 1 <= height <= MAX_SIDE:
        raise bad_request(f"A picture cannot be {width} x {height} pixels.")
    if total > MAX_PICTURE:
        raise WireError(
            Code.TOO_LARGE, f"A picture of {width} x {height} pixels is too large.", "Work on a smaller region."
        )
    expected = width * height * BYTES_PER_PIXEL.get(format, 0)
    if format in BYTES_PER_PIXEL and total != expected:
        raise bad_request(f"A {format} picture of {width} x {height} pixels has {expected} bytes, not {total}.")
    if total < 1:
        raise bad_request("A picture cannot be empty.")


@dataclass(frozen=True)
class Chunk:
    """One binary frame: where `payload` belongs in the picture `id`, and all header values in `header`."""

    role: str
    id: str
    offset: int
    total: int
    format: str
    width: int
    height: int
    payload: bytes
    header: dict[str, Any] = field(compare=False)

    @property
    def last(self) -> bool:
        return self.offset + len(self.payload) == self.total


def encode_frame(header: dict[str, Any], payload: bytes | memoryview) -> bytes:
    """One binary frame."""
    text = dump(header).encode()
    return b"".join((_PREFIX.pack(MAGIC, len(text)), text, payload))


def decode_frame(frame: bytes) -> Chunk:
    """Read one binary frame. Raises WireError(bad_request or too_large); never anything else."""
    if len(frame) < _PREFIX.size:
        raise bad_request("A binary message is too short to be a frame.")
    magic, length = _PREFIX.unpack_from(frame)
    if magic != MAGIC:
        raise bad_request("A binary message is not a KSD1 frame.")
    if length > MAX_HEADER or _PREFIX.size + length > len(frame):
        raise bad_request("The header of a frame is longer than allowed or than the frame.")
    header = parse_object(frame[_PREFIX.size : _PREFIX.size + length], "frame header")
    read = Fields(header, "frame header")
    payload = frame[_PREFIX.size + length :]
    total = read.integer("total", 1, 2**40)
    chunk = Chunk(
        role=read.choice("role", ROLES),
        id=read.identifier("id", MAX_NAME),
        offset=read.integer("offset", 0, 2**40),
        total=total,
        format=read.choice("format", FORMATS),
        width=read.integer("width", 1, 2**31),
        height=read.integer("height", 1, 2**31),
        payload=payload,
        header=header,
    )
    check_extent(chunk.format, chunk.width, chunk.height, total)
    if not payload or len(payload) > CHUNK or chunk.offset + len(payload) > total:
        raise bad_request("A frame carries more or fewer bytes than its header allows.")
    return chunk


def split(picture: Picture, role: str, id: str, extra: dict[str, Any] | None = None, start: int = 0) -> Iterator[bytes]:
    """The frames of `picture` from byte `start` on, made one at a time so that a sender can interleave."""
    view = memoryview(picture.data)
    total = len(view)
    base = {"role": role, "id": id, "total": total, "format": picture.format}
    base |= {"width": picture.width, "height": picture.height, **(extra or {})}
    for offset in range(start, total, CHUNK):
        yield encode_frame({**base, "offset": offset}, view[offset : offset + CHUNK])


@dataclass
class _Open:
    first: Chunk
    parts: list[bytes]
    size: int


class Assembler:
    """Collects chunks into pictures, bounded in number and bytes. One per peer; (role, id) names a picture."""

    def __init__(self, max_open: int = MAX_OPEN_UPLOADS, max_bytes: int = MAX_OPEN_BYTES) -> None:
        self._open: dict[tuple[str, str], _Open] = {}
        self._max_open = max_open
        self._max_bytes = max_bytes

    @property
    def held(self) -> int:
        """Bytes held for pictures that are not complete."""
        return sum(item.size for item in self._open.values())

    def received(self, role: str, id: str) -> int:
        """Bytes that have arrived of a picture that is not complete; 0 when none."""
        item = self._open.get((role, id))
        return item.size if item else 0

    def drop(self, role: str, id: str) -> None:
        """Forget a half received picture."""
        self._open.pop((role, id), None)

    def clear(self) -> None:
        """Forget everything (the connection is gone and its lossy traffic with it)."""
        self._open.clear()

    def feed(self, chunk: Chunk) -> Picture | None:
        """Add one chunk; the picture when it is complete. Offset 0 begins anew. Raises WireError on gaps."""
        key = (chunk.role, chunk.id)
        if chunk.offset == 0:
            self._open.pop(key, None)
            if len(self._open) >= self._max_open or self.held + chunk.total > self._max_bytes:
                raise WireError(
                    Code.TOO_LARGE,
                    "Too many pictures are being sent at once.",
                    "Wait for one to finish.",
                    retryable=True,
                )
            self._open[key] = _Open(chunk, [], 0)
        item = self._open.get(key)
        same = item is not None and chunk.offset == item.size and chunk.total == item.first.total
        if (
            item is None
            or not same
            or (chunk.format, chunk.width, chunk.height)
            != (
                item.first.format,
                item.first.width,
                item.first.height,
            )
        ):
            self._open.pop(key, None)
            raise bad_request(f"The chunks of picture {chunk.id} do not follow each other.", "Send it again.")
        item.parts.append(chunk.payload)
        item.size += len(chunk.payload)
        if item.size < chunk.total:
            return None
        del self._open[key]
        return Picture(chunk.format, chunk.width, chunk.height, b"".join(item.parts))
