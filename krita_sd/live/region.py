# SPDX-License-Identifier: GPL-3.0-or-later
"""Which rectangle Live works on, and the recipe for it. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable

from krita_sd import plan
from krita_sd.geometry import Bounds, Extent, NativeRange
from krita_sd.live.settings import LiveSettings
from krita_sd.settings import Settings
from krita_sd.wire.live import TILE
from krita_sd.wire.values import UNSET

_MARGIN = 8
"""One part in so many of a window's side is kept between a stroke and its edge, where the canvas has more."""


def window_extent(canvas: Extent, native: NativeRange) -> Extent:
    """Size of the rectangle around strokes: what the model paints at full detail, in whole tiles, canvas permitting."""
    side = math.isqrt(native.pixels or native.max_pixels)
    side = max(TILE, min(side, native.max_side) // TILE * TILE)
    return Extent(min(side, canvas.width), min(side, canvas.height))


def fits(canvas: Extent, native: NativeRange) -> bool:
    """Whether the model paints the whole canvas without shrinking it."""
    return canvas.pixels <= native.max_pixels and canvas.longest <= native.max_side


def follow(before: Bounds | None, strokes: Bounds, canvas: Extent, native: NativeRange) -> Bounds:
    """The rectangle around the recent `strokes`; it stays where it was as long as they keep clear of its edges, so
    that the picture does not jump."""
    whole = Bounds.of(canvas)
    size = window_extent(canvas, native)
    strokes = strokes.intersect(whole)
    if before is not None and before.extent == size and whole.contains(before) and _inside(strokes, before, whole):
        return before
    centre_x, centre_y = strokes.x + strokes.width // 2, strokes.y + strokes.height // 2
    # On the grid of tiles: a small move then shares edges with the old place.
    x, y = ((c - s // 2 + TILE // 2) // TILE * TILE for c, s in ((centre_x, size.width), (centre_y, size.height)))
    return Bounds(x, y, size.width, size.height).moved_into(whole)


def _inside(strokes: Bounds, window: Bounds, whole: Bounds) -> bool:
    """Whether the strokes are inside and clear of those edges that are not the canvas's own. What is larger than the
    window counts by its middle."""
    if strokes.is_empty:
        return True
    margin = min(window.width, window.height) // _MARGIN
    middle = Bounds(strokes.x + strokes.width // 2, strokes.y + strokes.height // 2, 1, 1)
    mark = strokes if strokes.width <= window.width and strokes.height <= window.height else middle
    return (
        mark.x >= window.x + (margin if window.x > whole.x else 0)
        and mark.y >= window.y + (margin if window.y > whole.y else 0)
        and mark.right <= window.right - (margin if window.right < whole.right else 0)
        and mark.bottom <= window.bottom - (margin if window.bottom < whole.bottom else 0)
    )


def make(
    settings: Settings,
    live: LiveSettings,
    native: NativeRange,
    extent: Extent,
    selection: Bounds | None,
    window: Bounds | None,
    ask: Callable[[Settings], plan.Plan],
) -> plan.Plan:
    """The plan of Live. `ask`: what Generate would ask for with such settings. `window`: the rectangle around recent
    strokes (None: not known yet); used when nothing is selected and the painter, or the size of the canvas, wants it.

    Steps, sampler and guidance are Live's own or the server's for Live: never those of a style or of Generate, which
    would be slow. Raises WireError with a sentence.
    """
    made = ask(settings.replace(strength=live.strength, seed=live.seed, seed_fixed=True))
    bounds = made.bounds
    narrow = live.region == "strokes" or (live.region == "automatic" and not fits(extent, native))
    if selection is None and narrow:
        middle = Bounds(extent.width // 2, extent.height // 2, 1, 1)
        bounds = window or follow(None, middle, extent, native)
    recipe = made.recipe.replace(
        width=bounds.width,
        height=bounds.height,
        seed=live.seed,
        steps=UNSET if live.steps is None else live.steps,
        sampler=UNSET if live.sampler is None else live.sampler,
        guidance=UNSET if live.guidance is None else live.guidance,
        min_steps=UNSET,
        variation=0.0,
    )
    return plan.Plan(made.kind, bounds, recipe)
