# SPDX-License-Identifier: GPL-3.0-or-later
"""LoHa, LoKr, DoRA, LoCon's core and plain differences: against numbers worked out here, and against peft's own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from server.diffusion import Task, generate
from server.diffusion.features.lora import LoraWeights
from tests.engine.conftest import Loaded

TASK = Task(prompt="a red boat", seed=2, total_steps=2, guidance=1.0, width=64, height=64)
MATRIX = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"  # 32 x 32
KERNEL = "down_blocks.0.resnets.0.conv1"  # 32 x 32 x 3 x 3
RANK, ALPHA = 4, 2.0
Arrays = dict[str, np.ndarray]
Made = tuple[Arrays, np.ndarray]
"""Tensors of one layer by their endings, and the change of the weight that they mean at strength 1 (without DoRA)."""


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape) * 0.2


def loha(shape: tuple[int, ...]) -> Made:
    rest = int(np.prod(shape[1:]))
    a, b, c, d = numbers(shape[0], RANK), numbers(RANK, rest), numbers(shape[0], RANK) + 0.1, numbers(RANK, rest) - 0.1
    stored = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d, "alpha": np.array(ALPHA)}
    return stored, ((a @ b) * (c @ d)).reshape(shape) * ALPHA / RANK


def loha_core(shape: tuple[int, ...]) -> Made:
    core = numbers(RANK, RANK, *shape[2:])
    a, b = numbers(RANK, shape[0]), numbers(RANK, shape[1])
    whole = np.zeros(shape)
    for i in range(RANK):
        for j in range(RANK):
            whole += a[i][:, None, None, None] * b[j][None, :, None, None] * core[i, j]
    stored = {"hada_w1_a": a, "hada_w1_b": b, "hada_t1": core, "alpha": np.array(ALPHA)}
    stored |= {"hada_w2_a": a, "hada_w2_b": b, "hada_t2": -core}
    return stored, -(whole**2) * ALPHA / RANK


def lokr(shape: tuple[int, ...]) -> Made:
    rest = int(np.prod(shape[2:]))
    left, a, b = numbers(4, 8), numbers(shape[0] // 4, RANK), numbers(RANK, shape[1] // 8 * rest)
    right = (a @ b).reshape(shape[0] // 4, shape[1] // 8, rest)
    whole = np.zeros((shape[0], shape[1], rest))
    for i in range(4):
        for j in range(8):
            whole[i * shape[0] // 4 : (i + 1) * shape[0] // 4, j * shape[1] // 8 : (j + 1) * shape[1] // 8] = (
                left[i, j] * right
            )
    stored = {"lokr_w1": left, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": np.array(ALPHA)}
    return stored, whole.reshape(shape) * ALPHA / RANK


def lokr_whole(shape: tuple[int, ...]) -> Made:
    """Without a low rank there is nothing to scale: alpha is written and means nothing."""
    left, right = numbers(2, 2), numbers(shape[0] // 2, shape[1] // 2, *shape[2:])
    blocks = [[left[i, j] * right for j in range(2)] for i in range(2)]
    whole = np.concatenate([np.concatenate(row, axis=1) for row in blocks], axis=0)
    return {"lokr_w1": left, "lokr_w2": right, "alpha": np.array(1e10)}, whole


def locon_core(shape: tuple[int, ...]) -> Made:
    up, down, core = numbers(shape[0], RANK, 1, 1), numbers(RANK, shape[1], 1, 1), numbers(RANK, RANK, *shape[2:])
    whole = np.zeros(shape)
    for y in range(shape[2]):
        for x in range(shape[3]):
            whole[:, :, y, x] = up[:, :, 0, 0] @ core[:, :, y, x] @ down[:, :, 0, 0]
    stored = {"lora_up.weight": up, "lora_down.weight": down, "lora_mid.weight": core, "alpha": np.array(ALPHA)}
    return stored, whole * ALPHA / RANK


def locon(shape: tuple[int, ...]) -> Made:
    up, down = numbers(shape[0], RANK), numbers(RANK, *shape[1:])
    whole = (up @ down.reshape(RANK, -1)).reshape(shape)
    return {"lora_up.weight": up, "lora_down.weight": down}, whole


def difference(shape: tuple[int, ...]) -> Made:
    return {"diff": numbers(*shape)}, numbers(*shape)


def save(path: Path, layer: str, stored: Arrays) -> Path:
    name = f"lora_unet_{layer.replace('.', '_')}"
    save_file({f"{name}.{key}": torch.tensor(a) for key, a in stored.items()}, path)
    return path


@pytest.mark.parametrize(
    ("form", "layer"),
    [
        (loha, MATRIX), (loha, KERNEL), (loha_core, KERNEL), (lokr, MATRIX), (lokr, KERNEL), (lokr_whole, MATRIX),
        (lokr_whole, KERNEL), (locon, KERNEL), (locon_core, KERNEL), (difference, MATRIX), (difference, KERNEL),
    ],
)  # fmt: skip
@pytest.mark.parametrize("magnitudes", ["", "outputs", "inputs"])
def test_weights_are_what_the_form_says(
    form: Callable[[tuple[int, ...]], Made], layer: str, magnitudes: str, model_of: Loaded, tmp_path: Path
) -> None:
    model = model_of("sd1")
    weight = model.unet.get_submodule(layer).weight
    base = weight.double().numpy().copy()
    stored, change = form(base.shape)
    wanted = base + 0.7 * change
    if magnitudes:
        axis = 0 if magnitudes == "outputs" else 1
        size = [1] * base.ndim
        size[axis] = base.shape[axis]
        scale = 1.0 + numbers(*size)
        merged = base + change
        length = np.sqrt((merged**2).sum(axis=tuple(a for a in range(base.ndim) if a != axis), keepdims=True))
        wanted = base + 0.7 * (merged * scale / length - base)
        stored = {**stored, "dora_scale": scale}
    path = save(tmp_path / "style.safetensors", layer, stored)
    before = weight.clone()
    with LoraWeights(model.unet, model.encoders, ((path, 0.7),)):
        assert np.abs(weight.double().numpy() - wanted).max() < 1e-5
        assert not torch.equal(weight, before)
    assert torch.equal(weight, before)


def test_two_forms_on_one_layer_in_any_order(model_of: Loaded, tmp_path: Path) -> None:
    model = model_of("sd1")
    weight = model.unet.get_submodule(MATRIX).weight
    shape = tuple(weight.shape)
    dora = {**locon(shape)[0], "dora_scale": np.ones((shape[0], 1))}
    one = save(tmp_path / "one.safetensors", MATRIX, loha(shape)[0])
    two = save(tmp_path / "two.safetensors", MATRIX, dora)
    found = []
    for order in (((one, 0.5), (two, 1.0)), ((two, 1.0), (one, 0.5))):
        with LoraWeights(model.unet, model.encoders, order):
            found.append(weight.clone())
    assert torch.allclose(found[0], found[1], atol=1e-6) and not torch.allclose(found[0], weight, atol=1e-2)


def test_a_bias_changes_and_comes_back(model_of: Loaded, tmp_path: Path) -> None:
    model = model_of("sd1")
    module = model.unet.get_submodule(KERNEL)
    before = module.bias.clone()
    path = save(tmp_path / "style.safetensors", KERNEL, {"diff_b": np.arange(32.0)})
    with LoraWeights(model.unet, model.encoders, ((path, -2.0),)):
        assert torch.allclose(module.bias, before - 2.0 * torch.arange(32.0))
    assert torch.equal(module.bias, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_swapped_for_a_job_and_gone_after_it(dtype: torch.dtype, folder_of: Loaded, tmp_path: Path) -> None:
    from server.diffusion import load_model

    model: Any = load_model(folder_of("sd1"), "sd1", dtype=dtype)
    task = replace(TASK, total_steps=1, width=32, height=32)  # half precision is slow on processors
    base = generate(model, task).image.tobytes()
    before = {name: tensor.clone() for name, tensor in model.unet.state_dict().items()}
    styled = {base}
    for number, form in enumerate((loha, lokr, locon)):
        stored, _ = form(tuple(model.unet.get_submodule(KERNEL).weight.shape))
        stored = {**stored, "dora_scale": np.ones((32, 1, 1, 1))}
        path = save(tmp_path / f"{number}.safetensors", KERNEL, stored)
        styled.add(generate(model, replace(task, loras=((path, 1.0),))).image.tobytes())
    assert len(styled) == 4
    assert all(torch.equal(before[name], tensor) for name, tensor in model.unet.state_dict().items())
    assert generate(model, task).image.tobytes() == base


@pytest.mark.parametrize("kind", ["loha", "lokr", "dora"])
def test_what_peft_writes_does_what_peft_does(kind: str, model_of: Loaded, tmp_path: Path) -> None:
    """Names and numbers are peft's: its adapter in a copy of the UNet, saved by it, and its own output."""
    import peft

    model = model_of("sd1")
    # LoKr's rank so small that peft takes the larger factor apart: it scales whole ones, unlike everybody else.
    common = {"r": 2 if kind == "lokr" else RANK, "target_modules": ["attn1.to_q", "attn2.to_v", "conv1"]}
    config: Any = {
        "loha": lambda: peft.LoHaConfig(alpha=8, **common),
        "lokr": lambda: peft.LoKrConfig(alpha=8, **common),
        "dora": lambda: peft.LoraConfig(lora_alpha=8, use_dora=True, **common),
    }[kind]()
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False):
        torch.manual_seed(0)
        theirs: Any = peft.get_peft_model(copy.deepcopy(model.unet), config)
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data + 0.3 * torch.randn_like(parameter)
        theirs.eval().save_pretrained(tmp_path)
    inputs = (torch.ones(1, 4, 8, 8), torch.tensor(500), torch.ones(1, 77, 32))
    with (
        torch.inference_mode(),
        LoraWeights(model.unet, model.encoders, ((tmp_path / "adapter_model.safetensors", 1.0),)),
    ):
        ours = model.unet(*inputs)[0]
        wanted = theirs(*inputs)[0]
        assert torch.allclose(ours, wanted, atol=1e-4, rtol=1e-4)
    with torch.inference_mode():
        assert not torch.allclose(model.unet(*inputs)[0], wanted, atol=1e-2)
