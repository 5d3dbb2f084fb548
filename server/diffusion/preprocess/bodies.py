# SPDX-License-Identifier: GPL-3.0-or-later
"""Bodies as the pose ControlNets were trained to see them: coloured limbs between joints on black (OpenPose's look).

Pure functions on numbers and pixels.
"""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

_SEEN = 0.3
"""Certainty from which a joint counts as seen."""

# OpenPose's joints out of COCO's points: nose, neck (between the shoulders), right and left arm, right and left leg,
# eyes, ears.
_OF_COCO = (
    (0,),
    (5, 6),
    (6,),
    (8,),
    (10,),
    (5,),
    (7,),
    (9,),
    (12,),
    (14,),
    (16,),
    (11,),
    (13,),
    (15,),
    (2,),
    (1,),
    (4,),
    (3,),
)
_LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
    (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip


def colour_of(number: int) -> tuple[int, int, int]:
    """Of a joint and of the limb with its number: 18 steps around the circle of hues, from red."""
    red, green, blue = colorsys.hsv_to_rgb(number / 18, 1.0, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def joints(points: Floats, certainty: Floats) -> list[tuple[float, float] | None]:
    """OpenPose's 18 joints of COCO's 17 points (17, 2), x and y; None for what is not seen."""
    out: list[tuple[float, float] | None] = []
    for sources in _OF_COCO:
        if min(float(certainty[source]) for source in sources) < _SEEN:
            out.append(None)
            continue
        x, y = points[list(sources)].mean(axis=0)
        out.append((float(x), float(y)))
    return out


def drawn(body: list[tuple[float, float] | None], width: int, height: int) -> Pixels:
    """uint8 (height, width, 3): the limbs a little darker than the joints, as thick as at a short side of 512."""
    canvas = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(canvas)
    radius = max(1.0, 4.0 * min(width, height) / 512.0)
    for number, (first, second) in enumerate(_LIMBS):
        a, b = body[first], body[second]
        if a is not None and b is not None:
            dark = tuple(int(0.6 * value) for value in colour_of(number))
            draw.line([a, b], fill=dark, width=max(1, round(2 * radius)))
    for number, joint in enumerate(body):
        if joint is not None:
            x, y = joint
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour_of(number))
    return np.asarray(canvas, np.uint8)
