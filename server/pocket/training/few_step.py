# SPDX-License-Identifier: GPL-3.0-or-later
"""Trains the few-step adapter: a LoRA with which the LCM sampler needs 2 to 4 steps and no guidance.

Latent consistency distillation (Luo et al. 2023, arXiv 2310.04378) with a fixed guidance scale: the model at time t
learns to name the picture that it names itself one guided DDIM step of the bare UNet further on.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from .adapter import RANK, Adapter
from .dataset import Mixture
from .muon import MuonAdamW, set_pace
from .runs import Progress, Run, generator_at, layout, lighter
from .unet import Schedule

BATCH = 20
GUIDANCE = 3.0
STRIDE, LEVELS = 20, 50
"""The LCM sampler takes its times from STRIDE * (1..LEVELS) - 1."""
JUMP = 8
"""Levels that one step of the teacher spans."""
FILE = "few-step.safetensors"
ABOUT = {
    "modelspec.title": "Pocket few-step (LCM)",
    "modelspec.license": "GPL-3.0-or-later",
    "ss_output_name": "few-step",
}


class Teacher:
    """The bare UNet: one guided DDIM step."""

    def __init__(self, unet: UNet2DConditionModel, adapter: Adapter, silent: Tensor) -> None:
        self.unet, self.adapter, self.silent = unet, adapter, silent
        self.schedule = Schedule("cpu")

    def clean(self, x: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """The picture that a v-prediction at time t names."""
        return self.schedule.signal[t] * x - self.schedule.noise[t] * v

    @torch.no_grad()
    def step(self, x: Tensor, t: Tensor, later: Tensor, told: Tensor) -> Tensor:
        """From time t to time `later` (-1 is the clean picture)."""
        with self.adapter.off(), lighter("cpu"):
            both = self.unet(torch.cat([x, x]), torch.cat([t, t]), torch.cat([self.silent.expand_as(told), told]))
        plain, guided = both.sample.float().chunk(2)
        v = plain + GUIDANCE * (guided - plain)
        clean = self.clean(x, v, t)
        noise = self.schedule.noise[t] * x + self.schedule.signal[t] * v
        at = later.clamp(min=0)
        moved = self.schedule.signal[at] * clean + self.schedule.noise[at] * noise
        return torch.where((later < 0).view(-1, 1, 1, 1), clean, moved)


def times(rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Times of the sampler, the noisiest more often, and those JUMP levels on (-1 at the end)."""
    levels = np.where(rng.uniform(size=count) < 0.25, LEVELS, rng.integers(1, LEVELS + 1, count))
    later = np.maximum(levels - JUMP, 0)
    return torch.from_numpy(levels * STRIDE - 1), torch.from_numpy(later * STRIDE - 1)


def train(
    work: Path, unet: UNet2DConditionModel, silent: Tensor, mixture: Mixture, steps: int, seed: int = 61
) -> Adapter:
    """`silent` is the (1, 77, width) hidden state of the empty caption. Saved as work/lora/FILE."""
    torch.manual_seed(seed)
    form = layout("cpu")
    adapter = Adapter(unet.to(memory_format=form))
    teacher = Teacher(unet, adapter, silent)
    schedule = teacher.schedule
    optimizer = MuonAdamW([], adapter.parameters(), adam_lr=2e-3)
    run = Run(work / "few_step.pt", adapter, optimizer, 0.98)
    progress = Progress(f"few-step rank {RANK}", run.step, steps)
    while run.step < steps:
        began = time.process_time()
        set_pace(optimizer, run.step, steps, warmup=20, falling=0.6)
        rng, generator = np.random.default_rng([seed, run.step]), generator_at(seed, run.step)
        x, told = mixture.batch(BATCH, 0.0, rng)
        t, later = times(rng, BATCH)
        noisy, _ = schedule.mix(x, torch.randn(x.shape, generator=generator), t)
        noisy = noisy.contiguous(memory_format=form)
        moved = teacher.step(noisy, t, later, told).contiguous(memory_format=form)
        at = later.clamp(min=0)
        with torch.no_grad(), lighter("cpu"):
            named = teacher.clean(moved, unet(moved, at, told).sample.float(), at)
        named = torch.where((later < 0).view(-1, 1, 1, 1), moved, named)
        with lighter("cpu"):
            made = unet(noisy, t, told).sample
        loss = (teacher.clean(noisy, made.float(), t) - named).square().mean()
        run.learn(loss, progress, began)
    run.save()
    adapter.load_state_dict(run.average.weights)
    adapter.save(work / "lora" / FILE, ABOUT)
    return adapter
