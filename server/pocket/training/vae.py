# SPDX-License-Identifier: GPL-3.0-or-later
"""Trains the KL autoencoder (eightfold, four channels) on crops of rendered pictures and normalises its latents."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from .muon import optimizer_for, set_pace
from .render import Recipe, picture
from .runs import Progress, Run, generator_at

CHANNELS = (16, 32, 64, 64)
SCALING = 0.5
"""The published scaling_factor: latents leave the encoder with standard deviation 1 / SCALING in every channel."""
CROP, BATCH = 64, 16
KL_WEIGHT = 3e-5
MIX = Recipe({"shape": 2, "thing": 2, "place": 1.5, "pair": 1.5, "count": 1.5, "landscape": 5}, styled=0.35)

SMALL = Recipe({"place": 5, "count": 2, "pair": 1, "shape": 1, "thing": 1.5, "landscape": 3}, styled=0.25)


def build() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        latent_channels=4,
        sample_size=256,
        scaling_factor=SCALING,
    )


def pictures(file: Path, count: int, seed: int, size: int = 256, recipe: Recipe = MIX) -> np.ndarray:
    """(count, size, size, 3) uint8 rendered pictures, cached in `file`."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        made = np.stack([np.asarray(picture(recipe, seed, i, size, size)[0]) for i in range(count)])
        np.save(file, made)
    return np.load(file, mmap_mode="r")


def crops(store: np.ndarray, seed: int, step: int, batch: int = BATCH, size: int = CROP) -> Tensor:
    """(batch, 3, size, size) in -1..1: of three random places in a picture, the one with most to see."""
    rng = np.random.default_rng([seed, step])
    chosen = []
    for index in rng.integers(0, len(store), batch):
        whole = store[index]
        places = rng.integers(0, whole.shape[0] - size + 1, (3 if rng.uniform() < 0.7 else 1, 2))
        found = [whole[y : y + size, x : x + size] for y, x in places]
        chosen.append(max(found, key=lambda c: float(c[::4, ::4].std(axis=(0, 1)).sum())))
    return torch.from_numpy(np.stack(chosen)).permute(0, 3, 1, 2).float() / 127.5 - 1


def wholes(store: np.ndarray, seed: int, step: int, batch: int) -> Tensor:
    """(batch, 3, h, w) in -1..1: whole pictures, by the seed and step alone."""
    chosen = np.sort(np.random.default_rng([seed, step]).choice(len(store), batch, replace=False))
    x = torch.from_numpy(store[chosen]).permute(0, 3, 1, 2).float() / 127.5 - 1
    return x.contiguous(memory_format=torch.channels_last)


def distance(x: Tensor, y: Tensor) -> Tensor:
    return (x - y).square().mean() + 0.2 * (x - y).abs().mean()


@torch.no_grad()
def normalise(vae: AutoencoderKL, store: np.ndarray) -> None:
    """Fold a shift and scale per channel into the two 1x1 convolutions: mean 0, deviation 1 / SCALING."""
    means = []
    for whole in store:
        x = torch.from_numpy(np.array(whole)).permute(2, 0, 1)[None].float() / 127.5 - 1
        means.append(vae.encode(x).latent_dist.mean[0])
    flat = torch.stack(means).transpose(0, 1).flatten(1)
    shift, scale = flat.mean(1), flat.std(1) * SCALING
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:4] /= scale[:, None, None, None]
    quant.bias[:4] = (quant.bias[:4] - shift) / scale
    quant.bias[4:] -= 2 * scale.log()
    post.bias += post.weight[:, :, 0, 0] @ shift
    post.weight *= scale[None, :, None, None]


def train(work: Path, steps: int, seed: int = 1) -> AutoencoderKL:
    """Train, or go on training, for `steps` in all; the result (averaged, normalised) is saved in work/vae."""
    torch.manual_seed(seed)
    store = pictures(work / "vae_pictures.npy", 2400, seed)
    check = pictures(work / "vae_check.npy", 32, seed + 1)
    vae = build().to(memory_format=torch.channels_last)
    optimizer = optimizer_for(vae, ("encoder.conv_in", "decoder.conv_out"), muon_lr=3e-3, adam_lr=1e-3)
    run = Run(work / "vae.pt", vae, optimizer, 0.99)
    progress = Progress("vae", run.step, steps)
    while run.step < steps:
        began = time.process_time()
        set_pace(optimizer, run.step, steps)
        x = crops(store, seed, run.step).contiguous(memory_format=torch.channels_last)
        latents = vae.encode(x).latent_dist
        y = vae.decode(latents.sample(generator_at(seed, run.step))).sample
        kl = 0.5 * (latents.mean.square() + latents.var - 1 - latents.logvar).mean()
        loss = distance(x, y) + KL_WEIGHT * kl
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        run.average.update(vae)
        progress(run.step, float(loss))
        run.step += 1
        run.seconds += time.process_time() - began
        if run.step % 200 == 0:
            run.save()
    run.save()
    vae.load_state_dict(run.average.weights)
    vae.eval()
    normalise(vae, check)
    vae.save_pretrained(work / "vae")
    return vae


def sharpen(work: Path, vae: AutoencoderKL, steps: int, seed: int = 41) -> AutoencoderKL:
    """Train the decoder alone on whole pictures with many small objects; saved in work/vae_sharp.

    Group normalisation sees another mix of object and background in a whole picture than in a crop: a decoder that
    knows crops only gives small objects the wrong colour and a halo. The latents stay as they are.
    """
    store = pictures(work / "small_pictures.npy", 1600, seed, recipe=SMALL)
    vae.requires_grad_(False)
    trained = torch.nn.ModuleDict({"post": vae.post_quant_conv, "decoder": vae.decoder}).requires_grad_(True)
    optimizer = optimizer_for(trained, ("post", "decoder.conv_out"), muon_lr=1.5e-3, adam_lr=5e-4)
    run = Run(work / "vae_sharp.pt", trained, optimizer, 0.99)
    progress = Progress("vae_sharp", run.step, steps)
    while run.step < steps:
        began = time.process_time()
        set_pace(optimizer, run.step, steps, falling=0.7)
        x = wholes(store, seed, run.step, 2)
        with torch.no_grad():
            z = torch.cat([vae.encode(one).latent_dist.mode() for one in x.split(1)])
        loss = distance(x, vae.decode(z).sample)
        run.learn(loss, progress, began)
    run.save()
    trained.load_state_dict(run.average.weights)
    vae.eval().save_pretrained(work / "vae_sharp")
    return vae
