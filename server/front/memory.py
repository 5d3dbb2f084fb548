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
from server.library.memory import estimate

_BYTES = {"float32": 4}


def answer(library: Library, device: dict[str, Any], message: Estimate) -> MemoryEstimate:
    """The verdict for a recipe on `device` (what the worker said of it). Reads headers: not for event loops."""
    recipe = message.recipe
    try:
        entry = library.find(recipe.model)
    except WireError as error:
        return MemoryEstimate(message.id, text=str(error))
    width, height = _render_size(recipe, entry.native or NATIVE.get(entry.family, LARGE_NATIVE))
    verdict = estimate(
        entry.path,
        entry.family,
        width,
        height,
        pair=float(or_default(recipe.guidance, entry.defaults.get("guidance", 7.0))) > 1.0,
        itemsize=_BYTES.get(str(device.get("dtype")), 2),
        free=max(0, int(device.get("free", 0)) - int(device.get("leave", 0))),
        offloading=device.get("kind") != "cpu",
        parts=entry.parts,
    )
    return MemoryEstimate(message.id, verdict.verdict, verdict.text, verdict.needed, verdict.free)


def _render_size(recipe: Recipe, native: Any) -> tuple[int, int]:
    """The largest extent that the engine renders for that recipe."""
    plan = plan_render(Extent(recipe.width, recipe.height), native)
    extents = [plan.extent] + ([plan.second] if plan.second is not None else [])
    largest = max(extents, key=lambda extent: extent.pixels)
    return largest.width, largest.height
