# SPDX-License-Identifier: GPL-3.0-or-later
"""The tiler: weights sum to one everywhere, no tile outside, flat grey stays flat grey (HARDENING P6)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.diffusion.tiles import blended, tiles

sizes = st.integers(1, 150)
# A busy machine is no failure; the bounds below keep the number of pieces small.
patient = settings(deadline=None, max_examples=60)


@patient
@given(width=sizes, height=sizes, side=st.integers(12, 96), share=st.floats(0.0, 0.75))
def test_weights_are_a_partition_of_unity(width: int, height: int, side: int, share: float) -> None:
    overlap = min(int(side * share), side - 1)
    total = np.zeros((height, width), np.float64)
    made = tiles(width, height, side, overlap)
    for tile in made:
        assert 0 <= tile.x and tile.x + tile.width <= width and 0 <= tile.y and tile.y + tile.height <= height
        assert (tile.width, tile.height) == (min(side, width), min(side, height)), "all pieces have the same size"
        assert tile.weights.shape == (tile.height, tile.width) and tile.weights.min() >= 0
        total[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width] += tile.weights
    assert np.allclose(total, 1.0, atol=1e-5)
    columns = sorted({tile.x for tile in made})
    assert all(after - before <= side - overlap for before, after in zip(columns, columns[1:]))
    assert len(set(columns)) * len({tile.y for tile in made}) == len(made), "no piece twice"


@given(
    columns=st.integers(1, 40), rows=st.integers(1, 40), side=st.integers(2, 12), multiple=st.sampled_from([1, 4, 8])
)
def test_starts_are_on_the_grid(columns: int, rows: int, side: int, multiple: int) -> None:
    for tile in tiles(columns * multiple, rows * multiple, side * multiple, side * multiple // 4, multiple):
        assert tile.x % multiple == tile.y % multiple == 0


@pytest.mark.parametrize(("width", "height"), [(64, 64), (65, 64), (64, 129), (200, 33), (1, 1), (127, 300)])
@pytest.mark.parametrize("grey", [0, 1, 127, 255])
def test_flat_grey_in_flat_grey_out(width: int, height: int, grey: int) -> None:
    made = tiles(width, height, 64, 16)
    out = blended(width, height, 3, ((tile, np.full((tile.height, tile.width, 3), grey, np.float32)) for tile in made))
    assert (np.rint(out) == grey).all() and np.abs(out - grey).max() < 1e-3


def test_a_fade_is_smooth() -> None:
    """Neighbouring pieces that differ by 100 meet without a step larger than the ramp's own."""
    made = tiles(112, 16, 64, 16)
    pieces = ((tile, np.full((tile.height, tile.width, 1), 100.0 * (tile.x > 0), np.float32)) for tile in made)
    row = blended(112, 16, 1, pieces)[8, :, 0]
    assert row[0] == 0 and row[-1] == pytest.approx(100) and np.abs(np.diff(row)).max() <= 100 / 8 + 0.5


@pytest.mark.parametrize(("side", "overlap"), [(8, 8), (0, 0), (8, -1)])
def test_impossible_cuts_are_refused(side: int, overlap: int) -> None:
    with pytest.raises(ValueError):
        tiles(100, 100, side, overlap)
