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
"""Time in which each format is tried."""

ROUNDS = 2
"""How often it is tried at least: a single round may have been disturbed."""

SIDE = 8
"""Of the latents that are decoded to find out."""

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
        copies = {
            form: copy.deepcopy(made).to(dtype=form[0], memory_format=form[1]) for form in dict.fromkeys(candidates)
        }
        speeds = _speeds(copies, seconds)
        chosen = fastest(speeds, usual)
        log.info("live autoencoder in %s (rounds per second: %s)", chosen, speeds)
        return copies[chosen]


def _speeds(copies: Mapping[Format, Any], seconds: float) -> dict[Format, float]:
    """Rounds per second of processor time, which other programs take least of; the formats take turns, ROUNDS at
    least, until `seconds` are over for each."""
    best = dict.fromkeys(copies, float("inf"))
    started, turns = time.perf_counter(), 0
    while turns <= ROUNDS or time.perf_counter() - started < seconds * len(copies):
        for form, module in copies.items():
            latents = torch.zeros(1, module.config.latent_channels, SIDE, SIDE, dtype=form[0])
            latents = latents.contiguous(memory_format=form[1])
            began = time.process_time()
            module.decode(latents, return_dict=False)
            if turns:  # the first one also chooses kernels
                best[form] = min(best[form], time.process_time() - began)
        turns += 1
    return {form: 1.0 / max(took, 1e-9) for form, took in best.items()}
