# SPDX-License-Identifier: GPL-3.0-or-later
"""Stable Diffusion XL and its kind: base, inpainting (9 channels), turbo, lightning and other few-step models.

The UNet of SD with two CLIP encoders read at their last layer but one, the second one's pooled output and six numbers:
the size that the picture is said to have had, where it was cropped, and the size that is wanted.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from server.diffusion.blending import read_variants, same_length
from server.diffusion.families.sd import StableDiffusion, joined
from server.diffusion.model import Condition
from server.diffusion.task import Task
from server.diffusion.text import Chunk, encode_inner

_PENULTIMATE = 2


class StableDiffusionXL(StableDiffusion):
    """A loaded SDXL model; see LoadedModel for the interface.

    parts["zeros_for_empty"]: whether an empty negative prompt is all zeros, as the base model was trained.
    """

    ENCODERS = ("text_encoder", "text_encoder_2")
    text_encoder_2: Any
    tokenizer_2: Any
    zeros_for_empty: bool

    def measure_autoencoder(self) -> None:
        super().measure_autoencoder()
        config = self.vae.config
        self.statistics: tuple[torch.Tensor, torch.Tensor] | None = None
        if config.latents_mean is not None and config.latents_std is not None:
            mean, deviation = (
                torch.tensor(numbers, device=self.device).view(1, -1, 1, 1)
                for numbers in (config.latents_mean, config.latents_std)
            )
            self.statistics = (mean, deviation)

    def scaled(self, latents: torch.Tensor) -> torch.Tensor:
        if self.statistics is None:
            return self.latent_scale * latents
        mean, deviation = self.statistics
        return (latents - mean) * self.latent_scale / deviation

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        if self.statistics is None:
            latents = latents / self.latent_scale
        else:
            mean, deviation = self.statistics
            latents = latents * deviation / self.latent_scale + mean
        return self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0]

    def condition(self, task: Task) -> Condition:
        learned = self.learned(task)
        chunks = read_variants(self.tokenizer, task.prompt, learned)
        if task.guidance <= 1.0 or self.embeds_guidance:
            return self._sized(self.blend(same_length(chunks)[0], task), task)
        empty = self.zeros_for_empty and not task.negative.strip()
        chunks, other = same_length(chunks, read_variants(self.tokenizer, task.negative, learned))
        negative, positive = self.blend(other, task), self.blend(chunks, task)
        if empty and negative.pooled is not None:
            negative = Condition(torch.zeros_like(negative.embeds), torch.zeros_like(negative.pooled))
        return self._sized(joined(negative, positive), task)

    def _sized(self, condition: Condition, task: Task) -> Condition:
        sizes = torch.tensor([[task.height, task.width, 0, 0, task.height, task.width]], dtype=self.dtype)
        return replace(condition, ids=sizes.repeat(len(condition.embeds), 1).to(self.device))

    def embed(self, chunks: list[Chunk], task: Task) -> Condition:
        """One prompt's condition. Clip skip 0 to 2 are all the last layer but one, which SDXL was trained with."""
        layer = max(_PENULTIMATE, task.clip_skip)

        def compute() -> Condition:
            one, two = self.vectors(task)
            first, _ = encode_inner(self.text_encoder, self.tokenizer, chunks, layer, one, self.device)
            second, pooled = encode_inner(self.text_encoder_2, self.tokenizer_2, chunks, layer, two, self.device)
            return Condition(torch.cat([first, second], dim=-1).to(self.dtype), pooled.to(self.dtype))

        return self.read_once((tuple(chunks), layer), task, compute)

    def conditioning(self, condition: Condition, dtype: torch.dtype) -> dict[str, Any]:
        if condition.pooled is None or condition.ids is None:
            raise ValueError("SDXL is conditioned on pooled words and sizes")
        return {"added_cond_kwargs": {"text_embeds": condition.pooled.to(dtype), "time_ids": condition.ids.to(dtype)}}
