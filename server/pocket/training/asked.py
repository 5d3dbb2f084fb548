# SPDX-License-Identifier: GPL-3.0-or-later
"""Single objects that an evaluation asks for, and how far what it got is what it asked for."""

from __future__ import annotations

import numpy as np

from .judge import Verdict, judge
from .sample import Model, sample
from .words import COLOURS, article, held_out


def combinations(nouns: tuple[str, ...], count: int, unseen: bool, seed: int = 0) -> list[tuple[str, str, str]]:
    """(noun, colour, background) combinations, the nouns in turn, either all seen in training or all held out."""
    rng = np.random.default_rng([seed, unseen])
    found: list[tuple[str, str, str]] = []
    names = list(COLOURS)
    while len(found) < count:
        word = nouns[len(found) % len(nouns)]
        colour, background = rng.choice(names, 2, replace=False).tolist()
        if held_out(word, colour, background) == unseen:
            found.append((word, colour, background))
    return found


def prompt_of(word: str, colour: str, background: str) -> str:
    return f"{article(f'{colour} {word}')} on {article(background)} background"


def objects(model: Model, nouns: tuple[str, ...], count: int, unseen: bool, **options) -> dict[str, float]:
    """Shape, colour and colour error of single objects."""
    wanted = combinations(nouns, count, unseen)
    made = sample(
        model, [prompt_of(*w) for w in wanted], list(range(1000, 1000 + count)), model.side, model.side, **options
    )
    seen = [judge(p, nouns) for p in made]
    return verdict_means(wanted, seen)


def verdict_means(wanted: list[tuple[str, str, str]], seen: list[Verdict]) -> dict[str, float]:
    both = [v.colour == c and v.background == b for v, (_, c, b) in zip(seen, wanted, strict=True)]
    ink = [np.abs(v.object_rgb - np.array(COLOURS[c])).mean() for v, (_, c, _) in zip(seen, wanted, strict=True)]
    ground = [np.abs(v.background_rgb - np.array(COLOURS[b])).mean() for v, (_, _, b) in zip(seen, wanted, strict=True)]
    return {
        "shapes": float(np.mean([v.shape == w for v, (w, _, _) in zip(seen, wanted, strict=True)])),
        "colours": float(np.mean(both)),
        "object_colour_error": float(np.mean(ink)),
        "background_colour_error": float(np.mean(ground)),
    }
