# SPDX-License-Identifier: GPL-3.0-or-later
"""The sets of pictures and the stages of the UNet's curriculum: simple things first, each stage keeping the earlier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .render import Recipe


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one size, `count` of them."""

    recipe: Recipe
    count: int
    width: int = 192
    height: int = 192
    beyond: float = 1.0
    """How far the latents go from those of the bare sky, times as far as those of the pictures."""


MULTI = {"place": 1.4, "pair": 1.5, "count": 1.3}
STYLED = {"landscape": 1.2, "thing": 1.4, "shape": 1.0}
ALL = {"shape": 1.5, "thing": 1.5, "place": 0.5, "pair": 0.3, "count": 0.3, "landscape": 3.0}

SETS: dict[str, PictureSet] = {
    "shape": PictureSet(Recipe({"shape": 1}), 2400),
    "thing": PictureSet(Recipe({"thing": 1}), 3200),
    "land": PictureSet(Recipe({"landscape": 1}), 4000),
    "shape256": PictureSet(Recipe({"shape": 1}), 1600, 256, 256),
    "thing256": PictureSet(Recipe({"thing": 1}), 2000, 256, 256),
    "land256": PictureSet(Recipe({"landscape": 1}), 2200, 256, 256),
    "multi256": PictureSet(Recipe(MULTI), 1800, 256, 256),
    "styled256": PictureSet(Recipe(STYLED, styled=1.0), 1600, 256, 256),
    "sky256": PictureSet(Recipe({"sky": 1}), 480, 256, 256),
    "sun256": PictureSet(Recipe({"sun": 1}), 160, 256, 256),
    "detail256": PictureSet(Recipe({"detail": 1}), 1600, 256, 256),
    "near256": PictureSet(Recipe({"near": 1}, styled=0.15), 1600, 256, 256),
    "night256": PictureSet(Recipe({"night": 1}), 800, 256, 256),
    "style256": PictureSet(Recipe({"shape": 1.3, "thing": 1.2, "simple": 1.0}, styled=1.0), 2400, 256, 256),
    "glare256": PictureSet(Recipe({"sun": 1}), 160, 256, 256, beyond=1.6),
    "cloud256": PictureSet(Recipe({"cloudy": 1}), 160, 256, 256),
    "clear256": PictureSet(Recipe({"clear": 1}), 2400, 256, 256),
    "posed256": PictureSet(Recipe({"posed": 1.3, "clear": 0.7}, styled=1.0), 2400, 256, 256),
    "sepia": PictureSet(Recipe({"shape": 1, "thing": 1, "landscape": 2}, look="sepia"), 480, 256, 256),
    "wide": PictureSet(Recipe(ALL, styled=0.2), 320, 320, 192),
    "tall": PictureSet(Recipe(ALL, styled=0.2), 320, 192, 320),
}
ORDER = {name: i for i, name in enumerate(("shape", "thing", "multi", "land"))}
ORDER |= {name: 10 + i for i, name in enumerate(("shape256", "thing256", "land256", "multi256", "styled256"))}
ORDER |= {
    "wide": 15,
    "tall": 16,
    "sepia": 17,
    "sky256": 18,
    "detail256": 19,
    "sun256": 20,
    "near256": 21,
    "night256": 22,
    "style256": 23,
    "cloud256": 24,
    "clear256": 25,
    "posed256": 26,
    "glare256": 20,
}
"""Which random numbers a set draws from."""


@dataclass(frozen=True)
class Stage:
    """Steps of training on mixtures: (shares of sets of one size, how often this mixture, batch size)."""

    mixtures: tuple[tuple[dict[str, float], float, int], ...]
    steps: int
    muon_lr: float = 4e-3
    falling: float = 0.3
    decay: float = 0.998
    stop: int = 0
    """Leave off here, before the rate has fallen as far as `steps` would have it."""
    kept: float = 0.0
    """The share of the weights before it in the mean that is its result."""


SMALL = {"shape": 0.34, "thing": 0.32, "land": 0.34}
LANDS = {"shape": 0.22, "thing": 0.28, "land": 0.5}
LARGE = {"shape256": 0.26, "thing256": 0.2, "land256": 0.32, "multi256": 0.11, "styled256": 0.11}
MOST = {"shape256": 0.34, "thing256": 0.2, "land256": 0.27, "multi256": 0.1, "styled256": 0.09}
RICH = {"shape256": 0.22, "thing256": 0.19, "land256": 0.2, "detail256": 0.14}
RICH |= {"sky256": 0.06, "multi256": 0.12, "styled256": 0.07}
CLEAR = {"shape256": 0.36, "thing256": 0.2, "land256": 0.15, "detail256": 0.13}
CLEAR |= {"sky256": 0.05, "multi256": 0.07, "styled256": 0.04}
NEAREST = {"shape256": 0.35, "thing256": 0.15, "near256": 0.25, "multi256": 0.12}
NEAREST |= {"sky256": 0.02, "sun256": 0.08, "styled256": 0.03}
NIGHT = {**NEAREST, "shape256": 0.33, "near256": 0.12, "night256": 0.2, "thing256": 0.12}
STYLES = {"shape256": 0.34, "thing256": 0.07, "multi256": 0.06, "sun256": 0.08}
STYLES |= {"style256": 0.28, "near256": 0.06, "night256": 0.11}
CLEARER = {"shape256": 0.3, "thing256": 0.07, "multi256": 0.05, "sun256": 0.18, "cloud256": 0.03}
CLEARER |= {"near256": 0.09, "clear256": 0.18, "posed256": 0.1}
GLARE = {**{name: share for name, share in CLEARER.items() if name != "sun256"}, "glare256": 0.18}
FINAL = {"shape256": 0.45, "thing256": 0.22, "land256": 0.25, "multi256": 0.03, "styled256": 0.05}
STAGES: dict[str, Stage] = {
    "shapes": Stage((({"shape": 1}, 1, 32),), 560, decay=0.99),
    "things": Stage(((SMALL, 1, 64),), 1000, falling=0.75, decay=0.995, stop=500),
    "places": Stage(((LANDS, 0.8, 64), (LARGE, 0.2, 48)), 450, falling=0.6, decay=0.995, stop=200),
    "large": Stage(
        ((LARGE, 0.64, 48), (LANDS, 0.22, 64), ({"wide": 1}, 0.07, 48), ({"tall": 1}, 0.07, 48)),
        900,
        3.5e-3,
        falling=0.9,
        decay=0.995,
        stop=250,
    ),
    "settle": Stage(
        ((MOST, 0.72, 64), (SMALL, 0.12, 64), ({"wide": 1}, 0.08, 64), ({"tall": 1}, 0.08, 64)),
        500,
        2e-3,
        falling=0.95,
        decay=0.99,
        stop=350,
    ),
    "firm": Stage(
        ((FINAL, 0.9, 64), (SMALL, 0.04, 64), ({"wide": 1}, 0.03, 64), ({"tall": 1}, 0.03, 64)),
        450,
        2.5e-3,
        falling=0.85,
        decay=0.985,
    ),
    "detail": Stage(
        ((RICH, 0.95, 64), ({"wide": 1}, 0.025, 64), ({"tall": 1}, 0.025, 64)),
        1200,
        2.5e-3,
        falling=0.9,
        decay=0.985,
        stop=600,
    ),
    "polish": Stage(
        ((CLEAR, 0.95, 64), ({"wide": 1}, 0.025, 64), ({"tall": 1}, 0.025, 64)),
        500,
        1.4e-3,
        falling=0.95,
        decay=0.985,
    ),
    "sun": Stage((({**CLEAR, "sky256": 0.02, "sun256": 0.16}, 1, 64),), 100, 1e-3, falling=0.9, decay=0.97),
    "near": Stage(
        ((NEAREST, 0.95, 64), ({"wide": 1}, 0.025, 64), ({"tall": 1}, 0.025, 64)),
        1000,
        2.5e-3,
        falling=0.95,
        decay=0.985,
    ),
    "night": Stage(((NIGHT, 1, 64),), 500, 1.6e-3, falling=0.95, decay=0.985, kept=0.5),
    "styles": Stage(
        ((STYLES, 0.9, 64), ({"shape": 1}, 0.06, 64), ({"wide": 1}, 0.02, 64), ({"tall": 1}, 0.02, 64)),
        1000,
        2.2e-3,
        falling=0.95,
        decay=0.985,
    ),
    "clear": Stage(
        ((CLEARER, 0.88, 64), ({"shape": 1}, 0.06, 64), ({"wide": 1}, 0.03, 64), ({"tall": 1}, 0.03, 64)),
        1390,
        2.2e-3,
        falling=0.95,
        decay=0.985,
    ),
    "glare": Stage(((GLARE, 1, 64),), 110, 1e-3, falling=0.9, decay=0.97, kept=0.4),
}
"""The first learns shapes at 192 px, the next two things and landscapes, the fourth all that at 256 px and in other
formats, with positions, counts, two objects and styles. At its high rate landscapes are learned and shapes forgotten:
the next two bring these back at lower rates, the second time with hardly anything but single objects and places.
The seventh is for what is in landscapes, close-ups of sun, moon, stars, clouds and rainbow (so that bare words mean
something in a negative prompt), two objects, numbers and styles; "polish"
makes shapes clear again; "sun" makes the bare word mean so large a sun that, as a negative prompt, it takes small ones
away; "near" draws what is in landscapes larger, and makes shapes clear once more;
"night" is for stars and what is seen under them; the mean of the weights before and after it keeps
what it would forget of negative words; "styles" is for the six styles and for land that can be seen at night;
"clear" has few, large and clear pictures of every landscape and of every object in a style, and huge clouds; "glare"
makes the bare word mean a sun brighter than any picture's: as a negative prompt it takes those away, too, that the
model is sure of; a share of the weights before it keeps landscapes clear."""

SHIPPED = "glare"
"""The stage whose weights are in server/pocket, and on which adapters and ControlNet are trained."""


def before(parts: Sequence[str]) -> str:
    """The stage whose weights the first stage among `parts` begins from ("shapes" if it needs none)."""
    stages = list(STAGES)
    first = min((stages.index(part) for part in parts if part in STAGES), default=0)
    return stages[max(first - 1, 0)]


def needed(parts: Sequence[str]) -> list[str]:
    """The sets of pictures that these parts of the recipe train on."""
    wanted = {name for part in parts if part in STAGES for shares, _, _ in STAGES[part].mixtures for name in shares}
    wanted |= set(FEW_STEP) if "few_step" in parts else set()
    wanted |= set(CONTROL) if "controlnet" in parts else set()
    wanted |= set(FINISH) if "finish" in parts else set()
    wanted |= {"sepia"} if "lora" in parts else set()
    return [name for name in SETS if name in wanted]


def shorten(share: float) -> None:
    """Leave this share of all steps and pictures (some at least): to see the recipe run from its start to its end."""
    for name, chosen in SETS.items():
        SETS[name] = replace(chosen, count=max(12, round(chosen.count * share)))
    for name, stage in STAGES.items():
        STAGES[name] = replace(stage, steps=max(2, round(stage.steps * share)), stop=0)
    for name, steps in STEPS.items():
        STEPS[name] = max(2, round(steps * share))


FEW_STEP = {"shape256": 0.35, "thing256": 0.25, "land256": 0.3, "multi256": 0.1}
FINISH = {"clear256": 480, "posed256": 360, "multi256": 240, "thing256": 192, "land256": 192, "shape256": 128}
FINISH |= {"wide": 64, "tall": 64}
"""Sets and how many of their pictures the decoder is finished on."""
CONTROL = ("thing256", "land256", "shape256", "clear256", "thing256", "land256", "multi256", "posed256")
STEPS = {
    "text": 700,
    "vae": 720,
    "sharpen": 500,
    "tiny": 400,
    "lora": 90,
    "finish": 500,
    "few_step": 120,
    "controlnet": 3000,
}
"""Of the parts that are no stages of the UNet."""
