# SPDX-License-Identifier: GPL-3.0-or-later
"""Trains the style LoRA: the brown tones of an old photograph, which no word asks for."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel

from .adapter import RANK, Adapter
from .dataset import Latents, Mixture
from .muon import MuonAdamW, set_pace
from .runs import Progress, Run, generator_at, layout, lighter
from .unet import CAPTION_DROPOUT, Schedule, stratified

BATCH = 16
FILE = "sepia.safetensors"
ABOUT = {"modelspec.title": "Pocket sepia", "modelspec.license": "GPL-3.0-or-later", "ss_output_name": "sepia"}


def train(work: Path, unet: UNet2DConditionModel, latents: Latents, steps: int, seed: int = 51) -> Adapter:
    """Fit an adapter to pictures of one style whose captions do not name it; saved as work/lora/FILE."""
    torch.manual_seed(seed)
    adapter = Adapter(unet.to(memory_format=layout("cpu")))
    optimizer = MuonAdamW([], adapter.parameters(), adam_lr=2e-3)
    run = Run(work / "lora.pt", adapter, optimizer, 0.98)
    schedule, progress = Schedule("cpu"), Progress(f"lora rank {RANK}", run.step, steps)
    mixture = Mixture([(latents, 1.0)])
    while run.step < steps:
        began = time.process_time()
        set_pace(optimizer, run.step, steps, warmup=20, falling=0.6)
        generator = generator_at(seed, run.step)
        x, told = mixture.batch(BATCH, CAPTION_DROPOUT, np.random.default_rng([seed, run.step]))
        e, t = torch.randn(x.shape, generator=generator), stratified(BATCH, generator)
        noisy, target = schedule.mix(x, e, t)
        noisy = noisy.contiguous(memory_format=layout("cpu"))
        with lighter("cpu"):
            made = unet(noisy, t, told).sample
        loss = (made.float() - target).square().mean()
        run.learn(loss, progress, began)
    run.save()
    adapter.load_state_dict(run.average.weights)
    adapter.save(work / "lora" / FILE, ABOUT)
    return adapter
