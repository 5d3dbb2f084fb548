# SPDX-License-Identifier: GPL-3.0-or-later
"""Few-step samplers as tables of numbers on the device: LCM, TCD and Euler with trailing timesteps.

With a linear prediction (epsilon, v or the sample itself) a step of each is

    input = c_in x        next = p x + q prediction + r noise

so all of a step is four scalars that lie on the device: nothing is read back, and a step can be captured in a graph.
LCM: Luo et al. 2023, arXiv 2310.04378. TCD: Zheng et al. 2024, arXiv 2402.19159, gamma 0.3. Trailing timesteps: Lin et
al. 2023, arXiv 2305.08891. The schedulers of diffusers with the same names give the same latents; tests compare them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from server.diffusion.schedules import is_flow, make_scheduler

LCM_SCALE = 10.0
LCM_SIGMA = 0.5
LCM_ORIGINAL = 50
TCD_GAMMA = 0.3

_ALMOST_NOISE = 2.0**-24
"""Signal at the noisiest step of models with zero terminal SNR, as in diffusers' Euler: sigma is 4096, not infinite."""

KINDS = ("LCM", "TCD", "Euler trailing")


def few_step_name(sampler: str) -> str:
    """The few-step sampler that stands for a recipe's `sampler` in Live: itself, or Euler with trailing timesteps."""
    return sampler if sampler in KINDS else "Euler trailing"


@dataclass(frozen=True)
class _Numbers:
    """One step in Python's floats; see the module."""

    timestep: float
    c_in: float
    p: float
    q: float
    r: float
    signal: float
    noise: float


class FewStep:
    """Steps start..total-1 of a few-step sampler, for latents float32 (1, channels, h, w) on `device`.

    Raises ValueError for a flow-matching model, whose schedule is another, and for an unknown kind.
    """

    def __init__(
        self, kind: str, config: Mapping[str, Any], total: int, start: int, device: torch.device | str = "cpu"
    ) -> None:
        if is_flow(config) or kind not in KINDS:
            raise ValueError(f"{kind} is no few-step sampler of this model")
        # Its betas only: whatever a config says about them, diffusers reads it.
        alphas = [float(a) for a in make_scheduler("LCM", config).alphas_cumprod.to(torch.float64)]
        prediction = str(config.get("prediction_type", "epsilon"))
        total = min(total, len(alphas))
        start = min(start, total - 1)
        make = {"LCM": _lcm, "TCD": _tcd, "Euler trailing": _euler}[kind]
        steps = make(alphas, prediction, total)[start:]
        self.kind, self.total, self.start = kind, total, start
        names = ("timestep", "c_in", "p", "q", "r", "signal", "noise")
        rows = [[getattr(step, name) for name in names] for step in steps]
        table = torch.tensor(rows, dtype=torch.float64).to(torch.float32).to(device)
        self._table = dict(zip(names, table.unbind(1)))
        # Steps that draw: how many pictures of noise a frame needs beside the first one.
        self.draws = sum(step.r != 0.0 for step in steps)
        self._draw = [index for index, step in enumerate(steps) if step.r != 0.0]

    @property
    def steps(self) -> int:
        """How many steps run."""
        return self.total - self.start

    def _at(self, name: str, index: int) -> torch.Tensor:
        return self._table[name][index - self.start]

    def timestep(self, index: int) -> torch.Tensor:
        """The model's timestep of step `index`: a float32 scalar on the device."""
        return self._at("timestep", index)

    def noised(self, index: int, original: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """`original` with the noise level that the latents have before step `index`; itself after the last one."""
        if index >= self.total:
            return original
        return self._at("signal", index) * original + self._at("noise", index) * noise

    def model_input(self, index: int, latents: torch.Tensor) -> torch.Tensor:
        """Latents scaled to what the model was trained to see."""
        return self._at("c_in", index) * latents

    def step(
        self, index: int, prediction: torch.Tensor, latents: torch.Tensor, draws: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Latents before step index + 1. draws: standard normal noise (draws, channels, h, w), the same every frame."""
        out = self._at("p", index) * latents + self._at("q", index) * prediction
        place = index - self.start
        if place in self._draw and draws is not None:
            number = self._draw.index(place)
            out = out + self._at("r", index) * draws[number : number + 1]
        return out


def _clean(prediction: str, alpha: float) -> tuple[float, float]:
    """(a, b): the picture is a x + b prediction."""
    signal, noise = math.sqrt(alpha), math.sqrt(1.0 - alpha)
    if prediction == "v_prediction":
        return signal, -noise
    if prediction == "sample":
        return 0.0, 1.0
    return 1.0 / signal, -noise / signal


def _noise(prediction: str, alpha: float) -> tuple[float, float]:
    """(a, b): the noise is a x + b prediction."""
    signal, noise = math.sqrt(alpha), math.sqrt(1.0 - alpha)
    if prediction == "v_prediction":
        return noise, signal
    if prediction == "sample":
        return 1.0 / noise, -signal / noise
    return 0.0, 1.0


def _skipping(count: int, original: int, total: int) -> list[int]:
    """The timesteps of LCM and TCD: `total` out of `original` evenly spaced ones that end at the last of training."""
    spacing = count // original
    every = [spacing * (number + 1) - 1 for number in range(original)][::-1]
    return [every[math.floor(number * original / total)] for number in range(total)]


def _lcm(alphas: list[float], prediction: str, total: int) -> list[_Numbers]:
    times = _skipping(len(alphas), max(LCM_ORIGINAL, total), total)
    out = []
    for place, t in enumerate(times):
        signal, noise = math.sqrt(alphas[t]), math.sqrt(1.0 - alphas[t])
        scaled = t * LCM_SCALE
        skip = LCM_SIGMA**2 / (scaled**2 + LCM_SIGMA**2)
        keep = scaled / math.sqrt(scaled**2 + LCM_SIGMA**2)
        a, b = _clean(prediction, alphas[t])
        a, b = keep * a + skip, keep * b
        after = alphas[times[place + 1]] if place + 1 < total else 1.0
        s = math.sqrt(after)
        out.append(_Numbers(float(t), 1.0, s * a, s * b, math.sqrt(1.0 - after), signal, noise))
    return out


def _tcd(alphas: list[float], prediction: str, total: int) -> list[_Numbers]:
    times = _skipping(len(alphas), LCM_ORIGINAL if total <= LCM_ORIGINAL else len(alphas), total)
    out = []
    for place, t in enumerate(times):
        signal, noise = math.sqrt(alphas[t]), math.sqrt(1.0 - alphas[t])
        last = place + 1 == total
        later = 0 if last else times[place + 1]
        # As diffusers: the product is rounded to float32 before it is cut to a whole timestep.
        between = alphas[math.floor(float(torch.tensor(later) * (1.0 - TCD_GAMMA)))]
        (a, b), (c, d) = _clean(prediction, alphas[t]), _noise(prediction, alphas[t])
        s, n = math.sqrt(between), math.sqrt(1.0 - between)
        p, q, r = s * a + n * c, s * b + n * d, 0.0
        if not last:
            share = alphas[later] / between
            p, q, r = math.sqrt(share) * p, math.sqrt(share) * q, math.sqrt(1.0 - share)
        out.append(_Numbers(float(t), 1.0, p, q, r, signal, noise))
    return out


def _euler(alphas: list[float], prediction: str, total: int) -> list[_Numbers]:
    """Latents here are signal plus sigma times noise, as in Karras et al. 2022; the model sees them scaled."""
    count = len(alphas)
    alphas = [max(alpha, _ALMOST_NOISE) for alpha in alphas]
    times = [max(0, round(count - number * count / total) - 1) for number in range(total)]
    sigmas = [math.sqrt((1.0 - alphas[t]) / alphas[t]) for t in times] + [0.0]
    out = []
    for place, t in enumerate(times):
        sigma, later = sigmas[place], sigmas[place + 1]
        c_in = 1.0 / math.sqrt(sigma * sigma + 1.0)
        # The picture of the scaled latents is that of latents whose variance is kept.
        a, b = _clean(prediction, alphas[t])
        a *= c_in
        if prediction == "epsilon":
            a, b = 1.0, -sigma
        share = (later - sigma) / sigma
        out.append(_Numbers(float(t), c_in, 1.0 + share * (1.0 - a), -share * b, 0.0, 1.0, sigma))
    return out
