# SPDX-License-Identifier: GPL-3.0-or-later
"""Trains both decoders last of all, on latents as the UNet leaves them: what is unsure becomes soft, not speckled.

The encoder's latents of a picture are noised and cleaned again by the UNet, as a sampler would, and the decoder learns
to make the picture from either. It had seen nothing but the encoder's latents, and painted coloured specks where the
UNet's differ from these. The outermost pixels, where convolutions see padding, count more.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from torch import Tensor, nn

from .dataset import Latents
from .muon import optimizer_for, set_pace
from .render import Recipe, picture
from .runs import Progress, Run, generator_at, layout, lighter
from .unet import Schedule

GUIDANCE = 2.0
STARTS = (250, 400, 550)
"""Times to which the latents are noised."""
STEPS = 4
"""Of the UNet, from there to the clean latents."""
AT_ONCE = 16
KEPT = 0.25
"""The share of the KL decoder's earlier weights in the mean that is the result: plain colours stay exact."""
EDGE, EDGE_WEIGHT = 8, 3.0
"""How many of the outermost pixels count this much more."""


@torch.no_grad()
def left(unet: UNet2DConditionModel, x: Tensor, told: Tensor, silent: Tensor, start: int, e: Tensor) -> Tensor:
    """The (n, 4, h, w) latents x noised with e to time `start` and cleaned by guided DDIM steps.

    `told` and `silent` are the (n, 77, width) hidden states of the captions and of the empty one.
    """
    schedule = Schedule("cpu")
    times = [round(start * (STEPS - i) / STEPS) for i in range(STEPS)]
    noisy, _ = schedule.mix(x, e, torch.full((len(x),), start))
    for t, later in zip(times, [*times[1:], -1], strict=True):
        given, at = torch.cat([noisy, noisy]), torch.full((2 * len(x),), t)
        with lighter("cpu"):
            both = unet(given, at, torch.cat([silent, told])).sample.float()
        plain, guided = both.chunk(2)
        v = plain + GUIDANCE * (guided - plain)
        signal, noise = schedule.signal[t], schedule.noise[t]
        clean = signal * noisy - noise * v
        if later < 0:
            return clean
        noisy = schedule.signal[later] * clean + schedule.noise[later] * (noise * noisy + signal * v)
    return noisy


class Finished:
    """The first `count` pictures of a set: as drawn, their latents, and these as the UNet leaves them (cached)."""

    def __init__(self, work: Path, name: str, recipe: Recipe, seed: int, size: tuple[int, int], count: int) -> None:
        self.work, self.name, self.latents = work, name, Latents(work, name)
        self.count = min(count, len(self.latents))
        self.recipe, self.seed, self.size = recipe, seed, size
        self.mine: np.ndarray = np.zeros(0)

    def leave(self, unet: UNet2DConditionModel) -> None:
        """Make what the UNet leaves, unless it is there already: work/NAME.left.npy."""
        file = self.work / f"{self.name}.left.npy"
        if not file.exists():
            made = []
            for first in range(0, self.count, AT_ONCE):
                chosen = np.arange(first, min(first + AT_ONCE, self.count))
                x, told = (torch.from_numpy(a).float() for a in self.latents.take(chosen, np.zeros(len(chosen), bool)))
                silent = torch.from_numpy(self.latents.states[:1].astype(np.float32)).expand_as(told)
                e = torch.randn(x.shape, generator=generator_at(self.seed, first))
                start = STARTS[first // AT_ONCE % len(STARTS)]
                made.append(left(unet, x, told, silent, start, e).half().numpy())
            np.save(file, np.concatenate(made))
        self.mine = np.load(file)

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        """(2, 4, h, w) latents, the true ones and those of the UNet, and the picture (1, 3, height, width) in -1..1."""
        z = np.stack([self.latents.latents[index], self.mine[index]])
        drawn = np.array(picture(self.recipe, self.seed, index, *self.size)[0])
        return torch.from_numpy(z).float(), torch.from_numpy(drawn).permute(2, 0, 1)[None].float() / 127.5 - 1


def weights(height: int, width: int) -> Tensor:
    """(height, width): 1, and EDGE_WEIGHT in a frame of EDGE pixels."""
    found = torch.full((height, width), EDGE_WEIGHT)
    found[EDGE:-EDGE, EDGE:-EDGE] = 1.0
    return found / found.mean()


def apart(y: Tensor, x: Tensor) -> Tensor:
    """Of the two decoded pictures y to the true one: squares count for the first, for the second only amounts.

    What the squares ask for where something is unsure is the mean of all possible colours, amounts one of them.
    """
    error, frame = (y.float() - x).abs(), weights(*x.shape[2:])
    return (frame * (error[0].square() + 0.2 * error[0])).mean() + 0.3 * (frame * error[1]).mean()


def teach(
    work: Path, name: str, decode: nn.Module, plain: tuple[str, ...], sets: Sequence[Finished], steps: int
) -> None:
    """Train `decode` (latents of unit variance to pictures) for `steps` in all, in work/NAME.pt; it ends averaged."""
    optimizer = optimizer_for(decode, plain, muon_lr=1.5e-3, adam_lr=5e-4)
    run = Run(work / f"{name}.pt", decode, optimizer, 0.985)
    progress = Progress(name, run.step, steps)
    counts = np.array([part.count for part in sets])
    while run.step < steps:
        began = time.process_time()
        set_pace(optimizer, run.step, steps, warmup=30, falling=0.9)
        rng = np.random.default_rng([81, run.step])
        part = sets[int(rng.choice(len(sets), p=counts / counts.sum()))]
        z, x = part.pair(int(rng.integers(part.count)))
        with lighter("cpu"):
            made = decode(z)
        run.learn(apart(made, x), progress, began)
    run.save()
    decode.load_state_dict(run.average.weights)


class Full(nn.Module):
    """The decoder of a KL autoencoder, for latents of unit variance."""

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.post, self.decoder, self.scale = vae.post_quant_conv, vae.decoder, vae.config.scaling_factor

    def forward(self, z: Tensor) -> Tensor:
        return self.decoder(self.post(z / self.scale))


def train(
    work: Path,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    tiny: AutoencoderTiny,
    sets: Sequence[Finished],
    steps: int,
) -> None:
    """Train both decoders, or go on; the latents stay as they are. Saved in work/vae_finished, work/taesd_finished."""
    form = layout("cpu")
    unet.to(memory_format=form)
    for part in sets:
        part.leave(unet)
    for whole in (vae, tiny):
        whole.requires_grad_(False).to(memory_format=form)
    full = Full(vae).requires_grad_(True)
    before = {name: value.detach().clone() for name, value in full.state_dict().items()}
    teach(work, "vae_finished", full, ("post", "decoder.conv_out"), sets, steps)
    full.load_state_dict({name: value.lerp(before[name], KEPT) for name, value in full.state_dict().items()})
    teach(work, "taesd_finished", tiny.decoder.requires_grad_(True), ("layers.0.",), sets, steps)
    vae.eval().save_pretrained(work / "vae_finished")
    tiny.eval().save_pretrained(work / "taesd_finished")
