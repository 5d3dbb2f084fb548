# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract: every family, task and sampler gives what the diffusers pipeline gives, bit for bit.

Tolerance zero on the CPU in float32, for the latents and for the picture. `LOOSER` would list the cells that cannot
be exact, each with its measured error and cause; there is none. Every cell is also seen to fail when the plan, the
order of timesteps or the mask is off by one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from server.diffusion import SAMPLERS, Task, schedules
from tests.engine.cells import Cell, lora_by_hand, soft_mask, still_known
from tests.engine.conftest import Loaded, hard_mask, picture, run

LOOSER: dict[tuple[str, str, str], float] = {}  # (model, kind, sampler) -> largest error of the latents

MODELS: dict[str, dict[str, Any]] = {
    "sd1": {"family": "sd1"},
    "sd2": {"family": "sd2"},
    "sd1-distilled": {"family": "sd1", "embedded_guidance": True},
    "sd1-inpaint": {"family": "sd1", "inpaint": True},
    "sd2-inpaint": {"family": "sd2", "inpaint": True},
    "sdxl": {"family": "sdxl"},
    "sdxl-inpaint": {"family": "sdxl", "inpaint": True},
}
PLANS = {
    "txt2img": Task(total_steps=4),
    "img2img": Task(total_steps=6, start_step=3, image=picture()),
    "img2img-full": Task(total_steps=3, image=picture()),
    "inpaint": Task(total_steps=6, start_step=2, image=picture(), mask=hard_mask()),
    "inpaint-full": Task(total_steps=3, image=picture(), mask=hard_mask()),
}
MAIN = ("Euler", "Euler a", "DPM++ 2M", "DPM++ 2M Karras", "UniPC", "DDIM", "LCM")
"""Samplers that run in every cell; the others run once in each kind of task."""

CELLS = [
    (model, kind, sampler)
    for model in MODELS
    for kind in PLANS
    for sampler in SAMPLERS
    if kind.startswith("inpaint") or not model.endswith("inpaint")
    if sampler in MAIN or (model == "sd1" and kind in ("txt2img", "img2img", "inpaint"))
    if not (kind == "img2img-full" and sampler not in ("Euler", "LCM"))
    if not (model == "sd1-distilled" and (sampler != "LCM" or kind.endswith("full")))
    if not (model in ("sd2-inpaint", "sdxl", "sdxl-inpaint") and sampler not in ("Euler a", "DPM++ 2M"))
]


def task_of(kind: str, sampler: str) -> Task:
    return replace(
        PLANS[kind],
        prompt="a red boat",
        negative="fog",
        seed=2**40 + 7,
        guidance=5.0,
        sampler=sampler,
        width=64,
        height=64,
    )


def pipeline(model: Any, task: Task) -> Any:
    """The diffusers pipeline of the task with the model's own modules and a fresh scheduler."""
    import diffusers

    kinds = {(False, False): "", (True, False): "Img2Img", (True, True): "Inpaint"}
    kind = kinds[task.image is not None, task.mask is not None]
    family = "StableDiffusionXL" if model.family == "sdxl" else "StableDiffusion"
    if model.family == "sdxl":
        more = {"text_encoder_2": model.text_encoder_2, "tokenizer_2": model.tokenizer_2, "add_watermarker": False}
    else:
        more = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = getattr(diffusers, f"{family}{kind}Pipeline")(
        vae=model.vae,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        unet=model.unet,
        scheduler=schedules.make_scheduler(task.sampler, model.schedule_config),
        **more,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def oracle(model: Any, task: Task) -> tuple[torch.Tensor, np.ndarray]:
    """Latents and picture of the diffusers pipeline."""
    pipe = pipeline(model, task)
    inputs: dict[str, Any] = {"generator": torch.Generator().manual_seed(task.seed)}
    strength = 1.0 - task.start_step / task.total_steps
    if task.image is None:
        inputs.update(width=task.width, height=task.height)
    else:
        inputs.update(image=Image.fromarray(task.image), strength=strength)
    if task.mask is not None:
        inputs.update(mask_image=Image.fromarray(task.mask), width=task.width, height=task.height)
        if not model.inpainting:
            # Of a 4-channel model the masked picture is encoded for nothing, and that moves the generator.
            inputs["masked_image_latents"] = torch.zeros(1, 4, task.height // 8, task.width // 8)
    if task.sampler == "TCD":
        inputs["eta"] = 0.3  # of the sampler's authors; the pipelines' default 0 would draw no noise
    latents = pipe(
        task.prompt,
        negative_prompt=task.negative,
        num_inference_steps=task.total_steps,
        guidance_scale=task.guidance,
        output_type="latent",
        **inputs,
    ).images
    with torch.inference_mode():
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor, return_dict=False)[0]
    image = pipe.image_processor.postprocess(decoded, output_type="pil")[0]
    return latents, np.asarray(image)


@pytest.mark.parametrize(("name", "kind", "sampler"), CELLS, ids=["/".join(cell) for cell in CELLS])
def test_equals_the_diffusers_pipeline(
    name: str, kind: str, sampler: str, model_of: Loaded, monkeypatch: pytest.MonkeyPatch, cell: Cell
) -> None:
    model = model_of(**MODELS[name])
    task = task_of(kind, sampler)
    wanted, wanted_image = oracle(model, task)
    output, latents = run(model, task)
    error = float((latents - wanted).abs().max())
    cell(name, kind.removesuffix("-full"), error)
    allowed = LOOSER.get((name, kind, sampler), 0.0)
    assert error <= allowed
    if allowed == 0.0:
        assert np.array_equal(output.image, wanted_image)
    assert output.steps_run == task.total_steps - task.start_step

    # Would this cell notice? Each mutation is one place off.
    for label, other in off_by_one(task).items():
        assert not torch.equal(run(model, other)[1], wanted), f"does not notice: {label}"
    honest = schedules.Schedule.timestep

    def shifted(self: schedules.Schedule, index: int) -> torch.Tensor:
        return honest(self, index + 1 if index + 1 < self.total else self.start)

    monkeypatch.setattr(schedules.Schedule, "timestep", shifted)
    assert not torch.equal(run(model, task)[1], wanted), "does not notice: the order of the timesteps"


def off_by_one(task: Task) -> dict[str, Task]:
    others = {"one step more": replace(task, total_steps=task.total_steps + 1)}
    if task.image is not None:
        others["one step later"] = replace(task, start_step=task.start_step + 1)
    if task.mask is not None:
        others["mask one cell to the right"] = replace(task, mask=np.roll(task.mask, 8, axis=1))
    return others


@pytest.mark.parametrize("name", [name for name in MODELS if "inpaint" not in name and "distilled" not in name])
def test_soft_masks_equal_the_pipeline_with_a_callback(name: str, model_of: Loaded, cell: Cell) -> None:
    """diffusers has no soft masks: its img2img pipeline, with what is still known put back after every step."""
    from server.diffusion.model import draw_noise, sample_latents

    model, task = model_of(**MODELS[name]), replace(task_of("img2img", "Euler a"), mask=soft_mask(), begin="image")
    steps = task.total_steps - task.start_step
    with torch.inference_mode():
        generator = torch.Generator().manual_seed(task.seed)
        assert task.image is not None and task.mask is not None
        mask = task.mask
        original = sample_latents(model, task.image, generator).contiguous()
        pipe = pipeline(model, replace(task, mask=None))
        before = generator.get_state()
        noise = draw_noise(original.shape, generator, model.device)
        generator.set_state(before)

        def put_back(pipe: Any, index: int, when: Any, values: dict[str, Any]) -> dict[str, Any]:
            following = pipe.scheduler.timesteps[task.start_step + index + 1 :][:1]
            known = pipe.scheduler.add_noise(original, noise, following) if len(following) else original
            return {"latents": torch.where(still_known(mask, 8, index + 1, steps), known, values["latents"])}

        wanted = pipe(
            task.prompt,
            negative_prompt=task.negative,
            image=original.clone(),
            strength=1.0 - task.start_step / task.total_steps,
            num_inference_steps=task.total_steps,
            guidance_scale=task.guidance,
            generator=generator,
            output_type="latent",
            callback_on_step_end=put_back,
        ).images
    latents = run(model, task)[1]
    cell(name, "soft mask", (latents - wanted).abs().max())
    assert torch.equal(latents, wanted)
    for label, other in off_by_one(task).items():
        assert not torch.equal(run(model, other)[1], wanted), f"does not notice: {label}"


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl", "sd1-inpaint"])
def test_loras_equal_weights_added_by_hand(name: str, model_of: Loaded, tmp_path: Any, cell: Cell) -> None:
    model, task = model_of(**MODELS[name]), task_of("inpaint" if "inpaint" in name else "txt2img", "Euler")
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    error = lora_by_hand(model, model.unet, layer, "unet.", task, tmp_path / "style.safetensors")
    cell(name, "LoRA", error)
    assert error == 0.0


SCHEDULES: dict[str, dict[str, Any]] = {
    "embedded model": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "timestep_spacing": "trailing"},
    "zero terminal SNR": {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    "leading": {"timestep_spacing": "leading"},
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("sampler", "kind"),
    [*((sampler, "txt2img") for sampler in MAIN), ("Euler", "img2img"), ("DPM++ 2M", "img2img")],
)
def test_other_schedules_equal_the_pipeline(
    sampler: str, schedule: str, kind: str, model_of: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, task = model_of("sd2"), task_of(kind, sampler)
    plain = run(model, task)[1]
    monkeypatch.setattr(model, "schedule_config", {**model.schedule_config, **SCHEDULES[schedule]})
    wanted, image = oracle(model, task)
    output, latents = run(model, task)
    assert torch.equal(latents, wanted) and np.array_equal(output.image, image)
    # DDIM and LCM space their steps in the "leading" way anyway.
    assert schedule == "leading" or not torch.equal(latents, plain)


@pytest.mark.parametrize("guidance", [0.0, 1.0])
def test_without_guidance_the_negative_prompt_is_not_used(guidance: float, model_of: Loaded) -> None:
    model = model_of("sd1")
    task = replace(task_of("txt2img", "DPM++ 2M"), guidance=guidance)
    wanted, image = oracle(model, task)
    output, latents = run(model, task)
    assert torch.equal(latents, wanted) and np.array_equal(output.image, image)
    assert torch.equal(run(model, replace(task, negative="something else"))[1], wanted)


@pytest.mark.parametrize(("width", "height"), [(72, 40), (200, 88), (480, 24)], ids=lambda side: str(side))
def test_sizes_that_are_no_multiple_of_64_and_twenty_to_one(width: int, height: int, model_of: Loaded) -> None:
    model = model_of("sd1")
    task = replace(task_of("img2img", "UniPC"), width=width, height=height, image=picture(width, height))
    wanted, image = oracle(model, task)
    output, latents = run(model, task)
    assert torch.equal(latents, wanted)
    assert np.array_equal(output.image, image) and output.image.shape == (height, width, 3)


@pytest.mark.parametrize(
    ("total", "sampler"),
    [(total, name) for total in (200, 1000, 4000) for name in SAMPLERS if name in MAIN or total == 4000],
)
def test_long_plans_of_every_sampler_run(total: int, sampler: str, model_of: Loaded) -> None:
    """Strength 0.001 with a minimum of four steps plans 4000; the models know 1000 noise levels, LCM 50 of them."""
    model = model_of("sd1")
    task = replace(task_of("img2img", sampler), total_steps=total, start_step=total - 4)
    output, latents = run(model, task)
    assert output.steps_run == 4 and bool(torch.isfinite(latents).all())
