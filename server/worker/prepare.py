# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything of a job that is the same for all its images: resolved recipe, render plan, inputs and masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from krita_sd.geometry import Extent, RenderPlan, feather_and_grow, plan_render
from krita_sd.wire.errors import bad_request
from krita_sd.wire.frames import Picture
from krita_sd.wire.recipe import Recipe
from krita_sd.wire.values import UNSET, or_default

from . import masks, pixels
from .fill import fill

Array = NDArray[np.uint8]

FALLBACK = {"steps": 20, "guidance": 7.0, "sampler": "DPM++ 2M", "min_steps": 1}
"""What neither the recipe nor the model says."""


@dataclass(frozen=True)
class Prepared:
    """recipe: without UNSET. image, denoise, composite: target extent. render, denoise_render: render extent.

    filled: the masked part of `render` holds something to start from, not only a neutral grey.
    """

    recipe: Recipe
    plan: RenderPlan
    strength: float
    image: Array | None = None
    render: Array | None = None
    denoise: Array | None = None
    denoise_render: Array | None = None
    composite: Array | None = None
    filled: bool = False


def prepare(recipe: Recipe, pictures: dict[str, Picture], model: Any, settings: dict[str, Any]) -> Prepared:
    """Resolve `recipe` for `model`. `settings`: what the front resolved (id and paths). Raises WireError."""
    recipe = resolve(recipe, model.defaults).replace(model=settings["id"])
    target = Extent(recipe.width, recipe.height)
    plan = plan_render(target, model.native)
    wrap = recipe.tile
    if recipe.kind == "txt2img":
        return Prepared(recipe, plan, 1.0)
    image = pixels.rgb_of(region_picture(pictures, recipe.image, "bgra8", target, "picture"))
    if recipe.kind == "img2img":
        return Prepared(recipe, plan, recipe.strength, image, pixels.to_render(image, plan, wrap))
    selection = pixels.grey_of(region_picture(pictures, recipe.mask, "grey8", target, "mask"))
    box = masks.bounds(selection)
    if box.is_empty:
        raise bad_request("The selection is empty, so nothing may change.", "Select an area first.")
    feather, grow = feather_and_grow(box, recipe.strength)
    recipe = recipe.replace(feather=or_default(recipe.feather, feather), grow=or_default(recipe.grow, grow))
    feather, grow = (0, 0) if recipe.exact_mask else (int(recipe.feather), int(recipe.grow))  # type: ignore[arg-type]
    denoise = masks.denoise_mask(selection, grow, feather)
    composite = selection if recipe.exact_mask else masks.composite_mask(selection, feather)
    render, denoise_render = pixels.to_render(image, plan, wrap), pixels.to_render(denoise, plan, wrap)
    if recipe.strength >= 1.0 and not model.looks_itself:
        # A model that looks at the canvas should see what is there, not what it is covered with.
        render = fill(render, denoise_render, recipe.fill)
    return Prepared(
        recipe,
        plan,
        recipe.strength,
        image,
        render,
        denoise,
        denoise_render,
        composite,
        filled=recipe.strength >= 1.0 and recipe.fill != "neutral",
    )


def loras_of(recipe: Recipe, settings: dict[str, Any]) -> tuple[tuple[Path, float], ...]:
    """Files and weights of the recipe's LoRAs, then of those that this image's prompt calls for."""
    listed = [(Path(settings["loras"][lora.id]), lora.weight) for lora in recipe.loras]
    return (*listed, *((Path(path), weight) for path, weight in settings["prompt_loras"]))


def inversions_of(settings: dict[str, Any]) -> tuple[tuple[str, Path], ...]:
    """Words and files of the textual inversions that this image's prompts call."""
    return tuple((word, Path(path)) for word, path in settings.get("inversions", ()))


def resolve(recipe: Recipe, defaults: dict[str, Any]) -> Recipe:
    """`recipe` with the model's own values wherever it says nothing; 0 and "" say something."""
    known = {**FALLBACK, **{key: value for key, value in defaults.items() if key in FALLBACK}}
    missing = {key: value for key, value in known.items() if getattr(recipe, key) is UNSET}
    return recipe.replace(**missing)


def region_picture(pictures: dict[str, Picture], digest: str | None, format: str, target: Extent, what: str) -> Picture:
    """The input picture of a recipe. Raises WireError(bad_request) when it has another size or format than it must."""
    picture = pictures[digest or ""]
    if (picture.format, picture.width, picture.height) != (format, target.width, target.height):
        raise bad_request(
            f"The {what} is {picture.width} x {picture.height} pixels of {picture.format}, "
            f"but {target.width} x {target.height} of {format} are needed."
        )
    return picture
