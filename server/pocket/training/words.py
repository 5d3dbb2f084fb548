# SPDX-License-Identifier: GPL-3.0-or-later
"""The vocabulary of the embedded model: what it may be asked to draw, in words and reference colours."""

from __future__ import annotations

import hashlib

Rgb = tuple[int, int, int]

COLOURS: dict[str, Rgb] = {
    "red": (215, 40, 40),
    "orange": (240, 140, 35),
    "yellow": (245, 215, 55),
    "green": (60, 160, 70),
    "cyan": (70, 200, 215),
    "blue": (45, 90, 210),
    "purple": (130, 60, 175),
    "pink": (240, 140, 185),
    "brown": (125, 80, 45),
    "black": (25, 25, 30),
    "white": (245, 245, 242),
    "grey": (140, 142, 148),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "ring", "flower")
THINGS = (
    "house",
    "tree",
    "boat",
    "fish",
    "cat",
    "mushroom",
    "cup",
    "balloon",
    "apple",
    "flower pot",
    "car",
    "umbrella",
)
TERRAINS = (
    "hills",
    "mountains",
    "snowy mountains",
    "sea",
    "lake",
    "desert",
    "forest",
    "meadow",
    "city",
    "road",
    "snow",
)
SKIES = ("sunny", "sunset", "dawn", "night", "overcast")
EXTRAS = ("sun", "moon", "stars", "clouds", "rainbow", "house", "boat", "trees", "cactus")
STYLES = ("flat", "pixel art", "watercolour", "line art", "pencil", "oil")
COLOURLESS_STYLES = ("line art", "pencil")
POSITIONS: dict[str, tuple[float, float]] = {
    "on the left": (0.26, 0.5),
    "on the right": (0.74, 0.5),
    "at the top": (0.5, 0.26),
    "at the bottom": (0.5, 0.74),
    "in the top left corner": (0.25, 0.25),
    "in the top right corner": (0.75, 0.25),
    "in the bottom left corner": (0.25, 0.75),
    "in the bottom right corner": (0.75, 0.75),
}
SIZES = {"tiny": 0.11, "small": 0.17, "big": 0.36, "huge": 0.43}
COUNTS = {2: "two", 3: "three", 4: "four", 5: "five"}
RELATIONS = ("left of", "right of", "above", "below")
PLURALS = {"fish": "fish", "cactus": "cacti"}

HELD_OUT_SHARE = 10
"""One in this many combinations is kept out of training."""


def plural(word: str) -> str:
    """The plural of a shape or thing: "star" -> "stars"."""
    return PLURALS.get(word, word + "s")


def article(phrase: str) -> str:
    """The phrase with its indefinite article: "orange star" -> "an orange star"."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def held_out(*words: str) -> bool:
    """True for the tenth of combinations that training never sees, decided by the words alone."""
    digest = hashlib.blake2b("|".join(words).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") % HELD_OUT_SHARE == 0
