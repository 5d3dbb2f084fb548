# SPDX-License-Identifier: GPL-3.0-or-later
"""Files with weights in 8 bits: plain and scaled, against the numbers that the format stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file

from krita_sd.wire.errors import Code, WireError
from server.diffusion import Task, generate, load_model
from server.diffusion.original import encoders, load, transformers
from server.diffusion.weights import Loader, TensorFiles, empty_module
from server.library.companions import found_inside
from tests.engine.conftest import Loaded
from tests.tiny import make_file
from tests.tiny_flow import make_flow_model, words_tokenizer
from tests.tiny_original import make_single

LARGEST = 448.0  # of float8_e4m3fn
LDM = "model.diffusion_model."
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors]:
    """A tiny Flux 1 as one file in 32 bits, and its tensors."""
    home = tmp_path_factory.mktemp("eight")
    folder = make_flow_model(home / "folder", "flux1")
    path = make_single(home / "all.safetensors", folder, load_model(folder, "flux1"), "flux1")
    return path, load_file(path)


@pytest.fixture(autouse=True)
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "t5_tokenizer", words_tokenizer)


def matrices(tensors: Tensors) -> list[str]:
    """The weights that such files have in 8 bits: matrices of the transformer and of T5."""
    return [name for name, tensor in tensors.items() if tensor.ndim == 2 and name.startswith((LDM, "text_encoders.t5"))]


def e4m3(values: np.ndarray) -> np.ndarray:
    """Rounded to four bits of exponent and three of mantissa, written out: what such a number can be."""
    exponent = np.clip(np.floor(np.log2(np.maximum(np.abs(values), 1e-30))), -6, 8)
    step = 2.0 ** (exponent - 3)
    return np.clip(np.rint(values / step) * step, -LARGEST, LARGEST)


def stored(kind: str, tensors: Tensors) -> tuple[Tensors, Tensors]:
    """(the file's tensors, the numbers they stand for) of one of the layouts that are about."""
    file, meant = dict(tensors), dict(tensors)
    for name in matrices(tensors):
        weight, base = tensors[name], name.removesuffix(".weight")
        scale = torch.ones(())
        if "rows" in kind:
            scale = weight.abs().amax(dim=1, keepdim=True) / LARGEST
        elif "scale" in kind:
            scale = weight.abs().max() / LARGEST
        dtype = torch.float8_e5m2 if kind == "plain e5m2" else torch.float8_e4m3fn
        file[name] = (weight / scale).to(dtype)
        rounded = e4m3((weight / scale).double().numpy())
        meant[name] = (torch.from_numpy(rounded) * scale.double()).to(torch.float32)
        if dtype is torch.float8_e5m2:
            meant[name] = file[name].to(torch.float32)
        if kind.startswith("scale_weight"):
            file[f"{base}.scale_weight"] = scale
            file[f"{base}.scale_input"] = torch.ones(())
        elif kind.startswith("weight_scale"):
            file[f"{base}.weight_scale"] = scale
            file[f"{base}.comfy_quant"] = torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
    if kind.startswith("scale_weight"):
        file[f"{LDM}scaled_fp8"] = torch.zeros(0).to(torch.float8_e4m3fn)
        file["text_encoders.t5xxl.transformer.scaled_fp8"] = torch.zeros(0).to(torch.float8_e4m3fn)
    return file, meant


def parts_of(path: Path) -> tuple[Any, Any]:
    """The transformer and T5 of a file, without the rest of a model."""
    with TensorFiles([path]) as files:
        shapes = files.shapes()
        config = transformers.config("flux1", shapes)
        module = empty_module(lambda: FluxTransformer2DModel(**config))
        text, sources = encoders.build(shapes, found_inside(shapes, "flux1")["text_encoder_2"])
        loader = Loader(files, path.name, torch.float32, torch.device("cpu"), None, None)
        first = loader.fill(module, "transformer", transformers.names("flux1", shapes))
        return first, loader.fill(text, "text_encoder_2", sources)


@pytest.mark.parametrize(
    "kind", ["plain", "plain e5m2", "scale_weight", "weight_scale", "weight_scale of rows", "scale_weight of rows"]
)
def test_numbers_are_what_the_format_says(kind: str, flux: tuple[Path, Tensors], tmp_path: Path) -> None:
    """Packed layers, cut into their parts, take their rows' scales along."""
    _, tensors = flux
    file, meant = stored(kind, tensors)
    save_file(file, tmp_path / "eight.safetensors")
    save_file(meant, tmp_path / "meant.safetensors")
    found, wanted = parts_of(tmp_path / "eight.safetensors"), parts_of(tmp_path / "meant.safetensors")
    for before, after in zip(wanted, found):
        for name, tensor in before.state_dict().items():
            assert torch.allclose(after.state_dict()[name], tensor, rtol=1e-6, atol=0.0), name
    exact = tensors[f"{LDM}single_blocks.0.linear2.weight"]
    loaded = found[0].single_transformer_blocks[0].proj_out.weight
    error = ((loaded - exact).abs() / exact.abs().amax(dim=1, keepdim=True)).max()
    assert 0 < error <= (1 / 8 if kind == "plain e5m2" else 1 / 16)


def test_a_picture_from_eight_bits(flux: tuple[Path, Tensors], tmp_path: Path) -> None:
    path, tensors = flux
    save_file(stored("scale_weight", tensors)[0], tmp_path / "eight.safetensors")
    task = Task(prompt="a red boat", seed=3, total_steps=2, sampler="Euler", width=64, height=64, guidance=3)
    exact = generate(load_model(path, "flux1"), task).image.astype(int)
    found = generate(load_model(tmp_path / "eight.safetensors", "flux1"), task).image.astype(int)
    # A scale left out would make every weight as large as 448.
    assert 0 < np.abs(found - exact).mean() < 8


def test_sd_checkpoints_in_eight_bits(model_of: Loaded, tmp_path: Path) -> None:
    path = make_file(tmp_path / "sd1.safetensors")
    tensors = load_file(path)
    name = f"{LDM}input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    scale = tensors[name].abs().max() / LARGEST
    tensors[name.replace(".weight", ".scale_weight")] = scale
    tensors[name] = (tensors[name] / scale).to(torch.float8_e4m3fn)
    save_file(tensors, path)
    found: Any = load_model(path, "sd1")
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    exact = model_of("sd1").unet.get_submodule(layer).weight
    assert 0 < (found.unet.get_submodule(layer).weight - exact).abs().max() <= exact.abs().max() / 16


@pytest.mark.parametrize("kind", ["4 bits", "integers", "blocks"])
def test_packings_that_are_not_known_are_refused_in_a_sentence(
    kind: str, flux: tuple[Path, Tensors], tmp_path: Path
) -> None:
    _, tensors = flux
    name = f"{LDM}single_blocks.0.linear2.weight"
    base, weight = name.removesuffix(".weight"), tensors[name]
    changed = dict(tensors)
    if kind == "4 bits":
        changed[name] = torch.zeros(weight.shape[0], weight.shape[1] // 2, dtype=torch.uint8)
    elif kind == "integers":
        changed[name] = torch.zeros(weight.shape, dtype=torch.int8)
    else:
        changed[name] = weight.to(torch.float8_e4m3fn)
        changed[f"{base}.weight_scale"] = torch.ones(weight.shape[0], 2)
    save_file(changed, tmp_path / "odd.safetensors")
    with pytest.raises(WireError) as caught:
        load_model(tmp_path / "odd.safetensors", "flux1")
    assert caught.value.code is Code.MODEL_UNSUPPORTED and "odd.safetensors" in caught.value.message
