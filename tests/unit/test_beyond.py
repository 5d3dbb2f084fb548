# SPDX-License-Identifier: GPL-3.0-or-later
"""Continuing a picture beyond its edge: the canvas, what is painted, and the mask."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krita_sd.beyond import MAX_OVERLAP, SIDES, beyond, mask
from krita_sd.geometry import Bounds, Extent
from krita_sd.wire.errors import WireError
from krita_sd.wire.limits import MAX_SIDE


def test_a_quarter_more_to_the_left() -> None:
    made = beyond(Extent(1024, 768), "left")
    assert made.canvas == Bounds(-256, 0, 1280, 768)
    assert made.painted == Bounds(0, 0, 256 + 64, 768) and made.kept == Bounds(320, 0, 960, 768)


@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from(SIDES))
def test_new_and_old_are_the_canvas_and_the_new_part_is_painted_whole(width: int, height: int, side: str) -> None:
    made = beyond(Extent(width, height), side)
    whole, kept = Bounds(0, 0, made.canvas.width, made.canvas.height), made.kept
    old = Bounds(-made.canvas.x, -made.canvas.y, width, height)
    assert whole.extent.pixels > width * height
    assert kept.width > 0 and kept.height > 0 and kept.intersect(old) == kept, "only what was there is kept"
    grown = [end for end in SIDES[:4] if side in (end, "all")]
    overlaps = {
        "left": kept.x - old.x,
        "top": kept.y - old.y,
        "right": old.x + old.width - kept.x - kept.width,
        "bottom": old.y + old.height - kept.y - kept.height,
    }
    assert all(0 <= overlap <= MAX_OVERLAP for overlap in overlaps.values())
    assert all(overlap == 0 for end, overlap in overlaps.items() if end not in grown)
    if side != "all":
        assert made.painted.extent.pixels + kept.extent.pixels == whole.extent.pixels


@pytest.mark.parametrize("side", SIDES)
def test_the_mask_is_white_where_the_picture_is_painted_and_nowhere_else(side: str) -> None:
    made = beyond(Extent(40, 24), side)
    region = Bounds(0, 0, made.canvas.width, made.canvas.height)
    for cut in (region, Bounds(3, 2, region.width - 7, region.height - 5)):
        data, kept = mask(made, cut), made.kept
        assert len(data) == cut.extent.pixels
        for y in range(cut.height):
            for x in range(cut.width):
                inside = kept.x <= x + cut.x < kept.x + kept.width and kept.y <= y + cut.y < kept.y + kept.height
                assert data[y * cut.width + x] == (0 if inside else 255)


def test_a_canvas_that_would_be_too_large_is_refused() -> None:
    with pytest.raises(WireError, match="too large"):
        beyond(Extent(MAX_SIDE, 100), "right")
