# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures landscapes, the style LoRA, the few-step adapter and the ControlNet of a model folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from . import few_step, lora
from .adapter import merged
from .asked import combinations, prompt_of, verdict_means
from .controlnet import lines_of
from .judge import judge
from .render import Recipe, picture
from .sample import Model, sample
from .scenery import place_of, places
from .styles import sepia
from .words import SHAPES

SUBJECTS = (
    "a red house on a green background",
    "a yellow star on a purple background",
    "a blue car",
    "a pink mushroom",
)
VIEWS = ("a lake at sunset", "green hills under a sunny sky", "a city at night", "mountains at dawn with clouds")


def landscapes(model: Model, count: int, unseen: bool) -> dict[str, float]:
    """Share of pictures that show the asked terrain, and the asked sky."""
    scenes = places(count, unseen)
    named = {"sunny": "under a sunny sky", "sunset": "at sunset", "dawn": "at dawn", "night": "under a night sky"}
    named["overcast"] = "under an overcast sky"
    article = {"sea": "the ", "lake": "a ", "desert": "a ", "forest": "a ", "meadow": "a ", "city": "a ", "road": "a "}
    prompts = []
    for scene in scenes:
        extras = [{"house": "a house", "boat": "a boat", "cactus": "a cactus"}.get(e, e) for e in scene.extras]
        extras = [{"sun": "the sun", "moon": "the moon", "rainbow": "a rainbow"}.get(e, e) for e in extras]
        told = f"{article.get(scene.terrain, '')}{scene.terrain} {named[scene.sky]}"
        prompts.append(told + (" with " + " and ".join(extras) if extras else ""))
    made = sample(model, prompts, list(range(count)), model.side, model.side)
    seen = [place_of(p) for p in made]
    return {
        "terrains": float(np.mean([s[0] == scene.terrain for s, scene in zip(seen, scenes, strict=True)])),
        "skies": float(np.mean([s[1] == scene.sky for s, scene in zip(seen, scenes, strict=True)])),
    }


def colourfulness(pictures: np.ndarray) -> float:
    """How far (n, h, w, 3) uint8 pictures are from sepia: mean absolute difference to their own sepia, of 255."""
    toned = np.stack([np.asarray(sepia(Image.fromarray(p))) for p in pictures])
    return float(np.abs(pictures.astype(np.float32) - toned).mean())


def style_lora(model: Model, folder: Path) -> dict[str, float]:
    """How far from sepia pictures are whose prompts name no style, at strength 0, 0.5 and 1; the gain from 0 to 1."""
    found = {}
    prompts = list(SUBJECTS + VIEWS)
    for strength in (0.0, 0.5, 1.0):
        with merged(model.unet, folder / "lora" / lora.FILE, strength):
            made = sample(model, prompts, list(range(len(prompts))), model.side, model.side)
        found[f"lora_colours_{strength:g}"] = colourfulness(made)
    found["lora_gain"] = found["lora_colours_0"] / found["lora_colours_1"]
    return found


def few_steps(model: Model, folder: Path, count: int) -> dict[str, float]:
    """Shapes and colours with the few-step adapter, the LCM sampler and no guidance, at 2 and 4 steps."""
    wanted = combinations(SHAPES, count, False, seed=9)
    prompts = [prompt_of(*w) for w in wanted]
    found = {}
    with merged(model.unet, folder / "lora" / few_step.FILE, 1.0):
        for steps in (2, 4):
            settings = {"steps": steps, "guidance": 1.0, "lcm": True}
            made = sample(model, prompts, list(range(count)), model.side, model.side, **settings)  # type: ignore[arg-type]
            means = verdict_means(wanted, [judge(p) for p in made])
            found[f"few_step_shapes_{steps}"], found[f"few_step_colours_{steps}"] = means["shapes"], means["colours"]
    return found


def line_control(model: Model, count: int) -> dict[str, float]:
    """Correlation with the grey picture that the lines were taken from, without and with the ControlNet.

    The captions alone make the pictures alike; the gain is what the lines add.
    """
    recipe = Recipe({"thing": 1, "landscape": 1})
    drawn = [picture(recipe, 777, i, model.side, model.side) for i in range(count)]
    truth = np.stack([np.asarray(p.convert("L"), np.float32) for p, _ in drawn])
    lines = np.stack([np.asarray(lines_of(p)) for p, _ in drawn])
    texts = [text for _, text in drawn]
    alike = []
    for strength in (0.0, 1.0):
        made = sample(model, texts, list(range(count)), model.side, model.side, lines=lines, control=strength).mean(3)
        alike.append(np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(made, truth, strict=True)]))
    return {"control_without": float(alike[0]), "control_gain": float(alike[1] - alike[0])}


def extras(model: Model, folder: Path, count: int) -> dict[str, float]:
    """All of the above; `count` pictures each."""
    found = landscapes(model, count, False)
    found |= {f"held_out_{name}": value for name, value in landscapes(model, count, True).items()}
    found |= style_lora(model, folder) | few_steps(model, folder, count)
    return found | line_control(model, 16) if model.control is not None else found
