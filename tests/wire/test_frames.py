# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures survive splitting and assembly byte for byte; hostile frames become one typed error, never a crash."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.frames import Assembler, Picture, decode_frame, encode_frame, split
from krita_sd.wire.limits import CHUNK, MAX_HEADER, MAX_MESSAGE


def picture(width: int, height: int, format: str = "bgra8") -> Picture:
    size = width * height * (4 if format == "bgra8" else 1)
    return Picture(format, width, height, bytes(index * 7 % 251 for index in range(size)))


def assemble(frames: list[bytes], assembler: Assembler | None = None) -> list[Picture]:
    assembler = assembler or Assembler()
    done = [assembler.feed(decode_frame(frame)) for frame in frames]
    return [item for item in done if item is not None]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 5), (257, 255), (8191, 3), (512, 512)])
@pytest.mark.parametrize("format", ["bgra8", "grey8"])
def test_a_picture_survives_the_wire(width: int, height: int, format: str) -> None:
    source = picture(width, height, format)
    frames = list(split(source, "blob", source.hash))
    assert all(len(frame) <= MAX_MESSAGE for frame in frames)
    (result,) = assemble(frames)
    assert result == source and result.hash == source.hash


def test_pictures_interleave() -> None:
    one, two = picture(300, 400), picture(400, 300)
    mixed = [frame for pair in zip(split(one, "blob", "1"), split(two, "result", "2"), strict=True) for frame in pair]
    assert assemble(mixed) == [one, two]


def test_an_interrupted_upload_resumes() -> None:
    source = picture(512, 512)
    frames = list(split(source, "blob", "x"))
    assembler = Assembler()
    assert assemble(frames[:2], assembler) == []
    received = assembler.received("blob", "x")
    assert received == 2 * CHUNK
    assert assemble(list(split(source, "blob", "x", start=received)), assembler) == [source]


def test_the_hash_covers_shape_and_format() -> None:
    data = bytes(16)
    shapes = [("bgra8", 2, 2), ("bgra8", 4, 1), ("grey8", 4, 4), ("grey8", 16, 1)]
    assert len({Picture(format, width, height, data).hash for format, width, height in shapes}) == 4


GOOD = {"role": "blob", "id": "a", "offset": 0, "total": 4, "format": "bgra8", "width": 1, "height": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"height": -1},
        {"width": 2**31},
        {"width": 2**40},
        {"width": "1"},
        {"width": 1.0},
        {"width": None},
        {"width": True},
        {"total": 5},
        {"total": 0},
        {"offset": 1},
        {"offset": -1},
        {"role": "root"},
        {"role": []},
        {"id": ""},
        {"id": "a" * 300},
        {"id": "a\x00"},
        {"format": "exr"},
    ],
)
def test_a_header_that_lies_is_refused(change: dict) -> None:
    with pytest.raises(WireError) as caught:
        decode_frame(encode_frame({**GOOD, **change}, bytes(4)))
    assert caught.value.code is Code.BAD_REQUEST


def test_an_oversized_picture_is_too_large() -> None:
    big = {**GOOD, "width": 16384, "height": 16384, "total": 16384 * 16384 * 4}
    with pytest.raises(WireError) as caught:
        decode_frame(encode_frame(big, bytes(4)))
    assert caught.value.code is Code.TOO_LARGE


def raw(header: bytes, payload: bytes = b"\0" * 4, length: int | None = None) -> bytes:
    return struct.pack("<4sI", b"KSD1", len(header) if length is None else length) + header + payload


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"KSD1",
        b"KSD2" + bytes(40),
        raw(b"{}"),
        raw(b"[]"),
        raw(b"{}", length=2**32 - 1),
        raw(b"{}", length=100),
        raw(b'{"a":1,"a":2}'),
        raw(b'{"a":NaN}'),
        raw(b"\xff\xfe"),
        raw(b'{"a":' + b"[" * 1000 + b"]" * 1000 + b"}"),
        raw(b"{" + b" " * MAX_HEADER + b"}"),
        raw(json.dumps(GOOD).encode(), b""),
        raw(json.dumps(GOOD).encode(), bytes(5)),
    ],
)
def test_malformed_frames_are_one_typed_error(frame: bytes) -> None:
    with pytest.raises(WireError) as caught:
        decode_frame(frame)
    assert caught.value.code is Code.BAD_REQUEST


@given(st.binary(max_size=400))
def test_no_bytes_crash_the_decoder(data: bytes) -> None:
    for frame in (data, b"KSD1" + data, raw(data)):
        try:
            decode_frame(frame)
        except WireError:
            pass


@given(st.data())
def test_a_mutated_frame_never_crashes_or_yields_a_wrong_picture(data: st.DataObject) -> None:
    source = picture(5, 3)
    frame = bytearray(next(split(source, "blob", source.hash)))
    for _ in range(data.draw(st.integers(1, 6))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        result = Assembler().feed(decode_frame(bytes(frame)))
    except WireError:
        return
    assert result is None or len(result.data) == result.width * result.height * (4 if result.format == "bgra8" else 1)


def test_gaps_and_changed_shapes_are_refused_and_forgotten() -> None:
    frames = list(split(picture(512, 512), "blob", "x"))
    assembler = Assembler()
    assembler.feed(decode_frame(frames[0]))
    with pytest.raises(WireError):
        assembler.feed(decode_frame(frames[2]))
    assert assembler.held == 0


def test_half_received_pictures_are_bounded() -> None:
    first = next(split(picture(512, 512), "blob", "x"))
    assembler = Assembler(max_open=2)
    for name in ("a", "b"):
        assembler.feed(decode_frame(first.replace(b'"id":"x"', b'"id":"%s"' % name.encode())))
    with pytest.raises(WireError) as caught:
        assembler.feed(decode_frame(first))
    assert caught.value.code is Code.TOO_LARGE and assembler.held == 2 * CHUNK
