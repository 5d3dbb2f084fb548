# SPDX-License-Identifier: GPL-3.0-or-later
"""The recipe: everything that determines a picture, in one frozen, comparable, JSON-serialisable value.

The dock edits it, the wire carries it, the engine obeys it, the result carries it back, the layer and the PNG keep it.
"Not given" is `UNSET`, never a falsy value: strength 0, guidance 0, seed 0 and an empty negative are real.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from .errors import bad_request
from .limits import (
    MAX_CONTROL_WEIGHT,
    MAX_CONTROLS,
    MAX_FEATHER,
    MAX_GUIDANCE,
    MAX_LORA_WEIGHT,
    MAX_LORAS,
    MAX_NAME,
    MAX_PICTURE,
    MAX_PROMPT,
    MAX_SEED,
    MAX_SIDE,
    MAX_STEPS,
)
from .values import UNSET, Fields, Unset

KINDS = ("txt2img", "img2img", "inpaint", "upscale", "preprocess")
"""upscale: `image` becomes target_width x target_height. preprocess: the control map of `image`, type `map`."""

FILLS = ("neutral", "blur", "border", "original")
SAMPLERS = (
    "Euler", "Euler a", "DPM++ 2M", "DPM++ 2M Karras", "DPM++ SDE", "DPM++ SDE Karras", "DPM++ 2M SDE",
    "DPM++ 2M SDE Karras", "UniPC", "Heun", "DPM2 a", "DDIM", "PLMS", "DEIS", "DDPM", "LCM", "TCD",
    "Euler trailing",
)  # fmt: skip
"""Samplers by their names in AUTOMATIC1111, in the order in which a chooser shows them. Euler trailing is its Euler
with SGM Uniform, for turbo, lightning and hyper models."""

TILINGS = ("", "x", "y", "xy")
CONTROL_MAPS = ("scribble", "line_art", "soft_edge", "canny", "depth", "normal", "pose", "segmentation", "tile", "blur")
"""Control types whose picture is a map of the same extent as the wanted picture."""

REFERENCES = ("reference", "style", "composition", "face")
"""Control types whose picture is looked at as a whole (IP-Adapter and the like)."""

CONTROLS = (*CONTROL_MAPS, "stencil", *REFERENCES)

MAX_SCHEDULE = 1000
"""Steps of the longest schedule: models are trained on 1000 timesteps, a finer one would repeat them."""


@dataclass(frozen=True)
class Lora:
    """One LoRA: opaque id from the server's list, weight -2..2."""

    id: str
    weight: float = 1.0


@dataclass(frozen=True)
class Control:
    """One control layer. image: hash of a `bgra8` picture, of the recipe's extent for maps and of any for references.

    weight 0..2; it acts in the share start..end of the schedule, 0..1. model: opaque id, "" = the best installed one.
    """

    type: str
    image: str
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    model: str = ""


@dataclass(frozen=True)
class Recipe:
    """What determines one picture. Lengths are document pixels.

    width, height: extent of the wanted picture (the captured region of the document).
    image: hash of a `bgra8` picture of that extent, the start of img2img and the surroundings of inpaint.
    mask: hash of a `grey8` picture of that extent: the selection itself, 0..255 = how much may change.
    seed: 0 .. 2^63 - 1; image i of a job has seed + i, wrapping at 2^63; of a variation, variation_seed + i instead.
    feather, grow: shape the denoise mask only; UNSET = from selection size and strength.
    exact_mask: use the selection as it is, no grow and no feather.
    model: opaque id; "" is the server's default. vae: opaque id; "" is the model's own.
    tile: the picture continues at its left and right ("x"), upper and lower ("y") edges, or both.
    variation: 0 = the noise of `seed`, 1 = that of `variation_seed`, spherical interpolation between.
    upscaler: opaque id; "" is the built-in one. map: type of the control map that `preprocess` makes.
    """

    kind: str = "txt2img"
    model: str = ""
    prompt: str = ""
    negative: str = ""
    width: int = 512
    height: int = 512
    seed: int = 0
    steps: int | Unset = UNSET
    guidance: float | Unset = UNSET
    sampler: str | Unset = UNSET
    strength: float = 1.0
    min_steps: int | Unset = UNSET
    image: str | None = None
    mask: str | None = None
    feather: int | Unset = UNSET
    grow: int | Unset = UNSET
    exact_mask: bool = False
    fill: str = "neutral"
    loras: tuple[Lora, ...] = field(default_factory=tuple)
    vae: str = ""
    clip_skip: int | Unset = UNSET
    controls: tuple[Control, ...] = field(default_factory=tuple)
    tile: str = ""
    variation: float = 0.0
    variation_seed: int = 0
    upscaler: str = ""
    target_width: int | Unset = UNSET
    target_height: int | Unset = UNSET
    map: str = ""

    def replace(self, **changes: Any) -> Recipe:
        """A copy with `changes`."""
        return dataclasses.replace(self, **changes)

    def blobs(self) -> tuple[str, ...]:
        """Hashes of every input picture, without repetition."""
        named = (self.image, self.mask, *(control.image for control in self.controls))
        return tuple(dict.fromkeys(item for item in named if item is not None))

    def to_json(self) -> dict[str, Any]:
        """JSON values; what is UNSET or None is absent."""
        out: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value is UNSET or value is None:
                continue
            listed = item.name in ("loras", "controls")
            out[item.name] = [dataclasses.asdict(entry) for entry in value] if listed else value
        return out

    @classmethod
    def from_json(cls, data: Any, live: bool = False) -> Recipe:
        """Read and check a recipe; unknown keys are ignored. Raises WireError(bad_request) naming the field.

        `live`: its picture is a canvas that the server has already, so `image` may be absent in every kind.
        """
        if not isinstance(data, dict):
            raise bad_request("The recipe must be a JSON object.")
        read = Fields(data, "recipe")
        loras = []
        for entry in read.objects("loras", MAX_LORAS):
            item = Fields(entry, "recipe's LoRA")
            weight = item.number("weight", -MAX_LORA_WEIGHT, MAX_LORA_WEIGHT, 1.0)
            loras.append(Lora(item.identifier("id", MAX_NAME), weight))
        recipe = cls(
            kind=read.choice("kind", KINDS, "txt2img"),
            model=read.text("model", MAX_NAME, ""),
            prompt=read.text("prompt", MAX_PROMPT, ""),
            negative=read.text("negative", MAX_PROMPT, ""),
            width=read.integer("width", 1, MAX_SIDE),
            height=read.integer("height", 1, MAX_SIDE),
            seed=read.integer("seed", 0, MAX_SEED, 0),
            steps=read.integer("steps", 1, MAX_STEPS, UNSET),
            guidance=read.number("guidance", 0.0, MAX_GUIDANCE, UNSET),
            sampler=read.choice("sampler", SAMPLERS, UNSET),
            strength=read.number("strength", 0.0, 1.0, 1.0),
            min_steps=read.integer("min_steps", 1, MAX_STEPS, UNSET),
            image=read.hash("image", None),
            mask=read.hash("mask", None),
            feather=read.integer("feather", 0, MAX_FEATHER, UNSET),
            grow=read.integer("grow", 0, MAX_FEATHER, UNSET),
            exact_mask=read.flag("exact_mask", False),
            fill=read.choice("fill", FILLS, "neutral"),
            loras=tuple(loras),
            controls=tuple(_control(entry) for entry in read.objects("controls", MAX_CONTROLS)),
            tile=read.choice("tile", TILINGS, ""),
            variation=read.number("variation", 0.0, 1.0, 0.0),
            variation_seed=read.integer("variation_seed", 0, MAX_SEED, 0),
            upscaler=read.text("upscaler", MAX_NAME, ""),
            target_width=read.integer("target_width", 1, MAX_SIDE, UNSET),
            target_height=read.integer("target_height", 1, MAX_SIDE, UNSET),
            map=read.choice("map", ("", *CONTROL_MAPS), ""),
            vae=read.text("vae", MAX_NAME, ""),
            clip_skip=read.integer("clip_skip", 1, 12, UNSET),
        )
        recipe.check(live)
        return recipe

    def check(self, live: bool = False) -> None:
        """Raise WireError(bad_request) when fields contradict each other."""
        if self.width * self.height * 4 > MAX_PICTURE:
            raise bad_request(
                f"A picture of {self.width} x {self.height} pixels is too large.", "Work on a smaller region."
            )
        if self.kind != "txt2img" and self.image is None and not live:
            raise bad_request(f"The recipe is {self.kind} but names no input image.")
        if self.kind == "inpaint" and self.mask is None:
            raise bad_request("The recipe is inpaint but names no mask.", "Select the area to repaint first.")
        if self.kind == "upscale" and (self.target_width is UNSET or self.target_height is UNSET):
            raise bad_request("The recipe is upscale but names no target size.")
        if self.kind == "upscale" and self.target_width * self.target_height * 4 > MAX_PICTURE:  # type: ignore[operator]
            raise bad_request("The enlarged picture would be too large.", "Choose a smaller size.")
        if self.kind == "preprocess" and not self.map:
            raise bad_request("The recipe is preprocess but names no type of map.")


def _control(entry: dict[str, Any]) -> Control:
    read = Fields(entry, "recipe's control layer")
    control = Control(
        read.choice("type", CONTROLS),
        read.hash("image"),
        read.number("weight", 0.0, MAX_CONTROL_WEIGHT, 1.0),
        read.number("start", 0.0, 1.0, 0.0),
        read.number("end", 0.0, 1.0, 1.0),
        read.text("model", MAX_NAME, ""),
    )
    if control.start > control.end:
        raise bad_request("A control layer would end before it starts.", "Swap its start and end.")
    return control


def steps_plan(steps: int, strength: float, min_steps: int = 1) -> tuple[int, int]:
    """(total, start): run steps start..total of a schedule of `total` steps.

    start = round(steps * (1 - strength)); when fewer than `min_steps` would remain, the schedule is made longer so
    that `min_steps` remain: total = floor(min_steps / strength), at most `MAX_SCHEDULE`. Strength 0 runs nothing:
    (steps, steps).
    """
    if strength <= 0:
        return steps, steps
    start = round(steps * (1 - strength))
    wanted = min(max(min_steps, 1), steps)
    if steps - start >= wanted:
        return steps, start
    total = math.floor(min(wanted / strength + 1e-9, MAX_SCHEDULE))  # min first: a tiny strength gives infinity
    return total, total - wanted
