# SPDX-License-Identifier: GPL-3.0-or-later
"""What comes with the embedded model works in the engine: style LoRA and few-step adapter; and the landscapes that
its card promises are recognisable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.diffusion import Task, generate, load_model
from server.diffusion.control_loading import load_control
from server.diffusion.task import ControlLayer
from server.pocket.training import few_step, lora
from server.pocket.training.asked import combinations, prompt_of
from server.pocket.training.card import DRAWN
from server.pocket.training.controlnet import lines_of
from server.pocket.training.evaluate_extras import colourfulness
from server.pocket.training.judge import judge
from server.pocket.training.render import render
from server.pocket.training.sample import native_side
from server.pocket.training.scenery import place_of
from server.pocket.training.words import SHAPES

POCKET = Path(__file__).resolve().parents[2] / "server" / "pocket"
SETTINGS = json.loads((POCKET / "krita_sd.json").read_text())
SIDE = native_side(POCKET)


@pytest.fixture(scope="module")
def pocket() -> Any:
    return load_model(POCKET, "sd1")


def paint(model: Any, prompt: str, seed: int, width: int = SIDE, height: int = SIDE, **fields: Any) -> np.ndarray:
    defaults = SETTINGS["defaults"]
    plan: dict[str, Any] = {"total_steps": defaults["steps"], "guidance": defaults["guidance"]}
    plan |= {"sampler": defaults["sampler"], "width": width, "height": height, "preview": "off"}
    return generate(model, Task(prompt=prompt, seed=seed, **plan | fields)).image


def test_landscapes_are_recognised(pocket: Any) -> None:
    asked = {
        "hills under a sunny sky": ("hills", "sunny"),
        "snowy mountains under a night sky with stars": ("snowy mountains", "night"),
        "the sea at sunset": ("sea", "sunset"),
        "a desert under a sunny sky": ("desert", "sunny"),
        "a forest under an overcast sky": ("forest", "overcast"),
        "a city at night": ("city", "night"),
    }
    seen = [place_of(paint(pocket, prompt, i)) for i, prompt in enumerate(asked)]
    right = [(s[0] == w[0]) + (s[1] == w[1]) for s, w in zip(seen, asked.values(), strict=True)]
    assert sum(right) >= 9, seen


def test_the_style_lora_turns_pictures_to_sepia(pocket: Any) -> None:
    prompts = ("a red house on a green background", "hills at sunset")
    weights = (0.0, 1.0)
    plain, styled = (
        np.stack([paint(pocket, p, 7, loras=((POCKET / "lora" / lora.FILE, w),)) for p in prompts]) for w in weights
    )
    assert colourfulness(plain) >= 1.5 * colourfulness(styled)


def test_the_few_step_adapter_draws_shapes_in_four_steps_without_guidance(pocket: Any) -> None:
    live = SETTINGS["live"]
    file = POCKET / live["lora"]
    assert file.name == few_step.FILE
    settings = {"total_steps": live["steps"], "guidance": live["guidance"], "sampler": live["sampler"]}
    wanted = combinations(SHAPES, 8, False, seed=31)
    seen = [
        judge(paint(pocket, prompt_of(*w), 90 + i, loras=((file, live["strength"]),), **settings))
        for i, w in enumerate(wanted)
    ]
    assert np.mean([v.shape == w[0] for v, w in zip(seen, wanted, strict=True)]) >= 0.75
    assert np.mean([v.colour == w[1] and v.background == w[2] for v, w in zip(seen, wanted, strict=True)]) >= 0.75


def test_the_controlnet_puts_things_where_the_lines_are(pocket: Any) -> None:
    (stated,) = SETTINGS["controlnets"]
    assert stated["type"] == "line_art"
    control = load_control(POCKET / stated["folder"])
    gains = []
    for scene, prompt in DRAWN[:2]:
        drawn = render(scene, SIDE, SIDE)
        layer = ControlLayer(control, np.asarray(lines_of(drawn)), type="line_art")
        grey = np.asarray(drawn.convert("L"), np.float32).ravel()
        alike = [
            np.corrcoef(paint(pocket, prompt, 4, total_steps=6, controls=controls).mean(2).ravel(), grey)[0, 1]
            for controls in ((), (layer,))
        ]
        gains.append(alike[1] - alike[0])
    assert np.mean(gains) >= 0.15
