# SPDX-License-Identifier: GPL-3.0-or-later
"""Reference pictures (IP-Adapter) against the diffusers pipeline, bit for bit; nothing left behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from krita_sd.wire.errors import Code, WireError
from server.diffusion import Task, generate
from server.diffusion.features.reference import encoder_pixels, shares_of
from server.diffusion.reference_loading import load_reference
from server.diffusion.task import ControlLayer
from tests.engine.cells import Cell
from tests.engine.conftest import Loaded, picture, run
from tests.engine.test_contract import pipeline

TASK = Task(prompt="a red boat", negative="fog", seed=3, total_steps=3, guidance=4.0, width=64, height=64)
SIDE, HIDDEN, PROJECTED, TOKENS = 28, 16, 24, 4


def make_adapter(folder: Path, model: Any, plus: bool = False, seed: int = 0) -> Path:
    """Write a tiny IP-Adapter with its image encoder beside it, in the published layout."""
    unet, generator = model.unet, torch.Generator().manual_seed(seed)
    width = unet.config.cross_attention_dim

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.3

    tensors: dict[str, torch.Tensor] = {}
    number = 1
    for name in unet.attn_processors:
        if name.endswith("attn2.processor"):
            layer = unet.get_submodule(name.removesuffix(".processor"))
            for kind in ("k", "v"):
                tensors[f"ip_adapter.{number}.to_{kind}_ip.weight"] = random(layer.to_k.weight.shape[0], width)
            number += 2
    if plus:
        inner = 64
        parts = {"latents": (1, TOKENS, inner), "proj_in.weight": (inner, HIDDEN), "proj_in.bias": (inner,)}
        parts |= {"proj_out.weight": (width, inner), "proj_out.bias": (width,)}
        parts |= {"norm_out.weight": (width,), "norm_out.bias": (width,)}
        for number in range(4):
            home = f"layers.{number}."
            parts |= {f"{home}0.norm{n}.{leaf}": (inner,) for n in (1, 2) for leaf in ("weight", "bias")}
            parts |= {f"{home}0.to_q.weight": (64, inner), f"{home}0.to_kv.weight": (128, inner)}
            parts |= {f"{home}0.to_out.weight": (inner, 64)}
            parts |= {f"{home}1.0.weight": (inner,), f"{home}1.0.bias": (inner,)}
            parts |= {f"{home}1.1.weight": (4 * inner, inner), f"{home}1.3.weight": (inner, 4 * inner)}
    else:
        parts = {"proj.weight": (TOKENS * width, PROJECTED), "proj.bias": (TOKENS * width,)}
        parts |= {"norm.weight": (width,), "norm.bias": (width,)}
    tensors |= {f"image_proj.{name}": random(*shape) for name, shape in parts.items()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ("tiny plus.safetensors" if plus else "tiny.safetensors")
    save_file(tensors, path)
    if not (folder / "image_encoder").exists():
        config = CLIPVisionConfig(
            hidden_size=HIDDEN, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=SIDE,
            patch_size=14, projection_dim=PROJECTED,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            CLIPVisionModelWithProjection(config).eval().save_pretrained(folder / "image_encoder")
    return path


def oracle(model: Any, task: Task, paths: list[Path], scales: Any = None) -> torch.Tensor:
    pipe = pipeline(model, task)
    pipe.register_modules(image_encoder=task.controls[0].model.encoder)
    try:
        pipe.load_ip_adapter(
            str(paths[0].parent), subfolder="", weight_name=[path.name for path in paths], image_encoder_folder=None
        )
        pipe.set_ip_adapter_scale(scales or [layer.weight for layer in task.controls])
        shown = [encoder_pixels(layer.image, SIDE, torch.device("cpu")) for layer in task.controls]
        return pipe(
            task.prompt,
            negative_prompt=task.negative,
            ip_adapter_image=shown,
            num_inference_steps=task.total_steps,
            guidance_scale=task.guidance,
            width=64,
            height=64,
            generator=torch.Generator().manual_seed(task.seed),
            output_type="latent",
        ).images
    finally:
        pipe.unload_ip_adapter()


@pytest.mark.parametrize(
    ("kinds", "guidance"), [([False], 4.0), ([False], 1.0), ([True], 4.0), ([False, True], 4.0)], ids=str
)
def test_equals_the_diffusers_pipeline(
    kinds: list[bool], guidance: float, model_of: Loaded, tmp_path: Path, cell: Cell
) -> None:
    model = model_of("sd1")
    paths = [make_adapter(tmp_path, model, plus, seed) for seed, plus in enumerate(kinds)]
    layers = tuple(
        ControlLayer(load_reference(path), picture(40 + 30 * number, 90, seed=number), 0.7 + 0.5 * number)
        for number, path in enumerate(paths)
    )
    task = replace(TASK, controls=layers, guidance=guidance)
    before = run(model, replace(task, controls=()))[1]
    ours = run(model, task)[1]
    wanted = oracle(model, task, paths)
    cell("sd1", "reference", (ours - wanted).abs().max())
    assert torch.equal(ours, wanted)
    last = layers[-1]
    for other in (replace(last, weight=0.3), replace(last, image=picture(seed=50)), replace(last, end=0.7)):
        assert not torch.equal(run(model, replace(task, controls=(*layers[:-1], other)))[1], ours)
    assert torch.equal(run(model, replace(task, controls=(replace(layers[0], weight=0.0),)))[1], before)
    assert torch.equal(run(model, replace(task, controls=()))[1], before), "the model is as before"


PARTS_OF_TINY: list[tuple[str, str, dict[str, Any]]] = [
    ("sd1", "style", {"mid": 0.7}),
    ("sd1", "composition", {"down": {"block_0": [0.7]}}),
    ("sdxl", "style", {"up": {"block_0": [0.0, 0.7]}}),
    ("sdxl", "composition", {"down": {"block_1": [0.7]}}),
]


@pytest.mark.parametrize(("family", "type", "scales"), PARTS_OF_TINY, ids=["/".join(row[:2]) for row in PARTS_OF_TINY])
def test_style_and_composition_equal_the_pipelines_scales(
    family: str, type: str, scales: dict[str, Any], model_of: Loaded, tmp_path: Path, cell: Cell
) -> None:
    model = model_of(family)
    path = make_adapter(tmp_path, model)
    layer = ControlLayer(load_reference(path), picture(), 0.7, type=type)
    ours = run(model, replace(TASK, controls=(layer,)))[1]
    wanted = oracle(model, replace(TASK, controls=(layer,)), [path], scales)
    cell(family, "reference", (ours - wanted).abs().max())
    assert torch.equal(ours, wanted)
    assert not torch.equal(ours, run(model, replace(TASK, controls=(replace(layer, type="reference"),)))[1])


def test_where_style_and_composition_are_in_the_real_models() -> None:
    """Blocks and attentions of SD 1.5 and SDXL, written out here."""

    def names(down: dict[int, int], up: dict[int, int]) -> list[str]:
        places = [f"down_blocks.{block}.attentions.{n}" for block, count in down.items() for n in range(count)]
        places += [f"up_blocks.{block}.attentions.{n}" for block, count in up.items() for n in range(count)]
        return [f"{place}.transformer_blocks.0.attn{n}.processor" for place in places for n in (1, 2)] + [
            "mid_block.attentions.0.transformer_blocks.0.attn2.processor"
        ]

    def told(names: list[str], type: str, wide: bool) -> dict[str, float]:
        found = shares_of(names, type, wide)
        assert all(name.endswith("attn2.processor") for name in found)
        return {name.split(".transformer")[0].replace("attentions.", ""): share for name, share in found.items()}

    small, wide = names({0: 2, 1: 2, 2: 2}, {1: 3, 2: 3, 3: 3}), names({1: 2, 2: 2}, {0: 3, 1: 3})
    assert told(wide, "style", True) == {"up_blocks.0.1": 1.0}
    assert told(wide, "composition", True) == {"down_blocks.2.1": 1.0}
    assert told(small, "composition", False) == {"down_blocks.2.0": 0.25, "down_blocks.2.1": 1.0}
    style = ["down_blocks.0.0", "down_blocks.0.1", "down_blocks.1.0", "down_blocks.1.1", "mid_block.0"]
    style += [f"up_blocks.{block}.{n}" for block in (2, 3) for n in range(3)]
    assert told(small, "style", False) == dict.fromkeys(style, 1.0)
    assert set(told(small, "reference", False).values()) == {1.0} and len(told(small, "reference", False)) == 16


def test_the_encoder_looks_once(model_of: Loaded, tmp_path: Path) -> None:
    model = model_of("sd1")
    reference = load_reference(make_adapter(tmp_path, model))
    calls: list[int] = []
    reference.encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    task = replace(TASK, controls=(ControlLayer(reference, picture()),))
    pictures = {generate(model, replace(task, seed=seed)).image.tobytes() for seed in (1, 2, 1)}
    assert len(calls) == 1 and len(pictures) == 2


def test_pictures_are_cut_as_clip_was_trained() -> None:
    """The middle square, and numbers around zero: worked out here for a picture of one colour."""
    tall = picture(28, 56)
    found = encoder_pixels(tall, 28, torch.device("cpu"))
    assert found.shape == (1, 3, 28, 28)
    middle = torch.from_numpy(tall[14:42].copy()).permute(2, 0, 1).float() / 255
    wanted = (middle - torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]) / torch.tensor(
        [0.26862954, 0.26130258, 0.27577711]
    )[:, None, None]
    assert torch.allclose(found[0], wanted, atol=1e-5)


@pytest.mark.parametrize("damage", ["no encoder", "other file", "gone", "other family", "part missing"])
def test_adapters_that_cannot_be_used_are_one_sentence(damage: str, model_of: Loaded, tmp_path: Path) -> None:
    model = model_of("sd1")
    path = make_adapter(tmp_path, model)
    before = generate(model, TASK).image.tobytes()
    if damage == "no encoder":
        (tmp_path / "image_encoder").rename(tmp_path / "elsewhere")
    elif damage == "other file":
        save_file({"x": torch.zeros(1)}, path)
    elif damage == "gone":
        path.unlink()
    with pytest.raises(WireError) as caught:
        reference = load_reference(path)
        tensors = reference.state["ip_adapter"]
        if damage == "part missing":
            del reference.state["image_proj"]["proj.bias"]
        else:
            tensors["1.to_k_ip.weight"] = torch.zeros(32, 48)
        generate(model, replace(TASK, controls=(ControlLayer(reference, picture()),)))
    assert generate(model, TASK).image.tobytes() == before
    missing = damage in ("no encoder", "gone")
    assert caught.value.code is (Code.MODEL_MISSING if missing else Code.MODEL_UNSUPPORTED) and caught.value.hint
