# SPDX-License-Identifier: GPL-3.0-or-later
"""LoRAs in every layout, against diffusers with peft; the base model afterwards is the base model before."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from krita_sd.wire.errors import Code, WireError
from server.diffusion import Cancelled, Task, generate, ldm, load_model
from tests.engine.conftest import Loaded, run
from tests.engine.test_contract import pipeline

TASK = Task(prompt="a red boat", negative="fog", seed=2, total_steps=3, guidance=4.0, width=64, height=64)
RANK, ALPHA, SIZE = 4, 2.0, 0.1
UNET = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0",
    "up_blocks.1.attentions.1.proj_in",
    "down_blocks.0.resnets.0.conv1",
)
TEXT = ("encoder.layers.0.self_attn.q_proj", "encoder.layers.1.mlp.fc1")
Layers = dict[str, tuple[torch.Tensor, torch.Tensor]]


def layers(model: Any, seed: int = 0, convolutions: bool = True) -> tuple[Layers, Layers]:
    """Random (down, up) for some layers of the UNet and of the text encoder."""
    generator = torch.Generator().manual_seed(seed)

    def pair(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
        shape = module.weight.shape
        ones = (1,) * (len(shape) - 2)
        down = torch.randn((RANK, *shape[1:]), generator=generator) * SIZE
        return down, torch.randn((shape[0], RANK, *ones), generator=generator) * SIZE

    unet = {name: pair(model.unet.get_submodule(name)) for name in UNET if convolutions or "conv" not in name}
    return unet, {name: pair(model.text_encoder.get_submodule(name)) for name in TEXT}


def write(path: Path, model: Any, layout: str, seed: int = 0, convolutions: bool = True) -> Path:
    unet, text = layers(model, seed, convolutions)
    tensors: dict[str, torch.Tensor] = {}
    metadata: dict[str, str] = {}
    if layout.startswith("kohya"):
        original = {
            name.removesuffix(".weight"): source.name.removeprefix(ldm.UNET).removesuffix(".weight")
            for name, source in ldm.unet_sources(model.unet.state_dict(), model.unet.config).items()
        }
        names = {
            f"lora_unet_{(original[name] if layout == 'kohya original' else name).replace('.', '_')}": pair
            for name, pair in unet.items()
        }
        names.update({f"lora_te_text_model_{name.replace('.', '_')}": pair for name, pair in text.items()})
        for name, (down, up) in names.items():
            tensors.update({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up})
            tensors[f"{name}.alpha"] = torch.tensor(ALPHA)
    else:
        down_name, up_name = ("lora.down", "lora.up") if layout == "diffusers" else ("lora_A", "lora_B")
        for part, pairs in (("unet.", unet), ("text_encoder.text_model.", text)):
            for name, (down, up) in pairs.items():
                # Where no alpha is stated it equals the rank: the same change by scaling one side.
                tensors[f"{part}{name}.{down_name}.weight"] = down * (1.0 if layout == "peft" else ALPHA / RANK)
                tensors[f"{part}{name}.{up_name}.weight"] = up
        if layout == "peft":
            stated = {
                f"{part}.{key}": value
                for part in ("unet", "text_encoder")
                for key, value in (("lora_alpha", ALPHA), ("r", RANK))
            }
            metadata["lora_adapter_metadata"] = json.dumps(stated)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path


@pytest.mark.parametrize("layout", ["kohya", "kohya original", "diffusers", "peft", "peft plain"])
def test_every_layout_changes_the_picture_in_the_same_way(layout: str, model_of: Loaded, tmp_path: Path) -> None:
    model = model_of("sd1")
    path = write(tmp_path / "style.safetensors", model, layout)
    wanted = write(tmp_path / "wanted.safetensors", model, "kohya")
    _, latents = run(model, replace(TASK, loras=((path, 0.7),)))
    assert torch.allclose(latents, run(model, replace(TASK, loras=((wanted, 0.7),)))[1], atol=1e-5)
    assert not torch.allclose(latents, run(model, TASK)[1], atol=1e-2)


def test_two_loras_equal_diffusers_with_peft(folder_of: Loaded, tmp_path: Path) -> None:
    """Not bit for bit: peft adds outputs of layers, we add weights. Measured 6.4e-5 on latents up to 40."""
    model: Any = load_model(folder_of("sd1"), "sd1")
    # In peft's layout: of kohya's, this diffusers drops the attention of a text encoder without wrapper.
    one = write(tmp_path / "one.safetensors", model, "peft plain", seed=1)
    two = write(tmp_path / "two.safetensors", model, "peft plain", seed=2)
    task = replace(TASK, loras=((one, 0.8), (two, -0.5)))
    _, ours = run(model, task)
    pipe = pipeline(model, task)
    pipe.load_lora_weights(str(tmp_path), weight_name="one.safetensors", adapter_name="one")
    pipe.load_lora_weights(str(tmp_path), weight_name="two.safetensors", adapter_name="two")
    pipe.set_adapters(["one", "two"], [0.8, -0.5])
    theirs = pipe(
        task.prompt,
        negative_prompt=task.negative,
        num_inference_steps=task.total_steps,
        guidance_scale=task.guidance,
        width=64,
        height=64,
        generator=torch.Generator().manual_seed(task.seed),
        output_type="latent",
    ).images
    assert torch.allclose(ours, theirs, atol=3e-4, rtol=1e-5)
    assert not torch.allclose(ours, run(load_model(folder_of("sd1"), "sd1"), TASK)[1], atol=1e-2)


@pytest.mark.parametrize(("dtype", "swaps"), [(torch.float32, 100), (torch.float16, 20)])
def test_a_hundred_swaps_leave_no_trace(dtype: torch.dtype, swaps: int, folder_of: Loaded, tmp_path: Path) -> None:
    from server.diffusion.features.lora import LoraWeights

    model: Any = load_model(folder_of("sd1"), "sd1", dtype=dtype)
    path = write(tmp_path / "style.safetensors", model, "kohya")
    before = {name: tensor.clone() for name, tensor in model.unet.state_dict().items()}
    places = [parameter.data_ptr() for parameter in model.unet.parameters()]
    # Half precision is slow on processors.
    task = TASK if dtype == torch.float32 else replace(TASK, total_steps=1, guidance=1.0, width=32, height=32)
    picture = generate(model, task).image.tobytes()
    for swap in range(swaps):
        with LoraWeights(model.unet, model.encoders, ((path, 0.01 * swap - 0.5),)):
            changed = model.unet.get_submodule(UNET[0]).weight
            assert swap == 50 or not torch.equal(changed, before[f"{UNET[0]}.weight"])
    assert all(torch.equal(before[name], tensor) for name, tensor in model.unet.state_dict().items())
    assert places == [parameter.data_ptr() for parameter in model.unet.parameters()]
    assert generate(model, task).image.tobytes() == picture


def test_base_is_back_after_cancel_and_failure(model_of: Loaded, tmp_path: Path) -> None:
    model = model_of("sd1")
    path = write(tmp_path / "style.safetensors", model, "kohya")
    base = generate(model, TASK).image.tobytes()
    task = replace(TASK, loras=((path, 1.0),))
    styled = generate(model, task).image.tobytes()
    assert styled != base
    with pytest.raises(Cancelled):
        generate(model, task, control=lambda: "cancel")

    def fails(step: Any) -> None:
        raise RuntimeError("listener")

    with pytest.raises(RuntimeError):
        generate(model, task, on_step=fails)
    assert generate(model, TASK).image.tobytes() == base
    assert generate(model, task).image.tobytes() == styled


def test_a_replaced_file_is_read_again(model_of: Loaded, tmp_path: Path) -> None:
    model = model_of("sd1")
    path = tmp_path / "style.safetensors"
    task = replace(TASK, loras=((path, 1.0),))
    images = [
        generate(model, replace(task, prompt=TASK.prompt)).image.tobytes()
        for seed in (1, 2)
        if write(path, model, "kohya", seed=seed)
    ]
    assert images[0] != images[1]


def damaged(path: Path, model: Any, kind: str) -> Path:
    unet, _ = layers(model)
    name, (down, up) = next(iter(unet.items()))
    flat = f"lora_unet_{name.replace('.', '_')}"
    tensors = {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up}
    if kind == "no up":
        tensors.popitem()
    elif kind == "ranks differ":
        tensors[f"{flat}.lora_up.weight"] = up[:, :2].contiguous()
    elif kind == "nan":
        tensors[f"{flat}.lora_up.weight"] = up * float("nan")
    elif kind == "other width":
        tensors[f"{flat}.lora_down.weight"] = torch.zeros(RANK, 640)
    elif kind == "unknown layer":
        tensors["lora_unet_input_blocks_9_1_proj_in.lora_up.weight"] = torch.zeros(4, 4)
        tensors["lora_unet_input_blocks_9_1_proj_in.lora_down.weight"] = torch.zeros(4, 4)
    elif kind == "second encoder":
        tensors["lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight"] = torch.zeros(4, 4)
    elif kind == "half a loha":
        tensors = {f"{flat}.hada_w1_a": torch.zeros(32, 4), f"{flat}.hada_w1_b": torch.zeros(4, 32)}
    elif kind == "oft":
        tensors = {f"{flat}.oft_blocks": torch.zeros(4, 8, 8)}
    elif kind == "magnitudes of another width":
        tensors[f"{flat}.dora_scale"] = torch.ones(31, 1)
    elif kind == "empty":
        tensors = {}
    save_file(tensors, path)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    return path


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("cut", Code.MODEL_CORRUPT),
        ("empty", Code.MODEL_CORRUPT),
        ("no up", Code.MODEL_CORRUPT),
        ("ranks differ", Code.MODEL_CORRUPT),
        ("nan", Code.MODEL_CORRUPT),
        ("other width", Code.MODEL_UNSUPPORTED),
        ("unknown layer", Code.MODEL_UNSUPPORTED),
        ("second encoder", Code.MODEL_UNSUPPORTED),
        ("half a loha", Code.MODEL_CORRUPT),
        ("oft", Code.MODEL_UNSUPPORTED),
        ("magnitudes of another width", Code.MODEL_UNSUPPORTED),
    ],
)
def test_loras_that_do_not_fit_are_one_sentence(kind: str, code: Code, model_of: Loaded, tmp_path: Path) -> None:
    model = model_of("sd1")
    base = generate(model, TASK).image.tobytes()
    good = write(tmp_path / "good.safetensors", model, "kohya")
    bad = damaged(tmp_path / "bad.safetensors", model, kind)
    with pytest.raises(WireError) as caught:
        generate(model, replace(TASK, loras=((good, 1.0), (bad, 1.0))))
    assert caught.value.code is code and "bad.safetensors" in caught.value.message
    assert generate(model, TASK).image.tobytes() == base


def test_missing_lora(model_of: Loaded, tmp_path: Path) -> None:
    with pytest.raises(WireError) as caught:
        generate(model_of("sd1"), replace(TASK, loras=((tmp_path / "gone.safetensors", 1.0),)))
    assert caught.value.code is Code.MODEL_MISSING
