# SPDX-License-Identifier: GPL-3.0-or-later
"""Draws a scene as a picture: numpy and pillow only, the same pixels for the same scene and size."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from . import captions
from .captions import Scene
from .drawing import Brush, Sheet, draw_shape
from .landscapes import draw_close_up, draw_landscape
from .styles import stylise
from .things import DRAW
from .words import COLOURS, SHAPES

BOLD = ("clear", "posed")
LAYOUTS = 4
"""How many different pictures there are of the same BOLD scene, its sun aside: few, so that each is learnt sharply."""


def render(scene: Scene, width: int, height: int) -> Image.Image:
    """The picture of a scene; sides in pixels, multiples of 8."""
    bold = scene.kind in BOLD
    rng = np.random.default_rng(scene.detail % LAYOUTS if bold else scene.detail)
    background = COLOURS[scene.background]
    sheet = Sheet(width, height, background)
    if scene.kind == "sky":
        draw_close_up(sheet, scene.sky, scene.extras[0], rng, scene.size == "huge")
    if scene.terrain:
        free = np.random.default_rng(scene.detail)
        draw_landscape(sheet, scene.terrain, scene.sky, scene.extras, rng, scene.kind, free)
    for item in scene.items:
        brush = Brush(sheet, item.x, item.y, item.radius, item.angle, item.flip)
        if item.word in SHAPES:
            draw_shape(brush, item.word, COLOURS[item.colour], background)
        else:
            DRAW[item.word](brush, COLOURS[item.colour])
    return stylise(sheet.finish(), scene.style, rng, bold)


@dataclass(frozen=True)
class Recipe:
    """What a set of pictures holds: shares of kinds, share of pictures in a style other than flat.

    With a `look` all are drawn in that style and no caption says so.
    """

    kinds: dict[str, float]
    styled: float = 0.0
    look: str = ""


def describe(recipe: Recipe, seed: int, index: int) -> tuple[Scene, str]:
    """The scene of picture number `index` of a set and its caption; depends on nothing else."""
    rng = np.random.default_rng([seed, index])
    kinds = list(recipe.kinds)
    shares = np.array([recipe.kinds[k] for k in kinds])
    kind = kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]
    style = captions.pick(rng, captions.STYLES[1:]) if captions.chance(rng, recipe.styled) else "flat"
    scene = captions.sample(rng, kind, style)
    return scene, captions.wording(rng, scene)


def picture(recipe: Recipe, seed: int, index: int, width: int, height: int) -> tuple[Image.Image, str]:
    """Picture number `index` of a set and its caption."""
    scene, caption = describe(recipe, seed, index)
    return render(replace(scene, style=recipe.look or scene.style), width, height), caption
