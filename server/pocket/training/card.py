# SPDX-License-Identifier: GPL-3.0-or-later
"""The pictures and the table of the model's card: python -m server.pocket.training.card FOLDER."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from . import few_step, lora
from .adapter import merged
from .captions import Item, Scene
from .controlnet import lines_of
from .evaluate import table
from .render import render
from .sample import Model, grid, sample

COLUMNS = 8
GRID = (
    *(
        "a yellow star on a purple background",
        "a red circle on a white background",
        "a blue heart on a pink background",
    ),
    *("an orange square on cyan", "a green triangle on brown", "a white flower on a red background"),
    *("a grey ring on a black background", "a purple diamond on a yellow background"),
    *(
        "a red house on a green background",
        "an orange cat on a blue background",
        "a pink mushroom on cyan",
        "a blue car",
    ),
    *("a green fish on an orange background", "a red umbrella on grey", "a brown cup on yellow", "a purple balloon"),
    *("a snowy mountain under a night sky with stars", "green hills under a sunny sky with the sun"),
    *("the sea at sunset with a boat and the sun", "a desert under a blue sky with a cactus"),
    *("a city at night with the moon", "a lake at dawn with a house", "a meadow on a sunny day with a rainbow"),
    "a forest under an overcast sky",
    *("watercolour of a house by a lake at sunset", "pixel art of a red apple on a white background"),
    *("a line drawing of a cat", "an oil painting of the sea with a boat", "a small red circle at the top on white"),
    *("a red circle left of a blue square", "three yellow stars on a black background", "two green hearts on pink"),
)
DRAWN = (
    (Scene("shape", (Item("star", "yellow", 0.28, 0.3, 0.22),), "purple"), "a yellow star on a purple background"),
    (Scene("thing", (Item("cat", "orange", 0.66, 0.6, 0.28),), "blue"), "an orange cat on a blue background"),
    (Scene("thing", (Item("house", "red", 0.32, 0.62, 0.28),), "green"), "a red house on a green background"),
    (Scene("landscape", terrain="lake", sky="sunset", extras=("sun", "house"), detail=5), "a lake at sunset"),
)
"""Scenes whose lines are given to the ControlNet, each with words that do not say what is where."""
EXTRAS = ("a red house on a green background", "an orange cat on a blue background", "green hills under a sunny sky")


def shrunk(image: Image.Image) -> Image.Image:
    """With a palette, for a small file."""
    return image.quantize(255, dither=Image.Dither.NONE)


def main_grid(model: Model) -> Image.Image:
    made = sample(model, list(GRID), list(range(len(GRID))), model.side, model.side)
    return grid(made, COLUMNS, 128)


def extras_grid(model: Model, folder: Path) -> Image.Image:
    """A row for each of EXTRAS: LoRA at 0, 0.5, 1; few-step adapter at 2 and 4 steps."""
    columns = []
    prompts, seeds, side = list(EXTRAS), [3, 4, 5], model.side
    for strength in (0.0, 0.5, 1.0):
        with merged(model.unet, folder / "lora" / lora.FILE, strength):
            columns.append(sample(model, prompts, seeds, side, side))
    with merged(model.unet, folder / "lora" / few_step.FILE, 1.0):
        for steps in (2, 4):
            columns.append(sample(model, prompts, seeds, side, side, steps=steps, guidance=1.0, lcm=True))
    return grid(np.stack(columns, 1).reshape(-1, side, side, 3), len(columns), 128)


def control_grid(model: Model) -> Image.Image:
    """A column for each of DRAWN: the lines, the picture without the ControlNet, the picture with it."""
    side = model.side
    lines = np.stack([np.asarray(lines_of(render(scene, side, side))) for scene, _ in DRAWN])
    prompts, seeds = [text for _, text in DRAWN], list(range(len(DRAWN)))
    rows = [sample(model, prompts, seeds, side, side, lines=lines, control=strength) for strength in (0.0, 1.0)]
    return grid(np.concatenate([lines, *rows]), len(DRAWN), 128)


def fill_table(card: Path, metrics: dict[str, float]) -> None:
    """Put the table of bars in the place of the one in the card."""
    text = card.read_text()
    card.write_text(re.sub(r"\| metric \|.*?(?=\n\n)", lambda _: table(metrics), text, count=1, flags=re.DOTALL))


def main(folder: Path) -> None:
    model = Model.load(folder)
    shrunk(main_grid(model)).save(folder / "grid.png", optimize=True)
    shrunk(extras_grid(model, folder)).save(folder / "extras.png", optimize=True)
    if model.control is not None:
        shrunk(control_grid(model)).save(folder / "control.png", optimize=True)
    if (folder / "README.md").exists():
        fill_table(folder / "README.md", json.loads((folder / "metrics.json").read_text()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
