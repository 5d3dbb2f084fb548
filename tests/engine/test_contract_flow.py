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

from server.diffusion import Task, load_model, schedules
from server.diffusion.families.flow import pack, unpack
from server.diffusion.model import draw_noise, sample_latents
from tests.engine.cells import Cell, lora_by_hand, soft_mask, still_known
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


def ask(name: str, kind: str, model: Any, task: Task, after_step: Any = None) -> torch.Tensor:
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
        callback_on_step_end=after_step,
        **inputs,
        **oracle.arguments,
    ).images
    return unpack(latents, task.height // 8, task.width // 8) if oracle.packed else latents


@pytest.mark.parametrize(("name", "kind", "sampler"), CELLS, ids=["/".join(cell) for cell in CELLS])
def test_equals_the_diffusers_pipeline(
    name: str, kind: str, sampler: str, flow_model: Models, monkeypatch: pytest.MonkeyPatch, cell: Cell
) -> None:
    model, task = flow_model(name), task_of(kind, sampler)
    wanted = ask(name, kind, model, task)
    output, latents = run(model, task)
    error = float((latents - wanted).abs().max())
    cell(name, kind, error)
    assert error <= LOOSER.get((name, kind, sampler), 0.0)
    assert output.steps_run == task.total_steps - task.start_step
    for label, other in off_by_one(task).items():
        assert not torch.allclose(run(model, other)[1], wanted, atol=1e-4), f"does not notice: {label}"
    honest = schedules.Schedule.timestep

    def shifted(self: schedules.Schedule, index: int) -> torch.Tensor:
        return honest(self, index + 1 if index + 1 < self.total else self.start)

    monkeypatch.setattr(schedules.Schedule, "timestep", shifted)
    assert not torch.allclose(run(model, task)[1], wanted, atol=1e-4), "does not notice: the order of the timesteps"


@pytest.mark.parametrize("name", [name for name, oracle in ORACLES.items() if "img2img" in oracle.pipelines])
def test_soft_masks_equal_the_pipeline_with_a_callback(name: str, flow_model: Models, cell: Cell) -> None:
    """diffusers has no soft masks: its img2img pipeline, with what is still known put back after every step."""
    model = flow_model(name)
    task = replace(task_of("img2img", "Euler"), mask=soft_mask(), start_step=1)
    generator = torch.Generator().manual_seed(task.seed)
    assert task.image is not None and task.mask is not None
    mask = task.mask
    with torch.inference_mode():
        original = sample_latents(model, task.image, generator)
        noise = draw_noise(original.shape, generator, model.device)
    steps = task.total_steps - task.start_step

    def put_back(pipe: Any, index: int, when: Any, values: dict[str, Any]) -> dict[str, Any]:
        level = pipe.scheduler.sigmas[task.start_step + index + 1]
        known = level * noise + (1.0 - level) * original if index + 1 < steps else original
        latents = values["latents"]
        cells = unpack(latents, 8, 8) if ORACLES[name].packed else latents
        cells = torch.where(still_known(mask, 8, index + 1, steps), known, cells)
        return {"latents": pack(cells) if ORACLES[name].packed else cells}

    wanted = ask(name, "img2img", model, replace(task, mask=None), put_back)
    latents = run(model, task)[1]
    error = float((latents - wanted).abs().max())
    cell(name, "soft mask", error)
    assert error == 0.0
    for label, other in off_by_one(task).items():
        assert not torch.allclose(run(model, other)[1], wanted, atol=1e-4), f"does not notice: {label}"


def test_fill_takes_soft_masks_by_time(flow_model: Models) -> None:
    """diffusers' Fill knows hard masks only. That cells keep the original until their turn is shown for the SD models
    with mask channels; here, that the same rule is at work."""
    model, task = flow_model("flux1-fill"), replace(task_of("inpaint", "Euler"), start_step=0, begin="image")
    soft, hard = soft_mask(), np.where(soft_mask() > 0, 255, 0).astype(np.uint8)
    found, sharp = (run(model, replace(task, mask=mask))[1] for mask in (soft, hard))
    assert not torch.allclose(found[..., 2:6], sharp[..., 2:6], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("flux1-dev", "single_transformer_blocks.0.attn.to_q"),
        ("flux1-schnell", "transformer_blocks.0.attn.to_q"),
        ("flux1-fill", "transformer_blocks.0.attn.to_v"),
        ("sd3", "transformer_blocks.0.attn.to_k"),
        ("chroma", "transformer_blocks.0.attn.to_q"),
        ("z-image", "layers.0.attention.to_q"),
        ("qwen-image", "transformer_blocks.1.attn.add_v_proj"),
    ],
)
def test_loras_equal_weights_added_by_hand(
    name: str, layer: str, flow_model: Models, tmp_path: Path, cell: Cell
) -> None:
    model, task = flow_model(name), task_of("inpaint" if "fill" in name else "txt2img", "Euler")
    error = lora_by_hand(model, model.transformer, layer, "transformer.", task, tmp_path / "style.safetensors")
    cell(name, "LoRA", error)
    assert error == 0.0


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
