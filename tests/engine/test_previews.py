# SPDX-License-Identifier: GPL-3.0-or-later
"""Previews: from step 1, for every sampler, ever closer to the picture; the linear map and the tiny decoder."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from server.diffusion import SAMPLERS, Step, Task, generate
from server.diffusion.features.preview import fit_linear
from server.diffusion.model import pixels_to_tensor, tensor_to_pixels
from tests.engine.conftest import Loaded, hard_mask, picture, run

TASK = Task(prompt="a red boat", seed=4, total_steps=6, guidance=2.0, width=72, height=56)


ENDS_NEARBY = ("LCM", "TCD", "DDIM", "PLMS", "DEIS")
"""Their last step is not the last estimate itself: LCM and TCD mix a little of their input in, DDIM stops at the first
training step, PLMS and DEIS average over the last predictions."""


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(np.float64) - other.astype(np.float64)).mean())


@pytest.mark.parametrize("family", ["sd1", "sd2"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_previews_approach_the_final_picture(sampler: str, family: str, model_of: Loaded) -> None:
    model = model_of(family)
    seen: list[Any] = []
    _, latents = run(model, replace(TASK, sampler=sampler), on_step=lambda step: seen.append(step.preview()))
    final = model.previewer.render(latents, "rgb")
    distances = [difference(preview, final) for preview in seen]
    assert len(seen) == 6 and all(preview.shape == (7, 9, 3) for preview in seen)
    assert distances[-1] <= (2.0 if sampler in ENDS_NEARBY else 0.0)
    assert distances[0] > distances[-1] and distances[0] >= distances[3] >= distances[-1]


def test_previews_of_inpainting_show_what_is_kept(model_of: Loaded) -> None:
    model = model_of("sd1")
    seen: list[Any] = []
    task = replace(TASK, width=64, height=64, image=picture(), mask=hard_mask(), start_step=1)
    _, latents = run(model, task, on_step=lambda step: seen.append(step.preview()))
    final = model.previewer.render(latents, "rgb")
    kept = hard_mask()[::8, ::8] == 0
    assert all(np.array_equal(preview[kept], final[kept]) for preview in seen)


def test_linear_map_finds_the_colours_of_a_linear_autoencoder() -> None:
    """Where cells are a fixed mix of the mean colour, the fit gives the mean colour back."""
    mix = torch.tensor([[0.9, 0.1, -0.4], [0.2, -1.1, 0.3], [-0.5, 0.4, 0.8], [0.3, 0.3, 0.3]])

    def encode(pixels: np.ndarray) -> tuple[torch.Tensor, None]:
        means = torch.nn.functional.avg_pool2d(pixels_to_tensor(pixels, torch.device("cpu")), 8)
        return torch.einsum("bchw,lc->blhw", means, mix) + 0.7, None

    model: Any = SimpleNamespace(encode_pixels=encode, device=torch.device("cpu"), scaled=lambda z: 0.18215 * z)
    matrix = fit_linear(model)
    cells = encode(picture())[0][0] * 0.18215
    colours = torch.einsum("chw,cr->rhw", cells, matrix[:4]) + matrix[4][:, None, None]
    wanted = torch.nn.functional.avg_pool2d(pixels_to_tensor(picture(), torch.device("cpu")), 8)[0]
    assert float((colours - wanted).abs().mean()) < 0.02


def test_the_map_is_fitted_once(model_of: Loaded) -> None:
    model = model_of("sd1")
    model.previewer.render(torch.zeros(1, 4, 2, 2), "rgb")
    before = model.canvases.computed
    model.previewer.render(torch.zeros(1, 4, 2, 2), "rgb")
    assert model.canvases.computed == before


@pytest.mark.parametrize(("level", "shape"), [("full", (56, 72, 3)), ("half", (32, 40, 3)), ("rgb", (7, 9, 3))])
def test_levels_with_a_tiny_decoder(level: str, shape: tuple[int, ...], model_of: Loaded) -> None:
    model = model_of("sd1", tiny_decoder=True)
    seen: list[Any] = []
    task = replace(TASK, preview=level)
    _, latents = run(model, task, on_step=lambda step: seen.append(step.preview()))
    assert seen[0].shape == shape and seen[0].dtype == np.uint8
    if level == "full":
        with torch.inference_mode():
            wanted = tensor_to_pixels(model.tiny.decode(latents).sample)
        assert np.array_equal(seen[-1], wanted)


def test_levels_fall_back_to_rgb_and_off_is_off(model_of: Loaded) -> None:
    model = model_of("sd1")
    latents = torch.randn(1, 4, 7, 9)
    wanted = model.previewer.render(latents, "rgb")
    assert np.array_equal(model.previewer.render(latents, "half"), wanted)
    assert np.array_equal(model.previewer.render(latents, "full"), wanted)
    assert model.previewer.render(latents, "off") is None


def test_previews_do_not_change_the_picture_and_can_be_asked_later(model_of: Loaded) -> None:
    model = model_of("sd1")
    steps: list[Step] = []
    shown: list[Any] = []

    def on_step(step: Step) -> None:
        steps.append(step)
        shown.append(step.preview())

    with_previews = generate(model, TASK, on_step=on_step).image
    assert np.array_equal(generate(model, replace(TASK, preview="off")).image, with_previews)
    for step, before in zip(steps, shown, strict=True):
        again = step.preview()
        assert again is not None and np.array_equal(again, before)
