# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare grids: what a painter types becomes recipes of single pictures, and mistakes become sentences."""

from __future__ import annotations

import pytest

from krita_sd import grid
from krita_sd.metadata.restore import restore
from krita_sd.wire.errors import WireError
from krita_sd.wire.parameters import Found
from krita_sd.wire.recipe import Lora, Recipe

BASE = Recipe(prompt="a red house <lora:ink:0.5>", seed=10, steps=20, guidance=7.0, loras=(Lora("l/other", 0.3),))
MODELS = (
    {"id": "m/one", "name": "One.safetensors", "kind": "checkpoint"},
    {"id": "m/two", "name": "Two", "kind": "checkpoint"},
    {"id": "l/other", "name": "other", "kind": "lora"},
)


def axis(kind: str, text: str, recipe: Recipe = BASE) -> grid.Axis:
    return grid.axis(kind, text, recipe, MODELS)


def values(kind: str, text: str, name: str) -> list[object]:
    return [getattr(change(BASE), name) for change in axis(kind, text).changes]


def test_the_seeds_example_four_guidances_by_four_images() -> None:
    made = grid.make(BASE, axis("guidance", "1.1, 3, 7, 14"), axis("seed", "x4"))
    assert [(cell.row, cell.column) for cell in made.cells][:5] == [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0)]
    assert [(cell.recipe.guidance, cell.recipe.seed) for cell in made.cells[3:6]] == [(14, 10), (1.1, 11), (3, 11)]
    assert made.label(made.cells[5]) == "guidance 3, seed 11" and len(made.cells) == 16
    changed = {name for cell in made.cells for name in Recipe.__dataclass_fields__
               if getattr(cell.recipe, name) != getattr(BASE, name)}  # fmt: skip
    assert changed == {"guidance", "seed"}, "everything else is the single picture's"


def test_every_kind_of_axis() -> None:
    assert values("steps", "10-30 (+10)", "steps") == [10, 20, 30]
    assert values("steps", "1-10 [3], 4", "steps") == [1, 6, 10, 4]
    assert values("guidance", "0, 1-2 (0.5)", "guidance") == [0.0, 1.0, 1.5, 2.0]
    assert values("steps", "3-1", "steps") == [3, 2, 1]
    assert values("seed", "9223372036854775807, 5", "seed") == [2**63 - 1, 5]
    assert values("sampler", "euler A, ddim", "sampler") == ["Euler a", "DDIM"]
    assert values("model", "one, Two", "model") == ["m/one", "m/two"]
    assert values("replace", "red, blue, ", "prompt")[1:] == ["a blue house <lora:ink:0.5>", "a  house <lora:ink:0.5>"]
    assert values("lora", "ink: 0, 1", "prompt") == ["a red house <lora:ink:0>", "a red house <lora:ink:1>"]
    assert values("lora", "other: -1, 2", "loras") == [(Lora("l/other", -1.0),), (Lora("l/other", 2.0),)]
    assert values("strength", "30%, 0.5, 100", "kind") == ["img2img", "img2img", "txt2img"]
    assert values("strength", "30%, 0.5, 0, 1", "strength") == [0.3, 0.5, 0.0, 1.0]
    inside = axis("strength", "0.5, 1", BASE.replace(kind="inpaint")).changes[1](BASE.replace(kind="inpaint"))
    assert inside.kind == "inpaint"


@pytest.mark.parametrize(
    "kind, text, sentence",
    [
        ("steps", "", "No values"),
        ("steps", "a", "a is no number"),
        ("steps", "1.5", "whole numbers"),
        ("steps", "1-100000", "no number"),
        ("steps", "1-5 (0)", "no number"),
        ("guidance", "nan", "guidance"),
        ("guidance", "1,2,3-1000 (0.1)", "no number"),
        ("sampler", "Magic", "no sampler Magic"),
        ("model", "three", "no model three"),
        ("lora", "0.5", "colon"),
        ("lora", "nothing: 1", "no LoRA nothing"),
        ("replace", "green, blue", "does not contain green"),
    ],
)
def test_mistakes_are_sentences(kind: str, text: str, sentence: str) -> None:
    with pytest.raises(WireError, match=sentence):
        grid.make(BASE, axis(kind, text), grid.NOTHING)


def test_too_many_cells_and_the_same_axis_twice_are_refused() -> None:
    with pytest.raises(WireError, match="too large"):
        grid.make(BASE, axis("steps", "1-20"), axis("guidance", "1-20"))
    with pytest.raises(WireError, match="Both axes"):
        grid.make(BASE, axis("steps", "1, 2"), axis("steps", "3"))
    with pytest.raises(WireError, match="steps"):
        grid.make(BASE, axis("steps", "200"), grid.NOTHING)
    assert len(grid.make(BASE, axis("replace", "red, blue"), axis("replace", "house, boat")).cells) == 4


def test_a_recipe_is_taken_over_as_far_as_it_can_be_here() -> None:
    values = {
        "prompt": "x",
        "seed": 0,
        "steps": 3,
        "strength": 0.0,
        "width": 9,
        "loras": (Lora("l/other"), Lora("l/no")),
    }
    found = restore(Found(values, "dir/TWO.safetensors", ("Sampler",)), MODELS)
    assert found.changes["model"] == "m/two" and found.changes["seed"] == 0 and found.changes["seed_fixed"] is True
    assert found.changes["strength"] == 0.0 and found.changes["loras"] == (Lora("l/other"),)
    assert found.params == {"steps": 3} and "l/no" in found.note and "Sampler" in found.note
    other = restore(Found({"model": "m/none", "vae": "v"}, "None"), MODELS)
    assert "model" not in other.changes and other.params == {} and "None" in other.note and "v" in other.note
    assert restore(Found({"model": "m/one"}), MODELS).changes["model"] == "m/one"
