# SPDX-License-Identifier: GPL-3.0-or-later
"""Canvas patches survive the wire; one that does not fit its canvas is refused in one sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.frames import Assembler, Picture, decode_frame
from krita_sd.wire.live import TILE, Live, Patch, columns, place_of, runs
from krita_sd.wire.messages import parse_from_client
from krita_sd.wire.recipe import Recipe

TILE_BYTES = TILE * TILE * 4


def arrived(patch: Patch) -> Patch:
    """The patch after its trip through frames."""
    assembler = Assembler()
    for frame in patch.frames():
        chunk = decode_frame(frame)
        strip = assembler.feed(chunk)
    assert strip is not None
    return Patch.read(chunk.header, strip)


@given(st.sets(st.integers(0, 3 * 5 - 1), min_size=1), st.integers(1, 2**40))
def test_a_patch_survives_the_wire(indices: set[int], base: int) -> None:
    tiles = {index: bytes([index]) * TILE_BYTES for index in indices}
    patch = Patch("live", base, base + 1, 3 * TILE - 7, 5 * TILE, tiles)
    assert arrived(patch) == patch


def test_a_stroke_costs_little_beside_the_canvas() -> None:
    """A stroke of 64 px, 20 px wide, touches at most six tiles of a canvas of 1024 x 1024 px: the raw one is 4 MiB."""
    patch = Patch("live", 1, 2, 1024, 1024, {index: bytes(TILE_BYTES) for index in (0, 1, 2, 16, 17, 18)})
    assert sum(len(frame) for frame in patch.frames()) <= 4 * 1024**2 / 28


@given(st.sets(st.integers(0, 500)))
def test_runs_name_every_index_once(indices: set[int]) -> None:
    pairs = runs(sorted(indices))
    assert [index for first, count in pairs for index in range(first, first + count)] == sorted(indices)


@pytest.mark.parametrize(
    "change",
    [
        {"canvas_width": 0},
        {"canvas_width": 2**20},
        {"canvas_width": 16384, "canvas_height": 16384},
        {"version": 3},
        {"base": 0},
        {"base": -1},
        {"tiles": []},
        {"tiles": [[0, 1]]},
        {"tiles": [[0, 2], [1, 1]]},
        {"tiles": [[0, 0], [1, 2]]},
        {"tiles": [[3, 2]]},
        {"tiles": [[0, 2**62]]},
        {"tiles": [[True, 2]]},
        {"tiles": "all"},
        {"live": ""},
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    header = {"live": "a", "base": 3, "version": 4, "canvas_width": 2 * TILE, "canvas_height": 2 * TILE}
    header |= {"tiles": [[0, 2]]}
    strip = Picture("bgra8", TILE, 2 * TILE, bytes(2 * TILE_BYTES))
    assert Patch.read(header, strip).tiles
    with pytest.raises(WireError) as error:
        Patch.read({**header, **change}, strip)
    assert error.value.code is Code.BAD_REQUEST


def test_a_new_canvas_needs_all_its_tiles() -> None:
    whole = {index: bytes(TILE_BYTES) for index in range(columns(100) * columns(70))}
    assert arrived(Patch("live", 0, 1, 100, 70, whole)).tiles == whole
    del whole[3]
    with pytest.raises(WireError):
        arrived(Patch("live", 0, 1, 100, 70, whole))


def test_whether_parts_can_be_placed_is_said_and_not_assumed() -> None:
    recipe = Recipe(kind="img2img", width=64, height=64)
    for fit in (False, True):
        request = Live("live", 1, 1, recipe, fit)
        assert parse_from_client(request.to_text()) == request
    plain = Live("live", 1, 1, recipe).to_json()
    del plain["fit"]
    assert parse_from_client(json.dumps(plain)) == Live("live", 1, 1, recipe)


@pytest.mark.parametrize(
    "box", [None, "all", [0, 0, 8], [0, 0, 0, 8], [-1, 0, 8, 8], [60, 0, 8, 8], [0, 0, True, 8], [0, 0, 64, 48]]
)
def test_a_frame_that_says_no_possible_place_fills_the_canvas(box: Any) -> None:
    assert place_of({"box": box}, 64, 48) is None
    assert place_of({"box": [56, 40, 8, 8]}, 64, 48) == (56, 40, 8, 8)
