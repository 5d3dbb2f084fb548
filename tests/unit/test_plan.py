# SPDX-License-Identifier: GPL-3.0-or-later
"""What the button does and says, and what the docker shows."""

from __future__ import annotations

from typing import Any

import pytest

from krita_sd import plan, view
from krita_sd.geometry import Bounds, Extent
from krita_sd.job_events import Captured, Created, KeepPressed, Phase, ResultArrived, StateChanged
from krita_sd.jobs import JobTable
from krita_sd.settings import ModelParams, Settings
from krita_sd.translate import free_text
from krita_sd.wire.errors import WireError
from krita_sd.wire.recipe import Recipe
from krita_sd.wire.values import UNSET

POCKET: dict[str, Any] = {
    "id": "pocket",
    "name": "Pocket",
    "kind": "checkpoint",
    "family": "sd1",
    "native": {
        "min_side": 192,
        "max_side": 384,
        "min_pixels": 192 * 192,
        "max_pixels": 320 * 320,
        "second_pass": False,
    },
    "defaults": {"steps": 12, "guidance": 3.0, "sampler": "DPM++ 2M", "min_steps": 4},
}
CANVAS = Extent(1024, 768)
BOX = Bounds(100, 100, 64, 64)


@pytest.mark.parametrize(
    ("strength", "selection", "kind", "label"),
    [
        (1.0, None, "txt2img", "Generate"),
        (0.99, None, "img2img", "Refine"),
        (0.0, None, "img2img", "Refine"),
        (1.0, BOX, "inpaint", "Fill"),
        (0.5, BOX, "inpaint", "Refine selection"),
        (1.0, Bounds(0, 0, 1024, 100), "inpaint", "Expand"),
        (1.0, Bounds(0, 0, 1024, 768), "inpaint", "Fill"),
    ],
)
def test_the_button_does_what_it_says(strength: float, selection: Bounds | None, kind: str, label: str) -> None:
    settings = Settings(strength=strength)
    assert plan.make(settings, POCKET, CANVAS, selection, 1).kind == kind
    assert plan.label(strength, selection, CANVAS) == label


def test_a_selection_is_captured_with_context_inside_the_canvas() -> None:
    made = plan.make(Settings(), POCKET, CANVAS, BOX, 1)
    assert made.bounds.contains(BOX) and Bounds.of(CANVAS).contains(made.bounds)
    assert (made.recipe.width, made.recipe.height) == made.bounds.extent
    exact = plan.make(Settings(exact_mask=True), POCKET, CANVAS, BOX, 1)
    assert exact.bounds.extent.pixels <= made.bounds.extent.pixels and exact.recipe.exact_mask


@pytest.mark.parametrize("extent", [Extent(1, 1), Extent(2000, 100), Extent(100, 2000)])
def test_odd_canvases_make_a_recipe_the_server_accepts(extent: Extent) -> None:
    for strength in (1.0, 0.5):
        made = plan.make(Settings(strength=strength), POCKET, extent, None, 1)
        assert made.bounds == Bounds.of(extent)
        Recipe.from_json({**made.recipe.to_json(), "image": "0" * 32})
    made = plan.make(Settings(), POCKET, extent, Bounds(0, 0, 1, 1), 1)
    assert Bounds.of(extent).contains(made.bounds) and not made.bounds.is_empty


def test_zeros_are_values_and_what_is_not_chosen_is_not_given() -> None:
    settings = Settings(strength=0.0, feather=0, grow=0).with_params(guidance=0.0)
    recipe = plan.make(settings, POCKET, CANVAS, BOX, 0).recipe
    assert (recipe.strength, recipe.feather, recipe.grow, recipe.guidance, recipe.seed) == (0.0, 0, 0, 0.0, 0)
    assert recipe.steps is UNSET and recipe.sampler is UNSET


def test_too_large_and_outside_are_sentences() -> None:
    with pytest.raises(WireError, match="too large"):
        plan.make(Settings(), POCKET, Extent(20000, 10), None, 1)
    with pytest.raises(WireError, match="outside"):
        plan.make(Settings(), POCKET, CANVAS, Bounds(-50, 0, 20, 20), 1)


@pytest.mark.parametrize(
    ("text", "seed"),
    [
        ("0", 0),
        (" 12 ", 12),
        (str(2**63 - 1), 2**63 - 1),
        (str(2**63), None),
        ("-1", None),
        ("1e3", None),
        ("", None),
        ("٣", None),
    ],
)
def test_seeds_of_63_bits_survive_typing(text: str, seed: int | None) -> None:
    assert plan.read_seed(text) == seed


def test_the_label_tells_how_many_steps_run() -> None:
    settings = Settings(strength=0.5).with_params(steps=20)
    assert view.make(JobTable(), settings, [POCKET], extent=CANVAS).steps_text == "runs 10 of 20 steps"
    assert view.make(JobTable(), Settings(), [POCKET], extent=CANVAS).steps_text == "runs 12 steps"


def test_the_docker_says_when_a_picture_is_painted_smaller_than_it_is_wanted() -> None:
    def note(extent: Extent, selection: Bounds | None = None, **native: Any) -> str:
        model = {**POCKET, "native": {**POCKET["native"], **native}}
        settings = Settings(prompt="a tree")
        return view.make(JobTable(), settings, [model], extent=extent, selection=selection).note

    assert note(Extent(640, 640)) == "Painted at 320 x 320, then enlarged."
    assert note(Extent(640, 640), second_pass=True) == "Painted at 320 x 320, then refined at full size."
    assert note(Extent(256, 256)) == "" and note(CANVAS, BOX) == ""


@pytest.mark.parametrize("native", [None, 5, {}, {"min_side": -1}, {"min_side": "x"}])
def test_a_model_without_sizes_of_its_own_has_those_of_its_family(native: Any) -> None:
    assert plan.native_range({"family": "sd1", "native": native}) == plan.NATIVE["sd1"]
    assert plan.native_range({"native": native}) == plan.LARGE_NATIVE


def test_a_layer_is_named_after_the_prompt_in_one_short_line() -> None:
    assert plan.layer_name(Recipe(prompt=" a\nred\t\x00house ", seed=3)) == "a red house (3)"
    assert plan.layer_name(Recipe(prompt="", seed=3)) == "Krita SD (3)"
    assert len(plan.layer_name(Recipe(prompt="word " * 5000))) < 80


def shown(table: JobTable, **named: Any) -> view.View:
    return view.make(table, Settings(prompt="x"), [POCKET], extent=CANVAS, **named)


def test_every_phase_has_a_name_and_the_bar_never_falls() -> None:
    table = JobTable()
    table.connected = True
    assert shown(table).progress == -1.0 and not shown(table).can_cancel
    table.feed(Created("a", "d", BOX, Recipe(), 2))
    table.feed(Captured("a"))
    texts, last = [], 0.0
    for index in range(2):
        for phase, step in (
            (Phase.QUEUED, 0),
            (Phase.LOADING, 0),
            (Phase.ENCODING, 0),
            (Phase.SAMPLING, 3),
            (Phase.SAMPLING, 12),
            (Phase.DECODING, 12),
        ):
            if index and phase is Phase.QUEUED:
                continue
            table.feed(StateChanged("a", phase, index, step, 12))
            now = shown(table)
            texts.append(now.progress_text)
            assert now.can_cancel
            if now.progress is not None:
                assert now.progress >= last
                last = now.progress
    assert last == 1.0
    assert texts[:5] == [
        "queued",
        "1/2: loading model",
        "1/2: encoding",
        "1/2: step 3 of 12",
        "1/2: step 12 of 12",
    ]


def test_buttons_follow_the_table() -> None:
    table = JobTable()
    table.connected = True
    nowhere = view.make(table, Settings(), [])
    assert not nowhere.can_generate and nowhere.steps_text == ""
    assert nowhere.note == nowhere.button_tip == "Open or create a document first."
    table.feed(Created("a", "d", BOX, Recipe()))
    table.feed(Captured("a"))
    assert shown(table).can_cancel and not shown(table).can_keep
    table.feed(StateChanged("a", Phase.SAMPLING, 0, 1, 12))
    assert shown(table).can_keep
    table.feed(KeepPressed("a"))
    assert not shown(table).can_keep
    table.connected = False
    assert "waiting for the server" in shown(table).progress_text and shown(table).can_cancel
    table.feed(ResultArrived("a", 0, Recipe(seed=7)))
    assert shown(table).can_apply and "Seed 7" in shown(table).results[0].tip


def test_notes_say_what_is_ignored() -> None:
    assert "No prompt" in view.make(JobTable(), Settings(), [POCKET], extent=CANVAS).note
    settings = Settings(prompt="x", negative="y", models={"": ModelParams(guidance=1.0)})
    shown = view.make(JobTable(), settings, [POCKET], extent=CANVAS)
    assert "ignored" in shown.note and shown.negative_ignored
    shown = view.make(JobTable(), Settings(prompt="x", negative="y"), [POCKET], extent=Extent(256, 256))
    assert shown.note == "" and not shown.negative_ignored


def test_a_model_that_is_gone_or_broken_is_said_and_not_hidden() -> None:
    broken = {"id": "b", "name": "Bad", "usable": False, "problem": "It is not safe to load."}
    choices = view.make(JobTable(), Settings(model="lost"), [POCKET, broken]).models
    assert [choice.problem for choice in choices] == [
        "",
        "",
        "It is not safe to load.",
        "The server does not have this model.",
    ]
    assert choices[0].text == "Default (Pocket)"


def test_strength_goes_by_steps_of_five_percent() -> None:
    assert [plan.stepped(value, 1) for value in (0.0, 0.3, 0.62, 0.95, 1.0)] == [0.05, 0.35, 0.65, 1.0, 1.0]
    assert [plan.stepped(value, -1) for value in (0.0, 0.05, 0.3, 0.62, 1.0)] == [0.0, 0.0, 0.25, 0.6, 0.95]


def test_what_is_free_is_said_when_it_is_known() -> None:
    """The names are those of the worker (`server.worker.device`)."""
    device = {"kind": "cuda", "name": "Card", "memory": 12_000_000_000, "free": 5_100_000_000}
    assert free_text(device) == "5.1 GB of 12.0 GB free."
    for wrong in ({}, {"free": 0, "memory": 5}, {"free": 7, "memory": 0}, {"free": "<b>", "memory": 9}):
        assert free_text(device | wrong if wrong else {}) == ""
