# SPDX-License-Identifier: GPL-3.0-or-later
"""Stable Diffusion 3 and 3.5: two CLIP encoders and T5 side by side, guidance by a pair of predictions.

CLIP's part knows weights of words, T5's reads plain text. A folder may lack T5: then zeros stand for its states.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from server.diffusion.blending import Variants, blended, read_variants, same_length
from server.diffusion.families.flow import FlowModel, shift_of, whole_text
from server.diffusion.families.sd import joined
from server.diffusion.model import Condition
from server.diffusion.schedules import Spacing
from server.diffusion.task import Task
from server.diffusion.text import Chunk, encode_inner

_TOKENS = 256
_PENULTIMATE = 2


class StableDiffusion3(FlowModel):
    """A loaded SD3 or SD3.5 model; see LoadedModel for the interface."""

    ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
    text_encoder: Any
    text_encoder_2: Any
    tokenizer: Any
    tokenizer_2: Any
    tokenizer_3: Any

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.inpainting = self.transformer.config.in_channels > self.latent_channels

    def spacing(self, width: int, height: int) -> Spacing | None:
        if not self.schedule_config.get("use_dynamic_shifting"):
            return None
        config = {"max_shift": 1.16, **self.schedule_config}
        shift = shift_of(self.tokens(width, height), config)
        return lambda total: {"mu": shift}

    def condition(self, task: Task) -> Condition:
        positive = read_variants(self.tokenizer, task.prompt)
        if task.guidance <= 1.0:
            return self._blend(same_length(positive)[0], task.prompt, task)
        positive, negative = same_length(positive, read_variants(self.tokenizer, task.negative))
        other = self._blend(negative, task.negative, task)
        return joined(other, self._blend(positive, task.prompt, task))

    def _blend(self, variants: Variants, prompt: str, task: Task) -> Condition:
        text = whole_text(prompt)
        return blended(variants, lambda chunks: self._embed(chunks, text, task))

    def _embed(self, chunks: list[Chunk], text: str, task: Task) -> Condition:
        layer = max(_PENULTIMATE, task.clip_skip)

        def compute() -> Condition:
            first, pooled = encode_inner(self.text_encoder, self.tokenizer, chunks, layer, device=self.device)
            second, pooled_2 = encode_inner(self.text_encoder_2, self.tokenizer_2, chunks, layer, device=self.device)
            clip = torch.cat([first, second], dim=-1).to(self.dtype)
            third = self._states(text)
            clip = torch.nn.functional.pad(clip, (0, third.shape[-1] - clip.shape[-1]))
            return Condition(torch.cat([clip, third], dim=-2), torch.cat([pooled, pooled_2], dim=-1).to(self.dtype))

        return self.read_once((tuple(chunks), text, layer), task, compute)

    def _states(self, text: str) -> torch.Tensor:
        """T5's states of plain text, (1, 256, width)."""
        encoder = self.parts.get("text_encoder_3")
        if encoder is None:
            width = self.transformer.config.joint_attention_dim
            return torch.zeros(1, _TOKENS, width, device=self.device, dtype=self.dtype)
        words = self.tokenizer_3(text, padding="max_length", max_length=_TOKENS, truncation=True, return_tensors="pt")
        return encoder(words.input_ids.to(self.device))[0].to(self.dtype)

    def predict(
        self,
        inputs: torch.Tensor,
        timestep: torch.Tensor,
        condition: Condition,
        guidance: float,
        added: Mapping[str, Any] | None = None,
    ) -> torch.Tensor:
        dtype = self.transformer.dtype
        inputs = (torch.cat([inputs, inputs]) if condition.is_pair else inputs).to(dtype)
        out = self.transformer(
            hidden_states=inputs,
            timestep=timestep.expand(len(inputs)),
            encoder_hidden_states=condition.embeds.to(dtype),
            pooled_projections=None if condition.pooled is None else condition.pooled.to(dtype),
            return_dict=False,
            **(added or {}),
        )[0].to(torch.float32)
        if not condition.is_pair:
            return out
        negative, positive = out.chunk(2)
        return negative + guidance * (positive - negative)
