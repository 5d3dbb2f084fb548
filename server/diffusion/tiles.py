# SPDX-License-Identifier: GPL-3.0-or-later
"""The one tiler: overlapping pieces that cover a picture evenly, with blend weights that sum to one everywhere.

Pure: no torch. Lengths are in whatever unit the caller counts in, pixels or latent cells.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Tile:
    """One piece: its rectangle, and its weights float32 (height, width), which fall off towards its neighbours."""

    x: int
    y: int
    width: int
    height: int
    across: Floats
    down: Floats

    @property
    def weights(self) -> Floats:
        return np.outer(self.down, self.across).astype(np.float32)


def tiles(width: int, height: int, side: int, overlap: int, multiple: int = 1) -> tuple[Tile, ...]:
    """Pieces of at most `side` that cover width x height, row by row, neighbours sharing at least `overlap`.

    All pieces have the same size; starts are multiples of `multiple` when `width`, `height` and `side` are. A picture
    that fits is one piece. Raises ValueError when no piece could advance.
    """
    columns, rows = _line(width, side, overlap, multiple), _line(height, side, overlap, multiple)
    return tuple(Tile(x, y, len(across), len(down), across, down) for y, down in rows for x, across in columns)


def _line(length: int, side: int, overlap: int, multiple: int) -> list[tuple[int, Floats]]:
    """Starts and weights of the pieces along one axis."""
    if length < 1 or side < 1 or overlap < 0:
        raise ValueError(f"{length} cannot be cut into pieces of {side} with an overlap of {overlap}")
    if length <= side:
        return [(0, np.ones(length, np.float32))]
    advance = (side - overlap) // multiple * multiple
    if advance < 1:
        raise ValueError(f"pieces of {side} do not advance with an overlap of {overlap}")
    count = -(-(length - side) // advance) + 1
    last = length - side
    starts = [last * index // (count - 1) // multiple * multiple for index in range(count - 1)] + [last]
    raw = np.zeros((count, length))
    for index, start in enumerate(starts):
        raw[index, start : start + side] = _window(side, index > 0, index < count - 1, overlap)
    shares = raw / raw.sum(axis=0)
    return [(start, shares[index, start : start + side].astype(np.float32)) for index, start in enumerate(starts)]


def _window(side: int, fades_in: bool, fades_out: bool, overlap: int) -> NDArray[np.float64]:
    """1 in the middle, falling off over the middle half of the overlap towards a neighbour. The outer quarter counts
    nothing: what is computed there has seen the least of its surroundings, and the neighbour has seen them."""
    window = np.ones(side)
    if overlap < 1:
        return window
    ramp = np.clip((np.arange(side) + 0.5 - overlap / 4) / (overlap / 2), 0.0, 1.0)
    if fades_in:
        window = np.minimum(window, ramp)
    if fades_out:
        window = np.minimum(window, ramp[::-1])
    return window


def blended(width: int, height: int, channels: int, pieces: Iterable[tuple[Tile, Floats]]) -> Floats:
    """Computed pieces, each (height, width, channels) of its tile, laid over each other: float32 of the whole size."""
    out = np.zeros((height, width, channels), np.float32)
    for tile, computed in pieces:
        out[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width] += computed * tile.weights[..., None]
    return out
