# SPDX-License-Identifier: GPL-3.0-or-later
"""The embedded model does what its card says: colours, shapes, img2img, inpainting, negative words, sizes."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from krita_sd.wire.recipe import steps_plan
from server.diffusion import Task, generate, load_model
from server.pocket.training import captions, tokenizer, words
from server.pocket.training.asked import combinations, prompt_of
from server.pocket.training.captions import Item, Scene
from server.pocket.training.evaluate import BARS
from server.pocket.training.export import FILE_LIMIT, FOLDER_LIMIT, check_sizes
from server.pocket.training.judge import judge, share_of_colour
from server.pocket.training.landscapes import SUN
from server.pocket.training.render import Recipe, picture, render
from server.pocket.training.sample import native_side
from server.pocket.training.words import COLOURS, SHAPES

POCKET = Path(__file__).resolve().parents[2] / "server" / "pocket"
SETTINGS = json.loads((POCKET / "krita_sd.json").read_text())
SIDE = native_side(POCKET)
MUST = {name: must for name, (_, must, _) in BARS.items()}


@pytest.fixture(scope="module")
def pocket() -> Any:
    return load_model(POCKET, "sd1")


def paint(model: Any, prompt: str, seed: int, strength: float = 1.0, **fields: Any) -> np.ndarray:
    """A picture at the model's own defaults."""
    defaults = SETTINGS["defaults"]
    total, start = steps_plan(defaults["steps"], strength, defaults["min_steps"])
    task = Task(
        prompt=prompt,
        seed=seed,
        total_steps=total,
        start_step=start,
        guidance=defaults["guidance"],
        sampler=defaults["sampler"],
        width=SIDE,
        height=SIDE,
        preview="off",
        **fields,
    )
    return generate(model, task).image


def drawn(word: str, colour: str, background: str) -> np.ndarray:
    return np.asarray(render(Scene("shape", (Item(word, colour),), background), SIDE, SIDE))


@cache
def metrics() -> dict[str, Any]:
    return json.loads((POCKET / "metrics.json").read_text())


def test_objects_have_the_asked_shape_and_both_colours(pocket: Any) -> None:
    wanted = combinations(SHAPES, 8, False, seed=77)
    seen = [judge(paint(pocket, prompt_of(*w), 500 + i)) for i, w in enumerate(wanted)]
    shapes = np.mean([v.shape == w for v, (w, _, _) in zip(seen, wanted, strict=True)])
    colours = np.mean([v.colour == c and v.background == b for v, (_, c, b) in zip(seen, wanted, strict=True)])
    assert shapes >= MUST["shapes"]
    assert colours >= MUST["colours"]


def test_img2img_changes_more_with_strength_and_takes_the_named_background(pocket: Any) -> None:
    source = drawn("circle", "red", "white")
    made = [
        paint(pocket, "a red circle on a blue background", 3, strength, image=source)
        for strength in (0.2, 0.4, 0.6, 0.8, 1.0)
    ]
    change = [float(np.abs(m.astype(float) - source).mean()) for m in made]
    assert change == sorted(change)
    assert judge(made[3]).background == "blue"


def test_inpainting_changes_the_inside(pocket: Any) -> None:
    source = np.full((SIDE, SIDE, 3), COLOURS["white"], np.uint8)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[SIDE // 4 : SIDE * 3 // 4, SIDE // 4 : SIDE * 3 // 4] = 255
    ratios = []
    for i, (colour, shape) in enumerate((("red", "star"), ("purple", "heart"))):
        prompt = f"a {colour} {shape} on a white background"
        made = paint(pocket, prompt, 20 + i, image=source, mask=mask)
        change = np.abs(made.astype(float) - source).mean(2)
        ratios.append(change[mask == 255].mean() / max(float(change[mask == 0].mean()), 1e-6))
    assert np.mean(ratios) >= MUST["inpaint_ratio"]


def test_a_negative_prompt_takes_the_sun_away(pocket: Any) -> None:
    prompts = [f"{place} under a sunny sky with the sun" for place in ("the sea", "a meadow", "a desert", "mountains")]
    areas = [
        np.mean([share_of_colour(paint(pocket, p, i, negative=n)[: SIDE // 2], SUN) for i, p in enumerate(prompts)])
        for n in ("", "sun")
    ]
    assert areas[0] > 0.005
    assert areas[1] <= MUST["negative_sun"] * areas[0]


def test_files_stay_within_the_limits() -> None:
    assert 0 < check_sizes(POCKET) <= FOLDER_LIMIT <= 40e6
    assert FILE_LIMIT <= 16e6


def test_the_tokenizer_is_made_again_the_same(tmp_path: Path) -> None:
    tokenizer.build(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / name).read_bytes() == (POCKET / "tokenizer" / name).read_bytes()


def test_the_renderer_depends_on_nothing_but_seed_and_index() -> None:
    recipe = Recipe(dict.fromkeys(captions.KINDS, 1.0), styled=0.5)
    for index in range(12):
        one, text = picture(recipe, 9, index, 128, 64)
        two, again = picture(recipe, 9, index, 128, 64)
        assert (one.size, text) == ((128, 64), again)
        assert one.tobytes() == two.tobytes()


def test_held_out_combinations_are_a_tenth_and_never_drawn() -> None:
    triples = [(s, c, b) for s in SHAPES for c in COLOURS for b in COLOURS if c != b]
    assert 0.07 < np.mean([words.held_out(*t) for t in triples]) < 0.13
    for seed in range(300):
        scene = captions.sample(np.random.default_rng(seed), captions.KINDS[seed % len(captions.KINDS)])
        assert not captions.scene_held_out(scene)


def test_reference_colours_are_drawn_exactly() -> None:
    for colour, rgb in COLOURS.items():
        other = "white" if colour != "white" else "black"
        assert tuple(drawn("square", colour, other)[SIDE // 2, SIDE // 2]) == rgb
        assert tuple(drawn("square", other, colour)[2, 2]) == rgb


def test_the_judge_sees_what_was_drawn() -> None:
    for word, colour, background in combinations(SHAPES, 32, False, seed=5):
        verdict = judge(drawn(word, colour, background))
        assert (verdict.shape, verdict.colour, verdict.background) == (word, colour, background)


def test_measured_metrics_pass_every_must_and_the_card_shows_them() -> None:
    card = (POCKET / "README.md").read_text()
    for name, (direction, must, _) in BARS.items():
        value = metrics()[name]
        if name != "seconds":  # depends on the machine
            reached = value >= must if direction == ">=" else value <= must
            assert reached, name
        row = re.search(rf"^\| {name} \| ([^|]+) \|", card, re.MULTILINE)
        assert row is not None, name
        assert row.group(1) == f"{value:.3g}", name
