# SPDX-License-Identifier: GPL-3.0-or-later
"""Maps of lines, white on black as the ControlNets were trained: canny, line art, scribble and soft edges.

Pure functions on uint8 RGB (height, width, 3); what depends on scale follows the picture's size, so that a larger
picture gives the same drawing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

CANNY_LOW, CANNY_HIGH = 100.0, 200.0
"""Thresholds on the gradient of the 3x3 Sobel operator, as in the ControlNet authors' own training."""

_NATIVE = 512.0  # pixels of the short side for which the radii below are meant


def canny(picture: Pixels, low: float = CANNY_LOW, high: float = CANNY_HIGH) -> Pixels:
    """Thin edges (Canny 1986): gradient, thinning across the edge, and weak edges only where they touch strong ones."""
    grey = _grey(picture, blur=1.0)
    across, down = _sobel(grey)
    strength = np.abs(across) + np.abs(down)
    ridge = _ridge(strength, across, down)
    weak, strong = ridge & (strength >= low), ridge & (strength >= high)
    return _rgb(np.where(_connected(weak, strong), 255, 0))


def soft_edge(picture: Pixels) -> Pixels:
    """The gradient on several scales, with soft falloff, brightest where the scales agree."""
    total: Floats = np.zeros(picture.shape[:2], np.float32)
    for sigma in (1.0, 2.0, 4.0):
        grey = _grey(picture, blur=sigma * _scale(picture))
        total += np.hypot(*_sobel(grey)) * sigma
    return _rgb(_blur(_stretched(total), 0.8 * _scale(picture)))


def line_art(picture: Pixels) -> Pixels:
    """Dark strokes and edges as clean white lines: what is darker than its surroundings (black top-hat), and edges."""
    scale = _scale(picture)
    grey = _grey(picture, blur=0.7 * scale)
    around = _closed(grey, max(1, round(4 * scale)))
    strokes = around - grey
    edges = np.hypot(*_sobel(_grey(picture, blur=1.2 * scale))) / 8.0
    lines = np.maximum(strokes, edges)
    cut = max(12.0, float(np.percentile(lines, 80.0)))
    return _rgb(np.clip((lines - 0.5 * cut) * (255.0 / max(2.0 * cut, 48.0)), 0, 255))


def scribble(picture: Pixels) -> Pixels:
    """Thick strokes along the main edges, without detail, as if drawn with a marker."""
    scale = _scale(picture)
    soft = np.hypot(*_sobel(_grey(picture, blur=3.0 * scale)))
    low = max(16.0, 0.25 * float(soft.max(initial=0.0)))
    edges = canny(_blurred_rgb(picture, 2.5 * scale), low * 0.5, low)[..., 0]
    size = 2 * max(1, round(1.5 * scale)) + 1
    return _rgb(np.asarray(Image.fromarray(edges).filter(ImageFilter.MaxFilter(size)), np.uint8))


def _scale(picture: Pixels) -> float:
    return max(0.25, min(picture.shape[:2]) / _NATIVE)


def _grey(picture: Pixels, blur: float = 0.0) -> Floats:
    """Luma (Rec. 601) 0..255, blurred by a Gaussian of that sigma."""
    image = Image.fromarray(picture).convert("L")
    if blur > 0:
        image = image.filter(ImageFilter.GaussianBlur(blur))
    return np.asarray(image, np.float32)


def _blur(grey: Floats, sigma: float) -> Floats:
    image = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(sigma)), np.float32)


def _blurred_rgb(picture: Pixels, sigma: float) -> Pixels:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(sigma)), np.uint8)


def _sobel(grey: Floats) -> tuple[Floats, Floats]:
    """Derivatives across and down by the 3x3 Sobel operator; edge pixels are repeated outwards."""
    pad = np.pad(grey, 1, mode="edge")
    column = pad[:-2] + 2.0 * pad[1:-1] + pad[2:]
    row = pad[:, :-2] + 2.0 * pad[:, 1:-1] + pad[:, 2:]
    return column[:, 2:] - column[:, :-2], row[2:] - row[:-2]


def _ridge(strength: Floats, across: Floats, down: Floats) -> NDArray[np.bool_]:
    """Where the gradient is largest along its own direction, in four directions."""
    pad = np.pad(strength, 1)
    height, width = strength.shape

    def at(dy: int, dx: int) -> Floats:
        return pad[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    steep, flat = np.abs(down), np.abs(across)
    diagonal = (across * down) > 0
    out = np.zeros(strength.shape, bool)
    level = np.tan(np.pi / 8)
    kinds = (
        (steep <= flat * level, at(0, -1), at(0, 1)),
        (flat <= steep * level, at(-1, 0), at(1, 0)),
        ((steep > flat * level) & (flat > steep * level) & diagonal, at(-1, -1), at(1, 1)),
        ((steep > flat * level) & (flat > steep * level) & ~diagonal, at(-1, 1), at(1, -1)),
    )
    for here, before, after in kinds:
        # One of the two comparisons includes equality, or a flat top two pixels wide would vanish.
        out |= here & (strength > before) & (strength >= after)
    return out & (strength > 0)


def _connected(weak: NDArray[np.bool_], strong: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Weak pixels that are connected (8 neighbours) to strong ones, and these: a walk from the strong ones outwards."""
    width = weak.shape[1] + 2
    open_pixels = np.pad(weak | strong, 1).ravel()
    found = np.pad(strong, 1).ravel()
    open_pixels &= ~found
    frontier = np.flatnonzero(found)
    steps = np.array([-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1])
    while frontier.size:
        near = np.unique((frontier[:, None] + steps).ravel())
        frontier = near[open_pixels[near]]
        open_pixels[frontier] = False
        found[frontier] = True
    return found.reshape(-1, width)[1:-1, 1:-1]


def _closed(grey: Floats, radius: int) -> Floats:
    """Grey closing with a square: dark details up to the radius are filled with what surrounds them."""
    image = Image.fromarray(grey.astype(np.uint8))
    size = 2 * radius + 1
    return np.asarray(image.filter(ImageFilter.MaxFilter(size)).filter(ImageFilter.MinFilter(size)), np.float32)


def _stretched(values: Floats) -> Floats:
    """0..255 with the 99th percentile at 255; a flat picture stays black."""
    top = float(np.percentile(values, 99.0)) if values.size else 0.0
    return np.clip(values * (255.0 / max(top, 64.0)), 0, 255).astype(np.float32)


def _rgb(grey: NDArray[np.generic]) -> Pixels:
    bytes_ = np.clip(np.rint(np.asarray(grey, np.float32)), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(bytes_[..., None], 3, axis=2))
