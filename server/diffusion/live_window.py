# SPDX-License-Identifier: GPL-3.0-or-later
"""Which part of the canvas a live frame works on, and at which size. Pure.

selection                 the selection with its surroundings, at native size
large canvas, small edit  a window of native size around what changed, feathered into the last frame
seamless                  the whole canvas, stretched to what the model paints
otherwise                 the whole canvas
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from krita_sd.geometry import Bounds, Extent, NativeRange, RenderPlan, context_bounds, plan_render

GRID = 64
"""Pixels to which windows are snapped: few different sizes, latents that lie on one grid, tiles as they travel."""

MARGIN = 32
"""Pixels of surroundings that a change keeps on every side within its window; the feather lies in them."""

LEAST_SHARE = 0.2
"""A window is used where it covers at least this share of the canvas: a smaller one would show the model a detail,
and it would paint the whole of the prompt into it."""

MOST_STRENGTH = 0.65
"""Above this strength a window would no longer resemble what is around it."""


@dataclass(frozen=True)
class Window:
    """source: rectangle of the canvas. plan: how it is rendered; never a second pass. whole: nothing is feathered."""

    source: Bounds
    plan: RenderPlan
    whole: bool


def whole_window(canvas: Extent, native: NativeRange, wrap: bool = False) -> Window:
    """All of the canvas. wrap: it fills the render, because padding would be a seam."""
    window = _window(Bounds.of(canvas), native, True)
    if not wrap:
        return window
    extent = window.plan.extent
    return Window(window.source, RenderPlan(extent, 1.0, extent), True)


def selection_window(selected: Bounds, canvas: Extent, native: NativeRange, feather: int, grow: int) -> Window:
    """What is selected and what the model should see around it."""
    return _window(context_bounds(selected, canvas, native, feather, grow), native, True)


def edit_window(changed: Bounds, canvas: Extent, native: NativeRange, strength: float) -> Window | None:
    """A window around what changed, at full detail; None where the whole canvas is the better choice."""
    if changed.is_empty or strength > MOST_STRENGTH or plan_render(canvas, native).scale >= 1.0:
        return None
    side = int(math.sqrt(native.pixels or native.max_pixels)) // GRID * GRID
    side = min(side, native.max_side, canvas.width // GRID * GRID, canvas.height // GRID * GRID)
    if side < native.min_side or side * side < LEAST_SHARE * canvas.pixels:
        return None
    needed = changed.pad(MARGIN).intersect(Bounds.of(canvas))
    if needed.width > side or needed.height > side:
        return None
    x = _snapped(needed.x, needed.right, side, canvas.width)
    y = _snapped(needed.y, needed.bottom, side, canvas.height)
    if x is None or y is None:
        return None
    return _window(Bounds(x, y, side, side), native, False)


def _window(source: Bounds, native: NativeRange, whole: bool) -> Window:
    plan = plan_render(source.extent, native)
    return Window(source, RenderPlan(plan.target, plan.scale, plan.extent), whole)


def _snapped(begin: int, end: int, side: int, limit: int) -> int | None:
    """Where a window of `side` pixels begins on the grid so that it holds begin..end in its middle; None: nowhere."""
    wanted = (begin + end - side) / 2
    places = [place for place in range(0, limit - side + 1, GRID) if place <= begin and end <= place + side]
    return min(places, key=lambda place: abs(place - wanted)) if places else None


def feather(source: Bounds, canvas: Extent, device: torch.device) -> torch.Tensor:
    """How much of a window shows: float32 (height, width, 1), 1 inside, falling to 0 over MARGIN pixels at its edges,
    but not where the edge is the canvas's own."""

    def ramp(length: int, begins: bool, ends: bool) -> torch.Tensor:
        rising = ((torch.arange(length, dtype=torch.float32) + 0.5) / MARGIN).clamp(max=1.0)
        one = torch.ones(length)
        return torch.minimum(rising if begins else one, rising.flip(0) if ends else one)

    across = ramp(source.width, source.x > 0, source.right < canvas.width)
    down = ramp(source.height, source.y > 0, source.bottom < canvas.height)
    return (down[:, None] * across[None, :])[..., None].to(device)
