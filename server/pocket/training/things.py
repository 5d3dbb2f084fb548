# SPDX-License-Identifier: GPL-3.0-or-later
"""The single things: a dozen simple objects, each mainly in one colour, drawn in a brush's unit square."""

from __future__ import annotations

from collections.abc import Callable

from .drawing import Brush, shade
from .words import COLOURS, Rgb

WHITE, BLACK = COLOURS["white"], COLOURS["black"]
BARK, LEAF, GLASS = (110, 72, 42), (60, 150, 65), (190, 225, 240)


def contrast(colour: Rgb) -> Rgb:
    """Dark details on light colours, light ones on dark colours."""
    return (40, 40, 46) if sum(colour) > 200 else (190, 190, 196)


def house(b: Brush, c: Rgb) -> None:
    b.box(-0.72, -0.12, 0.72, 0.9, c)
    b.polygon([(-0.98, -0.12), (0, -0.95), (0.98, -0.12)], shade(c, 0.62))
    b.box(-0.18, 0.34, 0.18, 0.9, shade(c, 0.4))
    for x in (-0.47, 0.47):
        b.box(x - 0.15, 0.12, x + 0.15, 0.42, GLASS)


def tree(b: Brush, c: Rgb) -> None:
    b.box(-0.13, 0.2, 0.13, 0.98, BARK)
    for x, y, r in ((-0.36, 0.0, 0.42), (0.36, 0.0, 0.42), (0, -0.46, 0.5), (0, 0.0, 0.42)):
        b.disc(x, y, r, c)


def boat(b: Brush, c: Rgb) -> None:
    b.box(-0.05, -0.92, 0.05, 0.4, BARK)
    b.polygon([(0.1, -0.88), (0.1, 0.28), (0.82, 0.28)], shade(c, 1.45))
    b.polygon([(-0.1, -0.6), (-0.1, 0.28), (-0.62, 0.28)], shade(c, 1.45))
    b.polygon([(-0.98, 0.38), (0.98, 0.38), (0.66, 0.88), (-0.66, 0.88)], c)


def fish(b: Brush, c: Rgb) -> None:
    b.polygon([(0.42, 0), (0.98, -0.5), (0.86, 0), (0.98, 0.5)], shade(c, 0.75))
    b.polygon([(-0.2, -0.36), (0.16, -0.72), (0.34, -0.28)], shade(c, 0.75))
    b.disc(-0.16, 0, 0.76, c, 0.46)
    b.disc(-0.56, -0.1, 0.12, WHITE)
    b.disc(-0.58, -0.1, 0.06, BLACK)


def cat(b: Brush, c: Rgb) -> None:
    b.line([(0.36, 0.84), (0.74, 0.76), (0.86, 0.44), (0.76, 0.16)], c, 0.15)
    b.disc(0, 0.46, 0.48, c, 0.5)
    for side in (-1, 1):
        b.polygon([(side * 0.46, -0.38), (side * 0.44, -0.98), (side * 0.06, -0.66)], c)
        b.disc(side * 0.2, 0.9, 0.19, c, 0.1)
    b.disc(0, -0.34, 0.5, c, 0.44)
    for side in (-1, 1):
        b.disc(side * 0.19, -0.38, 0.1, (150, 215, 90), 0.11)
        b.disc(side * 0.19, -0.38, 0.04, BLACK, 0.1)
    b.polygon([(-0.07, -0.18), (0.07, -0.18), (0, -0.09)], (225, 130, 140))


def mushroom(b: Brush, c: Rgb) -> None:
    b.polygon([(-0.24, 0), (0.24, 0), (0.32, 0.92), (-0.32, 0.92)], (236, 220, 190))
    b.polygon([(-0.95, 0.12), (-0.86, -0.3), (-0.55, -0.7), (0, -0.88), (0.55, -0.7), (0.86, -0.3), (0.95, 0.12)], c)
    dots = shade(c, 0.6) if sum(c) > 660 else WHITE
    for x, y, r in ((-0.46, -0.26, 0.15), (0.04, -0.54, 0.15), (0.5, -0.2, 0.15)):
        b.disc(x, y, r, dots)


def cup(b: Brush, c: Rgb) -> None:
    b.line([(0.5, -0.3), (0.88, -0.3), (0.92, 0.1), (0.76, 0.34), (0.42, 0.38)], c, 0.17)
    b.polygon([(-0.74, -0.6), (0.6, -0.6), (0.44, 0.82), (-0.58, 0.82)], c)
    b.disc(-0.07, -0.6, 0.67, shade(c, 0.6), 0.16)


def balloon(b: Brush, c: Rgb) -> None:
    b.line([(0, 0.42), (0.06, 0.62), (-0.06, 0.8), (0.02, 0.98)], (90, 90, 96), 0.05)
    b.disc(0, -0.28, 0.6, c, 0.7)
    b.polygon([(0, 0.36), (-0.12, 0.52), (0.12, 0.52)], shade(c, 0.75))
    b.disc(-0.22, -0.54, 0.13, shade(c, 1.55), 0.18)


def apple(b: Brush, c: Rgb) -> None:
    b.line([(0, -0.5), (0.1, -0.92)], BARK, 0.11)
    b.polygon([(0.08, -0.68), (0.32, -0.92), (0.62, -0.84), (0.4, -0.62)], LEAF)
    b.disc(-0.3, 0.12, 0.55, c, 0.66)
    b.disc(0.3, 0.12, 0.55, c, 0.66)


def flower_pot(b: Brush, c: Rgb) -> None:
    b.box(-0.05, -0.5, 0.05, 0.2, LEAF)
    b.polygon([(0, 0.1), (-0.52, -0.22), (-0.2, 0.14)], LEAF)
    b.polygon([(0, 0.1), (0.52, -0.22), (0.2, 0.14)], LEAF)
    petals = COLOURS["pink"] if c != COLOURS["pink"] else COLOURS["red"]
    for x, y in ((-0.22, -0.58), (0.22, -0.58), (0, -0.8), (0, -0.38)):
        b.disc(x, y, 0.19, petals)
    b.disc(0, -0.58, 0.14, COLOURS["yellow"])
    b.polygon([(-0.5, 0.3), (0.5, 0.3), (0.36, 0.95), (-0.36, 0.95)], c)
    b.box(-0.6, 0.12, 0.6, 0.36, shade(c, 0.78))


def car(b: Brush, c: Rgb) -> None:
    b.polygon([(-0.55, 0.05), (-0.32, -0.45), (0.34, -0.45), (0.62, 0.05)], c)
    b.polygon([(-0.4, 0.02), (-0.24, -0.33), (-0.02, -0.33), (-0.02, 0.02)], GLASS)
    b.polygon([(0.06, 0.02), (0.06, -0.33), (0.26, -0.33), (0.46, 0.02)], GLASS)
    b.box(-0.97, 0.0, 0.97, 0.44, c)
    for x in (-0.54, 0.54):
        b.disc(x, 0.44, 0.24, contrast(c))
        b.disc(x, 0.44, 0.1, (170, 172, 178))


def umbrella(b: Brush, c: Rgb) -> None:
    b.line([(0, -0.1), (0, 0.78), (0.08, 0.92), (0.22, 0.92), (0.28, 0.78)], BARK, 0.09)
    arc = [(-0.96, 0.08), (-0.86, -0.36), (-0.5, -0.74), (0, -0.9), (0.5, -0.74), (0.86, -0.36), (0.96, 0.08)]
    b.polygon([*arc, (0.64, -0.08), (0.32, 0.08), (0, -0.08), (-0.32, 0.08), (-0.64, -0.08)], c)
    b.polygon([(0, -0.9), (-0.32, 0.08), (0, -0.08), (0.32, 0.08)], shade(c, 0.8))


DRAW: dict[str, Callable[[Brush, Rgb], None]] = {
    "house": house,
    "tree": tree,
    "boat": boat,
    "fish": fish,
    "cat": cat,
    "mushroom": mushroom,
    "cup": cup,
    "balloon": balloon,
    "apple": apple,
    "flower pot": flower_pot,
    "car": car,
    "umbrella": umbrella,
}
