# SPDX-License-Identifier: GPL-3.0-or-later
"""Recipes survive the wire unchanged, zeros included, and nothing out of range gets in."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.limits import MAX_SEED
from krita_sd.wire.recipe import (
    CONTROL_MAPS,
    CONTROLS,
    FILLS,
    KINDS,
    SAMPLERS,
    TILINGS,
    Control,
    Lora,
    Recipe,
    steps_plan,
)
from krita_sd.wire.values import UNSET, or_default

hashes = st.text("0123456789abcdef", min_size=32, max_size=32)
names = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
shares = st.floats(0, 1)
controls = st.builds(
    lambda kind, image, weight, ends, model: Control(kind, image, weight, min(ends), max(ends), model),
    st.sampled_from(CONTROLS),
    hashes,
    st.floats(0, 2),
    st.tuples(shares, shares),
    texts,
)
recipes = st.builds(
    Recipe,
    kind=st.sampled_from(KINDS),
    model=texts,
    prompt=texts,
    negative=texts,
    width=st.integers(1, 8192),
    height=st.integers(1, 8192),
    seed=st.integers(0, MAX_SEED),
    steps=st.just(UNSET) | st.integers(1, 150),
    guidance=st.just(UNSET) | st.floats(0, 30),
    sampler=st.just(UNSET) | st.sampled_from(SAMPLERS),
    strength=st.floats(0, 1),
    min_steps=st.just(UNSET) | st.integers(1, 150),
    image=hashes,
    mask=hashes,
    feather=st.just(UNSET) | st.integers(0, 4096),
    grow=st.just(UNSET) | st.integers(0, 4096),
    exact_mask=st.booleans(),
    fill=st.sampled_from(FILLS),
    loras=st.lists(st.builds(Lora, names, st.floats(-2, 2)), max_size=4).map(tuple),
    clip_skip=st.just(UNSET) | st.integers(1, 12),
    controls=st.lists(controls, max_size=3).map(tuple),
    tile=st.sampled_from(TILINGS),
    variation=shares,
    variation_seed=st.integers(0, MAX_SEED),
    upscaler=texts,
    target_width=st.integers(1, 8192),
    target_height=st.integers(1, 8192),
    map=st.sampled_from(CONTROL_MAPS),
)


@given(recipes)
def test_a_recipe_survives_json(recipe: Recipe) -> None:
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_zeros_are_values_and_absence_is_unset() -> None:
    zeros = Recipe(seed=0, guidance=0.0, strength=0.0, feather=0, grow=0, negative="")
    back = Recipe.from_json(zeros.to_json())
    assert back.guidance == 0.0 and back.strength == 0.0 and back.feather == 0 and back.grow == 0
    assert back.steps is UNSET and "steps" not in zeros.to_json()
    assert or_default(back.guidance, 7.0) == 0.0 and or_default(back.steps, 20) == 20
    with pytest.raises(TypeError):
        bool(UNSET)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"kind": "video"}, "kind"),
        ({"width": 0}, "width"),
        ({"width": "512"}, "width"),
        ({"width": True}, "width"),
        ({"width": 2**31}, "width"),
        ({"width": float("nan")}, "width"),
        ({"height": -1}, "height"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"steps": 0}, "steps"),
        ({"steps": 151}, "steps"),
        ({"guidance": 31}, "guidance"),
        ({"guidance": float("inf")}, "guidance"),
        ({"guidance": float("nan")}, "guidance"),
        ({"strength": 1.01}, "strength"),
        ({"sampler": "Magic"}, "sampler"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "x" * 20_001}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"image": "../../etc/passwd"}, "image"),
        ({"loras": [{"id": "a", "weight": 3}]}, "weight"),
        ({"loras": [{"id": "a\n"}]}, "id"),
        ({"loras": "a"}, "loras"),
        ({"fill": ""}, "fill"),
        ({"kind": "img2img"}, "image"),
        ({"kind": "inpaint", "image": "0" * 32}, "mask"),
        ({"width": 16384, "height": 16384}, "large"),
    ],
)
def test_a_wrong_field_is_named_in_one_sentence(change: dict, field: str) -> None:
    with pytest.raises(WireError) as caught:
        Recipe.from_json({"width": 64, "height": 64, **change})
    assert caught.value.code is Code.BAD_REQUEST and field in caught.value.message
    assert len(caught.value.message) < 300


def test_unknown_keys_are_ignored() -> None:
    assert Recipe.from_json({"width": 64, "height": 64, "from_the_future": 1}) == Recipe(width=64, height=64)


@pytest.mark.parametrize(
    ("steps", "strength", "minimum", "expected"),
    [
        (20, 0.5, 4, (20, 10)),
        (20, 0.1, 4, (40, 36)),
        (8, 0.3, 3, (10, 7)),
        (6, 0.5, 4, (8, 4)),
        (20, 1.0, 4, (20, 0)),
        (1, 1.0, 4, (1, 0)),
        (20, 0.0, 4, (20, 20)),
        (20, 0.0001, 4, (1000, 996)),
        (1, 5e-324, 1, (1000, 999)),
    ],
)
def test_strength_to_steps(steps: int, strength: float, minimum: int, expected: tuple[int, int]) -> None:
    assert steps_plan(steps, strength, minimum) == expected


@given(st.integers(1, 150), st.floats(0, 1), st.integers(1, 150))
def test_any_strength_above_zero_runs_at_least_one_step(steps: int, strength: float, minimum: int) -> None:
    total, start = steps_plan(steps, strength, minimum)
    assert 0 <= start <= total <= 1000
    assert (total - start >= 1) == (strength > 0)


def test_kinds_ask_for_what_they_need() -> None:
    image = {"image": "0" * 32}
    for lacking in ({"kind": "upscale", **image}, {"kind": "preprocess", **image}, {"kind": "upscale"}):
        with pytest.raises(WireError) as error:
            Recipe.from_json({"width": 8, "height": 8, **lacking})
        assert error.value.code is Code.BAD_REQUEST
    control = {"type": "canny", "image": "0" * 32, "start": 0.5, "end": 0.25}
    with pytest.raises(WireError, match="before it starts"):
        Recipe.from_json({"width": 8, "height": 8, "controls": [control]})


def test_pictures_of_control_layers_are_inputs_of_the_recipe() -> None:
    recipe = Recipe(image="0" * 32, controls=(Control("canny", "1" * 32), Control("depth", "0" * 32)))
    assert recipe.blobs() == ("0" * 32, "1" * 32)


def test_a_live_recipe_needs_no_picture() -> None:
    data = {"kind": "img2img", "width": 8, "height": 8}
    assert Recipe.from_json(data, live=True).image is None
    with pytest.raises(WireError):
        Recipe.from_json(data)
