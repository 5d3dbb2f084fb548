# SPDX-License-Identifier: GPL-3.0-or-later
"""Textual inversions: bit for bit what diffusers makes of the same files, for one job, without a trace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from krita_sd.wire.errors import Code, WireError
from server.diffusion import Task, generate, load_model
from server.diffusion.inversions import Slot
from server.diffusion.text import split_chunks
from server.prompt import BREAK
from tests.engine.conftest import Loaded, run
from tests.engine.test_contract import oracle

TASK = Task(
    prompt="a moodboard of a cat",
    negative="badhands, fog",
    seed=3,
    total_steps=2,
    guidance=4.0,
    sampler="Euler",
    width=64,
    height=64,
)
WIDTH = 32


def vectors(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def write(path: Path, layout: str, count: int = 2, seed: int = 0) -> Path:
    tensor = vectors(count, seed)
    tensors = {
        "a1111": {"emb_params": tensor},
        "a1111 older": {"string_to_param.*": tensor},
        "diffusers": {"<cat-toy>": tensor if count > 1 else tensor[0]},
        "sdxl": {"clip_l": tensor, "clip_g": vectors(count, seed + 100)},
    }[layout]
    save_file(tensors, path)
    return path


def theirs(folder: Path, family: str, task: Task, files: dict[str, Path]) -> tuple[torch.Tensor, Any]:
    """Latents and picture of the diffusers pipeline after its own `load_textual_inversion`, on a model of its own."""
    from safetensors.torch import load_file
    from transformers import CLIPTextModel

    model: Any = load_model(folder, family)
    loaders = [(model.text_encoder, model.tokenizer, "clip_l")]
    if family == "sdxl":
        loaders.append((model.text_encoder_2, model.tokenizer_2, "clip_g"))
    for token, path in files.items():
        stored = load_file(path)
        for encoder, tokenizer, key in loaders:
            tensor = stored.get(key, next(iter(stored.values())))
            _loader(CLIPTextModel).load_textual_inversion(tensor, token, tokenizer, encoder)
    return oracle(model, task)


def _loader(kind: Any) -> Any:
    """diffusers' mixin without a pipeline around it."""
    from diffusers.loaders import TextualInversionLoaderMixin

    class Loader(TextualInversionLoaderMixin):
        components: dict[str, Any] = {}
        hf_device_map = None

        def load_textual_inversion(self, tensor: Any, token: str, tokenizer: Any, encoder: Any) -> None:
            super().load_textual_inversion({token: tensor}, token=token, tokenizer=tokenizer, text_encoder=encoder)

    return Loader()


@pytest.mark.parametrize(
    ("family", "layout", "count"),
    [
        ("sd1", "a1111", 1),
        ("sd1", "a1111", 3),
        ("sd1", "a1111 older", 2),
        ("sd1", "diffusers", 1),
        ("sd1", "diffusers", 2),
        ("sd2", "a1111", 2),
        ("sdxl", "sdxl", 2),
    ],
)
def test_the_picture_is_that_of_diffusers(
    family: str, layout: str, count: int, folder_of: Loaded, model_of: Loaded, tmp_path: Path
) -> None:
    files = {
        "moodboard": write(tmp_path / "moodboard.safetensors", layout, count),
        "badhands": write(tmp_path / "badhands.safetensors", layout, count, seed=7),
    }
    model = model_of(family)
    plain = run(model, TASK)[1]
    output, latents = run(model, replace(TASK, inversions=tuple(files.items())))
    wanted, image = theirs(folder_of(family), family, TASK, files)
    assert torch.equal(latents, wanted) and output.image.tobytes() == image.tobytes()
    assert not torch.equal(latents, plain)
    assert torch.equal(run(model, TASK)[1], plain), "nothing of them is left"


def test_the_text_encoder_never_changes(model_of: Loaded, tmp_path: Path) -> None:
    model = model_of("sd1")
    before = {name: tensor.clone() for name, tensor in model.text_encoder.state_dict().items()}
    for seed in range(3):
        path = write(tmp_path / "moodboard.safetensors", "a1111", seed=seed)
        generate(model, replace(TASK, inversions=(("moodboard", path),)))
    after = model.text_encoder.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)
    assert not model.text_encoder.get_input_embeddings()._forward_hooks


def test_a_replaced_file_is_read_again_and_a_repeated_prompt_is_not(model_of: Loaded, tmp_path: Path) -> None:
    model = model_of("sd1")
    path = tmp_path / "moodboard.safetensors"
    task = replace(TASK, inversions=(("moodboard", path),))
    write(path, "a1111", 2, seed=1)
    first = generate(model, task).image.tobytes()
    computed = model.embeddings.computed
    assert generate(model, task).image.tobytes() == first and model.embeddings.computed == computed
    write(path, "a1111", 3, seed=2)
    assert generate(model, task).image.tobytes() != first


def test_vectors_among_the_tokens(model_of: Loaded) -> None:
    """Weights, BREAK and the borders of chunks; a textual inversion is never parted."""
    tokenizer = model_of("sd1").tokenizer
    learned = {"moodboard": 3}
    slots = tuple(Slot("moodboard", row) for row in range(3))
    cat = tokenizer("cat", add_special_tokens=False).input_ids[0]
    parts = [("cat moodboard", 1.2), (BREAK, 1.0), ("<Moodboard>", 0.5)]
    one, two = split_chunks(tokenizer, parts, learned)
    assert one == ((cat, 1.2), *((slot, 1.2) for slot in slots)) and two == tuple((slot, 0.5) for slot in slots)
    first, second = split_chunks(tokenizer, [("cat " * 73 + "embedding:moodboard cat", 1.0)], learned)
    assert len(first) == 73 and second == (*((slot, 1.0) for slot in slots), (cat, 1.0))
    assert split_chunks(tokenizer, [("moodboards", 1.0)], learned) == split_chunks(tokenizer, [("moodboards", 1.0)])


def test_weights_and_break_against_an_independent_computation(model_of: Loaded, tmp_path: Path) -> None:
    """What stands in the table of words is put there by hand, on a copy, and weighted here."""
    import copy

    model = model_of("sd1")
    path = write(tmp_path / "moodboard.safetensors", "a1111", 2)
    task = replace(
        TASK, guidance=1.0, prompt="a (moodboard:1.5) cat BREAK moodboard", inversions=(("moodboard", path),)
    )
    with torch.inference_mode():
        found = model.condition(task).embeds
    encoder = copy.deepcopy(model.text_encoder)
    table = encoder.get_input_embeddings().weight
    ids = model.tokenizer("a red boat cat", padding="max_length", max_length=77, return_tensors="pt").input_ids
    red, boat = ids[0, 2], ids[0, 3]
    with torch.no_grad():
        table[red], table[boat] = vectors(2)[0], vectors(2)[1]
        one = encoder(ids)[0]
        weighted = one.clone()
        weighted[:, 2:4] *= 1.5
        weighted *= one.mean() / weighted.mean()
        alone = model.tokenizer("red boat", padding="max_length", max_length=77, return_tensors="pt").input_ids
        two = encoder(alone)[0]
    assert torch.allclose(found, torch.cat([weighted, two], dim=1), atol=1e-5)


@pytest.mark.parametrize(
    ("tensors", "code"),
    [
        ({"emb_params": torch.zeros(2, WIDTH + 1)}, Code.MODEL_UNSUPPORTED),
        ({"clip_l": torch.zeros(2, WIDTH), "clip_g": torch.zeros(2, WIDTH)}, Code.MODEL_UNSUPPORTED),
        ({"clip_g": torch.zeros(2, WIDTH)}, Code.MODEL_CORRUPT),
        ({"emb_params": torch.zeros(0, WIDTH)}, Code.MODEL_CORRUPT),
        ({"emb_params": torch.zeros(76, WIDTH)}, Code.MODEL_CORRUPT),
        ({"emb_params": torch.full((2, WIDTH), torch.nan)}, Code.MODEL_CORRUPT),
        ({"a": torch.zeros(2, WIDTH), "b": torch.zeros(2, WIDTH)}, Code.MODEL_CORRUPT),
        ({}, Code.MODEL_CORRUPT),
    ],
)
def test_files_that_do_not_fit_are_one_sentence(
    tensors: dict[str, torch.Tensor], code: Code, model_of: Loaded, tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(WireError) as caught:
        generate(model_of("sd1"), replace(TASK, inversions=(("moodboard", tmp_path / "bad.safetensors"),)))
    assert caught.value.code is code and "bad.safetensors" in caught.value.message


def test_missing_file(model_of: Loaded, tmp_path: Path) -> None:
    with pytest.raises(WireError) as caught:
        generate(model_of("sd1"), replace(TASK, inversions=(("moodboard", tmp_path / "gone.safetensors"),)))
    assert caught.value.code is Code.MODEL_MISSING
