# SPDX-License-Identifier: GPL-3.0-or-later
"""Inpainting with soft masks: how much a pixel may change becomes for how many steps it is free.

The rule of differential diffusion (Levin and Fried, 2023): of N executed steps, a cell with mask m is replaced by the
noised original until its last ceil(m N) steps. A hard mask is the ordinary blend after every step, m = 0 ends as the
original exactly.
"""

from __future__ import annotations

import torch

from server.diffusion.sampling import Feature
from server.diffusion.schedules import Schedule


def cell_sums(mask: torch.Tensor, factor: int) -> torch.Tensor:
    """Mask bytes uint8 (h, w) summed over the factor x factor pixels of each latent cell: int32 (h/f, w/f), exact."""
    height, width = mask.shape
    blocks = mask.to(torch.int32).reshape(height // factor, factor, width // factor, factor)
    return blocks.sum(dim=(1, 3), dtype=torch.int32)


def fixed_cells(sums: torch.Tensor, factor: int, steps_left: int, steps: int) -> torch.Tensor:
    """Which cells still hold the original when `steps_left` of `steps` remain: m <= steps_left / steps, in integers.

    At 0 steps left these are the cells with mask 0; at `steps` left all of them.
    """
    return sums.to(torch.int64) * steps <= 255 * factor * factor * steps_left


class MaskedChange(Feature):
    """Keeps what may not change yet, after every step. For models without mask channels, and for the soft part of
    masks on models with them (`hard_zero_too=False`: there the model itself reproduces the cells with mask 0).
    """

    def __init__(
        self,
        schedule: Schedule,
        sums: torch.Tensor,
        factor: int,
        original: torch.Tensor,
        noise: torch.Tensor,
        hard_zero_too: bool = True,
    ) -> None:
        self._schedule = schedule
        self._original = original
        self._noise = noise
        # A few kilobytes per step, made before the loop: nothing is computed or copied per step.
        candidates = torch.ones_like(sums, dtype=torch.bool) if hard_zero_too else sums > 0
        self._fixed = [
            fixed_cells(sums, factor, schedule.total - index - 1, schedule.steps) & candidates
            for index in range(schedule.start, schedule.total)
        ]
        self._never = (sums == 0) & candidates

    def after_step(
        self, index: int, latents: torch.Tensor, estimate: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        fixed = self._fixed[index - self._schedule.start]
        known = self._schedule.noised(index + 1, self._original, self._noise)
        return torch.where(fixed, known, latents), torch.where(self._never, self._original, estimate)


class MaskChannels(Feature):
    """Appends what an inpainting model sees beside the latents: (1, channels, h, w), see LoadedModel.mask_channels."""

    def __init__(self, extra: torch.Tensor) -> None:
        self._extra = extra

    def before_model(self, index: int, inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat([inputs, self._extra], dim=1)
