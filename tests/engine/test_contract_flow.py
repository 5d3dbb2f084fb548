# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract of the flow-matching families: what their diffusers pipelines give, bit for bit, on tiny random models.

Tolerance zero on the CPU in float32. `LOOSER` lists the cells that cannot be exact, each with its measured error and
cause. Every cell is also seen to fail when the plan, the noise levels or the mask is off by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from server.diffusion import Task, load_model, schedules
from server.diffusion.families.flow import unpack
from tests.engine.conftest import hard_mask, picture, run
from tests.engine.test_contract import off_by_one
from tests.tiny_flow import make_flow_model

Models = Callable[[str], Any]


@dataclass(frozen=True)
class Oracle:
    """How a family is asked: its pipelines by kind of task, names of the guidance and of what else they take."""

    family: str
    pipelines: dict[str, str]
    guidance: str = "guidance_scale"
    kind: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    negative: bool = False
    packed: bool = True
    guidance_offset: float = 0.0


NAMES = {"txt2img": "", "img2img": "Img2Img", "inpaint": "Inpaint"}
FLUX1 = {kind: f"Flux{name}Pipeline" for kind, name in NAMES.items()}
SD3 = {kind: f"StableDiffusion3{name}Pipeline" for kind, name in NAMES.items()}
CHROMA = {kind: f"Chroma{name}Pipeline" for kind, name in NAMES.items()}
Z_IMAGE = {kind: f"ZImage{name}Pipeline" for kind, name in NAMES.items()}
QWEN = {kind: f"QwenImage{name}Pipeline" for kind, name in NAMES.items()}
ORACLES: dict[str, Oracle] = {
    "flux1-dev": Oracle("flux1", FLUX1),
    "flux1-schnell": Oracle(
        "flux1", {"txt2img": "FluxPipeline"}, kind={"few_steps": True}, arguments={"max_sequence_length": 256}
    ),
    "flux1-fill": Oracle("flux1", {"inpaint": "FluxFillPipeline"}, kind={"inpaint": True}),
    "sd3": Oracle("sd3", SD3, negative=True, packed=False),
    "sd3.5-without-t5": Oracle(
        "sd3", {"txt2img": SD3["txt2img"]}, kind={"with_t5": False, "dynamic": True}, negative=True, packed=False
    ),
    "chroma": Oracle("chroma", CHROMA, negative=True, arguments={"max_sequence_length": 512}),
    "qwen-image": Oracle("qwen-image", QWEN, guidance="true_cfg_scale", negative=True),
    # Its pipelines count guidance from 0: pos + g (pos - neg).
    "z-image": Oracle("z-image", Z_IMAGE, negative=True, packed=False, guidance_offset=-1.0),
}
LOOSER: dict[tuple[str, str, str], float] = {}  # (model, kind, sampler) -> largest error of the latents

PLANS = {
    "txt2img": Task(total_steps=3),
    "img2img": Task(total_steps=4, start_step=2, image=picture()),
    "inpaint": Task(total_steps=4, start_step=1, image=picture(), mask=hard_mask()),
}
CELLS = [(name, kind, "Euler") for name, oracle in ORACLES.items() for kind in oracle.pipelines]


@pytest.fixture(scope="module")
def flow_model(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A loaded tiny model of an oracle's family, made once."""
    made: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in made:
            oracle = ORACLES[name]
            folder: Path = make_flow_model(tmp_path_factory.mktemp("flow") / name, oracle.family, **oracle.kind)
            made[name] = load_model(folder, oracle.family)
        return made[name]

    return get


def task_of(kind: str, sampler: str) -> Task:
    return replace(
        PLANS[kind], prompt="a red boat", negative="fog at night", seed=2**40 + 7, guidance=4.0, sampler=sampler,
        width=64, height=96 if kind == "txt2img" else 64,
    )  # fmt: skip


def ask(name: str, kind: str, model: Any, task: Task) -> torch.Tensor:
    """Latents (1, channels, h, w) of the diffusers pipeline with the model's own modules and a fresh scheduler."""
    import inspect

    import diffusers

    oracle = ORACLES[name]
    made = getattr(diffusers, oracle.pipelines[kind])
    wanted = inspect.signature(made.__init__).parameters
    parts = {part: module for part, module in model.parts.items() if part in wanted}
    absent = ("image_encoder", "feature_extractor", "text_encoder_3", "tokenizer_3")
    parts |= {part: None for part in absent if part in wanted and part not in parts}
    pipe = made(scheduler=schedules.make_scheduler(task.sampler, model.schedule_config), **parts)
    pipe.set_progress_bar_config(disable=True)
    if oracle.family == "chroma" and kind == "inpaint":
        # The upstream inpainting pipeline asks for an entry that the transformer's config does not have.
        pipe.transformer.register_to_config(guidance_embeds=False)
    guidance = task.guidance + oracle.guidance_offset
    inputs: dict[str, Any] = {oracle.guidance: guidance, "width": task.width, "height": task.height}
    if oracle.negative:
        inputs["negative_prompt"] = task.negative
    if task.image is not None:
        inputs.update(image=Image.fromarray(task.image), strength=1.0 - task.start_step / task.total_steps)
    if task.mask is not None:
        inputs["mask_image"] = Image.fromarray(task.mask)
        if "masked_image_latents" in inspect.signature(made.__call__).parameters and not model.inpainting:
            # The masked picture is encoded for nothing, and that moves the generator.
            inputs["masked_image_latents"] = torch.zeros(1, model.latent_channels, task.height // 8, task.width // 8)
    latents = pipe(
        task.prompt,
        num_inference_steps=task.total_steps,
        generator=torch.Generator().manual_seed(task.seed),
        output_type="latent",
        **inputs,
        **oracle.arguments,
    ).images
    return unpack(latents, task.height // 8, task.width // 8) if oracle.packed else latents


@pytest.mark.parametrize(("name", "kind", "sampler"), CELLS, ids=["/".join(cell) for cell in CELLS])
def test_equals_the_diffusers_pipeline(
    name: str, kind: str, sampler: str, flow_model: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, task = flow_model(name), task_of(kind, sampler)
    wanted = ask(name, kind, model, task)
    output, latents = run(model, task)
    assert float((latents - wanted).abs().max()) <= LOOSER.get((name, kind, sampler), 0.0)
    assert output.steps_run == task.total_steps - task.start_step
    for label, other in off_by_one(task).items():
        assert not torch.allclose(run(model, other)[1], wanted, atol=1e-4), f"does not notice: {label}"
    honest = schedules.Schedule.timestep

    def shifted(self: schedules.Schedule, index: int) -> torch.Tensor:
        return honest(self, index + 1 if index + 1 < self.total else self.start)

    monkeypatch.setattr(schedules.Schedule, "timestep", shifted)
    assert not torch.allclose(run(model, task)[1], wanted, atol=1e-4), "does not notice: the order of the timesteps"


@pytest.mark.parametrize("name", [name for name, oracle in ORACLES.items() if "inpaint" in oracle.pipelines])
def test_soft_masks_keep_what_is_not_selected(name: str, flow_model: Models) -> None:
    """Cells with mask 0 are the original's at the end, half-selected ones change less than selected ones."""
    model, task = flow_model(name), task_of("inpaint", "Euler")
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 24:40], mask[:, 40:] = 100, 255
    soft = run(model, replace(task, mask=mask, start_step=0, total_steps=4, begin="image"))[1]
    hard = run(model, replace(task, mask=np.where(mask > 0, 255, 0).astype(np.uint8), start_step=0, begin="image"))[1]
    if not model.inpainting:
        assert torch.equal(soft[..., :3], hard[..., :3])
    assert not torch.allclose(soft[..., 3:5], hard[..., 3:5], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("flux1-dev", "single_transformer_blocks.0.attn.to_q"),
        ("sd3", "transformer_blocks.0.attn.to_k"),
        ("chroma", "transformer_blocks.0.attn.to_q"),
        ("z-image", "layers.0.attention.to_q"),
        ("qwen-image", "transformer_blocks.1.attn.add_v_proj"),
    ],
)
def test_loras_equal_weights_added_by_hand(name: str, layer: str, flow_model: Models, tmp_path: Path) -> None:
    model, task = flow_model(name), task_of("txt2img", "Euler")
    plain = run(model, task)[1]
    module, generator = model.transformer.get_submodule(layer), torch.Generator().manual_seed(3)
    down = torch.randn(4, module.in_features, generator=generator) * 0.5
    up = torch.randn(module.out_features, 4, generator=generator) * 0.5
    path = tmp_path / "style.safetensors"
    save_file({f"transformer.{layer}.lora_A.weight": down, f"transformer.{layer}.lora_B.weight": up}, path)
    changed = run(model, replace(task, loras=((path, 0.5),)))[1]
    before = module.weight.detach().clone()
    module.weight.copy_(before + 0.5 * (up @ down))
    wanted = run(model, task)[1]
    module.weight.copy_(before)
    assert torch.equal(changed, wanted) and not torch.allclose(changed, plain, atol=1e-4)
    assert torch.equal(run(model, task)[1], plain)


@pytest.mark.parametrize("sampler", list(schedules.FLOW))
def test_every_flow_sampler_follows_the_same_levels(sampler: str, flow_model: Models) -> None:
    """A velocity that always points from the noise to one picture ends in that picture, whatever the solver."""
    model = flow_model("flux1-dev")
    schedule = model.schedule(sampler, 4, 1, 64, 64)
    final, noise = torch.randn(1, 16, 8, 8), torch.randn(1, 16, 8, 8)
    latents, generator, steps = schedule.noised(schedule.start, final, noise), torch.Generator().manual_seed(0), 0
    for index in range(schedule.start, schedule.total):
        a, b = (
            schedule.noised(index, torch.ones(1), torch.zeros(1)),
            schedule.noised(index, torch.zeros(1), torch.ones(1)),
        )
        assert torch.allclose(a + b, torch.ones(1))
        latents, estimate = schedule.step(index, (latents - final) / b, latents, generator)
        assert torch.allclose(estimate, final, atol=1e-4)
        steps += schedule.ends_step(index)
    assert steps == 3 and torch.allclose(latents, final, atol=1e-4)
