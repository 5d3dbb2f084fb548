# SPDX-License-Identifier: GPL-3.0-or-later
"""Recipes in picture files: what we write others read, what others write we read, and nobody's file hurts us."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from krita_sd.metadata import exif, png, recipes
from krita_sd.wire import parameters
from krita_sd.wire.errors import WireError
from krita_sd.wire.recipe import SAMPLERS, Recipe

RECIPE = Recipe(
    prompt="a (red:1.2) house, é 日本\nsecond line",
    negative="blurry\nugly",
    width=768,
    height=512,
    seed=2**63 - 1,
    steps=25,
    guidance=0.0,
    sampler="DPM++ 2M Karras",
    strength=0.0,
    kind="img2img",
    image="0" * 32,
    clip_skip=2,
    variation=0.25,
    variation_seed=7,
    tile="xy",
)


def encoded(kind: str, alpha: bool = False, **options: Any) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (33, 47, 4 if alpha else 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


FILES = {
    "png": encoded("PNG", alpha=True),
    "jpeg": encoded("JPEG"),
    "webp": encoded("WEBP"),
    "webp lossless": encoded("WEBP", lossless=True),
    "webp alpha": encoded("WEBP", alpha=True, lossless=True, exact=True),
    "webp extended": encoded("WEBP", alpha=True, quality=50),
    "webp profile": encoded("WEBP", icc_profile=b"x" * 33),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_saved_recipe_comes_back_whole_and_the_pixels_are_untouched(kind: str, tmp_path: Path) -> None:
    plain = FILES[kind]
    path = tmp_path / "picture"
    path.write_bytes(recipes.embed(plain, recipes.texts_of(RECIPE, "a, model", job="x")))
    texts = recipes.read_texts(path)
    assert recipes.found_in(texts).recipe() == RECIPE.replace(image=None)  # type: ignore[union-attr]
    assert recipes.details_of(texts)["job"] == "x"
    assert texts["parameters"] == parameters.write(RECIPE, "a, model")
    before, after = Image.open(io.BytesIO(plain)), Image.open(path)
    assert np.array_equal(np.asarray(before), np.asarray(after)) and before.mode == after.mode
    if kind != "png":
        comment = after.getexif().get_ifd(0x8769)[0x9286]
        assert comment == b"UNICODE\0" + texts["parameters"].encode("utf-16-be")
    else:
        assert after.info["parameters"] == texts["parameters"]  # type: ignore[attr-defined]


def test_text_that_others_wrote_is_read() -> None:
    text = (
        'masterpiece, <lora:x:0.8> cat\nin the rain\nNegative prompt: dog, "x": y\n'
        "Steps: 30, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 12345, Size: 512x768, "
        'Model hash: 6ce0161689, Model: "odd, name: x", Denoising strength: 0.45, Clip skip: 2, '
        "Variation seed: 3, Variation seed strength: 0.1, Hires upscale: 2, Version: v1.9.4"
    )
    found = parameters.read(text)
    assert found.model == "odd, name: x" and found.ignored == ()
    assert found.values == {
        "prompt": "masterpiece, <lora:x:0.8> cat\nin the rain",
        "negative": 'dog, "x": y',
        "steps": 30,
        "sampler": "DPM++ 2M Karras",
        "guidance": 6.5,
        "seed": 12345,
        "width": 512,
        "height": 768,
        "strength": 0.45,
        "clip_skip": 2,
        "variation_seed": 3,
        "variation": 0.1,
        "kind": "img2img",
    }


def test_what_is_out_of_range_or_not_a_number_is_named_and_left_out() -> None:
    found = parameters.read(
        "cat\nSteps: 100000, CFG scale: nan, Seed: -1, Size: 0x9999999, Sampler: Magic, Clip skip: x"
    )
    assert found.values == {"prompt": "cat", "negative": ""}
    assert set(found.ignored) == {"Steps", "CFG scale", "Seed", "width", "height", "Sampler", "Clip skip"}
    assert parameters.read("Size: 1\nSteps: 3, Size: 16384x16384").ignored == ("width", "height")


@pytest.mark.parametrize("text", ["", "only a prompt", "Steps: ", 'a\nSteps: 1, x: "', "Steps: 1,,,,:::", "\n\n\n"])
def test_odd_text_is_a_prompt_at_worst(text: str) -> None:
    parameters.read(text).recipe()


WORDS = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.just("\n"), max_size=80).filter(
    lambda text: text.strip("\n") == text and "Steps: " not in text and "Negative prompt:" not in text
)


@settings(max_examples=50, deadline=None)
@given(WORDS, WORDS, st.integers(1, 150), st.sampled_from(SAMPLERS), st.integers(0, 2**63 - 1), st.text(max_size=40))
def test_parameters_come_back_as_they_were_written(
    prompt: str, negative: str, steps: int, sampler: str, seed: int, model: str
) -> None:
    recipe = Recipe(prompt=prompt, negative=negative, steps=steps, sampler=sampler, seed=seed, guidance=7.5)
    found = parameters.read(
        parameters.write(recipe, "".join(char for char in model if char.isalnum() or char in ',":'))
    )
    assert found.recipe() == recipe


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 200), st.sampled_from(["png", "jpeg", "webp profile"]))
def test_damaged_files_are_read_without_error(noise: bytes, place: int, kind: str) -> None:
    whole = recipes.embed(FILES[kind], recipes.texts_of(RECIPE, "m"))
    broken = io.BytesIO(whole[:place] + noise + whole[place + len(noise) :])
    for reader in (lambda f: png.read(f, frozenset(("parameters",))), recipes.jpeg.read, recipes.webp.read):
        broken.seek(0)
        found = reader(broken)
        if isinstance(found, bytes):
            exif.read(found)
    exif.read(noise)
    exif.read(b"MM\0*" + noise)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def test_a_bomb_is_not_unpacked() -> None:
    """16 MiB of zeros in 16 KiB of zTXt; the text behind it still counts."""
    bomb = zlib.compress(bytes(16 * 1024 * 1024), 9)
    assert len(bomb) < png.MAX_CHUNK
    texts = chunk(b"zTXt", b"parameters\0\0" + bomb) + chunk(b"tEXt", b"parameters\0cat")
    data = png.SIGNATURE + texts + chunk(b"IEND", b"")
    assert png.read(io.BytesIO(data), frozenset(("parameters",))) == {"parameters": "cat"}
    assert png._unpack(bomb) is None and png._unpack(zlib.compress(b"x")) == b"x"


def test_only_known_fields_within_their_range_are_taken_from_our_own_json() -> None:
    wild = {
        "prompt": 5,
        "seed": 3,
        "steps": 10**9,
        "model": "id",
        "width": 64,
        "evil": "x",
        "image": "../..",
        "kind": "?",
    }
    found = recipes.of_json(json.dumps({"recipe": wild, "model_name": 7}))
    assert found is not None
    assert found.values == {"seed": 3, "model": "id", "width": 64} and found.model == ""
    assert set(found.ignored) == {"prompt", "steps", "kind"}
    for kind in ("inpaint", "upscale", "preprocess"):
        assert recipes.of_json({"recipe": {"kind": kind}}).values == {"kind": kind}  # type: ignore[union-attr]
    assert recipes.of_json("[" * 5000) is None and recipes.of_json('{"recipe": 1}') is None


def test_a_document_gives_the_recipe_of_its_newest_layer(tmp_path: Path) -> None:
    path = tmp_path / "x.kra"
    layers = {"{a}": {"recipe": {"seed": 1}}, "{b}": {"recipe": {"seed": 2}, "model_name": "m"}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("Untitled/annotations/krita_sd/recipes.json", json.dumps({"layers": layers}))
    found = recipes.read_file(path)
    assert found.values == {"seed": 2} and found.model == "m"


def test_a_file_without_a_recipe_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "plain.png"
    path.write_bytes(FILES["png"])
    with pytest.raises(WireError, match="plain.png holds no recipe"):
        recipes.read_file(path)
    with pytest.raises(WireError, match="cannot be read"):
        recipes.read_file(tmp_path / "none.png")


def test_a_recipe_too_long_for_a_jpeg_says_so() -> None:
    long = Recipe(prompt="x" * 20_000, negative="y" * 20_000)
    data = recipes.embed(FILES["jpeg"], recipes.texts_of(long, ""))
    assert exif.read(recipes.jpeg.read(io.BytesIO(data)))[0] == "", "ours is kept, the other one does not fit"
    with pytest.raises(WireError, match="too long"):
        recipes.embed(FILES["jpeg"], recipes.texts_of(long.replace(prompt="日" * 20_000), ""))


def test_the_schedule_of_few_step_models_is_read() -> None:
    found = parameters.read("x\nSteps: 4, Sampler: Euler, Schedule type: SGM Uniform")
    assert found.values["sampler"] == "Euler trailing"
