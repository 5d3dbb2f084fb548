# SPDX-License-Identifier: GPL-3.0-or-later
"""Answers "would this recipe fit?" before anything is loaded, from headers and what the worker last said is free."""

from __future__ import annotations

from typing import Any

from krita_sd.geometry import LARGE_NATIVE, NATIVE, Extent, plan_render
from krita_sd.wire.errors import WireError
from krita_sd.wire.queries import Estimate, MemoryEstimate
from krita_sd.wire.recipe import Recipe
from krita_sd.wire.values import or_default
from server.library import Library
from server.library.memory import Load, Weights, estimate, judge
from server.library.upscalers import needed_bytes, refined_side

_BYTES = {"float32": 4}


def answer(library: Library, device: dict[str, Any], message: Estimate) -> MemoryEstimate:
    """The verdict for a recipe on `device` (what the worker said of it). Reads headers: not for event loops."""
    recipe = message.recipe
    enlarging = recipe.kind == "upscale"
    try:
        entry = library.find(recipe.model)
        upscaler = library.find(recipe.upscaler, "upscaler") if enlarging and recipe.upscaler else None
        itemsize = _BYTES.get(str(device.get("dtype")), 2)
        weights, piece = needed_bytes(upscaler.path, itemsize) if upscaler else (0, 0)
    except WireError as error:
        return MemoryEstimate(message.id, text=str(error))
    free = max(0, int(device.get("free", 0)) - int(device.get("leave", 0)))
    offloading = device.get("kind") != "cpu"
    if enlarging and recipe.strength <= 0.0:  # without the model
        load = Load(entry.family, Weights(0, 0, 0), 0, 0, False, itemsize, weights + piece)
        verdict = judge(load, free, offloading)
        return MemoryEstimate(message.id, verdict.verdict, verdict.text, verdict.needed, verdict.free)
    width, height = _render_size(recipe, entry.native or NATIVE.get(entry.family, LARGE_NATIVE))
    verdict = estimate(
        entry.path,
        entry.family,
        width,
        height,
        pair=float(or_default(recipe.guidance, entry.defaults.get("guidance", 7.0))) > 1.0,
        itemsize=itemsize,
        free=free,
        offloading=offloading,
        parts=entry.parts,
        extra=weights,  # it stays loaded; its pieces are done before the first step
    )
    return MemoryEstimate(message.id, verdict.verdict, verdict.text, verdict.needed, verdict.free)


def _render_size(recipe: Recipe, native: Any) -> tuple[int, int]:
    """The largest extent that the engine renders for that recipe."""
    if recipe.kind == "upscale":
        side = refined_side(native)
        return min(side, int(recipe.target_width)), min(side, int(recipe.target_height))  # type: ignore[arg-type]
    plan = plan_render(Extent(recipe.width, recipe.height), native)
    extents = [plan.extent] + ([plan.second] if plan.second is not None else [])
    largest = max(extents, key=lambda extent: extent.pixels)
    return largest.width, largest.height
