# SPDX-License-Identifier: GPL-3.0-or-later
"""Trains the line-art ControlNet: white lines on black say where the edges of the picture are to be.

Zhang et al. 2023, arXiv 2302.05543. The lines are drawn from the same scenes as the cached pictures. Against the slow
start of such models: only the outputs begin at zero, not the way in as well; half of the captions are empty; and the
noisy times, in which it is decided what is where, come more often.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image, ImageFilter
from torch import Tensor

from .dataset import Latents
from .muon import optimizer_for, set_pace
from .render import Recipe, picture
from .runs import Progress, Run, generator_at, layout, lighter
from .styles import edges
from .unet import Schedule, stratified

BATCH = 12
CONDITIONING = (8, 16, 32, 64)
CAPTION_DROPOUT = 0.5
"""More than the UNet's: without words the lines have to speak."""


def build(unet: UNet2DConditionModel) -> ControlNetModel:
    """The UNet's own first half with a way in for a (n, 3, h, w) picture of 0..1 and outputs that begin at zero."""
    control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=CONDITIONING)
    control.set_attn_processor(AttnProcessor())
    for layer in control.controlnet_cond_embedding.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            torch.nn.init.zeros_(layer.bias)
    return control


def noisy_times(batch: int, generator: torch.Generator) -> Tensor:
    """Timesteps of which three quarters are in the noisier half."""
    return ((stratified(batch, generator) / 999) ** 0.5 * 999).round().long()


def lines_of(image: Image.Image, width: int = 2) -> Image.Image:
    """White lines, about `width` pixels (1 to 3), on black where the colours of a picture change."""
    lines = Image.fromarray(np.where(edges(image, 16.0), 255, 0).astype(np.uint8))
    if width == 3:
        lines = lines.filter(ImageFilter.MaxFilter(3))
    soft = lines.filter(ImageFilter.GaussianBlur(0.4 if width == 1 else 0.8))
    return soft.point(lambda value: min(255, round(value * 1.6))).convert("RGB")


class Drawn:
    """A set of latents together with the lines of its pictures, drawn again from the recipe."""

    def __init__(self, latents: Latents, recipe: Recipe, seed: int, width: int, height: int) -> None:
        self.latents, self.recipe, self.seed, self.size = latents, recipe, seed, (width, height)

    def batch(self, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """float32 latents, caption states (a share of them unconditional), lines (n, 3, h, w) in 0..1."""
        chosen = rng.integers(0, len(self.latents), count)
        x, states = self.latents.take(chosen, rng.uniform(size=count) < CAPTION_DROPOUT)
        drawn = [picture(self.recipe, self.seed, int(i), *self.size)[0] for i in chosen]
        lines = np.stack([np.asarray(lines_of(d, int(rng.integers(1, 4)))) for d in drawn])
        told = torch.from_numpy(states).float()
        return torch.from_numpy(x).float(), told, torch.from_numpy(lines).permute(0, 3, 1, 2).float() / 255


def train(work: Path, unet: UNet2DConditionModel, sets: Sequence[Drawn], steps: int, seed: int = 71) -> ControlNetModel:
    """Train beside the frozen UNet, a batch from one of the `sets` in turn; saved in work/controlnet."""
    torch.manual_seed(seed)
    unet.requires_grad_(False).to(memory_format=layout("cpu"))
    control = build(unet)
    plain = ("conv_in", "controlnet_cond_embedding.conv_in", "time_embedding")
    optimizer = optimizer_for(control, plain, 3e-3, 2e-3)
    run = Run(work / "controlnet.pt", control, optimizer, 0.98)
    schedule, progress = Schedule("cpu"), Progress("controlnet", run.step, steps)
    control.train()
    while run.step < steps:
        began = time.process_time()
        set_pace(optimizer, run.step, steps, warmup=20, falling=0.6)
        generator = generator_at(seed, run.step)
        x, told, lines = sets[run.step % len(sets)].batch(BATCH, np.random.default_rng([seed, run.step]))
        e, t = torch.randn(x.shape, generator=generator), noisy_times(BATCH, generator)
        noisy, target = schedule.mix(x, e, t)
        with lighter("cpu"):
            down, mid = control(noisy, t, told, lines, return_dict=False)
            made = unet(noisy, t, told, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample
        loss = (made.float() - target).square().mean()
        run.learn(loss, progress, began)
    run.save()
    control.load_state_dict(run.average.weights)
    control.eval().save_pretrained(work / "controlnet")
    return control
