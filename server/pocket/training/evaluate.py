# SPDX-License-Identifier: GPL-3.0-or-later
"""Measures a model folder against the table of bars, with fixed seeds, and writes metrics.json beside the weights:
python -m server.pocket.training.evaluate FOLDER [SHARE], where a SHARE under 1 measures fewer pictures."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from .asked import objects
from .captions import Item, Scene
from .evaluate_extras import extras
from .judge import judge, pieces, share_of_colour, silhouette
from .landscapes import SUN
from .render import Recipe, picture, render
from .sample import Model, sample
from .words import COLOURS, POSITIONS, SHAPES, THINGS, article, plural

SIDE = 256
"""Side of the pictures of the autoencoder and the time; the others have the side the model is made for."""
BARS: dict[str, tuple[str, float, float]] = {
    "vae_psnr": (">=", 26.0, 30.0),
    "vae_small_shapes": (">=", 0.95, 1.0),
    "colours": (">=", 0.85, 0.95),
    "object_colour_error": ("<=", 35.0, 20.0),
    "background_colour_error": ("<=", 25.0, 15.0),
    "shapes": (">=", 0.80, 0.95),
    "img2img_monotone": (">=", 1.0, 1.0),
    "img2img_background": (">=", 0.75, 1.0),
    "inpaint_ratio": (">=", 5.0, 8.0),
    "negative_sun": ("<=", 0.5, 0.5),
    "lora_gain": (">=", 1.5, 2.0),
    "few_step_shapes_4": (">=", 0.80, 0.95),
    "control_gain": (">=", 0.15, 0.30),
    "seconds": ("<=", 1.5, 1.0),
}
"""metric: (direction, must, goal)."""


def autoencoder(model: Model, count: int) -> dict[str, float]:
    """Round trips: PSNR of mixed pictures, share of small shapes that are still told apart."""
    mix = Recipe({"shape": 1, "thing": 1, "place": 1, "pair": 1, "count": 1, "landscape": 3}, styled=0.35)
    originals = np.stack([np.asarray(picture(mix, 4242, i, SIDE, SIDE)[0]) for i in range(count)])
    small = []
    for i in range(count):
        colour, background = np.random.default_rng([5, i]).choice(list(COLOURS), 2, replace=False).tolist()
        item = Item(SHAPES[i % len(SHAPES)], colour, radius=0.125)
        small.append(np.asarray(render(Scene("place", (item,), background), SIDE, SIDE)))
    with torch.inference_mode():
        trips = [model.to_pictures(model.to_latents(p[None]))[0] for p in (*originals, *small)]
    errors = [np.square(a / 255.0 - b / 255.0).mean() for a, b in zip(originals, trips[:count], strict=True)]
    named = [judge(p).shape == SHAPES[i % len(SHAPES)] for i, p in enumerate(trips[count:])]
    return {"vae_psnr": float(np.mean(-10 * np.log10(errors))), "vae_small_shapes": float(np.mean(named))}


def img2img(model: Model, count: int) -> dict[str, float]:
    """From a red circle on white to another background: change grows with strength; at .8 the background is named."""
    grounds = ["blue", "green", "yellow", "purple", "pink", "cyan", "orange", "brown"][:count]
    source = np.asarray(render(Scene("shape", (Item("circle", "red"),), "white"), model.side, model.side))
    prompts = [f"a red circle on {article(g)} background" for g in grounds]
    changes, named = [], 0.0
    for strength in (0.2, 0.4, 0.6, 0.8, 1.0):
        given = np.repeat(source[None], len(grounds), 0)
        made = sample(
            model, prompts, list(range(len(grounds))), model.side, model.side, pictures=given, strength=strength
        )
        changes.append(float(np.abs(made.astype(float) - source).mean()))
        if strength == 0.8:
            named = float(np.mean([judge(p).background == g for p, g in zip(made, grounds, strict=True)]))
    rising = all(b > a for a, b in zip(changes, changes[1:], strict=False))
    return {"img2img_monotone": float(rising), "img2img_background": named, "img2img_changes": changes}  # type: ignore


def inpaint(model: Model, count: int) -> dict[str, float]:
    """Repaint a centred square of a plain picture: mean change inside over mean change outside, before compositing."""
    side = model.side
    mask = np.zeros((side, side), np.float32)
    mask[side // 4 : side * 3 // 4, side // 4 : side * 3 // 4] = 1
    pairs = [("red", "star"), ("green", "circle"), ("purple", "heart"), ("orange", "square")][:count]
    source = np.full((len(pairs), side, side, 3), COLOURS["white"], np.uint8)
    prompts = [f"a {c} {w} on a white background" for c, w in pairs]
    made = sample(model, prompts, list(range(len(pairs))), model.side, model.side, pictures=source, mask=mask)
    change = np.abs(made.astype(float) - source).mean((0, 3))
    return {"inpaint_ratio": float(change[mask == 1].mean() / max(change[mask == 0].mean(), 1e-6))}


def negative(model: Model, count: int) -> dict[str, float]:
    """How much sun is left when "sun" is the negative prompt, and clouds likewise (shares of the area without)."""
    places = ["green hills", "the sea", "a meadow", "a desert", "a road", "mountains", "a lake", "snow"]
    found = {}
    for name, rgb in (("sun", SUN), ("clouds", (246, 247, 250))):
        subject = "the sun" if name == "sun" else name
        prompts = [f"{places[i % 8]} under a sunny sky with {subject}" for i in range(count)]
        if name == "clouds":
            prompts = [p.replace("snow under", "hills under") for p in prompts]
        seeds = list(range(count))
        areas = []
        for words in ("", name):
            made = sample(model, prompts, seeds, model.side, model.side, negative=words)
            areas.append(np.mean([share_of_colour(p[: model.side // 2], rgb) for p in made]))
        found[f"negative_{name}"] = float(areas[1] / max(areas[0], 1e-6))
        found[f"area_{name}"] = float(areas[0])
    return found


def arrangements(model: Model, count: int) -> dict[str, float]:
    """Positions (centre within a fifth of the side), counts (number of separate parts), two objects (two parts)."""
    rng = np.random.default_rng(3)
    places = [list(POSITIONS)[i % len(POSITIONS)] for i in range(count)]
    shapes = [SHAPES[int(rng.integers(len(SHAPES)))] for _ in range(count)]
    colours = [rng.choice(["red", "blue", "green", "purple", "black"]) for _ in range(count)]
    prompts = [f"a {c} {s} {p} on a white background" for c, s, p in zip(colours, shapes, places, strict=True)]
    made = sample(model, prompts, list(range(count)), model.side, model.side)
    centres = [judge(p).centre for p in made]
    near = [np.hypot(x - POSITIONS[p][0], y - POSITIONS[p][1]) < 0.2 for (x, y), p in zip(centres, places, strict=True)]
    numbers = {"two": 2, "three": 3, "four": 4, "five": 5}
    asked = [list(numbers)[i % 4] for i in range(count)]
    texts = [f"{n} {c} {plural(s)} on a white background" for n, c, s in zip(asked, colours, shapes, strict=True)]
    made = sample(model, texts, list(range(count)), model.side, model.side)
    counted = [pieces(silhouette(p)) == numbers[n] for p, n in zip(made, asked, strict=True)]
    return {"positions": float(np.mean(near)), "counts": float(np.mean(counted))}


def seconds(model: Model) -> float:
    """CPU seconds of one picture at 256 px, 12 steps, with guidance: the wall time of one thread that is alone."""
    times = []
    for i in range(3):
        began = time.process_time()
        sample(model, ["a red star on a blue background"], [i], SIDE, SIDE)
        times.append(time.process_time() - began)
    return float(min(times))


def evaluate(folder: Path, share: float = 1.0) -> dict[str, float]:
    """All metrics of a folder; `share` < 1 measures fewer pictures."""
    model = Model.load(folder)

    def n(count: int) -> int:
        return max(2, int(count * share))

    metrics = autoencoder(model, n(48))
    metrics |= objects(model, SHAPES, n(96), False)
    metrics |= {f"held_out_{k}": v for k, v in objects(model, SHAPES, n(96), True).items()}
    metrics |= {f"things_{k}": v for k, v in objects(model, THINGS, n(72), False).items()}
    metrics |= arrangements(model, n(32))
    metrics |= img2img(model, n(8)) | inpaint(model, n(4)) | negative(model, n(16))
    metrics |= extras(model, folder, n(33))
    metrics["seconds"] = seconds(model)
    metrics["side"], metrics["threads"] = model.side, torch.get_num_threads()
    return {k: np.round(v, 4).tolist() for k, v in metrics.items()}


def table(metrics: dict[str, float]) -> str:
    """The bars as Markdown: metric, value, must, goal, verdict."""
    lines = ["| metric | value | must | goal | |", "|---|---|---|---|---|"]
    for name, (direction, must, goal) in BARS.items():
        if name not in metrics:
            continue  # a folder without a ControlNet
        value = metrics[name]
        sign = 1 if direction == ">=" else -1
        verdict = "goal" if sign * value >= sign * goal else "must" if sign * value >= sign * must else "**missed**"
        lines.append(f"| {name} | {value:.3g} | {direction} {must:g} | {direction} {goal:g} | {verdict} |")
    for name, value in metrics.items():
        if name not in BARS and isinstance(value, float):
            lines.append(f"| {name} | {value:.3g} | | | |")
    return "\n".join(lines)


def main(folder: Path, share: float = 1.0) -> dict[str, float]:
    metrics = evaluate(folder, share)
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2, sort_keys=True) + "\n")
    print(table(metrics))
    return metrics


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(float, sys.argv[2:3]))


__all__ = ["BARS", "evaluate", "main", "table"]
