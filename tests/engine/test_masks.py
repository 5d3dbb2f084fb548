# SPDX-License-Identifier: GPL-3.0-or-later
"""Soft masks: against a loop written here in floats, and the properties that painters rely on."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from server.diffusion import Task
from server.diffusion.features.masks import cell_sums, fixed_cells
from server.diffusion.schedules import make_scheduler
from tests.engine.conftest import Loaded, hard_mask, picture, run


def ramp(width: int = 64, height: int = 64) -> np.ndarray:
    """0 at the left to 255 at the right, constant within latent cells."""
    cells = np.linspace(0, 255, width // 8).round().astype(np.uint8)
    return np.repeat(np.broadcast_to(cells, (height, width // 8)), 8, axis=1).copy()


TASK = Task(
    prompt="a red boat",
    negative="fog",
    seed=5,
    guidance=4.0,
    total_steps=8,
    start_step=3,
    width=64,
    height=64,
    image=picture(),
    mask=ramp(),
)


def reference(model: Any, task: Task) -> torch.Tensor:
    """Differential diffusion step by step: a cell is free once the part of the run that is left is below its mask."""
    assert task.image is not None and task.mask is not None
    scheduler = make_scheduler(task.sampler, model.schedule_config)
    scheduler.set_timesteps(task.total_steps)
    generator = torch.Generator().manual_seed(task.seed)
    embeds = []
    for text in (task.negative, task.prompt):
        ids = model.tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        embeds.append(model.text_encoder(ids)[0])
    pixels = torch.from_numpy(task.image)[None].permute(0, 3, 1, 2).float() / 255 * 2 - 1
    original = (0.18215 * model.vae.encode(pixels).latent_dist.sample(generator)).contiguous()
    noise = torch.randn(original.shape, generator=generator)
    amount = torch.from_numpy(task.mask[::8, ::8].astype(np.float64) / 255)
    timesteps = scheduler.timesteps[task.start_step :]
    scheduler.set_begin_index(task.start_step)
    latents = scheduler.add_noise(original, noise, timesteps[:1])
    for done, now in enumerate(timesteps, start=1):
        inputs = scheduler.scale_model_input(torch.cat([latents] * 2), now)
        without, towards = model.unet(inputs, now, torch.cat(embeds), return_dict=False)[0].chunk(2)
        latents = scheduler.step(without + task.guidance * (towards - without), now, latents, return_dict=False)[0]
        left = 1.0 - done / len(timesteps)
        known = scheduler.add_noise(original, noise, timesteps[done : done + 1]) if done < len(timesteps) else original
        for y, x in np.ndindex(*amount.shape):
            if float(amount[y, x]) <= left + 1e-9:
                latents[..., y, x] = known[..., y, x]
    return latents


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M", "UniPC"])
def test_soft_mask_equals_the_reference(sampler: str, model_of: Loaded) -> None:
    model = model_of("sd1")
    task = replace(TASK, sampler=sampler)
    with torch.inference_mode():
        wanted = reference(model, task)
    assert torch.equal(run(model, task)[1], wanted)
    moved = replace(task, mask=np.roll(ramp(), 8, axis=1))
    assert not torch.equal(run(model, moved)[1], wanted)


def test_where_the_mask_is_zero_the_latents_are_the_pictures(model_of: Loaded) -> None:
    model = model_of("sd1")
    _, latents = run(model, TASK)
    _, other = run(model, replace(TASK, prompt="something else"))
    assert torch.equal(latents[..., 0], other[..., 0])
    assert not torch.equal(latents[..., 1], other[..., 1])


def test_more_mask_means_more_change(model_of: Loaded) -> None:
    """Measured as the number of free steps per column of the ramp, from the rule itself."""
    steps = 5
    sums = cell_sums(torch.from_numpy(ramp()), 8)
    free = sum((~fixed_cells(sums, 8, left, steps)).int() for left in range(steps))
    columns = free[0].tolist()
    assert columns == sorted(columns) and columns[0] == 0 and columns[-1] == steps and columns[1] == 1


def test_free_steps_are_the_mask_rounded_up_exactly() -> None:
    """In integers: no float decides whether 51/255 of five steps is one step or two."""
    for steps in (1, 3, 5, 17, 20, 51, 150):
        sums = cell_sums(torch.arange(256, dtype=torch.uint8).repeat_interleave(8).repeat(8, 1), 8)
        free = sum((~fixed_cells(sums, 8, left, steps)).int() for left in range(steps))
        wanted = [-((-Fraction(value, 255) * steps) // 1) for value in range(256)]
        assert free[0].tolist() == [int(value) for value in wanted]


def test_a_cell_that_is_partly_selected_changes_by_its_mean() -> None:
    mask = np.zeros((8, 16), np.uint8)
    mask[:, :4] = 255
    sums = cell_sums(torch.from_numpy(mask), 8)
    assert sums.tolist() == [[255 * 32, 0]]
    assert fixed_cells(sums, 8, 2, 4).tolist() == [[True, True]]
    assert fixed_cells(sums, 8, 1, 4).tolist() == [[False, True]]


def test_full_mask_is_the_picture_to_picture_job(model_of: Loaded) -> None:
    """Up to rounding: masked latents lie in another memory order."""
    model = model_of("sd1")
    _, masked = run(model, replace(TASK, mask=np.full((64, 64), 255, np.uint8)))
    _, plain = run(model, replace(TASK, mask=None))
    assert torch.allclose(masked, plain, atol=1e-4)


def test_empty_mask_gives_the_picture_back(model_of: Loaded) -> None:
    model = model_of("sd1")
    _, one = run(model, replace(TASK, mask=np.zeros((64, 64), np.uint8)))
    _, two = run(model, replace(TASK, mask=np.zeros((64, 64), np.uint8), prompt="something else", total_steps=4))
    assert torch.equal(one, two)


def test_one_pixel_and_a_soft_edge_on_an_inpainting_model(model_of: Loaded) -> None:
    model = model_of("sd1", inpaint=True)
    dot = np.zeros((64, 64), np.uint8)
    dot[20, 20] = 255
    soft = hard_mask()
    soft[16:24] //= 2
    results = [run(model, replace(TASK, mask=mask))[1] for mask in (dot, soft, hard_mask())]
    assert all(bool(torch.isfinite(latents).all()) for latents in results)
    assert not torch.equal(results[1], results[2])


def test_soft_cells_of_an_inpainting_model_keep_the_original_until_their_turn(model_of: Loaded) -> None:
    """Cells with mask 1 of 255 are free in the last step only, so the start of the run cannot differ there."""
    model = model_of("sd1", inpaint=True)
    faint = hard_mask()
    faint[faint > 0] = 1
    seen: list[torch.Tensor] = []
    honest = type(model).predict

    def spy(inputs: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(inputs.clone())
        return honest(model, inputs, *rest)

    model.predict = spy
    try:
        run(model, replace(TASK, mask=faint))
        run(model, replace(TASK, mask=faint, prompt="something else"))
    finally:
        del model.predict
    steps = TASK.total_steps - TASK.start_step
    for first, second in zip(seen[:steps], seen[steps:], strict=True):
        assert torch.equal(first[:, :4, 2:5, 3:7], second[:, :4, 2:5, 3:7])
    assert bool((seen[0][:, 4, 2:5, 3:7] == 1).all()) and float(seen[0][:, 4].sum()) == 12.0


def test_the_fill_can_be_where_a_full_strength_job_begins(model_of: Loaded) -> None:
    model = model_of("sd1")
    full = replace(TASK, start_step=0, mask=hard_mask())
    assert torch.equal(run(model, full)[1], run(model, replace(full, begin="noise"))[1])
    assert not torch.equal(run(model, full)[1], run(model, replace(full, begin="image"))[1])


def test_an_inpainting_model_also_paints_without_a_mask(model_of: Loaded) -> None:
    """Nothing is known to it then: mask all ones, masked picture empty."""
    model = model_of("sd1", inpaint=True)
    plain = replace(TASK, mask=None)
    whole = replace(TASK, mask=np.full((64, 64), 255, np.uint8))
    assert bool(torch.isfinite(run(model, replace(plain, image=None, start_step=0))[1]).all())
    assert torch.allclose(run(model, plain)[1], run(model, whole)[1], atol=1e-4)
