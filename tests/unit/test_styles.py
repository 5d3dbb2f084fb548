# SPDX-License-Identifier: GPL-3.0-or-later
"""Styles are files that can be shared; what they give to a job, and what the painter's own word overrules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from krita_sd import plan, view
from krita_sd.geometry import Extent
from krita_sd.jobs import JobTable
from krita_sd.settings import PER_DOCUMENT, ModelParams, Settings
from krita_sd.styles import BUILT_IN, NO_STYLE, Style, StyleBook, merged_loras, read_style, resolve
from krita_sd.wire.errors import WireError
from krita_sd.wire.recipe import Lora, Recipe
from krita_sd.wire.values import UNSET

MODELS: tuple[dict[str, Any], ...] = (
    {"id": "m1", "name": "dream.safetensors", "kind": "checkpoint", "family": "sd1", "defaults": {"steps": 30}},
    {"id": "l1", "name": "ink", "kind": "lora", "family": "sd1", "bytes": 37_000_000},
    {"id": "l2", "name": "xl-ink", "kind": "lora", "family": "sdxl"},
    {"id": "v1", "name": "soft", "kind": "vae", "family": "sd1"},
)
STYLE = Style(
    "own/mine", "Mine", ("sd1",), "dream", (Lora("ink", 0.5),), "Euler a", 8, 0.0, "a {prompt} b", "bad", "soft", 2, "x"
)  # fmt: skip


def recipe(settings: Settings, style: Style, wrap: str = "") -> Recipe:
    return plan.make(settings, MODELS[0], Extent(512, 512), None, 7, style=style, models=MODELS, wrap=wrap).recipe


def test_every_built_in_style_can_be_read_and_has_its_own_name() -> None:
    book = StyleBook(Path("/nowhere"))
    book.load()
    assert book.problems == () and len(book.styles) == len(list(BUILT_IN.glob("*.json"))) >= 12
    assert len({style.name for style in book.styles}) == len(book.styles)
    families = {family for style in book.styles for family in style.families}
    assert families >= {"sd1", "sd2", "sdxl", "sd3", "flux1", "flux2", "z-image", "qwen-image", "chroma"}
    assert any(style.tile == "xy" for style in book.styles) and any(style.model == "pocket" for style in book.styles)
    assert not any(style.is_own for style in book.styles)


def test_a_style_survives_its_file_zeros_included(tmp_path: Path) -> None:
    book = StyleBook(tmp_path / "styles")
    book.save(book.add(STYLE))
    again = StyleBook(tmp_path / "styles")
    again.load()
    assert again.get("own/mine") == STYLE
    again.remove("own/mine")
    again.delete("own/mine")
    assert again.get("own/mine") is NO_STYLE and list((tmp_path / "styles").iterdir()) == []


def test_a_style_is_shared_as_a_file_and_a_damaged_one_costs_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "from-a-friend.json").write_text('{"name": "Friend", "prompt": "{prompt}!", "unknown": [1]}')
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "wrong.json").write_text('{"name": "X", "steps": 1e9}')
    (tmp_path / "deep.json").write_text("[" * 100_000)
    book = StyleBook(tmp_path)
    book.load()
    assert book.get("own/from-a-friend").words("cat") == "cat!"
    assert len(book.problems) == 3 and all(".json" in problem for problem in book.problems)


def test_names_become_files_inside_the_folder_only(tmp_path: Path) -> None:
    book = StyleBook(tmp_path)
    paths = [book.path(book.add(Style("", name)).id) for name in ("../../x", "Über Öl", "a/b", "...", "Über Öl")]
    assert all(path.parent == tmp_path for path in paths) and len(set(paths)) == len(paths)
    with pytest.raises(WireError):
        read_style("own/x", {"name": "x", "loras": [{"id": "a", "weight": 9}]})


def test_what_a_style_gives_to_a_recipe() -> None:
    made = recipe(Settings(prompt="cat", negative="dog", model="m1"), STYLE)
    assert (made.prompt, made.negative) == ("a cat b", "dog, bad")
    assert (made.steps, made.guidance, made.sampler, made.vae, made.clip_skip) == (8, 0.0, "Euler a", "v1", 2)
    assert made.loras == (Lora("l1", 0.5),) and made.tile == "x"
    assert made.steps != plan.default(MODELS[0], "steps", 0)


def test_the_painters_own_word_goes_before_the_styles() -> None:
    settings = Settings(prompt="cat", style="own/mine", loras=(Lora("l1", 0.0), Lora("l2", 1.5)), tile="")
    settings = settings.with_params(steps=50, guidance=3.0, vae="", clip_skip=1)
    made = recipe(settings, STYLE, wrap="xy")
    assert (made.steps, made.guidance, made.vae, made.clip_skip) == (50, 3.0, "", 1)
    assert made.loras == (Lora("l2", 1.5),) and made.tile == ""
    assert recipe(Settings(), NO_STYLE, wrap="xy").tile == "xy"
    plain = recipe(Settings(prompt=" a\n"), NO_STYLE)
    assert plain.prompt == " a\n" and plain.steps is UNSET and plain.loras == ()


def test_parameters_are_remembered_per_style_where_one_is_chosen() -> None:
    settings = Settings(model="m1").with_params(steps=11).replace(style="own/mine").with_params(steps=5)
    assert settings.params.steps == 5 and settings.replace(style="").params == ModelParams(11)


def test_exact_steps_run_as_many_as_are_typed() -> None:
    settings = Settings(strength=0.25).with_params(steps=12)
    assert plan.steps_text(settings, {}) == (3, 12)
    assert plan.steps_text(settings.replace(exact_steps=True), {}) == (12, 48)
    assert recipe(settings.replace(exact_steps=True), NO_STYLE).min_steps == 12


@pytest.mark.parametrize("name, found", [("l1", "l1"), ("ink", "l1"), ("INK.safetensors", "l1"), ("gone", "gone")])
def test_loras_of_a_style_are_found_by_id_or_name(name: str, found: str) -> None:
    assert resolve(name, MODELS, "lora") == found


def test_merging_loras_lets_the_later_weight_win() -> None:
    assert merged_loras((Lora("a", 1), Lora("b", 1)), (Lora("b", 0.2),)) == (Lora("a", 1), Lora("b", 0.2))


def test_the_docker_says_what_does_not_fit() -> None:
    shown = view.make(
        JobTable(), Settings(model="m1", loras=(Lora("l2", 1.0), Lora("gone", 1.0))), MODELS,
        extent=Extent(64, 64), style=STYLE, styles=(STYLE, Style("built-in/xl", "XL", ("sdxl",))),
    )  # fmt: skip
    assert [(choice.id, bool(choice.problem)) for choice in shown.styles] == [
        ("", False),
        ("own/mine", False),
        ("built-in/xl", True),
    ]
    assert [bool(item.problem) for item in shown.loras] == [True, True]
    assert [choice.id for choice in shown.lora_choices] == ["l1"] and shown.lora_choices[0].tip == "sd1, 37 MB"
    assert (shown.default_steps, shown.default_guidance, shown.default_sampler) == (8, 0.0, "Euler a")
    assert "Negative prompt ignored" in shown.note


def test_a_document_keeps_its_own_settings_and_says_nothing_about_this_machine() -> None:
    mine = Settings(session="s", server_token="secret", prompt="a", strength=0.0, loras=(Lora("l1", -1.0),))
    kept = json.loads(json.dumps(mine.of_document()))
    assert set(kept) == set(PER_DOCUMENT) and "secret" not in json.dumps(kept)
    other = Settings(session="t", server_uri="ws://x", prompt="b").with_document(kept)
    assert (other.prompt, other.strength, other.loras) == ("a", 0.0, mine.loras)
    assert (other.session, other.server_uri) == ("t", "ws://x")
    hostile = {**kept, "server_uri": "ws://evil", "session": "z", "strength": "x", "live": {"record_folder": "/etc"}}
    read = other.with_document(hostile)
    assert (read.server_uri, read.session, read.strength, read.live.record_folder) == ("ws://x", "t", 1.0, "")
    assert other.with_document([1]) == other and other.with_document({}) == other
