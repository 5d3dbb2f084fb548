# SPDX-License-Identifier: GPL-3.0-or-later
"""What the transformers for flow matching share: packing of latents, shift of the noise levels, plain prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from server.diffusion.families.common import PartsModel
from server.diffusion.schedules import Spacing
from server.prompt import plain_text, split_blend


def whole_text(prompt: str) -> str:
    """A prompt without its weights and shares, which only CLIP knows what to do with."""
    return " ".join(plain_text(text) for text, _ in split_blend(prompt))


def pack(latents: torch.Tensor) -> torch.Tensor:
    """(1, c, h, w) -> tokens of 2 x 2 cells, (1, h/2 * w/2, 4 c)."""
    n, channels, height, width = latents.shape
    cells = latents.reshape(n, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(n, (height // 2) * (width // 2), channels * 4)


def unpack(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The inverse of `pack`; height and width in cells."""
    n, _, channels = tokens.shape
    cells = tokens.reshape(n, height // 2, width // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return cells.reshape(n, channels // 4, height, width)


def shift_of(tokens: int, config: Mapping[str, Any]) -> float:
    """How far the noise levels move for a picture of so many tokens: linear between the config's two points."""
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    least, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (most - least) / (many - few)
    return tokens * slope + (least - slope * few)


class FlowModel(PartsModel):
    """A transformer that predicts a velocity between picture and noise, on latents in tokens of 2 x 2 cells."""

    transformer: Any
    wraps_itself = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.multiple = 2 * self.factor
        self._places: dict[tuple[int, int, int], torch.Tensor] = {}

    def tokens(self, width: int, height: int) -> int:
        """Tokens of a picture of that many pixels."""
        return (width // self.multiple) * (height // self.multiple)

    def spacing(self, width: int, height: int) -> Spacing | None:
        shift = shift_of(self.tokens(width, height), self.schedule_config)
        return lambda total: {"sigmas": np.linspace(1.0, 1 / total, total), "mu": shift}

    def places(self, height: int, width: int, dtype: torch.dtype, number: int = 0) -> torch.Tensor:
        """Number of the picture, row and column of every token, (tokens, 3); made once per size."""
        found = self._places.get((height, width, number))
        if found is None:
            grid = torch.full((height, width, 3), float(number))
            grid[..., 1] = torch.arange(height)[:, None]
            grid[..., 2] = torch.arange(width)[None, :]
            found = self._places[height, width, number] = grid.reshape(height * width, 3).to(self.device)
        return found.to(dtype)
