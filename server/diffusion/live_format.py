# SPDX-License-Identifier: GPL-3.0-or-later
"""The tiny autoencoder as Live runs it: a copy in the precision and memory order that are fastest on this device."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Mapping
from typing import Any

import torch

log = logging.getLogger(__name__)

SECONDS = 0.05
MARGIN = 1.15
"""How much faster another format must be than the model's own: a close race could end differently next time."""

Format = tuple[torch.dtype, torch.memory_format]


def fastest(speeds: Mapping[Format, float], own: Format) -> Format:
    """The best format of `speeds` (rounds per second) if it beats `own` by MARGIN, else `own`."""
    best = max(speeds, key=lambda key: speeds[key], default=own)
    return best if speeds.get(best, 0.0) > MARGIN * speeds.get(own, 0.0) else own


def live_autoencoder(tiny: Any, seconds: float = SECONDS) -> Any:
    """A copy of an AutoencoderTiny for Live. On CUDA bfloat16 (or its own half) and channels-last without measuring."""
    own = next(tiny.parameters())
    # A tensor made in inference mode could not be part of a module that is used outside of it.
    with torch.inference_mode(False), torch.no_grad():
        made = copy.deepcopy(tiny).eval().requires_grad_(False)
        if own.device.type == "cuda":
            dtype = torch.bfloat16 if own.dtype == torch.float32 else own.dtype
            return made.to(dtype=dtype, memory_format=torch.channels_last)
        usual = (own.dtype, torch.contiguous_format)
        if own.device.type != "cpu":
            return made
        candidates = [usual, (own.dtype, torch.channels_last), (torch.bfloat16, torch.channels_last)]
        speeds = {key: _speed(made, key, seconds) for key in dict.fromkeys(candidates)}
        chosen = fastest(speeds, usual)
        log.info("live autoencoder in %s (rounds per second: %s)", chosen, speeds)
        made = copy.deepcopy(tiny).eval().requires_grad_(False)  # bfloat16 has rounded the one that was measured
        return made.to(dtype=chosen[0], memory_format=chosen[1])


def _speed(module: Any, form: Format, seconds: float) -> float:
    module.to(dtype=form[0], memory_format=form[1])
    latents = torch.zeros(1, module.config.latent_channels, 16, 16, dtype=form[0])
    latents = latents.contiguous(memory_format=form[1])
    module.decode(latents, return_dict=False)
    # The best of the rounds: other programs can only make one slower.
    best, started = float("inf"), time.perf_counter()
    while (began := time.perf_counter()) - started < seconds:
        module.decode(latents, return_dict=False)
        best = min(best, time.perf_counter() - began)
    return 1.0 / best
