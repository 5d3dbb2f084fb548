# SPDX-License-Identifier: GPL-3.0-or-later
"""The landscapes: eleven terrains under five skies, with things in the sky and on the ground."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from . import things
from .drawing import CELLS, Brush, Sheet, blend, shade, star_points
from .words import COLOURS, Rgb

SKY_BANDS: dict[str, tuple[Rgb, Rgb]] = {
    "sunny": ((90, 165, 235), (190, 225, 245)),
    "sunset": ((120, 70, 140), (250, 150, 60)),
    "dawn": ((150, 170, 225), (250, 200, 195)),
    "night": ((14, 18, 48), (44, 52, 104)),
    "overcast": ((140, 146, 154), (198, 202, 206)),
}
LIGHT: dict[str, tuple[Rgb, float]] = {
    "sunny": ((255, 255, 255), 0.0),
    "sunset": ((190, 80, 50), 0.28),
    "dawn": ((235, 190, 200), 0.25),
    "night": ((16, 20, 52), 0.32),
    "overcast": ((150, 154, 160), 0.3),
}
GRASS, SAND, SNOW, WATER, ROCK = (96, 176, 76), (230, 196, 126), (240, 244, 250), (52, 116, 190), (124, 122, 134)
SUN, MOON, CLOUD, STAR = (252, 214, 60), (240, 236, 205), (246, 247, 250), (250, 246, 220)
SUNS: dict[str, Rgb] = {"sunset": (255, 220, 110), "dawn": (255, 232, 150)}
MOONLIGHT = 0.18
"""How much of the night's light is in colours where it is a bright one."""
BRIGHT = ("night", "clear")
"""The kinds of landscape with a bright moonlight."""
NEAR = 1.5
"""How much larger things are in a landscape seen from nearby."""
HORIZON = {"sea": 0.52, "lake": 0.48, "city": 0.74, "road": 0.52, "mountains": 0.66, "snowy mountains": 0.66}


def on_grid(fraction: float) -> float:
    """The nearest line of the grid on which everything stands."""
    return round(fraction * CELLS) / CELLS


class Place:
    """One landscape being drawn: its sheet, sky, random numbers and horizon (a fraction of the height).

    With the kind "near" what is in it, not the land itself, is larger than usual; with "night" the moonlight is
    brighter as well and the stars are the same few; with "clear" the land, too, has large parts only.
    """

    def __init__(self, sheet: Sheet, terrain: str, sky: str, rng: np.random.Generator, kind: str = "") -> None:
        self.sheet, self.terrain, self.sky, self.rng, self.kind = sheet, terrain, sky, rng, kind
        self.zoom = NEAR if kind in ("near", *BRIGHT) else 1.0
        swing = 0.0 if kind == "clear" else 0.04
        self.horizon = on_grid(HORIZON.get(terrain, 0.58) + rng.uniform(-swing, swing))

    def lit(self, colour: Rgb) -> Rgb:
        """The colour as it looks in this sky's light."""
        light, amount = LIGHT[self.sky]
        return blend(colour, light, MOONLIGHT if self.kind in BRIGHT else amount)

    def brush(self, x: float, y: float, radius: float) -> Brush:
        return Brush(self.sheet, x, y, radius)

    def ground(self, top: float, colour: Rgb) -> None:
        """A lit rectangle from `top` (fraction of the height) to the bottom."""
        s = self.sheet
        s.pen.rectangle([0, top * s.height, s.width, s.height], fill=self.lit(colour))

    def ridge(self, base: float, swing: float, waves: float, colour: Rgb) -> None:
        """A soft line of hills: a lit wave around `base`, filled to the bottom."""
        s, phase = self.sheet, math.pi / 4 * int(self.rng.integers(8))
        points = [
            (s.width * i / 48, s.height * (base + swing * math.sin(phase + 2 * math.pi * waves * i / 48)))
            for i in range(49)
        ]
        s.pen.polygon([(0, s.height), *points, (s.width, s.height)], fill=self.lit(colour))


def draw_sky(place: Place) -> None:
    top, low = SKY_BANDS[place.sky]
    s = place.sheet
    ramp = np.clip(np.linspace(0, 1 / place.horizon, s.height, dtype=np.float32), 0, 1)[:, None]
    rows = np.asarray(top, np.float32) * (1 - ramp) + np.asarray(low, np.float32) * ramp
    band = Image.fromarray(np.round(rows).astype(np.uint8)[:, None, :])
    s.image.paste(band.resize((s.width, s.height)))


def draw_sky_extra(place: Place, extra: str) -> None:
    rng, s = place.rng, place.sheet
    if extra == "sun":
        low = place.sky in ("sunset", "dawn")
        y = place.horizon - 0.12 if low else rng.uniform(0.14, 0.24)
        sun = SUNS.get(place.sky, SUN)
        zoom = 1.2 if place.kind == "clear" else place.zoom
        place.brush(rng.uniform(0.15, 0.85), y, zoom * rng.uniform(0.085, 0.12)).disc(0, 0, 1, sun)
    elif extra == "moon":
        b = place.brush(rng.uniform(0.15, 0.85), rng.uniform(0.12, 0.24), place.zoom * rng.uniform(0.07, 0.1))
        b.disc(0, 0, 1, MOON)
    elif extra == "stars":
        draw_stars(place, int(rng.integers(14, 24)), place.horizon - 0.1)
    elif extra == "clouds":
        colour = {"night": (86, 92, 130), "overcast": (226, 228, 232), "sunset": (248, 190, 160)}.get(place.sky, CLOUD)
        count = int(rng.integers(2, 4))
        for i in range(count):
            b = place.brush((i + rng.uniform(0.3, 0.7)) / count, rng.uniform(0.12, 0.3), rng.uniform(0.09, 0.13))
            cloud(b, colour)
    elif extra == "rainbow":
        cx, radius = rng.uniform(0.35, 0.65) * s.width, 0.5 * min(s.width, s.height)
        cy, step = place.horizon * s.height + radius * 0.1, radius * 0.07
        for i, name in enumerate(("red", "orange", "yellow", "green", "blue", "purple")):
            r = radius - i * step
            box = [cx - r, cy - r, cx + r, cy + r]
            s.pen.arc(box, 180, 360, fill=blend(COLOURS[name], SKY_BANDS[place.sky][1], 0.15), width=round(step) + 1)


def cloud(b: Brush, colour: Rgb) -> None:
    for x, y, r in ((-0.8, 0.15, 0.5), (0, -0.15, 0.72), (0.8, 0.15, 0.52)):
        b.disc(x, y, r, colour)
    b.box(-0.9, 0.1, 0.9, 0.65, colour)


def draw_stars(place: Place, count: int, low: float) -> None:
    """Specks; where all is larger, fewer with five points and at even distances, by night in one of four patterns."""
    if place.kind in BRIGHT:
        pattern = np.random.default_rng(int(place.rng.integers(4)))
        for column in (2, 6, 10, 14, 18, 22, 26, 30):
            row = int(pattern.integers(1, 5)) * 2
            place.brush(column / CELLS, row / CELLS, 0.05).polygon(star_points(5, 0.5), STAR)
        return
    for _ in range(count if place.zoom == 1 else count // 2):
        x, y = place.rng.uniform(0.02, 0.98), place.rng.uniform(0.02, low)
        if place.zoom == 1:
            place.brush(x, y, 0.0125).disc(0, 0, 1, STAR)
        else:
            b = place.brush(round(x * CELLS / 3) * 3 / CELLS, round(y * CELLS / 3) * 3 / CELLS, 0.04)
            b.polygon(star_points(5, 0.5), STAR)


def draw_close_up(sheet: Sheet, sky: str, extra: str, rng: np.random.Generator, huge: bool = False) -> None:
    """Nothing but sky and one thing in it, large (stars and clouds: many); a `huge` sun fills the upper half."""
    place = Place(sheet, "", sky, rng)
    place.horizon = 1.0
    draw_sky(place)
    if extra in ("sun", "moon"):
        y, radius = (rng.uniform(0.2, 0.36), rng.uniform(0.4, 0.54)) if huge else (rng.uniform(0.25, 0.55), 0.0)
        b = place.brush(rng.uniform(0.3, 0.7), y, radius or rng.uniform(0.2, 0.38))
        b.disc(0, 0, 1, MOON if extra == "moon" else SUNS.get(sky, SUN))
    elif extra == "stars":
        draw_stars(place, 48, 0.98)
    elif huge:
        for x, y in ((0.2, 0.15), (0.7, 0.12), (0.45, 0.4), (0.95, 0.45), (0.05, 0.5)):
            cloud(place.brush(x + rng.uniform(-0.1, 0.1), y + rng.uniform(-0.06, 0.06), rng.uniform(0.2, 0.28)), CLOUD)
    else:
        for _ in range(3 if extra == "clouds" else 1):
            draw_sky_extra(place, extra)


def lit_thing(place: Place, name: str, x: float, y: float, radius: float, colour: Rgb) -> None:
    """One of the single things standing in the landscape, in its light."""
    things.DRAW[name](place.brush(x, y, radius), place.lit(colour))


def pine(place: Place, x: float, y: float, radius: float, colour: Rgb) -> None:
    b = place.brush(x, y, radius)
    b.box(-0.12, 0.5, 0.12, 1, place.lit(things.BARK))
    b.polygon([(0, -1), (0.62, 0.6), (-0.62, 0.6)], place.lit(colour))


def cactus(place: Place, x: float, y: float, radius: float) -> None:
    b, green = place.brush(x, y, radius), place.lit((58, 128, 70))
    b.line([(0, 1), (0, -0.85)], green, 0.34)
    b.disc(0, -0.85, 0.17, green)
    b.line([(0, 0.3), (-0.58, 0.3), (-0.58, -0.3)], green, 0.24)
    b.line([(0, 0.05), (0.58, 0.05), (0.58, -0.5)], green, 0.24)


def peaks(place: Place, snowy: bool) -> None:
    s, rng = place.sheet, place.rng
    for layer, (count, top, tone) in enumerate(((3, 0.26, 1.25), (2, 0.36, 1.0))):
        for i in range(count):
            x = on_grid((i + rng.uniform(0.3, 0.7)) / count)
            peak = on_grid(top + rng.uniform(-0.05, 0.05))
            half = on_grid(rng.uniform(0.28, 0.36) * (1.25 if layer else 1))
            base = place.horizon + 2 / CELLS
            slope = half / (base - peak)

            def at(px: float, py: float) -> tuple[float, float]:
                return px * s.width, py * s.height

            s.pen.polygon([at(x, peak), at(x + half, base), at(x - half, base)], fill=place.lit(shade(ROCK, tone)))
            if snowy:
                cap = peak + 0.13
                w = slope * 0.13
                zigzag = [at(x + w, cap), at(x + w * 0.4, cap - 0.035), at(x, cap + 0.02), at(x - w * 0.4, cap - 0.035)]
                s.pen.polygon([at(x, peak), *zigzag, at(x - w, cap)], fill=place.lit(SNOW))


def massif(place: Place, snowy: bool) -> None:
    """Three large mountains, the middle one in front; snow covers the upper third."""
    s, rng = place.sheet, place.rng
    base = place.horizon + 3 / CELLS
    for x, half, tone in ((0.16, 0.3, 1.3), (0.84, 0.3, 1.3), (0.5, 0.38, 1.0)):
        x, top = on_grid(x + rng.uniform(-0.06, 0.06)), on_grid(0.3 + rng.uniform(-0.06, 0.06) - 0.1 * (tone == 1))
        for share, colour in ((1.0, shade(ROCK, tone)), (0.4, SNOW))[: 1 + snowy]:
            low, w = top + share * (base - top), share * half
            corners = [(x, top), (x + w, low), (x - w, low)]
            s.pen.polygon([(px * s.width, py * s.height) for px, py in corners], fill=place.lit(colour))


def large_land(place: Place) -> bool:
    """Those terrains that have small or many parts, drawn with few and large ones; False for all others."""
    rng, s, h, kind = place.rng, place.sheet, place.horizon, place.terrain
    if kind in ("mountains", "snowy mountains"):
        massif(place, kind.startswith("snowy"))
        place.ground(h + 2 / CELLS, SNOW if kind.startswith("snowy") else GRASS)
    elif kind == "sea":
        place.ground(h, WATER)
        for below in (0.14, 0.3):
            place.brush(on_grid(rng.uniform(0.2, 0.8)), h + below, 4 / CELLS).box(
                -1, -0.12, 1, 0.13, place.lit((120, 170, 222))
            )
    elif kind == "forest":
        place.ground(h, shade(GRASS, 0.8))
        for below, radius, tone, count in ((-0.04, 0.19, 0.62, 5), (0.12, 0.28, 1.0, 3)):
            for i in range(count):
                x = (i + rng.uniform(0.4, 0.6)) / count
                pine(place, x, h + below, radius, shade((52, 124, 66), tone))
    elif kind == "meadow":
        place.ground(h, (124, 196, 84))
        for i in range(8):
            colour = place.lit(COLOURS[("red", "yellow", "white", "pink")[(i + int(rng.integers(2))) % 4]])
            x, y = (i % 4 + 0.5 * (i // 4) + 0.25) / 4, h + 0.12 + 0.17 * (i // 4)
            place.brush(x, y, 1.4 / CELLS).disc(0, 0, 1, colour)
    elif kind == "city":
        window: Rgb = (250, 222, 120) if place.sky in ("night", "sunset") else place.lit((186, 214, 232))
        w, low = s.width / CELLS, on_grid(h + 0.1)
        for i in range(4):
            left, top = 8 * i, int(rng.integers(4, 8)) * 2
            wall = place.lit(((112, 118, 136), (150, 120, 110))[i % 2])
            s.pen.rectangle([left * w, top * s.height / CELLS, (left + 8) * w - 1, s.height], fill=wall)
            for row in range(top + 2, round(low * CELLS) - 2, 4):
                for column in (left + 1, left + 5):
                    box = [column * w, row * s.height / CELLS, (column + 2) * w - 1, (row + 2) * s.height / CELLS - 1]
                    s.pen.rectangle(box, fill=window)
        place.ground(low, (96, 98, 104))
    else:
        return False
    return True


def draw_terrain(place: Place) -> None:
    rng, s, h = place.rng, place.sheet, place.horizon
    kind = place.terrain
    if place.kind == "clear" and large_land(place):
        return
    if kind == "hills":
        place.ridge(h - 0.02, 0.06, 1.1, shade(GRASS, 1.2))
        place.ridge(h + 0.1, 0.06, 0.9, GRASS)
        place.ridge(h + 0.25, 0.05, 0.8, shade(GRASS, 0.8))
    elif kind in ("mountains", "snowy mountains"):
        peaks(place, kind.startswith("snowy"))
        place.ridge(h + 0.06, 0.02, 1, SNOW if kind.startswith("snowy") else GRASS)
    elif kind == "sea":
        place.ground(h, WATER)
        for _ in range(8):
            x, y = rng.uniform(0, 1), rng.uniform(h + 0.04, 0.98)
            crest = [(-1, 0), (-0.4, -0.25), (0.3, 0.1), (1, -0.15)]
            place.brush(x, y, 0.06).line(crest, place.lit((120, 170, 222)), 0.12)
    elif kind == "lake":
        place.ridge(h, 0.03, 1.2, shade(GRASS, 0.75))
        place.ground(h + 0.06, GRASS)
        x, y = s.width * on_grid(rng.uniform(0.45, 0.55)), s.height * (h + 0.28)
        rx, ry = s.width * 0.4, s.height * 0.14
        s.pen.ellipse([x - rx, y - ry, x + rx, y + ry], fill=place.lit((78, 146, 208)))
    elif kind == "desert":
        place.ridge(h, 0.035, 0.9, shade(SAND, 1.25))
        place.ridge(h + 0.14, 0.05, 0.8, SAND)
        place.ridge(h + 0.28, 0.04, 0.7, shade(SAND, 0.86))
    elif kind == "forest":
        place.ground(h, shade(GRASS, 0.8))
        for row, (y, radius, tone) in enumerate(((h - 0.02, 0.16, 0.62), (h + 0.1, 0.21, 0.8))):
            count = 7 - row
            for i in range(count):
                x, green = (i + rng.uniform(0.3, 0.7)) / count, shade((52, 124, 66), tone + rng.uniform(0, 0.3))
                pine(place, x, y, radius, green)
    elif kind == "meadow":
        place.ground(h, (124, 196, 84))
        for _ in range(26):
            y = rng.uniform(h + 0.04, 0.98)
            colour = place.lit(COLOURS[("red", "yellow", "white", "pink")[int(rng.integers(4))]])
            place.brush(rng.uniform(0, 1), y, 0.012 + 0.018 * (y - h) / (1 - h)).disc(0, 0, 1, colour)
    elif kind == "city":
        city(place)
    elif kind == "road":
        place.ground(h, GRASS)
        x = rng.uniform(0.42, 0.58)
        w, t = s.width, h * s.height
        lane = [(x * w - 4, t), (x * w + 4, t), (0.92 * w, s.height), (0.08 * w, s.height)]
        s.pen.polygon(lane, fill=place.lit((92, 94, 100)))
        for a, b in ((0.12, 0.24), (0.36, 0.54), (0.68, 0.94)):
            ya, yb = t + (s.height - t) * a, t + (s.height - t) * b
            xa, xb = (x + (0.5 - x) * a) * w, (x + (0.5 - x) * b) * w
            ha, hb = 0.004 * w + 0.024 * w * a, 0.004 * w + 0.024 * w * b
            s.pen.polygon([(xa - ha, ya), (xa + ha, ya), (xb + hb, yb), (xb - hb, yb)], fill=place.lit((244, 240, 225)))
    elif kind == "snow":
        place.ridge(h, 0.03, 0.9, shade(SNOW, 0.92))
        place.ridge(h + 0.12, 0.03, 0.7, SNOW)
    else:
        raise ValueError(f"unknown terrain {kind!r}")


def city(place: Place) -> None:
    rng, s = place.rng, place.sheet
    window: Rgb = (250, 222, 120) if place.sky in ("night", "sunset") else place.lit((186, 214, 232))
    count, w, h = int(rng.integers(5, 7)), s.width / CELLS, s.height / CELLS
    for i in range(count):
        left, right, top = round(i / count * CELLS), round((i + 1) / count * CELLS), int(rng.integers(8, 16))
        tone = place.lit(blend((112, 118, 136), (150, 120, 110), float(rng.integers(3)) / 2))
        s.pen.rectangle([left * w, top * h, right * w - 5, s.height], fill=tone)
        for row in range(top + 1, round(place.horizon * CELLS), 2):
            for column in range(left + 1, right - 1, 2):
                s.pen.rectangle([column * w, row * h, (column + 1) * w - 1, (row + 1) * h - 1], fill=window)
    place.ground(on_grid(place.horizon + 0.1), (96, 98, 104))


def draw_ground_extra(place: Place, extra: str) -> None:
    rng, h = place.rng, place.horizon
    if extra == "house":
        wall = COLOURS[("red", "white", "yellow")[int(rng.integers(3))]]
        side = rng.uniform(0.18, 0.32) if rng.uniform() < 0.5 else rng.uniform(0.68, 0.82)
        y, radius = h + (0.03 if place.terrain in ("lake", "sea") else 0.1), rng.uniform(0.15, 0.2)
        lit_thing(place, "house", side, y - radius * (place.zoom - 1), radius * place.zoom, wall)
    elif extra == "boat":
        hull = COLOURS[("red", "brown")[int(rng.integers(2))]]
        y = h + (0.26 if place.terrain == "lake" else 0.14)
        lit_thing(place, "boat", rng.uniform(0.32, 0.68), y, place.zoom * rng.uniform(0.14, 0.18), hull)
    elif extra == "trees":
        for i in range(3):
            x = (i + rng.uniform(0.25, 0.75)) / 3
            y, radius = h + rng.uniform(0.04, 0.16), place.zoom * rng.uniform(0.11, 0.15)
            lit_thing(place, "tree", x, y, radius, (52, 138, 62))
    elif extra == "cactus":
        for i in range(int(rng.integers(1, 3))):
            x, y = rng.uniform(0.12, 0.45) + 0.42 * i, h + rng.uniform(0.04, 0.2)
            cactus(place, x, y, place.zoom * rng.uniform(0.13, 0.18))


def draw_landscape(
    sheet: Sheet,
    terrain: str,
    sky: str,
    extras: tuple[str, ...],
    rng: np.random.Generator,
    kind: str = "",
    free: np.random.Generator | None = None,
) -> None:
    """Sky, what is in it, ground, what stands on it: larger and so more easily learnt if the kind is "near".

    With "clear" each part has random numbers of its own: what else is in the picture does not move it. The sun takes
    its from `free`: a model that is sure where it stands cannot be told by a negative prompt to leave it out.
    """
    place = Place(sheet, terrain, sky, rng, kind)
    seed = int(rng.integers(2**31)) if kind == "clear" else 0
    draw_sky(place)
    for i, extra in enumerate(("stars", "rainbow", "sun", "moon", "clouds", "", "trees", "house", "cactus", "boat")):
        if extra and extra not in extras:
            continue
        if kind == "clear":
            place.rng = free if free is not None and extra == "sun" else np.random.default_rng([seed, i])
        if not extra:
            draw_terrain(place)
        elif i < 5:
            draw_sky_extra(place, extra)
        else:
            draw_ground_extra(place, extra)
