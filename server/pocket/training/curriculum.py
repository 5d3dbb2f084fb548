# SPDX-License-Identifier: GPL-3.0-or-later
"""The sets of pictures and the stages of the UNet's curriculum: simple things first, each stage keeping the earlier."""

from __future__ import annotations

from dataclasses import dataclass

from .render import Recipe


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one size, `count` of them."""

    recipe: Recipe
    count: int
    width: int = 192
    height: int = 192


MULTI = {"place": 2.2, "pair": 1.0, "count": 1.0}
STYLED = {"landscape": 2.0, "thing": 1.0, "shape": 1.0}
ALL = {"shape": 1.5, "thing": 1.5, "place": 0.5, "pair": 0.3, "count": 0.3, "landscape": 3.0}

SETS: dict[str, PictureSet] = {
    "shape": PictureSet(Recipe({"shape": 1}), 2400),
    "thing": PictureSet(Recipe({"thing": 1}), 3200),
    "land": PictureSet(Recipe({"landscape": 1}), 4000),
    "shape256": PictureSet(Recipe({"shape": 1}), 2000, 256, 256),
    "thing256": PictureSet(Recipe({"thing": 1}), 2000, 256, 256),
    "land256": PictureSet(Recipe({"landscape": 1}), 2400, 256, 256),
    "multi256": PictureSet(Recipe(MULTI), 1600, 256, 256),
    "styled256": PictureSet(Recipe(STYLED, styled=1.0), 2400, 256, 256),
    "sepia": PictureSet(Recipe({"shape": 1, "thing": 1, "landscape": 2}, look="sepia"), 480, 256, 256),
    "wide": PictureSet(Recipe(ALL, styled=0.2), 800, 320, 192),
    "tall": PictureSet(Recipe(ALL, styled=0.2), 800, 192, 320),
}
ORDER = {name: i for i, name in enumerate(("shape", "thing", "multi", "land"))}
ORDER |= {name: 10 + i for i, name in enumerate(("shape256", "thing256", "land256", "multi256", "styled256"))}
ORDER |= {"wide": 15, "tall": 16, "sepia": 17}
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


SMALL = {"shape": 0.34, "thing": 0.32, "land": 0.34}
LANDS = {"shape": 0.22, "thing": 0.28, "land": 0.5}
LARGE = {"shape256": 0.26, "thing256": 0.2, "land256": 0.32, "multi256": 0.11, "styled256": 0.11}
MOST = {"shape256": 0.34, "thing256": 0.2, "land256": 0.27, "multi256": 0.1, "styled256": 0.09}
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
}
"""The first learns shapes at 192 px, the next two things and landscapes, the fourth all that at 256 px and in other
formats, with positions, counts, two objects and styles. At its high rate landscapes are learned and shapes forgotten:
the last two bring these back at lower rates, the second time with hardly anything but single objects and places."""

SHIPPED = "firm"
"""The stage whose weights are in server/pocket, and on which adapters and ControlNet are trained."""
FEW_STEP = {"shape256": 0.35, "thing256": 0.25, "land256": 0.3, "multi256": 0.1}
CONTROL = ("shape256", "thing256", "land256")
SHARPEN_STEPS, TINY_STEPS, LORA_STEPS, FEW_STEPS, CONTROL_STEPS = 500, 400, 90, 120, 150
