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
ALL = {"shape": 2.0, "thing": 2.0, "place": 1.2, "pair": 0.8, "count": 0.8, "landscape": 3.0}

SETS: dict[str, PictureSet] = {
    "shape": PictureSet(Recipe({"shape": 1}), 2400),
    "thing": PictureSet(Recipe({"thing": 1}), 2560),
    "multi": PictureSet(Recipe(MULTI), 2240),
    "land": PictureSet(Recipe({"landscape": 1}), 1600),
    "large": PictureSet(Recipe(ALL, styled=0.2), 1280, 256, 256),
    "plain": PictureSet(Recipe({"shape": 2, "thing": 1}), 640, 256, 256),
}
ORDER = {"shape": 0, "thing": 1, "multi": 2, "land": 3, "large": 5, "plain": 9}
"""Which random numbers a set draws from."""


@dataclass(frozen=True)
class Stage:
    """Steps of training on mixtures: (shares of sets of one size, how often this mixture, batch size)."""

    mixtures: tuple[tuple[dict[str, float], float, int], ...]
    steps: int
    muon_lr: float = 4e-3
    falling: float = 0.3
    decay: float = 0.998


STAGES: dict[str, Stage] = {
    "shapes": Stage((({"shape": 1}, 1, 32),), 560, decay=0.99),
    "things": Stage((({"shape": 0.4, "thing": 0.38, "land": 0.22}, 1, 48),), 130, 2e-3, falling=0.8, decay=0.97),
}

SHIPPED = "shapes"
"""The stage whose weights are in server/pocket. "things" began to learn landscapes, with rougher shapes and no things
yet; mixtures with positions and counts at a constant rate lost the shapes. The falling rate brings them back."""
