# SPDX-License-Identifier: GPL-3.0-or-later
"""Redux, references of Flux 1, against the diffusers pipelines, bit for bit; its files in all their places."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import SiglipVisionConfig, SiglipVisionModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from krita_sd.wire.errors import Code, WireError
from server.diffusion import Task, generate, load_model
from server.diffusion.families.flow import unpack
from server.diffusion.features.redux import seen
from server.diffusion.redux_loading import load_redux
from server.diffusion.schedules import make_scheduler
from server.diffusion.task import ControlLayer
from tests.engine.cells import Cell
from tests.engine.conftest import Loaded, picture, run
from tests.tiny_flow import WIDTH, make_flow_model

SIDE, SEES = 28, 72
TASK = Task(prompt="a red boat", seed=3, total_steps=3, guidance=4.0, width=64, height=64, sampler="Euler")


def make_redux(folder: Path, width: int = WIDTH) -> Path:
    """A tiny Redux file with its encoder's folder beside it."""
    generator = torch.Generator().manual_seed(1)
    shapes = {"redux_up.weight": (3 * width, SEES), "redux_up.bias": (3 * width,)}
    shapes |= {"redux_down.weight": (width, 3 * width), "redux_down.bias": (width,)}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny-redux.safetensors"
    save_file({name: torch.randn(shape, generator=generator) * 0.3 for name, shape in shapes.items()}, path)
    config = SiglipVisionConfig(
        hidden_size=SEES, intermediate_size=32, num_hidden_layers=2, num_attention_heads=1, image_size=SIDE,
        patch_size=14,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        SiglipVisionModel(config).eval().save_pretrained(folder / "image_encoder")
    return path


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_model(make_flow_model(tmp_path_factory.mktemp("flux") / "tiny", "flux1"), "flux1")


def oracle(model: Any, task: Task) -> torch.Tensor:
    from diffusers import FluxPipeline, FluxPriorReduxPipeline

    (layer,) = task.controls
    texts = {name: model.parts[name] for name in ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")}
    prior = FluxPriorReduxPipeline(
        image_encoder=layer.model.encoder,
        feature_extractor=SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}),
        image_embedder=layer.model.embedder,
        **texts,
    )
    words = prior(Image.fromarray(layer.image), prompt=task.prompt, prompt_2=task.prompt)
    pipe = FluxPipeline(
        scheduler=make_scheduler("Euler", model.schedule_config), vae=model.vae, transformer=model.transformer, **texts
    )
    pipe.set_progress_bar_config(disable=True)
    latents = pipe(
        num_inference_steps=task.total_steps,
        guidance_scale=task.guidance,
        width=64,
        height=64,
        generator=torch.Generator().manual_seed(task.seed),
        output_type="latent",
        **words,
    ).images
    return unpack(latents, 8, 8)


def test_equals_the_diffusers_pipelines(flux: Any, tmp_path: Path, cell: Cell) -> None:
    layer = ControlLayer(load_redux(make_redux(tmp_path)), picture(70, 40, seed=3), type="reference")
    task = replace(TASK, controls=(layer,))
    ours, plain = run(flux, task)[1], run(flux, TASK)[1]
    wanted = oracle(flux, task)
    cell("flux1-dev", "reference", (ours - wanted).abs().max())
    assert torch.equal(ours, wanted)
    others = (replace(layer, weight=0.4), replace(layer, image=picture(seed=50)), replace(layer, end=0.7))
    for other in others:
        found = run(flux, replace(task, controls=(other,)))[1]
        assert not torch.equal(found, ours) and not torch.equal(found, plain)
    assert torch.equal(run(flux, replace(task, controls=(replace(layer, weight=0.0),)))[1], plain)


def test_the_encoder_looks_once(flux: Any, tmp_path: Path) -> None:
    redux, calls = load_redux(make_redux(tmp_path)), []
    redux.encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    task = replace(TASK, controls=(ControlLayer(redux, picture()),))
    assert len({generate(flux, replace(task, seed=seed)).image.tobytes() for seed in (1, 2, 1)}) == 2
    assert len(calls) == 1


@pytest.mark.parametrize("layout", ["diffusers folder", "folder above", "clip_vision", "beside"])
def test_the_encoder_is_found_in_all_its_places(layout: str, tmp_path: Path) -> None:
    path = make_redux(tmp_path / "models" / "style_models")
    layer = ControlLayer(load_redux(path), picture())
    wanted = seen(layer)
    encoder, above = path.parent / "image_encoder", path.parent.parent
    if layout == "diffusers folder":
        folder = above / "redux"
        (folder / "image_embedder").mkdir(parents=True)
        path.rename(folder / "image_embedder" / "diffusion_pytorch_model.safetensors")
        encoder.rename(folder / "image_encoder")
        path = folder
    elif layout == "folder above":
        encoder.rename(above / "image_encoder")
    else:
        home = above / "clip_vision" if layout == "clip_vision" else path.parent
        home.mkdir(exist_ok=True)
        stored = load_file(encoder / "model.safetensors")
        prefix = "" if any(name.startswith("vision_model.") for name in stored) else "vision_model."
        save_file({prefix + name: tensor for name, tensor in stored.items()}, home / "sigclip.safetensors")
        for file in encoder.iterdir():
            file.unlink()
    assert torch.equal(seen(ControlLayer(load_redux(path), picture())), wanted)


@pytest.mark.parametrize("damage", ["no encoder", "other file", "gone", "other width", "other family"])
def test_what_cannot_be_used_is_one_sentence(damage: str, flux: Any, model_of: Loaded, tmp_path: Path) -> None:
    path = make_redux(tmp_path, 2 * WIDTH if damage == "other width" else WIDTH)
    if damage == "no encoder":
        (tmp_path / "image_encoder").rename(tmp_path / "elsewhere")
    elif damage == "other file":
        save_file({"x": torch.zeros(1)}, path)
    elif damage == "gone":
        path.unlink()
    model, task = (model_of("sd1"), TASK) if damage == "other family" else (flux, TASK)
    with pytest.raises(WireError) as caught:
        generate(model, replace(task, controls=(ControlLayer(load_redux(path), picture()),)))
    missing = damage in ("no encoder", "gone")
    assert caught.value.code is (Code.MODEL_MISSING if missing else Code.MODEL_UNSUPPORTED) and caught.value.hint
