# SPDX-License-Identifier: GPL-3.0-or-later
"""Single files of the transformer families: the picture from a file is the picture from the folder, bit for bit."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.recipe import Recipe
from server.diffusion import Task, generate, load_model
from server.diffusion.families import kontext, qwen_edit
from server.diffusion.original import load
from server.front.resolve import Resolver
from server.library import Library, companions
from server.library.companions import build_of, missing
from server.library.family import detect
from server.library.header import read_header
from server.library.memory import weights_of
from server.worker.models import ModelCache
from tests.engine.conftest import hard_mask, picture
from tests.tiny_flow import MAKERS, WORDS, make_flow_model, words_tokenizer
from tests.tiny_flow2 import FAMILIES as LOOKING
from tests.tiny_flow2 import SEEN
from tests.tiny_original import make_files, make_single

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "flux1-dev": ("flux1", {}),
    "flux1-schnell": ("flux1", {"few_steps": True}),
    "flux1-fill": ("flux1", {"inpaint": True}),
    "flux2-klein": ("flux2", {}),
    "flux2-dev": ("flux2", {"dev": True}),
    "sd3": ("sd3", {}),
    "sd3.5-without-t5": ("sd3", {"with_t5": False, "second": True}),
    "chroma": ("chroma", {}),
    "z-image": ("z-image", {}),
    "qwen-image": ("qwen-image", {}),
}
MAKERS |= LOOKING
TASK = Task(
    prompt="a red boat", negative="fog", seed=3, total_steps=2, sampler="Euler", width=64, height=64, guidance=3
)


@dataclass(frozen=True)
class Made:
    """A tiny model as a diffusers folder, loaded."""

    family: str
    folder: Path
    model: Any


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """made(kind) -> the model as a folder, once."""
    done: dict[str, Made] = {}

    def get(kind: str) -> Made:
        if kind not in done:
            family, options = KINDS[kind]
            folder = make_flow_model(tmp_path_factory.mktemp("original") / kind, family, **options)
            done[kind] = Made(family, folder, load_model(folder, family))
        return done[kind]

    return get


@pytest.fixture(autouse=True)
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny encoders know nine words, not the 32,000 to 150,000 of the shipped tokenizers (tests of their own)."""
    monkeypatch.setattr(load, "t5_tokenizer", words_tokenizer)
    monkeypatch.setattr(load, "qwen_tokenizer", words_tokenizer)
    monkeypatch.setattr(load, "mistral_tokenizer", words_tokenizer)
    monkeypatch.setattr(companions, "MISTRAL_WORDS", len(WORDS))


def task_of(kind: str) -> Task:
    if kind == "flux1-fill":
        return replace(TASK, image=picture(), mask=hard_mask())
    return TASK


@pytest.mark.parametrize("kind", KINDS)
def test_everything_in_one_file(kind: str, made: Callable[[str], Made], tmp_path: Path) -> None:
    whole = made(kind)
    path = make_single(tmp_path / "all.safetensors", whole.folder, whole.model, whole.family)
    found, shapes = detect(read_header(path)), read_header(path).shapes
    assert (found.kind, found.family, found.inpainting) == ("checkpoint", whole.family, kind == "flux1-fill")
    assert [need.role for need in missing(shapes, whole.family)] == (["t5"] if "without" in kind else [])
    single = load_model(path, whole.family)
    assert np.array_equal(generate(single, task_of(kind)).image, generate(whole.model, task_of(kind)).image)


@pytest.mark.parametrize("kind", KINDS)
def test_transformer_alone_with_files_beside_it(kind: str, made: Callable[[str], Made], tmp_path: Path) -> None:
    """The same weights in every part, wherever they lie; and nothing but the parts that are there."""
    whole = made(kind)
    path = tmp_path / "transformer.safetensors"
    parts = make_files(path, whole.folder, whole.model, whole.family)
    told: list[float] = []
    single: Any = load_model(path, whole.family, parts=parts, progress=told.append)
    assert told == sorted(told) and told[-1] == 1.0
    wanted = {name: part for name, part in whole.model.parts.items() if isinstance(part, torch.nn.Module)}
    found = {name: part for name, part in single.parts.items() if isinstance(part, torch.nn.Module)}
    assert found.keys() == wanted.keys()
    for name, part in wanted.items():
        if "ForCausalLM" in type(part).__name__:
            part = part.model  # Flux 2 reads inner layers; what comes after the last one stays in the file
        if cut := "Mistral3" in type(part).__name__:
            part = part.model.language_model
        before, after = part.state_dict(), found[name].state_dict()
        if cut:
            before = {key: tensor for key, tensor in before.items() if not key.startswith(("layers.30.", "norm."))}
        before.pop("bn.num_batches_tracked", None), after.pop("bn.num_batches_tracked", None)
        assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before), name
        unused = UNUSED_SETTINGS | ({"num_hidden_layers"} if cut else set())
        assert differences(configuration(part), configuration(found[name])) <= unused, name
    assert settings(single.schedule_config) == settings(whole.model.schedule_config)


UNUSED_SETTINGS: set[str] = {
    "_name_or_path", "_use_default_values", "architectures", "dtype", "torch_dtype", "transformers_version",
    "sample_size", "down_block_types", "up_block_types", "axes_lens", "max_position_embeddings", "text_config",
    "vision_config", "bos_token_id", "eos_token_id", "pad_token_id", "projection_dim",
}  # fmt: skip
"""Settings that say nothing about what a network computes, or that tiny models have smaller (tables of places)."""


def configuration(part: Any) -> dict[str, Any]:
    return part.config.to_dict() if hasattr(part.config, "to_dict") else dict(part.config)


def differences(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, tuple) else value

    return {key for key in one.keys() & other.keys() if plain(one[key]) != plain(other[key])}


def settings(schedule: Any) -> dict[str, Any]:
    return {key: value for key, value in schedule.items() if not key.startswith("_")}


def test_one_step_of_qwen_image_is_a_picture(made: Callable[[str], Made]) -> None:
    """Its schedule stretches to a last noise level, and of one level alone diffusers makes no number at all."""
    model = made("qwen-image").model
    assert torch.isfinite(model.schedule("Euler", 1, 0, 64, 64).timestep(0))
    assert generate(model, replace(TASK, total_steps=1)).image.std() > 0


@pytest.mark.parametrize("kind", ["flux1-dev", "flux2-klein", "flux2-dev", "z-image", "qwen-image"])
def test_the_library_finds_the_parts(kind: str, made: Callable[[str], Made], tmp_path: Path) -> None:
    """From the listing to the worker's cache: the files beside a transformer, again when one of them is replaced."""
    whole = made(kind)
    make_files(tmp_path / "transformer.safetensors", whole.folder, whole.model, whole.family)
    library = Library([tmp_path], None)
    library.scan()
    (entry,) = [entry for entry in library.entries if entry.kind == "checkpoint"]
    assert (entry.family, entry.problem) == (whole.family, "") and entry.parts
    order = Resolver(library)._model(Recipe(kind="txt2img", model=entry.id, width=64, height=64), ())
    assert order["parts"] == {part: str(path) for part, path in entry.parts.items()}
    cache = ModelCache("cpu")
    model = cache.get(Path(order["path"]), order["family"], lambda: False, parts=order["parts"])
    assert cache.get(Path(order["path"]), order["family"], lambda: False, parts=order["parts"]) is model
    assert np.array_equal(generate(model, TASK).image, generate(whole.model, TASK).image)
    weights = weights_of(entry.path, entry.parts)
    own = sum(value.numel() for value in whole.model.transformer.state_dict().values())
    assert abs(weights.denoiser - own) <= 64  # a norm that nothing reads, two rows of padding
    assert weights.encoders > 0 < weights.autoencoder
    if kind == "flux2-dev":  # of its forty layers thirty are loaded
        assert weights.encoders == sum(value.numel() for value in model.text_encoder.state_dict().values())
    os.utime(entry.parts["vae"], ns=(1, 1))
    assert not cache.peek(entry.path)


def test_mistral_cut_where_flux2_ends_reading(made: Callable[[str], Made], tmp_path: Path) -> None:
    """The file that people have for Flux 2 dev: thirty of the layers, its tokenizer among the weights; no fewer."""
    whole = made("flux2-dev")
    path = tmp_path / "transformer.safetensors"
    parts = make_files(path, whole.folder, whole.model, "flux2")
    tensors = load_file(parts["text_encoder"])
    for last in (30, 29):
        tensors = {name: tensor for name, tensor in tensors.items() if f".layers.{last}." not in name}
        save_file({**tensors, "tekken_model": torch.zeros(9, dtype=torch.uint8)}, parts["text_encoder"])
        if last == 30:
            single = load_model(path, "flux2", parts=parts)
            assert np.array_equal(generate(single, TASK).image, generate(whole.model, TASK).image)
    with pytest.raises(WireError) as caught:
        load_model(path, "flux2", parts=parts)
    assert caught.value.code is Code.MODEL_CORRUPT and "qwen3_4b.safetensors" in caught.value.message


def test_what_is_nowhere_or_something_else_is_one_sentence(made: Callable[[str], Made], tmp_path: Path) -> None:
    whole = made("flux1-dev")
    path = tmp_path / "transformer.safetensors"
    parts = make_files(path, whole.folder, whole.model, "flux1")
    cases: list[tuple[dict[str, Path], Code, str]] = [
        ({**parts, "vae": tmp_path / "gone.safetensors"}, Code.MODEL_MISSING, "gone.safetensors"),
        ({name: file for name, file in parts.items() if name != "text_encoder_2"}, Code.MODEL_MISSING, "t5xxl"),
        ({**parts, "text_encoder_2": parts["text_encoder"]}, Code.MODEL_UNSUPPORTED, "clip_l.safetensors"),
        ({**parts, "vae": parts["text_encoder"]}, Code.MODEL_CORRUPT, "clip_l.safetensors"),
    ]
    for given, code, said in cases:
        with pytest.raises(WireError) as caught:
            load_model(path, "flux1", parts=given)
        assert caught.value.code is code and said in caught.value.message and caught.value.message.endswith(".")


@pytest.mark.parametrize("change", ["a layer missing", "a bias missing", "a layer more", "another shape", "no blocks"])
def test_damaged_transformers_are_one_sentence(change: str, made: Callable[[str], Made], tmp_path: Path) -> None:
    whole = made("flux1-dev")
    path = tmp_path / "odd.safetensors"
    parts = make_files(path, whole.folder, whole.model, "flux1")
    tensors = load_file(path)
    code = Code.MODEL_CORRUPT
    if change == "a layer missing":
        del tensors["single_blocks.0.linear1.weight"]
    elif change == "a bias missing":
        del tensors["final_layer.linear.bias"]
    elif change == "a layer more":
        tensors["double_blocks.0.fuser.weight"] = torch.zeros(4, 4)
        code = Code.MODEL_UNSUPPORTED
    elif change == "another shape":
        tensors["double_blocks.0.img_attn.qkv.weight"] = torch.zeros(7, 3)
    else:
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("double_blocks.")}
        code = Code.MODEL_UNSUPPORTED
    save_file(tensors, path)
    with pytest.raises(WireError) as caught:
        load_model(path, "flux1", parts=parts)
    assert caught.value.code is code and caught.value.message.endswith(".") and "odd.safetensors" in str(caught.value)


@pytest.mark.parametrize("family", ["flux1-kontext", "qwen-image-edit"])
def test_what_no_tensor_tells_is_said_beside_the_file(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library believes the file beside it, or the file's own words; the model then looks at the canvas."""
    monkeypatch.setattr(load, "qwen_tokenizer", lambda: words_tokenizer(SEEN))
    monkeypatch.setattr(kontext, "SIZES", ((64, 64),))
    monkeypatch.setattr(qwen_edit, "LATENT_AREA", 64 * 64)
    monkeypatch.setattr(qwen_edit, "READ_AREA", 64 * 64)
    folder = make_flow_model(tmp_path / "folder", family, **({"plus": True} if "qwen" in family else {}))
    whole: Any = load_model(folder, family)
    home = tmp_path / "files"
    home.mkdir()
    path = home / "model.safetensors"
    make_files(path, folder, whole, family)
    library = Library([home], None)

    def entry() -> Any:
        library.scan()
        return next(entry for entry in library.entries if entry.path == path)

    assert (entry().family, entry().problem) == (build_of(family), "")
    path.with_suffix(".json").write_text(f'{{"family": "{family}"}}')
    found = entry()
    assert (found.family, found.problem, found.to_json()["looks"]) == (family, "", True)
    single: Any = load_model(path, family, parts=found.parts)
    if "qwen" in family:  # the numbers of special words, and the settings of the reader, are those of the real ones
        for name in ("image_token_id", "vision_start_token_id"):
            setattr(single.text_encoder.config, name, getattr(whole.text_encoder.config, name))
        single.image_reader = whole.image_reader
    task = replace(TASK, image=picture())
    assert np.array_equal(generate(single, task).image, generate(whole, task).image)
    cache = ModelCache("cpu")
    for told in (build_of(family), family):  # the same file, loaded before anybody said what it is
        held = cache.get(path, told, lambda: False, parts={part: str(file) for part, file in found.parts.items()})
        assert held.family == told
    path.with_suffix(".json").write_text('{"family": "sdxl"}')
    assert entry().family == build_of(family)
    path.with_suffix(".json").unlink()
    save_file(load_file(path), path, {"modelspec.architecture": f"{family.replace('qwen-', 'Qwen-')}-dev/x"})
    assert entry().family == family


def test_a_text_encoder_without_eyes_is_refused(made: Callable[[str], Made], tmp_path: Path) -> None:
    whole = made("qwen-image")
    parts = make_files(tmp_path / "edit.safetensors", whole.folder, whole.model, "qwen-image")
    words = {name: tensor for name, tensor in load_file(parts["text_encoder"]).items() if "visual." not in name}
    save_file(words, parts["text_encoder"])
    with pytest.raises(WireError, match="has no eyes") as caught:
        load_model(tmp_path / "edit.safetensors", "qwen-image-edit", parts=parts)
    assert caught.value.code is Code.MODEL_UNSUPPORTED


@pytest.mark.parametrize("kind", ["flux1-schnell", "qwen-image"])
def test_an_autoencoder_file_for_one_job(kind: str, made: Callable[[str], Made], tmp_path: Path) -> None:
    """The files that people have for these families, as another VAE: the model's own makes the same picture."""
    whole = made(kind)
    path = make_files(tmp_path / "transformer.safetensors", whole.folder, whole.model, whole.family)["vae"]
    task = replace(TASK, image=picture(), start_step=1)
    own = generate(whole.model, task).image
    assert np.array_equal(generate(whole.model, replace(task, vae=path)).image, own)
    tensors = load_file(path)
    (name,) = [name for name in tensors if name in ("decoder.head.2.bias", "decoder.conv_out.bias")]
    save_file({**tensors, name: tensors[name] + 0.5}, path)
    assert not np.array_equal(generate(whole.model, replace(task, vae=path)).image, own)
