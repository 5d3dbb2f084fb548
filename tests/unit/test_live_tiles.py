# SPDX-License-Identifier: GPL-3.0-or-later
"""The copy of the canvas: exactly the tiles that changed travel, whatever shape was read."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from krita_sd.geometry import Bounds
from krita_sd.live.tiles import Mirror
from krita_sd.wire.live import TILE, columns

WIDTH, HEIGHT = 3 * TILE - 20, 2 * TILE + 9
ROW = WIDTH * 4


def crop(picture: bytes | bytearray, box: Bounds) -> bytes:
    return b"".join(bytes(picture[y * ROW + box.x * 4 : y * ROW + box.right * 4]) for y in range(box.y, box.bottom))


def tile_of(picture: bytes | bytearray, index: int) -> bytes:
    row, column = divmod(index, columns(WIDTH))
    box = Bounds(column * TILE, row * TILE, TILE, TILE).intersect(Bounds(0, 0, WIDTH, HEIGHT))
    lines = [crop(picture, Bounds(box.x, y, box.width, 1)).ljust(TILE * 4, b"\0") for y in range(box.y, box.bottom)]
    return b"".join(lines).ljust(TILE * TILE * 4, b"\0")


def filled(picture: bytes | bytearray) -> Mirror:
    mirror = Mirror(WIDTH, HEIGHT)
    mirror.write(Bounds(0, 0, WIDTH, HEIGHT), bytes(picture))
    mirror.take()
    return mirror


def test_the_first_reading_sends_every_tile_also_an_empty_one() -> None:
    mirror = Mirror(WIDTH, HEIGHT)
    assert not mirror.complete
    mirror.write(Bounds(0, 0, WIDTH, TILE), bytes(ROW * TILE))
    assert not mirror.complete
    mirror.write(Bounds(0, TILE, WIDTH, HEIGHT - TILE), bytes(ROW * (HEIGHT - TILE)))
    assert mirror.complete and sorted(mirror.take()) == list(range(9)) and mirror.take() == {}


boxes = st.tuples(
    st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1), st.integers(1, WIDTH), st.integers(1, HEIGHT)
).map(lambda b: Bounds(*b).intersect(Bounds(0, 0, WIDTH, HEIGHT)))
dots = st.lists(st.tuples(st.integers(0, WIDTH - 1), st.integers(0, HEIGHT - 1), st.integers(0, 255)), max_size=6)


@settings(max_examples=25, deadline=None)
@given(dots, boxes)
def test_exactly_the_tiles_that_differ_inside_of_what_was_read_are_sent(
    painted: list[tuple[int, int, int]], box: Bounds
) -> None:
    before = bytearray(ROW * HEIGHT)
    after = bytearray(before)
    for x, y, value in painted:
        after[y * ROW + x * 4] = value
    mirror = filled(before)
    changed = mirror.write(box, crop(after, box))
    expected = bytearray(before)
    for y in range(box.y, box.bottom):
        expected[y * ROW + box.x * 4 : y * ROW + box.right * 4] = after[y * ROW + box.x * 4 : y * ROW + box.right * 4]
    differing = {index for index in range(9) if tile_of(before, index) != tile_of(expected, index)}
    assert changed == differing == mirror.dirty
    assert mirror.take() == {index: tile_of(expected, index) for index in differing}
    assert mirror.write(box, crop(after, box)) == set(), "the same again is no change"


def test_a_sampled_row_tells_where_something_was_painted_elsewhere() -> None:
    picture = bytearray(ROW * HEIGHT)
    mirror = filled(picture)
    picture[70 * ROW + 130 * 4] = 9
    rows = [(y, bytes(picture[y * ROW : (y + 1) * ROW])) for y in (6, 70)]
    assert mirror.suspects(rows[:1]) == set()
    assert mirror.suspects(rows) == {columns(WIDTH) + 2}
    assert mirror.box_of({columns(WIDTH) + 2}) == Bounds(2 * TILE, TILE, WIDTH - 2 * TILE, TILE)
    assert mirror.take() == {}, "a sample is only a hint"


def test_a_lost_canvas_is_sent_as_a_whole() -> None:
    mirror = filled(bytes(range(1, 5)) * (WIDTH * HEIGHT))
    mirror.mark_all()
    assert set(mirror.take()) == set(range(9))


@pytest.mark.parametrize("box", [Bounds(-1, 0, 4, 4), Bounds(0, 0, WIDTH + 1, 1), Bounds(0, 0, 4, 5)])
def test_pixels_that_do_not_fit_are_refused(box: Bounds) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Mirror(WIDTH, HEIGHT).write(box, bytes(4 * 4 * 4))
