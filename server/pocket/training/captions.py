# SPDX-License-Identifier: GPL-3.0-or-later
"""Scenes and their captions: what is drawn, chosen at random, and the several ways to say it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from . import words
from .words import COLOURS, COUNTS, POSITIONS, RELATIONS, SHAPES, SIZES, SKIES, STYLES, TERRAINS, THINGS

SYNONYMS = {
    "grey": "gray",
    "watercolour": "watercolor",
    "big": "large",
    "cup": "mug",
    "circle": "disc",
    "boat": "sailboat",
    "cat": "kitten",
    "purple": "violet",
    "background": "backdrop",
    "lake": "pond",
}
KINDS = ("shape", "thing", "place", "pair", "count", "landscape")
CLOSE_UPS = {
    "sun": ("sunny", "sunny", "sunset", "dawn"),
    "moon": ("night",),
    "stars": ("night",),
    "clouds": ("sunny", "sunny", "sunset", "night"),
    "rainbow": ("sunny", "overcast"),
}
"""What fills a picture of kind "sky", and under which skies. Kinds "sky", "detail" (a landscape that always has
something in it) and "near" (one in which that is large) and "night" (such a one, moonlit) are for the UNet alone:
tokenizer and text encoder are made from KINDS. Kinds "sun" and "cloudy" are skies with huge ones. "clear" (a
landscape) and "posed" (an object) have few different pictures for the same words, with nothing small in them."""


@dataclass(frozen=True)
class Item:
    """One object: what, in which colour, its centre (fractions of the sides), radius (of the shorter side), turn."""

    word: str
    colour: str
    x: float = 0.5
    y: float = 0.5
    radius: float = 0.3
    angle: float = 0.0
    flip: bool = False


@dataclass(frozen=True)
class Scene:
    """Everything that is drawn; `kind` is one of KINDS or of those beside CLOSE_UPS, `detail` is a seed."""

    kind: str
    items: tuple[Item, ...] = ()
    background: str = "white"
    position: str = ""
    size: str = ""
    relation: str = ""
    terrain: str = ""
    sky: str = ""
    extras: tuple[str, ...] = ()
    style: str = "flat"
    detail: int = 0
    attributes: dict[str, str] = field(default_factory=dict, compare=False)


def pick(rng: np.random.Generator, options):
    """One of the options, evenly."""
    options = tuple(options)
    return options[int(rng.integers(len(options)))]


def chance(rng: np.random.Generator, probability: float) -> bool:
    return bool(rng.uniform() < probability)


def scene_held_out(scene: Scene) -> bool:
    """True if any combination in the scene is one that training never sees."""
    if scene.terrain:
        return any(words.held_out(scene.terrain, scene.sky, extra) for extra in scene.extras or ("nothing",))
    return any(words.held_out(item.word, item.colour, scene.background) for item in scene.items)


def random_item(rng: np.random.Generator, word: str, colour: str, x=0.5, y=0.5, radius=0.3, wander=0.03) -> Item:
    return Item(
        word,
        colour,
        x + rng.uniform(-wander, wander),
        y + rng.uniform(-wander, wander),
        radius * rng.uniform(0.92, 1.08),
        round(rng.uniform(-0.1, 0.1), 1),
        chance(rng, 0.3),
    )


def colours_apart(rng: np.random.Generator, count: int) -> tuple[str, ...]:
    names = list(COLOURS)
    rng.shuffle(names)
    return tuple(names[:count])


def landscape(rng: np.random.Generator, terrain: str | None = None, sky: str | None = None) -> Scene:
    """A terrain under a sky with up to three extras that go with them."""
    terrain, sky = terrain or pick(rng, TERRAINS), sky or pick(rng, SKIES)
    above = {
        "sunny": (("sun", 0.55), ("clouds", 0.4), ("rainbow", 0.2)),
        "sunset": (("sun", 0.6), ("clouds", 0.3)),
        "dawn": (("sun", 0.45), ("clouds", 0.3)),
        "night": (("moon", 0.5), ("stars", 0.55), ("clouds", 0.12)),
        "overcast": (("clouds", 0.5), ("rainbow", 0.12)),
    }[sky]
    ground = {
        "sea": (("boat", 0.5),),
        "lake": (("boat", 0.3), ("house", 0.4), ("trees", 0.2)),
        "desert": (("cactus", 0.5),),
        "forest": (("house", 0.2),),
        "city": (),
        "mountains": (("trees", 0.25), ("house", 0.2)),
    }.get(terrain, (("house", 0.3), ("trees", 0.3)))
    extras = tuple(name for name, share in (*above, *ground) if chance(rng, share))
    return Scene("landscape", terrain=terrain, sky=sky, extras=extras[:4], detail=int(rng.integers(2**31)))


def detailed(rng: np.random.Generator) -> Scene:
    """A landscape with one thing in it that a random one often lacks."""
    scene = landscape(rng)
    above = ("moon", "stars") if scene.sky == "night" else ("sun", "rainbow") if scene.sky == "sunny" else ()
    ground = {"sea": ("boat",), "lake": ("house", "boat"), "desert": ("cactus",), "city": ()}
    more = pick(rng, (*above, *ground.get(scene.terrain, ("house", "trees"))) or ("clouds",))
    return replace(scene, kind="detail", extras=(more, *(name for name in scene.extras if name != more))[:3])


def propose(rng: np.random.Generator, kind: str) -> Scene:
    """A random scene of this kind in the flat style, held out or not."""
    if kind == "landscape":
        return landscape(rng)
    if kind == "detail":
        return detailed(rng)
    if kind == "night":
        scene = landscape(rng, "snowy mountains" if chance(rng, 0.3) else None, "night")
        stars = ("stars",) if chance(rng, 0.5) else ()
        others = tuple(extra for extra in scene.extras if extra not in (*stars, "clouds"))
        return replace(scene, kind=kind, extras=stars + others)
    if kind == "clear":
        roll = rng.uniform()
        scene = propose(rng, "night") if roll < 0.2 else detailed(rng) if roll < 0.5 else landscape(rng)
        return replace(scene, kind=kind, extras=scene.extras[:2])
    if kind == "simple":
        scene = landscape(rng)
        return replace(scene, kind="near", extras=scene.extras[:1])
    if kind == "near":
        return replace(detailed(rng) if chance(rng, 0.5) else landscape(rng), kind=kind)
    detail = int(rng.integers(2**31))
    if kind == "sun":
        return Scene("sky", sky="sunny", extras=("sun",), size="huge", detail=detail)
    if kind == "cloudy":
        return Scene("sky", sky="sunny", extras=("clouds",), size="huge", detail=detail)
    if kind == "sky":
        subject = pick(rng, CLOSE_UPS)
        return Scene(kind, sky=pick(rng, CLOSE_UPS[subject]), extras=(subject,), detail=detail)
    colour, background, other = colours_apart(rng, 3)
    if kind == "posed":
        item = Item(pick(rng, SHAPES if chance(rng, 0.4) else THINGS), colour, radius=0.38, flip=chance(rng, 0.5))
        return Scene(kind, (item,), background, detail=detail)
    if kind == "shape":
        item = random_item(rng, pick(rng, SHAPES), colour)
        return Scene(kind, (item,), background, detail=detail)
    if kind == "thing":
        item = random_item(rng, pick(rng, THINGS), colour)
        return Scene(kind, (item,), background, detail=detail)
    word = pick(rng, SHAPES if chance(rng, 0.65) else THINGS)
    if kind == "place":
        position = pick(rng, POSITIONS) if chance(rng, 0.6) else ""
        size = pick(rng, SIZES) if not position or chance(rng, 0.25) else ""
        if position and size in ("big", "huge"):
            size = "small"
        x, y = POSITIONS.get(position, (0.5, 0.5))
        radius = SIZES.get(size, 0.2 if position else 0.3)
        item = random_item(rng, word, colour, x, y, radius)
        return Scene(kind, (item,), background, position, size, detail=detail)
    if kind == "pair":
        relation = pick(rng, (*RELATIONS, "and"))
        second = pick(rng, SHAPES if chance(rng, 0.65) else THINGS)
        upright = relation in ("above", "below")
        places = [(0.5, 0.27), (0.5, 0.73)] if upright else [(0.27, 0.5), (0.73, 0.5)]
        if relation in ("right of", "below"):
            places.reverse()
        items = tuple(
            random_item(rng, w, c, x, y, 0.2)
            for (x, y), w, c in zip(places, (word, second), (colour, other), strict=True)
        )
        return Scene(kind, items, background, relation=relation, detail=detail)
    if kind == "count":
        count = pick(rng, COUNTS)
        grid = {
            2: ((0.28, 0.5), (0.72, 0.5)),
            3: ((0.2, 0.5), (0.5, 0.5), (0.8, 0.5)),
            4: ((0.28, 0.28), (0.72, 0.28), (0.28, 0.72), (0.72, 0.72)),
            5: ((0.23, 0.23), (0.77, 0.23), (0.5, 0.5), (0.23, 0.77), (0.77, 0.77)),
        }[count]
        radius = {2: 0.19, 3: 0.135, 4: 0.18, 5: 0.14}[count]
        items = tuple(random_item(rng, word, colour, x, y, radius, 0.02) for x, y in grid)
        return Scene(kind, items, background, detail=detail)
    raise ValueError(f"unknown kind {kind!r}")


def sample(rng: np.random.Generator, kind: str, style: str = "flat") -> Scene:
    """A random scene of this kind and style that is not held out."""
    while True:
        scene = propose(rng, kind)
        if not scene_held_out(scene):
            return colourless(replace(scene, style=style))


def colourless(scene: Scene) -> Scene:
    """The scene, its objects all grey on white where the style shows no colours and the caption names none."""
    if scene.style not in words.COLOURLESS_STYLES or not scene.items:
        return scene
    return replace(scene, items=tuple(replace(item, colour="grey") for item in scene.items), background="white")


def uncoloured(style: str, wordings: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the wordings that name no colour, where the style shows none; all of them elsewhere."""
    if style not in words.COLOURLESS_STYLES:
        return wordings
    return tuple(text for text in wordings if not set(text.split(" ")) & set(COLOURS))


def wording(rng: np.random.Generator, scene: Scene, every: bool = False) -> str:
    """One way to say what the scene shows, style included.

    With `every` also one that names a colour in a style that shows none: those who only read learn these as well.
    """
    if scene.kind == "sky":
        text = sky_wording(rng, scene)
    else:
        text = (
            landscape_wording(rng, replace(scene, style="flat") if every else scene)
            if scene.terrain
            else object_wording(rng, scene)
        )
    text = styled(rng, text, scene.style)
    if chance(rng, 0.08):
        text = " ".join(SYNONYMS.get(word, word) for word in text.split(" "))
    return text


def styled(rng: np.random.Generator, text: str, style: str) -> str:
    if style == "flat":
        return f"{text}, flat" if chance(rng, 0.06) else text
    bare = text.removeprefix("a ").removeprefix("an ") if chance(rng, 0.2) else text
    nouns = {
        "pixel art": ("pixel art of {}", "{}, pixel art", "{} in pixel art style", "pixel art, {}"),
        "watercolour": ("watercolour of {}", "a watercolour of {}", "{}, watercolour", "a watercolour painting of {}"),
        "line art": ("line art of {}", "{}, line art", "a line drawing of {}", "line art, {}"),
        "pencil": ("a pencil drawing of {}", "pencil sketch of {}", "{}, pencil", "{}, pencil drawing"),
        "oil": ("an oil painting of {}", "{}, oil painting", "oil painting of {}", "{}, oil"),
    }
    return pick(rng, nouns[style]).format(bare)


def noun(rng: np.random.Generator, item: Item, colourless: bool, size: str = "") -> str:
    parts = [size] if size else []
    if not colourless:
        parts.append(item.colour)
    return " ".join([*parts, item.word])


def object_wording(rng: np.random.Generator, scene: Scene) -> str:
    colourless = scene.style in words.COLOURLESS_STYLES
    item = scene.items[0]
    if scene.kind == "pair":
        one = words.article(noun(rng, item, colourless))
        two = words.article(noun(rng, scene.items[1], colourless))
        joint = {"left of": ("left of", "to the left of"), "right of": ("right of", "to the right of")}.get(
            scene.relation, (scene.relation,)
        )
        subject = f"{one} {pick(rng, joint)} {two}"
    elif scene.kind == "count":
        tint = "" if colourless else f"{item.colour} "
        subject = f"{COUNTS[len(scene.items)]} {tint}{words.plural(item.word)}"
    else:
        subject = words.article(noun(rng, item, colourless, scene.size))
        if scene.position:
            subject += f" {scene.position}"
    if colourless:
        return subject
    background = scene.background
    if background == "white" and chance(rng, 0.3):
        return subject
    return background_wording(rng, subject, background)


def background_wording(rng: np.random.Generator, subject: str, background: str) -> str:
    roll = rng.uniform()
    on = words.article(background)
    if roll < 0.55:
        return f"{subject} on {on} background"
    if roll < 0.68:
        return f"{subject} on {background}"
    if roll < 0.8:
        return f"{subject}, {background} background"
    if roll < 0.88:
        return f"{subject.removeprefix('a ').removeprefix('an ')}, {background} background"
    if roll < 0.94:
        return f"{on} background with {subject}"
    return f"{subject} against {on} background"


SKY_WORDS = {
    "sunny": ("under a sunny sky", "under a blue sky", "on a sunny day", "in the sun", "under a sunny sky"),
    "sunset": ("at sunset", "under a sunset sky", "in the evening", "at sunset"),
    "dawn": ("at dawn", "under a dawn sky", "at sunrise", "at dawn"),
    "night": ("at night", "under a night sky", "under the night sky", "at night"),
    "overcast": ("under an overcast sky", "under a grey sky", "on an overcast day", "on a cloudy day"),
}
TERRAIN_WORDS = {
    "hills": ("hills", "green hills", "rolling hills"),
    "mountains": ("mountains", "a mountain", "grey mountains"),
    "snowy mountains": ("snowy mountains", "a snowy mountain", "mountains with snow"),
    "sea": ("the sea", "a sea", "the ocean", "the blue sea"),
    "lake": ("a lake", "the lake", "a blue lake"),
    "desert": ("a desert", "the desert", "a sandy desert"),
    "forest": ("a forest", "the forest", "a green forest"),
    "meadow": ("a meadow", "a meadow with flowers", "a flower meadow"),
    "city": ("a city", "the city", "a city with tall buildings"),
    "road": ("a road", "a road through fields", "a long road"),
    "snow": ("snow", "a snowy field", "a field of snow", "a winter landscape"),
}
EXTRA_WORDS = {
    "sun": ("the sun", "a sun"),
    "moon": ("the moon", "a moon"),
    "rainbow": ("a rainbow",),
    "stars": ("stars",),
    "clouds": ("clouds",),
    "house": ("a house",),
    "boat": ("a boat",),
    "trees": ("trees",),
    "cactus": ("a cactus",),
}
BY = {"sea": "by", "lake": "by", "road": "by", "hills": "on", "snow": "in", "city": "in", "meadow": "in"}


def sky_wording(rng: np.random.Generator, scene: Scene) -> str:
    """The one thing in the sky, mostly without a word on the sky: as people write it in a negative prompt."""
    (subject,) = scene.extras
    text = pick(rng, (subject, *EXTRA_WORDS[subject]))
    return f"{text} {SKY_WORDS[scene.sky][0]}" if chance(rng, 0.3) else text


def landscape_wording(rng: np.random.Generator, scene: Scene) -> str:
    terrain = pick(rng, uncoloured(scene.style, TERRAIN_WORDS[scene.terrain]))
    bright = tuple(w for w in SKY_WORDS[scene.sky] if w != "in the sun" or "sun" in scene.extras)
    sky = pick(rng, uncoloured(scene.style, bright))
    if sky == "on a cloudy day" and "clouds" not in scene.extras:
        sky = "under an overcast sky"
    white = (
        {"clouds": ("clouds", "white clouds")}
        if scene.sky == "sunny" and scene.style not in words.COLOURLESS_STYLES
        else {}
    )
    named = EXTRA_WORDS | white
    mentioned = [pick(rng, named[extra]) for extra in scene.extras if chance(rng, 0.85)]
    lead = [name for name in mentioned if name in ("a house", "a boat")]
    if lead and chance(rng, 0.45):
        mentioned.remove(lead[0])
        joint = "on" if lead[0] == "a boat" else BY.get(scene.terrain, "in")
        terrain = f"{lead[0]} {joint} {terrain}"
    if not mentioned:
        return f"{terrain} {sky}"
    listed = mentioned[0] if len(mentioned) == 1 else ", ".join(mentioned[:-1]) + " and " + mentioned[-1]
    return f"{terrain} {sky} with {listed}" if chance(rng, 0.75) else f"{terrain} with {listed} {sky}"


def attributes(scene: Scene) -> dict[str, str]:
    """What a caption of this scene should tell a text encoder: one value for each head ("" = nothing said)."""
    colourless = scene.style in words.COLOURLESS_STYLES and not scene.terrain
    first = scene.items[0] if scene.items else Item("", "")
    second = scene.items[1] if scene.kind == "pair" else Item("", "")
    return {
        "word": first.word,
        "colour": "" if colourless else first.colour,
        "word2": second.word,
        "colour2": "" if colourless else second.colour,
        "background": "" if colourless or scene.terrain else scene.background,
        "position": scene.position,
        "size": scene.size,
        "relation": scene.relation,
        "count": str(len(scene.items)) if scene.kind == "count" else "",
        "terrain": scene.terrain,
        "sky": scene.sky,
        "style": scene.style,
    }


__all__ = ["KINDS", "STYLES", "Item", "Scene", "attributes", "landscape", "sample", "scene_held_out", "wording"]
