# SPDX-License-Identifier: GPL-3.0-or-later
"""From command-line arguments and picture files to a recipe and its input pictures."""

from __future__ import annotations

import argparse
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from krita_sd.geometry import NATIVE, Bounds, Extent, NativeRange, context_bounds, feather_and_grow
from krita_sd.wire.errors import bad_request
from krita_sd.wire.frames import Picture
from krita_sd.wire.limits import MAX_SEED
from krita_sd.wire.recipe import Control, Lora, Recipe
from krita_sd.wire.values import UNSET

from . import images

IMAGE_STRENGTH = 0.6
"""Strength of --image without --strength; with --mask it is 1."""

UPSCALE_STRENGTH = 0.3
"""The same with --upscale: enough for detail, too little to move anything."""


@dataclass(frozen=True)
class Request:
    """The recipe with its pictures by hash. For inpainting, `base` (RGBA) and the `region` of it that is repainted."""

    recipe: Recipe
    pictures: dict[str, Picture] = field(default_factory=dict)
    model_name: str = ""
    base: NDArray[np.uint8] | None = None
    region: Bounds = Bounds(0, 0, 0, 0)


def make_request(arguments: argparse.Namespace, models: Sequence[dict[str, Any]]) -> Request:
    """Read the files and make the recipe. Raises WireError(bad_request, too_large)."""
    model = _choose(arguments.model, models)
    native = native_range(model)
    recipe = Recipe(
        prompt=arguments.prompt,
        negative=arguments.negative,
        model=_id(model) if model and arguments.model else "",
        seed=arguments.seed if arguments.seed is not None else secrets.randbelow(MAX_SEED + 1),
        steps=_given(arguments.steps),
        guidance=_given(arguments.guidance),
        sampler=_given(arguments.sampler),
        loras=tuple(Lora(_named(name, "lora", models), weight) for name, weight in arguments.lora or ()),
        vae=_named(arguments.vae, "vae", models) if arguments.vae else "",
        clip_skip=_given(arguments.clip_skip),
        tile=arguments.tile,
        variation=arguments.variation[0],
        variation_seed=arguments.variation[1],
        upscaler=_named(arguments.upscaler, "upscaler", models) if arguments.upscaler else "",
    )
    name = _name(model) if model else ""
    if arguments.image is None:
        size = default_size(native)
        size = Extent(arguments.width or size.width, arguments.height or size.height)
        recipe, pictures = _controlled(arguments, recipe.replace(width=size.width, height=size.height), size)
        return Request(_checked(recipe), pictures, name)
    image = images.read_image(arguments.image)
    mask = None if arguments.mask is None else images.read_mask(arguments.mask)
    if mask is not None and mask.shape != image.shape[:2]:
        raise bad_request(
            f"The mask is {mask.shape[1]} x {mask.shape[0]} pixels and the image {image.shape[1]} x {image.shape[0]}; "
            "both must be the same size."
        )
    size = _wanted_size(arguments, Extent(image.shape[1], image.shape[0]))
    image = images.resized(image, size)
    if arguments.upscale or arguments.map:
        return _whole(arguments, recipe, image, name)
    if mask is None:
        strength = IMAGE_STRENGTH if arguments.strength is None else arguments.strength
        picture = images.to_picture(image)
        recipe = recipe.replace(
            kind="img2img", width=size.width, height=size.height, strength=strength, image=picture.hash
        )
        recipe, pictures = _controlled(arguments, recipe, size)
        return Request(_checked(recipe), {picture.hash: picture, **pictures}, name)
    return _inpaint(arguments, recipe, image, images.resized(mask, size), native, name)


def _inpaint(
    arguments: argparse.Namespace,
    recipe: Recipe,
    image: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    native: NativeRange,
    name: str,
) -> Request:
    strength = 1.0 if arguments.strength is None else arguments.strength
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        raise bad_request("The mask is empty, so nothing may change.", "Paint white where the picture may change.")
    x, y = int(columns[0]), int(rows[0])
    selection = Bounds(x, y, int(columns[-1]) - x + 1, int(rows[-1]) - y + 1)
    feather, grow = feather_and_grow(selection, strength)
    canvas = Extent(image.shape[1], image.shape[0])
    region = context_bounds(selection, canvas, native, feather, grow)
    picture, selected = images.to_picture(images.cut(image, region)), images.to_picture(images.cut(mask, region))
    recipe = recipe.replace(
        kind="inpaint",
        width=region.width,
        height=region.height,
        strength=strength,
        image=picture.hash,
        mask=selected.hash,
    )
    recipe, pictures = _controlled(arguments, recipe, canvas, region)
    pictures |= {picture.hash: picture, selected.hash: selected}
    return Request(_checked(recipe), pictures, name, image, region)


def _whole(arguments: argparse.Namespace, recipe: Recipe, image: NDArray[np.uint8], name: str) -> Request:
    """--upscale and --map: what is made of a picture as a whole."""
    picture = images.to_picture(image)
    size = Extent(image.shape[1], image.shape[0])
    recipe = recipe.replace(width=size.width, height=size.height, image=picture.hash)
    if arguments.map:
        recipe = recipe.replace(kind="preprocess", map=arguments.map)
    else:
        factor, extent = arguments.upscale
        target = extent or Extent(round(size.width * factor), round(size.height * factor))
        strength = UPSCALE_STRENGTH if arguments.strength is None else arguments.strength
        recipe = recipe.replace(
            kind="upscale", target_width=target.width, target_height=target.height, strength=strength
        )
    return Request(_checked(recipe), {picture.hash: picture}, name)


def _controlled(
    arguments: argparse.Namespace, recipe: Recipe, canvas: Extent, region: Bounds | None = None
) -> tuple[Recipe, dict[str, Picture]]:
    """The recipe with its control layers: pictures brought to the size of the canvas, and cut like it."""
    pictures: dict[str, Picture] = {}
    controls = []
    for kind, file, weight in arguments.control or ():
        array = images.resized(images.read_image(file), canvas)
        picture = images.to_picture(array if region is None else images.cut(array, region))
        pictures[picture.hash] = picture
        controls.append(Control(kind, picture.hash, weight))
    return recipe.replace(controls=tuple(controls)), pictures


def native_range(model: dict[str, Any] | None) -> NativeRange:
    """The native sizes that a model of the server's list states, or those of its family."""
    family = NATIVE.get(str(model.get("family"))) if model else None
    fallback = family or NATIVE["sd1"]
    given = model.get("native") if model else None
    if not isinstance(given, dict):
        return fallback
    return fallback._replace(pixels=0)._replace(**{key: given[key] for key in NativeRange._fields if key in given})


def default_size(native: NativeRange) -> Extent:
    """A square of the area that the model was trained on."""
    pixels = native.pixels or math.sqrt(native.min_pixels * native.max_pixels)
    side = max(native.min_side, min(native.max_side, round(math.sqrt(pixels) / 64) * 64))
    return Extent(side, side)


def _wanted_size(arguments: argparse.Namespace, size: Extent) -> Extent:
    """What --width and --height say; one alone keeps the shape of the picture."""
    width, height = arguments.width, arguments.height
    if width is None and height is None:
        return size
    width = width or max(1, round(size.width * height / size.height))
    height = height or max(1, round(size.height * width / size.width))
    return Extent(width, height)


def _choose(wanted: str, models: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The checkpoint with this id, name, or name without its suffix, usable ones first; "" is the server's first usable
    one. Raises WireError(bad_request) when there is none."""
    if not wanted:
        usable = [model for model in models if model.get("usable") and model.get("kind") == "checkpoint"]
        return next((model for model in usable if model.get("id") == "pocket"), usable[0] if usable else None)
    checkpoints = [model for model in models if model.get("kind") == "checkpoint"]
    for say in (_id, _name, lambda model: _name(model).rpartition(".")[0]):
        found = [model for model in checkpoints if say(model).casefold() == wanted.casefold()]
        if found:
            return min(found, key=lambda model: not model.get("usable"))
    names = ", ".join(_name(model) for model in checkpoints if model.get("usable")) or "none"
    raise bad_request(f"There is no model named {wanted!r}.", f"There are: {names}.")


def _id(model: dict[str, Any]) -> str:
    return str(model.get("id"))


def _name(model: dict[str, Any]) -> str:
    return str(model.get("name"))


def _named(wanted: str, kind: str, models: Sequence[dict[str, Any]]) -> str:
    """The id of the usable addition with this id or name. Raises WireError(bad_request)."""
    known = [model for model in models if model.get("kind") == kind]
    usable = [model for model in known if model.get("usable")]
    for key in ("id", "name"):
        for model in usable:
            if str(model.get(key)).casefold() == wanted.casefold():
                return str(model["id"])
    for model in known:
        if wanted.casefold() in (str(model.get("id")).casefold(), str(model.get("name")).casefold()):
            raise bad_request(str(model.get("problem")))
    what = {"lora": "LoRA", "vae": "VAE"}.get(kind, kind)
    names = ", ".join(str(model.get("name")) for model in usable[:10]) or "none"
    raise bad_request(f"There is no {what} named {wanted!r}.", f"There are: {names}.")


def _checked(recipe: Recipe) -> Recipe:
    """Through the wire's own reader, so that a bad value is one sentence before anything runs."""
    return Recipe.from_json(recipe.to_json())


def _given(value: Any) -> Any:
    return UNSET if value is None else value
