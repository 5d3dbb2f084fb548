# SPDX-License-Identifier: GPL-3.0-or-later
"""The few-step samplers of Live give what the schedulers of diffusers give, and no step reads from the device."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

from server.diffusion.few_step import KINDS, FewStep, few_step_name

LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
SCALED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CLASSES = {
    "LCM": ("LCMScheduler", {}),
    "TCD": ("TCDScheduler", {}),
    "Euler trailing": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
}
SHAPE = (1, 4, 6, 5)


def config_of(betas: dict[str, Any], prediction: str) -> dict[str, Any]:
    return {**betas, "num_train_timesteps": 1000, "prediction_type": prediction, "set_alpha_to_one": False}


def prediction_at(index: int, inputs: torch.Tensor) -> torch.Tensor:
    """Stands for a model: depends on what it sees."""
    return torch.sin(3.0 * inputs + index) + 0.2 * inputs


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("betas", [LINEAR, SCALED])
@pytest.mark.parametrize("total, start", [(1, 0), (4, 0), (13, 9), (60, 55)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_step_equals_diffusers(
    kind: str, total: int, start: int, betas: dict[str, Any], prediction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (kind, prediction) == ("Euler trailing", "sample"):
        pytest.skip("diffusers has none: its Euler scheduler reads such a prediction as unscaled")
    config = config_of(betas, prediction)
    name, more = CLASSES[kind]
    theirs = getattr(diffusers, name).from_config({**config, "clip_sample": False, **more})
    extra = {"original_inference_steps": total} if kind != "Euler trailing" and total > 50 else {}
    theirs.set_timesteps(total, device="cpu", **extra)
    theirs.set_begin_index(start)
    ours = FewStep(kind, config, total, start)
    # Their noise is drawn from a generator; the same one is drawn here ahead.
    generator = torch.Generator().manual_seed(3)
    ahead = torch.Generator().manual_seed(3)
    draws = torch.cat([torch.randn(SHAPE, generator=ahead) for _ in range(ours.draws)] or [torch.zeros(SHAPE)])
    picture, noise = torch.randn(SHAPE), torch.randn(SHAPE)
    latents = theirs.add_noise(picture, noise, theirs.timesteps[start : start + 1])
    mine = ours.noised(start, picture, noise)
    torch.testing.assert_close(mine, latents, rtol=2e-5, atol=2e-5)
    mine = latents.clone()
    for index in range(start, total):
        when = theirs.timesteps[index]
        assert float(ours.timestep(index)) == float(when)
        inputs = theirs.scale_model_input(latents, when)
        torch.testing.assert_close(ours.model_input(index, mine), inputs, rtol=1e-4, atol=1e-4)
        out = prediction_at(index, inputs)
        drawn = {} if kind == "Euler trailing" else {"generator": generator}
        mine = ours.step(index, out, latents, draws)
        latents = theirs.step(out, when, latents, return_dict=False, **drawn)[0]
        torch.testing.assert_close(mine, latents, rtol=2e-4, atol=2e-4)
    assert ours.noised(total, picture, noise) is picture


@pytest.mark.parametrize("kind", KINDS)
def test_models_that_know_pure_noise(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    zero = {**SCALED, "rescale_betas_zero_snr": True}
    test_every_step_equals_diffusers(kind, 4, 0, zero, "v_prediction", monkeypatch)


@pytest.mark.parametrize("kind", KINDS)
def test_no_step_reads_a_value_from_the_device(kind: str) -> None:
    """On the meta device reading a value raises, as it would wait on a graphics card."""
    ours = FewStep(kind, config_of(SCALED, "epsilon"), 4, 1, "meta")
    latents = torch.empty(SHAPE, device="meta")
    draws = torch.empty(3, *SHAPE[1:], device="meta")
    for index in range(1, 4):
        latents = ours.step(index, ours.model_input(index, latents), latents, draws)
    assert ours.noised(2, latents, latents).device.type == "meta"


def test_samplers_for_many_steps_are_stood_for_by_a_few_step_one() -> None:
    assert [few_step_name(name) for name in ("LCM", "TCD", "DPM++ 2M")] == ["LCM", "TCD", "Euler trailing"]


def test_flow_models_are_refused() -> None:
    with pytest.raises(ValueError):
        FewStep("LCM", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, 4, 0)
