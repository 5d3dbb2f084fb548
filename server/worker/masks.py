# SPDX-License-Identifier: GPL-3.0-or-later
"""Masks of inpainting, as pure functions on uint8 arrays (height, width), 0..255 = how much may change.

Two masks come out of one selection. The denoise mask is the selection grown and feathered: where the model may paint.
The composite mask is the selection feathered inwards: what of it is shown. The second is nowhere above the selection,
so a pixel that was not selected keeps its value whatever grow and feather are.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from krita_sd.geometry import Bounds

Mask = NDArray[np.uint8]

MAX_INSET = 8
"""Document pixels over which the composite mask fades in from the selection's edge."""

KEPT = 0.75
"""Share of the selection that the fade must leave visible; thin selections are faded less, or not at all."""


def bounds(mask: Mask) -> Bounds:
    """The smallest rectangle around all pixels above 0; empty when there are none."""
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return Bounds(0, 0, 0, 0)
    x, y = int(columns[0]), int(rows[0])
    return Bounds(x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1)


def denoise_mask(selection: Mask, grow: int, feather: int) -> Mask:
    """The selection grown by `grow` pixels, its edge softened over `feather` pixels; nowhere below the selection."""
    grown = _extreme(selection, grow, np.maximum)
    return np.maximum(_blur(grown, feather / 2), selection)


def composite_mask(selection: Mask, feather: int) -> Mask:
    """min(selection, blur(erode(selection))): fades in over at most `MAX_INSET` pixels inside the selection."""
    box = bounds(selection)
    inset = min(MAX_INSET, feather // 4, min(box.width, box.height) // 16)
    wanted = KEPT * float(selection.sum(dtype=np.int64))
    while inset > 0:
        # Beyond the edge of the region the selection goes on: a selection that touches it is not faded there.
        eroded = _extreme(selection, inset, np.minimum)
        faded = np.minimum(selection, _blur(eroded, inset / 2))
        if float(faded.sum(dtype=np.int64)) >= wanted:
            return faded
        inset //= 2
    return selection.copy()


def _blur(mask: Mask, sigma: float) -> Mask:
    if sigma <= 0:
        return mask
    # Pillow reflects nothing at the border: it extends the edge pixels, which is what a region cut from a larger
    # canvas needs.
    return np.asarray(Image.fromarray(mask).filter(ImageFilter.GaussianBlur(sigma)), dtype=np.uint8)


def _extreme(mask: Mask, radius: int, pick: np.ufunc) -> Mask:
    """Maximum or minimum over a regular octagon of `radius`: the Minkowski sum of four lines (two of them diagonal)."""
    diagonal = round(radius / (2 + math.sqrt(2)))
    straight = radius - 2 * diagonal
    out = _line(_line(mask, straight, 0, 1, pick), straight, 1, 0, pick)
    out = _line(out, diagonal, 1, 1, pick)
    return np.ascontiguousarray(_line(out[:, ::-1], diagonal, 1, 1, pick)[:, ::-1])


def _line(mask: Mask, reach: int, down: int, across: int, pick: np.ufunc) -> Mask:
    """Maximum or minimum over a line of `reach` to both sides, in log2(reach) passes: windows are doubled."""
    if reach <= 0:
        return mask
    line = np.pad(mask, ((reach * down,) * 2, (reach * across,) * 2), mode="edge")
    width, window = 1, 2 * reach + 1
    while width < window:
        shift = min(width, window - width)
        y, x = shift * down, shift * across
        line = pick(line[: line.shape[0] - y, : line.shape[1] - x], line[y:, x:])
        width += shift
    return line
