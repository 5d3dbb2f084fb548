# SPDX-License-Identifier: GPL-3.0-or-later
"""What the button will do: kind of job, its rectangle, its recipe and its label, out of scene and settings. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from krita_sd.controls import TITLES
from krita_sd.geometry import (
    LARGE_NATIVE,
    NATIVE,
    Bounds,
    Extent,
    NativeRange,
    context_bounds,
    feather_and_grow,
    plan_render,
)
from krita_sd.settings import FOLLOW, Settings
from krita_sd.styles import NO_STYLE, Style, merged_loras, resolve
from krita_sd.text import mark, tr
from krita_sd.wire.errors import WireError, bad_request
from krita_sd.wire.limits import MAX_PICTURE, MAX_PROMPT, MAX_SEED, MAX_SIDE
from krita_sd.wire.recipe import Lora, Recipe, steps_plan
from krita_sd.wire.values import UNSET, Fields

_DEFAULT_STEPS = 20


@dataclass(frozen=True)
class Plan:
    """One press of the button: `bounds` in document pixels, `recipe` without the hashes of its pictures."""

    kind: str
    bounds: Bounds
    recipe: Recipe


def kind_of(strength: float, selection: bool) -> str:
    """100 % without selection makes a new picture, less refines, a selection repaints what is selected."""
    if selection:
        return "inpaint"
    return "txt2img" if strength >= 1.0 else "img2img"


def label(strength: float, selection: Bounds | None, extent: Extent | None, transparent: bool = False) -> str:
    """What the button says, in English (the dock translates). `transparent`: what is selected is mostly empty."""
    if selection is None:
        return mark("Generate") if strength >= 1.0 else mark("Refine")
    if strength < 1.0:
        return mark("Refine selection")
    if transparent:
        return mark("Expand")
    if extent is not None and (selection.width >= extent.width) != (selection.height >= extent.height):
        return mark("Expand")  # a strip along a whole side: a picture that is continued
    return mark("Fill")


def native_range(model: Mapping[str, Any]) -> NativeRange:
    """Sizes at which that model (an entry of the server's list) paints well."""
    native = model.get("native")
    read = Fields(native if isinstance(native, dict) else {}, "model")
    try:
        return NativeRange(
            read.integer("min_side", 8, MAX_SIDE),
            read.integer("max_side", 8, MAX_SIDE),
            read.integer("min_pixels", 64, MAX_PICTURE),
            read.integer("max_pixels", 64, MAX_PICTURE),
            read.integer("multiple", 1, 256, 8),
            read.flag("second_pass", True),
            read.integer("pixels", 0, MAX_PICTURE, 0),
        )
    except WireError:
        return NATIVE.get(str(model.get("family", "")), LARGE_NATIVE)


def default(model: Mapping[str, Any], name: str, fallback: Any) -> Any:
    """A default parameter (steps, guidance, sampler, min_steps) of a model in the server's list."""
    defaults = model.get("defaults")
    value = defaults.get(name) if isinstance(defaults, dict) else None
    return fallback if value is None else value


def effective(settings: Settings, style: Style, model: Mapping[str, Any], name: str, fallback: Any) -> Any:
    """What a job will use for steps, guidance or sampler: the painter's word, else the style's, else the model's."""
    for value in (getattr(settings.params, name), getattr(style, name)):
        if value is not None:
            return value
    return default(model, name, fallback)


def steps_text(settings: Settings, model: Mapping[str, Any], style: Style = NO_STYLE) -> tuple[int, int]:
    """(steps that will run, steps of the whole schedule): "runs 10 of 20 steps"."""
    steps = int(effective(settings, style, model, "steps", _DEFAULT_STEPS))
    least = steps if settings.exact_steps else int(default(model, "min_steps", 1))
    total, start = steps_plan(steps, settings.strength, least)
    return total - start, total


def size_note(settings: Settings, model: Mapping[str, Any], extent: Extent, selection: Bounds | None) -> str:
    """A sentence when the region is larger than what the model paints well; "" otherwise."""
    try:
        made = plan_render(region(settings, model, extent, selection).extent, native_range(model))
    except (WireError, ValueError):
        return ""
    if made.scale >= 1.0:
        return ""
    width, height = (max(1, round(side)) for side in made.content)
    if made.second:
        return tr("Painted at {width} x {height}, then refined at full size.", width=width, height=height)
    return tr("Painted at {width} x {height}, then enlarged.", width=width, height=height)


def stepped(strength: float, direction: int) -> float:
    """The next multiple of 5 % above (1) or below (-1), within 0..1."""
    exact = strength * 20
    number = math.floor(exact + 1e-6) + 1 if direction > 0 else math.ceil(exact - 1e-6) - 1
    return min(max(number, 0), 20) / 20


def draw_seed() -> int:
    """A random seed, short enough to be read aloud; the whole range up to 2^63 - 1 can be typed."""
    return random.SystemRandom().randrange(2**32)


def read_seed(text: str) -> int | None:
    """A typed seed, or None when it is no number from 0 to 2^63 - 1."""
    text = text.strip()
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        return None
    value = int(text)
    return value if value <= MAX_SEED else None


def region(settings: Settings, model: Mapping[str, Any], extent: Extent, selection: Bounds | None) -> Bounds:
    """The rectangle the model sees: the canvas, or the selection with its context. Raises WireError."""
    if selection is None:
        return Bounds.of(extent)
    grow, feather = mask_shape(settings, selection)
    try:
        return context_bounds(selection, extent, native_range(model), feather, grow)
    except ValueError:
        raise bad_request(tr("The selection lies outside the canvas."), tr("Select something on it.")) from None


def mask_shape(settings: Settings, selection: Bounds) -> tuple[int, int]:
    """(grow, feather) of the denoise mask in document pixels."""
    if settings.exact_mask:
        return 0, 0
    feather, grow = feather_and_grow(selection, settings.strength)
    feather = feather if settings.feather is None else settings.feather
    return (grow if settings.grow is None else settings.grow), feather


def make(
    settings: Settings,
    model: Mapping[str, Any],
    extent: Extent,
    selection: Bounds | None,
    seed: int,
    *,
    style: Style = NO_STYLE,
    models: Sequence[Mapping[str, Any]] = (),
    wrap: str = "",
) -> Plan:
    """The plan for that document. `models`: the server's list, in which names of styles are looked up. `wrap`: the
    axes of Krita's wrap-around mode. Raises WireError with a sentence when it cannot be done."""
    kind = kind_of(settings.strength, selection is not None)
    if extent.width < 1 or extent.height < 1:
        raise bad_request(tr("The document has no pixels."))
    bounds = region(settings, model, extent, selection)
    if bounds.extent.longest > MAX_SIDE or bounds.extent.pixels * 4 > MAX_PICTURE:
        raise bad_request(
            tr("A picture of {width} x {height} pixels is too large.", width=bounds.width, height=bounds.height),
            tr("Select a smaller area."),
        )
    recipe = Recipe(
        kind=kind,
        model=settings.model,
        prompt=style.words(settings.prompt)[:MAX_PROMPT],
        negative=style.negative_words(settings.negative)[:MAX_PROMPT],
        width=bounds.width,
        height=bounds.height,
        seed=seed,
        strength=settings.strength,
        feather=UNSET if settings.feather is None else settings.feather,
        grow=UNSET if settings.grow is None else settings.grow,
        exact_mask=settings.exact_mask,
        fill=settings.fill,
        loras=loras(settings, style, models),
        tile=tiling(settings, style, wrap),
        **_sampling(settings, style, model, models),
    )
    return Plan(kind, bounds, recipe)


def _sampling(
    settings: Settings, style: Style, model: Mapping[str, Any], models: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The recipe's fields that have a default of the model: only what the painter or the style has given."""
    given: dict[str, Any] = {}
    for name in ("steps", "guidance", "sampler", "vae", "clip_skip"):
        own = getattr(settings.params, name)
        value = getattr(style, name) if own is None else own
        if value is not None:
            given[name] = resolve(value, models, "vae") if name == "vae" and value else value
    if settings.exact_steps:
        given["min_steps"] = int(effective(settings, style, model, "steps", _DEFAULT_STEPS))
    return given


def loras(settings: Settings, style: Style, models: Sequence[Mapping[str, Any]]) -> tuple[Lora, ...]:
    """Those of the style, overruled and followed by the painter's."""
    of_style = (Lora(resolve(lora.id, models, "lora"), lora.weight) for lora in style.loras)
    return merged_loras(of_style, settings.loras)


def tiling(settings: Settings, style: Style, wrap: str) -> str:
    """The axes along which the picture continues at its edges."""
    if settings.tile != FOLLOW:
        return settings.tile
    return wrap or style.tile or ""


def layer_name(recipe: Recipe) -> str:
    """Name of the result layer: the prompt in one line, cut at a word, and the seed."""
    if recipe.kind == "preprocess":
        return TITLES.get(recipe.map, "Control")
    words = " ".join("".join(char if char.isprintable() else " " for char in recipe.prompt).split())
    if len(words) > 60:
        words = words[:60].rsplit(" ", 1)[0] + " ..."
    return f"{words or 'Krita SD'} ({recipe.seed})"


def describe(recipe: Recipe) -> str:
    """The recipe as plain lines, for a tooltip."""
    lines = [recipe.prompt.strip()[:400] or tr("(no prompt)")]
    if recipe.negative.strip():
        lines.append(tr("Negative: {words}", words=recipe.negative.strip()[:200]))
    facts = [tr("Seed {seed}", seed=recipe.seed)]
    if recipe.steps is not UNSET:
        facts.append(tr("{steps} steps", steps=recipe.steps))
    if recipe.guidance is not UNSET:
        facts.append(tr("guidance {guidance:g}", guidance=recipe.guidance))
    if recipe.sampler is not UNSET:
        facts.append(str(recipe.sampler))
    lines.append(", ".join(facts))
    width, height = recipe.width, recipe.height
    lines.append(
        tr("{width} x {height}, strength {strength:.0%}", width=width, height=height, strength=recipe.strength)
    )
    if recipe.model:
        lines.append(recipe.model)
    return "\n".join(lines)
