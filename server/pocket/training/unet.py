# SPDX-License-Identifier: GPL-3.0-or-later
"""Trains the UNet: v-prediction on cached latents with a frozen text encoder, stage after stage of a curriculum."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from .dataset import Latents, Mixture, unique_texts
from .export import SCHEDULE
from .muon import optimizer_for, set_pace
from .runs import Progress, Run, generator_at, layout, lighter
from .text import WIDTH
from .words import SHAPES

CHANNELS = (32, 64, 96, 160)
CAPTION_DROPOUT = 0.1


def build() -> UNet2DConditionModel:
    unet = UNet2DConditionModel(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    unet.set_attn_processor(AttnProcessor())
    return unet.to(memory_format=torch.channels_last)


class Schedule:
    """Noise amounts: x_t = signal x + noise e, the target is v = signal e - noise x."""

    def __init__(self, device: str) -> None:
        alphas = DPMSolverMultistepScheduler(**SCHEDULE).alphas_cumprod.to(device)
        self.signal, self.noise = alphas.sqrt().view(-1, 1, 1, 1), (1 - alphas).sqrt().view(-1, 1, 1, 1)

    def mix(self, x: Tensor, e: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        s, n = self.signal[t], self.noise[t]
        return s * x + n * e, s * e - n * x


def stratified(batch: int, generator: torch.Generator) -> Tensor:
    """Timesteps that cover 0..999 evenly within a batch."""
    spread = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    return (spread * 1000).long().clamp_(0, 999)


def share_gradients(module: torch.nn.Module, world: int) -> None:
    """Replace every gradient by its mean over all processes."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    torch.distributed.all_reduce(flat)
    for gradient, mean in zip(gradients, (flat / world).split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view(gradient.shape))


def train(
    work: Path,
    name: str,
    unet: UNet2DConditionModel,
    mixtures: Sequence[tuple[Mixture, float, int]],
    steps: int,
    seed: int = 11,
    muon_lr: float = 4e-3,
    device: str = "cpu",
    decay: float = 0.998,
    falling: float = 0.3,
    rank: int = 0,
    world: int = 1,
    stop: int = 0,
) -> UNet2DConditionModel:
    """One stage: `steps` batches, each from one of the `mixtures` (data, share, batch size); gives the average.

    The learning rate falls to nothing over `steps`; with `stop` the stage leaves off before.

    Starts from the weights that `unet` has and with a fresh optimizer, or resumes work/NAME.pt. With `world` > 1 this
    is process `rank` of that many, torch.distributed is set up, and each takes its part of every batch: on a busy
    machine two processes of one thread are faster than one of two.
    """
    unet.to(device).to(memory_format=layout(device))
    optimizer = optimizer_for(unet, ("conv_in", "conv_out", "time_embedding"), muon_lr, 0.5 * muon_lr)
    run = Run(work / f"{name}.pt", unet, optimizer, decay)
    schedule, progress = Schedule(device), Progress(name, run.step, stop or steps)
    shares = np.array([share for _, share, _ in mixtures])
    unet.train()
    last = stop or steps
    while run.step < last:
        began = time.process_time()
        set_pace(optimizer, run.step, steps, falling=falling)
        chooser = np.random.default_rng([seed, run.step])
        mixture, _, batch = mixtures[int(chooser.choice(len(mixtures), p=shares / shares.sum()))]
        rng = np.random.default_rng([seed, run.step, rank])
        generator = generator_at(seed * world + rank, run.step)
        x, told = mixture.batch(batch // world, CAPTION_DROPOUT, rng)
        e = torch.randn(x.shape, generator=generator)
        t = stratified(len(x), generator).to(device)
        noisy, target = schedule.mix(x.to(device), e.to(device), t)
        noisy = noisy.contiguous(memory_format=layout(device))
        with lighter(device):
            made = unet(noisy, t, told.to(device)).sample
        loss = (made.float() - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if world > 1:
            share_gradients(unet, world)
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        run.average.update(unet)
        if rank == 0:
            progress(run.step, float(loss.detach()))
        run.step += 1
        run.seconds += (time.process_time() - began) * world
        if rank == 0 and (run.step % 50 == 0 or run.step == last):
            run.save()
    unet.load_state_dict(run.average.weights)
    return unet.eval()


@torch.inference_mode()
def swap_gap(unet: UNet2DConditionModel, latents: Latents, count: int = 96) -> float:
    """The early warning: by how much the loss at t = 550..850 grows when captions name another shape (0.9 = 90 %)."""
    generator = torch.Generator().manual_seed(0)
    rows = {text: row for row, text in enumerate(unique_texts(latents.texts))}
    chosen, other = [], []
    for i, text in enumerate(latents.texts):
        for k, word in enumerate(SHAPES):
            swapped = text.replace(word, SHAPES[(k + 3) % len(SHAPES)])
            if word in text.split(" ") and swapped in rows:
                chosen.append(i)
                other.append(rows[swapped])
                break
        if len(chosen) == count:
            break
    silent = np.zeros(len(chosen), bool)
    latent, right = latents.take(np.array(chosen), silent)
    x = torch.from_numpy(latent).float()
    e = torch.randn(x.shape, generator=generator)
    t = torch.randint(550, 850, (len(chosen),), generator=generator)
    noisy, target = Schedule("cpu").mix(x, e, t)
    wrong = latents.states[np.array(other)]
    told = (torch.from_numpy(states).float() for states in (right, wrong))
    found = [float((unet(noisy, t, states).sample - target).square().mean()) for states in told]
    return found[1] / found[0] - 1
