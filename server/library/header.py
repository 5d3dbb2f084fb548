# SPDX-License-Identifier: GPL-3.0-or-later
"""A strict, bounded reader of safetensors headers: names, dtypes and shapes, never a tensor.

Format: u64 little-endian header length, JSON header, tensor bytes. Every file of a model folder passes through here
before any library sees it, so that a damaged file is one sentence instead of a library's stack trace.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from krita_sd.wire.errors import Code, WireError

MAX_HEADER = 32 * 1024 * 1024
"""Bytes of JSON. The largest real headers (sharded video models) are about 1 MiB."""

MAX_TENSORS = 100_000
MAX_DIMENSIONS = 16

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
"""Bits of one element of each dtype of the format."""


@dataclass(frozen=True)
class Header:
    """Names with their dtype and shape; metadata; bytes of tensors."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    size: int = 0


class _Damaged(Exception):
    """Why a file is not a complete safetensors file, as the end of a sentence."""


def read_header(path: Path) -> Header:
    """Read and check the header of `path`. Raises WireError(model_corrupt) in one sentence, or model_missing."""
    name = path.name
    try:
        with open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            start = stream.read(8)
            length = _header_length(start, stream.peek(1)[:1], size)
            raw = stream.read(length)
    except _Damaged as why:
        raise corrupt(name, str(why)) from None
    except FileNotFoundError:
        raise WireError(
            Code.MODEL_MISSING, f"The model file {name} is no longer there.", "Rescan the models."
        ) from None
    except OSError as error:
        raise corrupt(name, f"cannot be read ({error.strerror or 'input/output error'})") from None
    try:
        return parse_header(raw, size - 8 - length)
    except _Damaged as why:
        raise corrupt(name, str(why)) from None


def corrupt(name: str, why: str) -> WireError:
    """The one error of every damaged file."""
    return WireError(Code.MODEL_CORRUPT, f"The model file {name} {why}.", "Download or copy the file again.")


def _header_length(start: bytes, following: bytes, size: int) -> int:
    """The length that the first eight bytes state; `following` is the byte behind them."""
    if size == 0:
        raise _Damaged("is empty")
    # A pickle begins with 80; so does the length of every 32nd safetensors file, but behind that an object begins.
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80" and following != b"{":
        raise _Damaged("is a renamed pickle checkpoint, which is not safe to load")
    if start[:8].lstrip().lower().startswith((b"<!doc", b"<html", b"<?xml")):
        raise _Damaged("is a web page, not a model")
    if len(start) < 8:
        raise _Damaged("is cut off before its header")
    length = int.from_bytes(start, "little")
    if length > MAX_HEADER:
        raise _Damaged("is not a safetensors file (its header length makes no sense)")
    if length < 2 or 8 + length > size:
        raise _Damaged("is cut off inside its header")
    return length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise _Damaged("has a damaged header (a tensor is named twice)")
    return out


def parse_header(raw: bytes, body: int) -> Header:
    """Check the JSON `raw` against `body` bytes of tensors: known dtypes, and offsets that cover the body exactly."""
    if raw[:1] != b"{":
        raise _Damaged("is not a safetensors file")
    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise _Damaged("has a damaged header") from None
    if not isinstance(data, dict):
        raise _Damaged("has a damaged header")
    metadata = data.pop("__metadata__", {})
    if len(data) > MAX_TENSORS:
        raise _Damaged(f"claims {len(data)} tensors, more than any model has")
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    spans = []
    for name, entry in data.items():
        shapes[name], dtypes[name], span = _tensor(name, entry)
        spans.append(span)
    _check_cover(spans, body)
    if not isinstance(metadata, dict):
        raise _Damaged("has a damaged header")
    text = {key: value for key, value in metadata.items() if isinstance(value, str)}
    return Header(shapes, dtypes, text, body)


def _tensor(name: str, entry: Any) -> tuple[tuple[int, ...], str, tuple[int, int]]:
    if not isinstance(entry, dict):
        raise _Damaged("has a damaged header")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    bits = BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise _Damaged("holds numbers of an unknown type")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(_is_size(item) for item in shape):
        raise _Damaged("has a damaged header (a shape makes no sense)")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(item) for item in offsets):
        raise _Damaged("has a damaged header (an offset makes no sense)")
    start, end = offsets
    if (end - start) * 8 != math.prod(shape) * bits:
        raise _Damaged("has a damaged header (a tensor's size does not fit its shape)")
    return tuple(shape), str(dtype), (start, end)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _check_cover(spans: list[tuple[int, int]], body: int) -> None:
    # No overlap and no hole: bytes that belong to no tensor could smuggle a second file inside the first.
    position = 0
    for start, end in sorted(spans):
        if start != position:
            raise _Damaged("has a damaged header (tensors overlap or leave gaps)")
        position = end
    if position > body:
        raise _Damaged("is cut off: the end is missing")
    if position < body:
        raise _Damaged("has extra bytes at its end")
