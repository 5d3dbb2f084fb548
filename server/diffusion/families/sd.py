# SPDX-License-Identifier: GPL-3.0-or-later
"""Stable Diffusion 1.x and 2.x: one UNet with cross attention, one CLIP text encoder, one KL autoencoder.

Epsilon and v-prediction; 4 channels, or 9 for inpainting models; guidance by a pair of predictions, or as an input of
the network in models distilled for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from server.diffusion.blending import Variants, blended, read_variants, same_length
from server.diffusion.families.common import PartsModel
from server.diffusion.model import Condition, Recent
from server.diffusion.task import Task
from server.diffusion.text import Chunk, encode_chunks

_SCALES_KEPT = 16


class StableDiffusion(PartsModel):
    """A loaded SD1.x or SD2.x model; see LoadedModel for the interface."""

    DENOISER = "unet"
    unet: Any
    text_encoder: Any
    tokenizer: Any

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.inpainting = self.unet.config.in_channels > self.latent_channels
        self.embeds_guidance = self.unet.config.time_cond_proj_dim is not None
        self.scales: Recent[torch.Tensor] = Recent(_SCALES_KEPT)

    def condition(self, task: Task) -> Condition:
        learned = self.learned(task)
        positive = read_variants(self.tokenizer, task.prompt, learned)
        if task.guidance <= 1.0 or self.embeds_guidance:
            return self.blend(same_length(positive)[0], task)
        positive, negative = same_length(positive, read_variants(self.tokenizer, task.negative, learned))
        return joined(self.blend(negative, task), self.blend(positive, task))

    def blend(self, variants: Variants, task: Task) -> Condition:
        """The condition of a prompt, which may be a blend of several."""
        return blended(variants, lambda chunks: self.embed(chunks, task))

    def embed(self, chunks: list[Chunk], task: Task) -> Condition:
        """One prompt's condition; computed once per prompt."""

        def compute() -> Condition:
            (vectors,) = self.vectors(task)
            out = encode_chunks(self.text_encoder, self.tokenizer, chunks, task.clip_skip, vectors, self.device)
            return Condition(out.to(self.dtype))

        return self.read_once((tuple(chunks), task.clip_skip), task, compute)

    def predict(
        self,
        inputs: torch.Tensor,
        timestep: torch.Tensor,
        condition: Condition,
        guidance: float,
        added: Mapping[str, Any] | None = None,
    ) -> torch.Tensor:
        dtype = self.unet.dtype  # float32 during a retry
        inputs = (torch.cat([inputs, inputs]) if condition.is_pair else inputs).to(dtype)
        scale = self.guidance_input(guidance).to(dtype) if self.embeds_guidance else None
        more = {**self.conditioning(condition, dtype), **(added or {})}
        out = self.unet(inputs, timestep, condition.embeds.to(dtype), timestep_cond=scale, return_dict=False, **more)[
            0
        ].to(torch.float32)
        if not condition.is_pair:
            return out
        negative, positive = out.chunk(2)
        return negative + guidance * (positive - negative)

    def conditioning(self, condition: Condition, dtype: torch.dtype) -> dict[str, Any]:
        """What the UNet is told besides the words."""
        return {}

    def guidance_input(self, guidance: float) -> torch.Tensor:
        """Guidance as an input of the network, for distilled models (LCM) that do it themselves: (1, width).

        The usual sinusoidal embedding, of 1000 (guidance - 1); float32 throughout, as it was trained with.
        """
        half = self.unet.config.time_cond_proj_dim // 2

        def compute() -> torch.Tensor:
            spacing = torch.log(torch.tensor(10000.0)) / (half - 1)
            angles = torch.tensor(guidance - 1.0) * 1000.0 * torch.exp(torch.arange(half) * -spacing)
            return torch.cat([torch.sin(angles), torch.cos(angles)])[None].to(self.device)

        return self.scales.get(guidance, compute)


def joined(negative: Condition, positive: Condition) -> Condition:
    """Both prompts as one batch, negative first."""

    def both(one: torch.Tensor | None, other: torch.Tensor | None) -> torch.Tensor | None:
        return None if one is None or other is None else torch.cat([one, other])

    return Condition(
        torch.cat([negative.embeds, positive.embeds]),
        both(negative.pooled, positive.pooled),
        both(negative.mask, positive.mask),
        both(negative.ids, positive.ids),
    )
