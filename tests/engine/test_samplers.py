# SPDX-License-Identifier: GPL-3.0-or-later
"""Every sampler's name against the diffusers scheduler that is known under it, made here by hand and run beside it.

The contract's cells give both sides the scheduler that the engine made; this is what notices a wrong one.
"""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

from server.diffusion.schedules import DIFFUSION, FLOW, Schedule

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
KARRAS = {"use_karras_sigmas": True}
SECOND = {"solver_order": 2}
SDE = {"algorithm_type": "sde-dpmsolver++", **SECOND}
NAMES: dict[str, tuple[Any, dict[str, Any]]] = {
    "Euler": (diffusers.EulerDiscreteScheduler, {}),
    "Euler a": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "Euler trailing": (diffusers.EulerDiscreteScheduler, {"timestep_spacing": "trailing"}),
    "DPM++ 2M": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", **SECOND}),
    "DPM++ 2M Karras": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", **SECOND, **KARRAS}),
    "DPM++ SDE": (diffusers.DPMSolverSinglestepScheduler, SDE),
    "DPM++ SDE Karras": (diffusers.DPMSolverSinglestepScheduler, {**SDE, **KARRAS}),
    "DPM++ 2M SDE": (diffusers.DPMSolverMultistepScheduler, SDE),
    "DPM++ 2M SDE Karras": (diffusers.DPMSolverMultistepScheduler, {**SDE, **KARRAS}),
    "UniPC": (diffusers.UniPCMultistepScheduler, {}),
    "Heun": (diffusers.HeunDiscreteScheduler, {}),
    "DPM2 a": (diffusers.KDPM2AncestralDiscreteScheduler, {}),
    "DDIM": (diffusers.DDIMScheduler, {"clip_sample": False, "steps_offset": 1}),
    "PLMS": (diffusers.PNDMScheduler, {"skip_prk_steps": True, "steps_offset": 1}),
    "DEIS": (diffusers.DEISMultistepScheduler, {}),
    "DDPM": (diffusers.DDPMScheduler, {"clip_sample": False, "steps_offset": 1}),
    "LCM": (diffusers.LCMScheduler, {}),
    "TCD": (diffusers.TCDScheduler, {}),
}
DRAWS = {"Euler a", "DPM2 a", "DDPM", "LCM", "TCD"} | {name for name in NAMES if "SDE" in name}
FLOWS: dict[str, Any] = {
    "Euler": diffusers.FlowMatchEulerDiscreteScheduler,
    "LCM": diffusers.FlowMatchLCMScheduler,
}
SHAPE, STEPS = (1, 4, 6, 6), 5


def toy(inputs: torch.Tensor, when: torch.Tensor) -> torch.Tensor:
    """Stands for a model: anything that depends on both."""
    return 0.6 * torch.tanh(inputs) + when.float() / 4000


def by_hand(scheduler: Any, latents: torch.Tensor, **arguments: Any) -> torch.Tensor:
    for when in scheduler.timesteps:
        inputs = scheduler.scale_model_input(latents, when) if hasattr(scheduler, "scale_model_input") else latents
        latents = scheduler.step(toy(inputs, when), when, latents, return_dict=False, **arguments)[0]
    return latents


def ours(schedule: Schedule, latents: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    for index in range(schedule.start, schedule.total):
        prediction = toy(schedule.model_input(index, latents), schedule.timestep(index))
        latents = schedule.step(index, prediction, latents, generator)[0]
    return latents


def noise() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))


def test_every_sampler_is_here() -> None:
    assert set(NAMES) == set(DIFFUSION) and set(FLOWS) | {"Heun"} == set(FLOW)


def finished(name: str) -> torch.Tensor:
    made, settings = NAMES[name]
    scheduler = made(num_train_timesteps=1000, **BETAS, **settings)
    scheduler.set_timesteps(STEPS)
    more: dict[str, Any] = {"generator": torch.Generator().manual_seed(7)} if name in DRAWS else {}
    more |= {"eta": 0.3} if name == "TCD" else {}
    return by_hand(scheduler, noise() * scheduler.init_noise_sigma, **more)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_means_that_scheduler(name: str) -> None:
    config = {"_class_name": "PNDMScheduler", "num_train_timesteps": 1000, **BETAS}
    schedule = Schedule(name, config, STEPS, 0)
    found = ours(schedule, noise() * schedule.pure_noise_scale)
    assert torch.equal(found, finished(name))
    assert sum(torch.allclose(found, finished(other), atol=1e-5) for other in NAMES) == 1, "another one does the same"


@pytest.mark.parametrize("name", FLOWS)
def test_flow_samplers_too(name: str) -> None:
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
    scheduler = FLOWS[name](num_train_timesteps=1000, shift=3.0)
    scheduler.set_timesteps(STEPS)
    more = {"generator": torch.Generator().manual_seed(7)} if name == "LCM" else {}
    wanted = by_hand(scheduler, noise(), **more)
    found = ours(Schedule(name, config, STEPS, 0), noise())
    assert torch.equal(found, wanted)
