# SPDX-License-Identifier: GPL-3.0-or-later
"""No step waits for the device: the loop runs on tensors that have no values to wait for."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from server.diffusion import SAMPLERS
from server.diffusion.families.flux1 import Flux1
from server.diffusion.families.sd import StableDiffusion
from server.diffusion.families.sdxl import StableDiffusionXL
from server.diffusion.features.masks import MaskChannels, MaskedChange
from server.diffusion.model import Condition
from server.diffusion.sampling import denoise
from server.diffusion.schedules import Schedule
from tests import tiny_flow
from tests.engine.conftest import Loaded
from tests.tiny import make_parts


@pytest.fixture(scope="module")
def hollow() -> dict[bool, Any]:
    """The UNets of the tiny models on the meta device: reading a value there raises, as a sync on a GPU would wait."""
    return {inpaint: make_parts("sd1", inpaint)["unet"].to("meta") for inpaint in (False, True)}


def loop(sampler: str, unet: Any, inpaint: bool, config: Any) -> torch.Tensor:
    schedule = Schedule(sampler, config, 6, 2, "meta")
    latents = torch.empty(1, 4, 8, 8, device="meta")
    sums = torch.empty(8, 8, dtype=torch.int32, device="meta")
    features: list[Any] = [MaskedChange(schedule, sums, 8, latents, latents, not inpaint)]
    if inpaint:
        features.append(MaskChannels(torch.cat([latents[:, :1], latents], dim=1)))
    model: Any = SimpleNamespace(unet=unet, embeds_guidance=False, conditioning=lambda *_: {})
    condition = Condition(torch.empty(2, 77, 32, device="meta"))

    def predict(inputs: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return StableDiffusion.predict(model, inputs, timestep, condition, 5.0)

    return denoise(schedule, latents, predict, torch.Generator(), features).latents


@pytest.mark.parametrize("inpaint", [False, True])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_step_reads_a_value_from_the_device(
    sampler: str, inpaint: bool, hollow: dict[bool, Any], model_of: Loaded
) -> None:
    latents = loop(sampler, hollow[inpaint], inpaint, model_of("sd1").schedule_config)
    assert latents.shape == (1, 4, 8, 8) and latents.device.type == "meta"


@pytest.mark.parametrize("sampler", ["Euler a", "DPM++ 2M"])
def test_nor_does_one_of_sdxl(sampler: str, model_of: Loaded) -> None:
    config = model_of("sdxl").schedule_config
    unet = copy.deepcopy(model_of("sdxl").unet).to("meta")
    model: Any = SimpleNamespace(unet=unet, embeds_guidance=False)
    model.conditioning = lambda *rest: StableDiffusionXL.conditioning(model, *rest)
    words = Condition(*(torch.empty(2, *shape, device="meta") for shape in ((77, 64), (32,))))
    condition = replace(words, ids=torch.empty(2, 6, device="meta"))
    schedule = Schedule(sampler, config, 4, 1, "meta")

    def predict(inputs: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return StableDiffusion.predict(model, inputs, timestep, condition, 5.0)

    latents = torch.empty(1, 4, 8, 8, device="meta")
    assert denoise(schedule, latents, predict, torch.Generator()).latents.device.type == "meta"


@pytest.mark.parametrize("sampler", ["Euler", "Heun", "LCM"])
def test_nor_does_one_of_flux(sampler: str) -> None:
    parts = tiny_flow.flux1()
    meta = torch.device("meta")
    transformer = parts["transformer"].to(meta)
    model: Any = SimpleNamespace(transformer=transformer, embeds_guidance=True, device=meta)
    model.places = lambda height, width, dtype, number=0: torch.empty(height * width, 3, device=meta, dtype=dtype)
    config = transformer.config
    condition = Condition(
        torch.empty(1, 16, config.joint_attention_dim, device=meta),
        torch.empty(1, config.pooled_projection_dim, device=meta),
    )
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
    schedule = Schedule(sampler, config, 4, 1, "meta")

    def predict(inputs: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return Flux1.predict(model, inputs, timestep, condition, 3.5)

    latents = torch.empty(1, 16, 8, 8, device=meta)
    assert denoise(schedule, latents, predict, torch.Generator()).latents.device.type == "meta"


def test_the_method_notices_a_sync(hollow: dict[bool, Any], monkeypatch: pytest.MonkeyPatch, model_of: Loaded) -> None:
    honest = Schedule.step

    def reads(self: Schedule, index: int, prediction: torch.Tensor, *rest: Any) -> Any:
        float(prediction.mean())
        return honest(self, index, prediction, *rest)

    monkeypatch.setattr(Schedule, "step", reads)
    with pytest.raises(RuntimeError, match="meta"):
        loop("Euler", hollow[False], False, model_of("sd1").schedule_config)
