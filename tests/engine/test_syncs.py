# SPDX-License-Identifier: GPL-3.0-or-later
"""No step waits for the device: the loop runs on tensors that have no values to wait for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from server.diffusion import SAMPLERS
from server.diffusion.families.sd import StableDiffusion
from server.diffusion.features.masks import MaskChannels, MaskedChange
from server.diffusion.model import Condition
from server.diffusion.sampling import denoise
from server.diffusion.schedules import Schedule
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


def test_the_method_notices_a_sync(hollow: dict[bool, Any], monkeypatch: pytest.MonkeyPatch, model_of: Loaded) -> None:
    honest = Schedule.step

    def reads(self: Schedule, index: int, prediction: torch.Tensor, *rest: Any) -> Any:
        float(prediction.mean())
        return honest(self, index, prediction, *rest)

    monkeypatch.setattr(Schedule, "step", reads)
    with pytest.raises(RuntimeError, match="meta"):
        loop("Euler", hollow[False], False, model_of("sd1").schedule_config)
