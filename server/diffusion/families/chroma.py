# SPDX-License-Identifier: GPL-3.0-or-later
"""Chroma: Flux 1's layout without CLIP and without guidance as an input; a negative prompt by a call of its own.

T5 reads plain text with its padding masked; of the padding the transformer sees only the first token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from server.diffusion.families.flow import FlowModel, pack, unpack, whole_text
from server.diffusion.model import Condition
from server.diffusion.task import Task

_TOKENS = 512


class Chroma(FlowModel):
    """A loaded Chroma model; see LoadedModel for the interface."""

    text_encoder: Any
    tokenizer: Any

    def condition(self, task: Task) -> Condition:
        positive = self._embed(whole_text(task.prompt), task)
        if task.guidance <= 1.0:
            return positive
        return replace(positive, negative=self._embed(whole_text(task.negative), task))

    def _embed(self, text: str, task: Task) -> Condition:
        def compute() -> Condition:
            words = self.tokenizer(text, padding="max_length", max_length=_TOKENS, truncation=True, return_tensors="pt")
            real = words.attention_mask.to(self.device)
            states = self.text_encoder(words.input_ids.to(self.device), attention_mask=real)[0]
            seen = torch.arange(_TOKENS, device=self.device)[None] <= real.sum(dim=1, keepdim=True)
            return Condition(states.to(self.dtype), mask=seen.to(self.dtype))

        return self.read_once(text, task, compute)

    def predict(
        self,
        inputs: torch.Tensor,
        timestep: torch.Tensor,
        condition: Condition,
        guidance: float,
        added: Mapping[str, Any] | None = None,
    ) -> torch.Tensor:
        positive = self._call(inputs, timestep, condition, added)
        if condition.negative is None:
            return positive
        negative = self._call(inputs, timestep, condition.negative, added)
        return negative + guidance * (positive - negative)

    def _call(
        self, inputs: torch.Tensor, timestep: torch.Tensor, words: Condition, added: Mapping[str, Any] | None
    ) -> torch.Tensor:
        dtype = self.transformer.dtype
        height, width = inputs.shape[-2:]
        tokens = pack(inputs).to(dtype)
        mask = None
        if words.mask is not None:
            picture = torch.ones(1, tokens.shape[1], device=self.device, dtype=dtype)
            mask = torch.cat([words.mask.to(dtype), picture], dim=1)
        out = self.transformer(
            hidden_states=tokens,
            timestep=timestep.expand(1).to(torch.float32) / 1000,
            encoder_hidden_states=words.embeds.to(dtype),
            txt_ids=torch.zeros(words.embeds.shape[1], 3, device=self.device, dtype=dtype),
            img_ids=self.places(height // 2, width // 2, dtype),
            attention_mask=mask,
            return_dict=False,
            **(added or {}),
        )[0]
        return unpack(out.to(torch.float32), height, width)
