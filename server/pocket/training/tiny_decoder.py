# SPDX-License-Identifier: GPL-3.0-or-later
"""Distils the tiny autoencoder (AutoencoderTiny) for the latents of the KL one: fast previews and live frames."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from .muon import optimizer_for, set_pace
from .runs import Progress, Run
from .vae import crops, distance, pictures

WIDTH = 24


def build() -> AutoencoderTiny:
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(WIDTH,) * 4,
        decoder_block_out_channels=(WIDTH,) * 4,
        num_encoder_blocks=(1, 1, 1, 2),
        num_decoder_blocks=(2, 1, 1, 1),
        scaling_factor=1.0,
    )
    for layers in (tiny.encoder.layers, tiny.decoder.layers):
        convolutions = [m for m in layers.modules() if isinstance(m, torch.nn.Conv2d)]
        for convolution in (convolutions[0], convolutions[-1]):
            torch.nn.init.kaiming_normal_(convolution.weight, nonlinearity="linear")
    return tiny


def train(work: Path, vae: AutoencoderKL, steps: int, seed: int = 21) -> AutoencoderTiny:
    """Both ways: pictures to the KL latents (times scaling_factor), those latents to pictures. Saved in work/taesd."""
    torch.manual_seed(seed)
    store = pictures(work / "vae_pictures.npy", 2400, 1)
    tiny = build().to(memory_format=torch.channels_last)
    optimizer = optimizer_for(tiny, ("encoder.layers.0.", "decoder.layers.0."), muon_lr=2e-3, adam_lr=1e-3)
    run = Run(work / "tiny.pt", tiny, optimizer, 0.99)
    progress = Progress("tiny", run.step, steps)
    while run.step < steps:
        began = time.process_time()
        set_pace(optimizer, run.step, steps, falling=0.5)
        x = crops(store, seed, run.step, batch=16).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            z = vae.encode(x).latent_dist.mode() * vae.config.scaling_factor
        y = tiny.decode(z).sample
        loss = distance(x, y) + 0.1 * (tiny.encode(x).latents - z).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tiny.parameters(), 1.0)
        optimizer.step()
        run.average.update(tiny)
        progress(run.step, float(loss.detach()))
        run.step += 1
        run.seconds += time.process_time() - began
        if run.step % 200 == 0:
            run.save()
    run.save()
    tiny.load_state_dict(run.average.weights)
    tiny.eval().save_pretrained(work / "taesd")
    return tiny
