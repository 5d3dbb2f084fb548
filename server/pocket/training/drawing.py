# SPDX-License-Identifier: GPL-3.0-or-later
"""Drawing primitives and the eight shapes, on a canvas drawn at twice its size and reduced."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from .words import COLOURS, Rgb

SUPERSAMPLE = 2
CELLS = 32
"""Objects stand on a grid of this many cells along the shorter side: at 256 px the cells of the latents, so that the
same thing has few different latents."""


def shade(colour: Rgb, factor: float) -> Rgb:
    """Darker (factor < 1, towards black) or lighter (factor > 1, towards white at 2)."""
    if factor <= 1:
        return tuple(round(c * factor) for c in colour)  # type: ignore[return-value]
    return tuple(round(c + (255 - c) * (factor - 1)) for c in colour)  # type: ignore[return-value]


def blend(a: Rgb, b: Rgb, amount: float) -> Rgb:
    """The mix of two colours; amount 0 gives a, 1 gives b."""
    return tuple(round(x + (y - x) * amount) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


class Sheet:
    """A picture in the making, width x height final pixels, with coordinates as fractions of its sides."""

    def __init__(self, width: int, height: int, background: Rgb) -> None:
        self.width, self.height = width * SUPERSAMPLE, height * SUPERSAMPLE
        self.image = Image.new("RGB", (self.width, self.height), background)
        self.pen = ImageDraw.Draw(self.image)

    def finish(self) -> Image.Image:
        """The picture at its final size."""
        return self.image.reduce(SUPERSAMPLE)


class Brush:
    """Draws in a unit square (-1..1, y down) placed somewhere on a sheet; sizes are in units of its radius.

    Centre and radius snap to the grid of CELLS; specks (under a cell) to the middle of a cell.
    """

    def __init__(self, sheet: Sheet, cx: float, cy: float, radius: float, angle: float = 0.0, flip: bool = False):
        side = min(sheet.width, sheet.height)
        cell, middle = side / CELLS, 0.5 if radius * CELLS < 1 else 0.0
        self.pen = sheet.pen
        self.x = (round(cx * sheet.width / cell - middle) + middle) * cell
        self.y = (round(cy * sheet.height / cell - middle) + middle) * cell
        self.r = cell * (round(radius * CELLS) if radius * CELLS >= 2 else radius * CELLS)
        self.cos, self.sin = math.cos(angle) * self.r, math.sin(angle) * self.r
        self.flip = -1.0 if flip else 1.0

    def at(self, x: float, y: float) -> tuple[float, float]:
        x *= self.flip
        return self.x + x * self.cos - y * self.sin, self.y + x * self.sin + y * self.cos

    def polygon(self, points: list[tuple[float, float]], fill: Rgb) -> None:
        self.pen.polygon([self.at(x, y) for x, y in points], fill=fill)

    def disc(self, x: float, y: float, rx: float, fill: Rgb, ry: float | None = None) -> None:
        """An ellipse; drawn as a polygon so that it turns with the brush."""
        ry = rx if ry is None else ry
        count = 48
        self.polygon(
            [
                (x + rx * math.cos(2 * math.pi * i / count), y + ry * math.sin(2 * math.pi * i / count))
                for i in range(count)
            ],
            fill,
        )

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Rgb) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill)

    def line(self, points: list[tuple[float, float]], fill: Rgb, width: float) -> None:
        pixels = max(1, round(width * self.r))
        self.pen.line([self.at(x, y) for x, y in points], fill=fill, width=pixels, joint="curve")


def star_points(count: int, inner: float) -> list[tuple[float, float]]:
    points = []
    for i in range(2 * count):
        radius = 1.0 if i % 2 == 0 else inner
        angle = -math.pi / 2 + math.pi * i / count
        points.append((radius * math.cos(angle), radius * math.sin(angle)))
    return points


def heart_points() -> list[tuple[float, float]]:
    points = []
    for i in range(60):
        t = 2 * math.pi * i / 60
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x / 17, (-y - 2.5) / 15.5))
    return points


def draw_shape(brush: Brush, word: str, colour: Rgb, behind: Rgb) -> None:
    """One of the eight shapes; `behind` is what shows through a ring."""
    if word == "circle":
        brush.disc(0, 0, 0.92, colour)
    elif word == "square":
        brush.box(-0.84, -0.84, 0.84, 0.84, colour)
    elif word == "triangle":
        brush.polygon([(0, -0.92), (1, 0.78), (-1, 0.78)], colour)
    elif word == "star":
        brush.polygon(star_points(5, 0.42), colour)
    elif word == "heart":
        brush.polygon(heart_points(), colour)
    elif word == "diamond":
        brush.polygon([(0, -1), (0.7, 0), (0, 1), (-0.7, 0)], colour)
    elif word == "ring":
        brush.disc(0, 0, 0.95, colour)
        brush.disc(0, 0, 0.55, behind)
    elif word == "flower":
        for i in range(6):
            angle = 2 * math.pi * i / 6 + math.pi / 6
            brush.disc(0.6 * math.cos(angle), 0.6 * math.sin(angle), 0.38, colour)
        warm = colour in (COLOURS["yellow"], COLOURS["orange"])
        brush.disc(0, 0, 0.34, COLOURS["brown"] if warm else COLOURS["yellow"])
    else:
        raise ValueError(f"unknown shape {word!r}")


def smooth_noise(rng: np.random.Generator, width: int, height: int, cell: int) -> np.ndarray:
    """Smooth noise, (height, width) float32 in -1..1, with features of about `cell` pixels."""
    grid = rng.uniform(-127, 127, (max(2, height // cell + 2), max(2, width // cell + 2))).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)) / 127.0
