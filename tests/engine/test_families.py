# SPDX-License-Identifier: GPL-3.0-or-later
"""What single families do beyond the contract's table: SDXL's second encoder, empty negatives and LoRAs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from krita_sd.wire.errors import Code, WireError
from server.diffusion import Task, generate, ldm, load_model
from tests.engine.conftest import Loaded, picture, run
from tests.engine.test_contract import pipeline
from tests.tiny import make_parts, original_layout
from tests.tiny_flow import autoencoder

TASK = Task(prompt="a red boat", negative="fog", seed=2, total_steps=2, guidance=4.0, width=64, height=64)


def test_an_empty_negative_is_zeros_in_sdxl(model_of: Loaded) -> None:
    """The pipeline does so when none is given; a model can say that it was trained otherwise."""
    model = model_of("sdxl")
    task = replace(TASK, negative=" ")
    latents = run(model, task)[1]
    arguments = {"num_inference_steps": 2, "guidance_scale": 4.0, "width": 64, "height": 64, "output_type": "latent"}
    pipe = pipeline(model, task)
    assert torch.equal(
        pipe(task.prompt, generator=torch.Generator().manual_seed(task.seed), **arguments).images, latents
    )
    words = pipeline(model, task)(
        task.prompt, negative_prompt="", generator=torch.Generator().manual_seed(task.seed), **arguments
    ).images
    assert not torch.equal(words, latents)


@pytest.mark.parametrize("layout", ["kohya", "kohya original", "diffusers"])
def test_sdxl_loras_reach_all_three_networks(layout: str, folder_of: Loaded, model_of: Loaded, tmp_path: Path) -> None:
    """Against weights added by hand to another copy of the model."""
    changed: Any = load_model(folder_of("sdxl"), "sdxl")
    generator = torch.Generator().manual_seed(4)
    original = {
        name.removesuffix(".weight"): source.name.removeprefix(ldm.UNET).removesuffix(".weight")
        for name, source in ldm.unet_sources(changed.unet.state_dict(), changed.unet.config).items()
    }
    tensors: dict[str, torch.Tensor] = {}
    for part, prefix, name in (
        ("unet", "lora_unet_", "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k"),
        ("text_encoder", "lora_te1_text_model_", "encoder.layers.0.self_attn.q_proj"),
        ("text_encoder_2", "lora_te2_text_model_", "encoder.layers.1.mlp.fc1"),
    ):
        root = getattr(changed, part)
        module = getattr(root, "text_model", root).get_submodule(name)
        down = torch.randn(4, module.in_features, generator=generator) * 0.1
        up = torch.randn(module.out_features, 4, generator=generator) * 0.1
        module.weight.copy_(module.weight + 0.5 * (up @ down))
        if layout == "diffusers":
            home = f"{part}.{'' if part == 'unet' else 'text_model.'}{name}"
            tensors |= {f"{home}.lora_A.weight": down, f"{home}.lora_B.weight": up}
        else:
            flat = (original[name] if layout == "kohya original" and part == "unet" else name).replace(".", "_")
            tensors |= {f"{prefix}{flat}.lora_down.weight": down, f"{prefix}{flat}.lora_up.weight": up}
            tensors[f"{prefix}{flat}.alpha"] = torch.tensor(4.0)
    save_file(tensors, tmp_path / "xl.safetensors")
    wanted = run(changed, TASK)[1]
    model = model_of("sdxl")
    plain = run(model, TASK)[1]
    assert torch.equal(run(model, replace(TASK, loras=((tmp_path / "xl.safetensors", 0.5),)))[1], wanted)
    assert torch.equal(run(model, TASK)[1], plain) and not torch.allclose(plain, wanted, atol=1e-3)


@pytest.mark.parametrize("layout", ["original", "checkpoint", "diffusers", "diffusers, older"])
def test_another_vae_for_one_job(layout: str, model_of: Loaded, folder_of: Loaded, tmp_path: Path) -> None:
    """Equal to a model that has that autoencoder inside; afterwards the model's own is back."""
    other = make_parts("sd1", seed=9)
    tensors = {name.removeprefix(ldm.VAE): tensor for name, tensor in original_layout(other).items() if ldm.VAE in name}
    if layout == "checkpoint":
        tensors = {ldm.VAE + name: tensor for name, tensor in tensors.items()}
    elif layout.startswith("diffusers"):
        tensors = other["vae"].state_dict()
    if layout.endswith("older"):
        old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
        for new, before in old.items():
            tensors = {name.replace(new, before): tensor for name, tensor in tensors.items()}
    path = tmp_path / "other.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    model = model_of("sd1")
    task = replace(TASK, image=picture(), start_step=1, total_steps=3)
    own, vae = generate(model, task).image, model.vae
    changed = generate(model, replace(task, vae=path)).image
    whole: Any = load_model(folder_of("sd1"), "sd1")
    whole.vae = other["vae"]
    assert (changed == generate(whole, task).image).all() and not (changed == own).all()
    assert model.vae is vae and (generate(model, task).image == own).all()


def test_a_vae_of_another_kind_is_refused_in_one_sentence(model_of: Loaded, tmp_path: Path) -> None:
    model = model_of("sd1")
    save_file(autoencoder().state_dict(), tmp_path / "flux.safetensors")
    for path, code in (
        (tmp_path / "flux.safetensors", Code.MODEL_UNSUPPORTED),
        (tmp_path / "gone", Code.MODEL_MISSING),
    ):
        with pytest.raises(WireError) as caught:
            generate(model, replace(TASK, vae=path))
        assert caught.value.code is code and path.name in caught.value.message
    assert model.encoding == ()
