# SPDX-License-Identifier: GPL-3.0-or-later
"""A recipe as AUTOMATIC1111's "parameters" text, which most programs of the field read and write, and back.

    <prompt, any number of lines>
    Negative prompt: <any number of lines>
    Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512, Model: name, ...

Reading is for text of strangers: only known fields within their range are taken, the rest is named and left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import WireError
from .limits import MAX_NAME, MAX_PICTURE, MAX_PROMPT
from .recipe import SAMPLERS, Recipe
from .values import UNSET

NEGATIVE = "Negative prompt:"
MAX_TEXT = 4 * MAX_PROMPT
"""Characters of a text that is read; what follows is not looked at."""

_MAX_SETTINGS = 200
_NEUTRAL = {"width": 1, "height": 1}


@dataclass(frozen=True)
class Found:
    """What a stranger's text says about a picture. `values`: fields of a recipe, each within its range.

    model: the name that was written, "" when none; `values` holds a model id only where our own program wrote it.
    ignored: names of fields that were known but not usable, for the sentence to the painter.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    ignored: tuple[str, ...] = ()

    def recipe(self) -> Recipe:
        """A recipe with these values, the rest as by default; its input pictures may be missing."""
        return Recipe(**self.values)


def write(recipe: Recipe, model: str = "") -> str:
    """The text of `recipe`; `model` is the name to be written."""
    lines = [recipe.prompt]
    if recipe.negative:
        lines.append(f"{NEGATIVE} {recipe.negative}")
    varied = recipe.variation > 0
    settings: list[tuple[str, Any]] = [
        ("Steps", recipe.steps),
        ("Sampler", recipe.sampler),
        ("CFG scale", f"{recipe.guidance:g}" if recipe.guidance is not UNSET else UNSET),
        ("Seed", recipe.seed),
        ("Size", f"{recipe.width}x{recipe.height}"),
        ("Model", json.dumps(model, ensure_ascii=False) if set(model) & set(',:"\n') else model),
        ("Denoising strength", UNSET if recipe.kind == "txt2img" else f"{recipe.strength:g}"),
        ("Variation seed", recipe.variation_seed if varied else UNSET),
        ("Variation seed strength", f"{recipe.variation:g}" if varied else UNSET),
        ("Clip skip", recipe.clip_skip),
        ("Tiling", "True" if recipe.tile == "xy" else UNSET),
        ("Version", "Krita SD"),
    ]
    lines.append(", ".join(f"{key}: {value}" for key, value in settings if value is not UNSET and value != ""))
    return "\n".join(lines)


def read(text: str) -> Found:
    """What the text says. Never raises: a text without settings is a prompt."""
    lines = text[:MAX_TEXT].replace("\r\n", "\n").strip("\n").split("\n")
    last = next((row for row in reversed(range(len(lines))) if lines[row].startswith("Steps: ")), len(lines))
    settings = dict(_settings(lines[last])) if last < len(lines) else {}
    body = lines[:last]
    cut = next((row for row, line in enumerate(body) if line.startswith(NEGATIVE)), len(body))
    negative = "\n".join(body[cut:])[len(NEGATIVE) :]
    taken = {"prompt": "\n".join(body[:cut]), "negative": negative.removeprefix(" ")} | _values(settings)
    name = settings.get("Model", "")
    named = {key: key for key in taken} | {key: label for label, (key, _) in _KEYS.items()}
    values, ignored = checked(taken)
    return Found(values, name if len(name) <= MAX_NAME else "", tuple(named.get(key, key) for key in ignored))


def checked(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """(the fields of a recipe in `data` that are of their type and range, names of the others that are known).

    Pictures are left out: a hash is worth nothing where the picture is not.
    """
    values: dict[str, Any] = {}
    ignored: list[str] = []
    for key in Recipe.__dataclass_fields__:
        if key not in data or key in ("image", "mask", "controls"):
            continue
        try:
            # The wire's own check, one field at a time, so that one bad field does not spoil the others.
            alone = {**_NEUTRAL, key: data[key]}
            kind = alone.pop("kind", "txt2img")
            recipe = Recipe.from_json(alone if kind == "txt2img" else {**alone, **_whole(kind)}, live=True)
        except WireError:
            ignored.append(key)
            continue
        values[key] = getattr(recipe, key)
    if values.get("width", 1) * values.get("height", 1) * 4 > MAX_PICTURE:
        del values["width"], values["height"]
        ignored += ["width", "height"]
    return values, ignored


def _whole(kind: Any) -> dict[str, Any]:
    """What a recipe of that kind cannot be without, so that the kind alone is judged."""
    return {"kind": kind, "mask": "0" * 32, "target_width": 1, "target_height": 1, "map": "canny"}


def _settings(line: str) -> Iterator[tuple[str, str]]:
    """(name, value) of "Name: value, Name: "quoted, value", ..."."""
    place = 0
    for _ in range(_MAX_SETTINGS):
        name, colon, rest = line[place:].partition(":")
        if not colon:
            return
        value = rest.lstrip(" ")
        place = len(line) - len(value)
        if value.startswith('"'):
            try:
                read, end = json.JSONDecoder().raw_decode(value)
            except ValueError:
                read, end = value.partition(",")[0], value.find(",") % (len(value) + 1)
        else:
            read = value.partition(",")[0]
            end = len(read)
        yield name.strip(" ,"), str(read).strip()
        place += end
        if place >= len(line):
            return


def _whole_number(text: str) -> Any:
    return int(text) if text.isascii() and text.lstrip("-").isdigit() and len(text) < 21 else text


def _number(text: str) -> Any:
    try:
        return float(text) if len(text) < 40 else text
    except ValueError:
        return text


_KEYS: dict[str, tuple[str, Any]] = {
    "Steps": ("steps", _whole_number),
    "CFG scale": ("guidance", _number),
    "Seed": ("seed", _whole_number),
    "Denoising strength": ("strength", _number),
    "Variation seed": ("variation_seed", _whole_number),
    "Variation seed strength": ("variation", _number),
    "Clip skip": ("clip_skip", _whole_number),
    "Sampler": ("sampler", str),
}


def _values(settings: Mapping[str, str]) -> dict[str, Any]:
    """Fields of a recipe out of the settings' texts; a text that is no number stays one and fails its check."""
    out: dict[str, Any] = {}
    for label, (key, convert) in _KEYS.items():
        if label in settings:
            out[key] = convert(settings[label])
    width, cross, height = settings.get("Size", "").partition("x")
    if cross:
        out["width"], out["height"] = _whole_number(width), _whole_number(height)
    if settings.get("Tiling") == "True":
        out["tile"] = "xy"
    schedule = settings.get("Schedule type", "").replace("SGM Uniform", "trailing")
    if f"{out.get('sampler')} {schedule}" in SAMPLERS:
        out["sampler"] = f"{out['sampler']} {schedule}"
    if "strength" in out:
        out["kind"] = "img2img"
    return out
