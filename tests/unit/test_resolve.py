# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files a recipe's names mean: control models by type and family, the embedded model's own for it alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from krita_sd.wire.control_names import fits_family, is_named_for
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.recipe import Control, Recipe
from server.front import resolve
from server.front.resolve import Resolver, belongs_together
from server.library import ModelEntry
from server.library.kinds import Inversion

HASH = "0" * 32


@dataclass
class Shelf:
    """A library of entries that need no files."""

    entries: list[ModelEntry]
    roots: tuple[Path, ...] = ()
    asked: list[str] = field(default_factory=list)

    def find(self, id: str, kind: str = "checkpoint") -> ModelEntry:
        for entry in self.entries:
            if entry.kind == kind and (entry.id == id or not id):
                return entry
        raise WireError(Code.MODEL_MISSING, "no such model")


def entry(id: str, kind: str, family: str, path: Path | None = None) -> ModelEntry:
    return ModelEntry(id, id, path or Path("/models") / f"{id}.safetensors", kind, family, 1)


def resolver(*entries: ModelEntry) -> Resolver:
    shelf: Any = Shelf(list(entries))
    return Resolver(shelf)


MODEL = entry("model", "checkpoint", "sd1")


def chosen(type: str, *entries: ModelEntry, model: ModelEntry = MODEL, wanted: str = "") -> str:
    recipe = Recipe(controls=(Control(type, HASH, model=wanted),))
    found = resolver(model, *entries).resolve(recipe).model["controls"][0]
    return str(found["name"])


@pytest.mark.parametrize(
    ("name", "type", "fits"),
    [
        ("control_v11p_sd15_lineart", "line_art", True),
        ("control_v11p_sd15s2_lineart_anime", "line_art", True),
        ("t2i-adapter-sketch", "scribble", True),
        ("control_v11p_sd15_openpose", "pose", True),
        ("control_v11p_sd15_softedge", "soft_edge", True),
        ("control_v11f1e_sd15_tile", "blur", True),
        ("control_v11p_sd15_canny", "depth", False),
        ("diffusers_xl_depth_full", "depth", True),
    ],
)
def test_names_say_what_a_control_model_is_for(name: str, type: str, fits: bool) -> None:
    assert is_named_for(name, type) is fits


def test_the_best_control_model_is_of_the_type_and_of_the_family() -> None:
    wide = entry("xl_canny", "controlnet", "sdxl")
    depth, canny = entry("depth", "controlnet", "sd1"), entry("canny", "controlnet", "sd1")
    adapter, union = entry("t2i canny", "t2i_adapter", "sd1"), entry("union-promax", "controlnet", "sd1")
    assert chosen("canny", wide, depth, canny) == "canny"
    assert chosen("canny", wide, depth, union) == "union-promax"
    assert chosen("canny", wide, adapter) == "t2i canny"
    assert chosen("canny", wide, depth, canny, wanted="depth") == "depth", "named outright"
    for missing in ((wide,), (depth,), ()):
        with pytest.raises(WireError, match="canny") as caught:
            chosen("canny", *missing)
        assert caught.value.code is Code.UNSUPPORTED and "canny" in caught.value.hint
    with pytest.raises(WireError) as caught:
        chosen("canny", canny, wanted="gone")
    assert caught.value.code is Code.MODEL_MISSING


def test_reference_pictures_take_an_ip_adapter() -> None:
    adapter, net = entry("ip-adapter_sd15", "ip_adapter", "sd1"), entry("reference", "controlnet", "sd1")
    assert chosen("reference", net, adapter) == "ip-adapter_sd15"
    with pytest.raises(WireError, match="reference"):
        chosen("reference", net)


def test_style_and_composition_take_any_ip_adapter_but_rather_one_of_that_name() -> None:
    plain, styled = entry("ip-adapter_sd15", "ip_adapter", "sd1"), entry("ip style", "ip_adapter", "sd1")
    assert chosen("composition", plain, styled) == "ip-adapter_sd15"
    assert chosen("style", plain, styled) == "ip style"


def test_maps_are_made_by_a_trained_model_where_there_is_one() -> None:
    depth = ModelEntry("d", "d", Path("/models/d/model.safetensors"), "preprocessor", "", 1, maps=("depth", "normal"))
    broken = ModelEntry("b", "b", Path("/models/b/model.safetensors"), "preprocessor", "", 1, "no", maps=("pose",))

    def asked(type: str) -> str:
        recipe = Recipe(kind="preprocess", image=HASH, map=type)
        return str(resolver(MODEL, broken, depth).resolve(recipe).model["preprocessor"])

    assert [asked(type) for type in ("depth", "normal")] == [str(depth.path)] * 2
    assert [asked(type) for type in ("canny", "pose", "segmentation")] == [""] * 3


def test_who_looks_at_references_of_the_larger_models() -> None:
    flux, redux = entry("dev", "checkpoint", "flux1"), entry("flux1-redux", "redux", "flux1")
    adapter = entry("flux ip", "ip_adapter", "sd1")
    assert chosen("reference", adapter, redux, model=flux) == "flux1-redux"
    with pytest.raises(WireError) as caught:
        chosen("reference", adapter, model=flux)
    assert "Redux" in caught.value.hint
    with pytest.raises(WireError):
        chosen("style", redux, model=flux)
    for family in ("flux1-kontext", "flux2", "qwen-image-edit"):
        looking = entry("own eyes", "checkpoint", family)
        assert chosen("reference", adapter, model=looking) == "own eyes"
        recipe = Recipe(controls=(Control("reference", HASH),))
        assert resolver(looking).resolve(recipe).model["controls"] == [{"path": "", "kind": "own", "name": "own eyes"}]


@pytest.mark.parametrize(
    ("part", "model", "fits"),
    [("", "flux2", True), ("flux1", "flux1-kontext", True), ("qwen-image", "qwen-image-edit", True)]
    + [("flux1", "flux2", False), ("flux1-kontext", "flux1", True), ("sd1", "sdxl", False)],
)
def test_models_for_editing_share_the_additions_of_their_family(part: str, model: str, fits: bool) -> None:
    assert fits_family(part, model) is fits
    assert belongs_together(entry("part", "lora", part), entry("model", "checkpoint", model)) is fits


def test_the_embedded_models_parts_are_for_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "POCKET", tmp_path)
    settings = {"controlnets": [{"folder": "controlnet", "name": "Own", "type": "line_art"}]}
    (tmp_path / "krita_sd.json").write_text(json.dumps(settings))
    pocket = entry("pocket", "checkpoint", "sd1", tmp_path)
    own = entry("controlnet", "controlnet", "sd1", tmp_path / "controlnet" / "diffusion_pytorch_model.safetensors")
    big = entry("big_lineart", "controlnet", "sd1")
    assert belongs_together(own, pocket) and not belongs_together(own, MODEL)
    assert belongs_together(big, MODEL) and not belongs_together(big, pocket)
    assert chosen("line_art", big, own, model=pocket) == "controlnet"
    assert chosen("line_art", own, big) == "big_lineart"
    with pytest.raises(WireError):
        chosen("canny", own, model=pocket)


def test_loras_are_found_by_what_people_write() -> None:
    lora = ModelEntry("ink-1a2b", "Ink (styles)", Path("/models/styles/Ink.safetensors"), "lora", "sd1", 1)
    for name in ("ink", "INK", "Ink.safetensors", "ink-1a2b", "ink (styles)"):
        resolved = resolver(MODEL, lora).resolve(Recipe(prompt=f"a boat <lora:{name}:0.5>"))
        assert resolved.model["prompt_loras"] == [(str(lora.path), 0.5)], name
        assert resolved.words.text == "a boat "
    assert resolver(MODEL, lora).resolve(Recipe(prompt="<lora:other:1>")).model["prompt_loras"] == []


def learned_word(path: str, family: str = "sd1", token: str = "", count: int = 2) -> ModelEntry:
    return ModelEntry(path, path, Path("/models") / path, "embedding", family, 1, inversion=Inversion(token, count))


def test_textual_inversions_are_found_by_their_words_in_both_prompts() -> None:
    hands, style = learned_word("bad-hands-5.safetensors"), learned_word("Ink.safetensors", token="inky")
    named = learned_word("moods/learned_embeds.safetensors", family="")
    wide = learned_word("wide.safetensors", family="sdxl")
    unsafe = ModelEntry("old", "old.pt", Path("/models/old.pt"), "checkpoint", "", 9, "unsafe", Code.MODEL_UNSAFE)
    asked = resolver(MODEL, hands, style, named, wide, unsafe)
    found = asked.resolve(Recipe(prompt="a (ink:1.2) boat, inky, Moods wide old", negative="embedding:bad-hands-5"))
    assert found.model["inversions"] == [
        ("Ink", "/models/Ink.safetensors"),
        ("inky", "/models/Ink.safetensors"),
        ("moods", "/models/moods/learned_embeds.safetensors"),
        ("bad-hands-5", "/models/bad-hands-5.safetensors"),
    ]
    said = asked.reading(found)
    assert said["prompt"]["inversions"] == ["Ink", "inky", "moods"]
    assert said["negative"]["inversions"] == ["bad-hands-5"]
    assert "textual inversion bad-hands-5" in said["negative"]["text"].lower()
    assert said["prompt"]["ignored"] == [
        "wide (a textual inversion for Stable Diffusion XL)",
        "old (its file is not safe to open; convert it to safetensors first)",
    ]
    plain = asked.resolve(Recipe(prompt="bad-hands and inks"))
    assert plain.model["inversions"] == [] and asked.reading(plain)["prompt"]["ignored"] == []


def test_language_models_read_the_words_as_they_are() -> None:
    flux = entry("flux", "checkpoint", "flux1")
    asked = resolver(flux, learned_word("ink.safetensors"))
    found = asked.resolve(Recipe(prompt="ink"))
    assert found.model["inversions"] == []
    assert asked.reading(found)["prompt"]["ignored"] == ["ink (a textual inversion for Stable Diffusion 1.x)"]
