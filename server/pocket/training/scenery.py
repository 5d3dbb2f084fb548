# SPDX-License-Identifier: GPL-3.0-or-later
"""Which landscape a picture shows, without a neural network: the nearest of many drawn ones, seen from afar."""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

from .captions import Scene, landscape, scene_held_out
from .render import render
from .words import SKIES, TERRAINS

CELLS = 12
SIDE = 96
EACH = 12
"""Drawn examples of every terrain under every sky."""


def sketch(picture: Image.Image) -> np.ndarray:
    """(CELLS * CELLS * 3,) float32: mean colours of a coarse grid."""
    return np.asarray(picture.resize((CELLS, CELLS), Image.Resampling.BOX), np.float32).ravel()


@functools.cache
def examples() -> tuple[tuple[tuple[str, str], ...], np.ndarray]:
    names, sketches = [], []
    for terrain in TERRAINS:
        for sky in SKIES:
            for i in range(EACH):
                scene = landscape(np.random.default_rng([909, i]), terrain, sky)
                names.append((terrain, sky))
                sketches.append(sketch(render(scene, SIDE, SIDE)))
    return tuple(names), np.stack(sketches)


def place_of(picture: np.ndarray) -> tuple[str, str]:
    """(terrain, sky) of the (h, w, 3) uint8 picture."""
    names, sketches = examples()
    distance = np.abs(sketches - sketch(Image.fromarray(picture))).sum(1)
    return names[int(distance.argmin())]


def places(count: int, unseen: bool, seed: int = 0) -> list[Scene]:
    """Landscapes, terrains in turn, either never held out or all with a held-out combination."""
    found: list[Scene] = []
    rng = np.random.default_rng([seed, unseen, 17])
    while len(found) < count:
        scene = landscape(rng, TERRAINS[len(found) % len(TERRAINS)])
        if scene_held_out(scene) == unseen:
            found.append(scene)
    return found
