# SPDX-License-Identifier: GPL-3.0-or-later
"""Z-Image, base and turbo: a language model (Qwen3) reads the prompt, one stream of words and picture.

The transformer counts time the other way round and predicts with the other sign. Guidance runs positive and negative
together, though their texts differ in length; its scale is the usual one (1 = none).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from server.diffusion.families.flow import FlowModel, shift_of, whole_text
from server.diffusion.model import Condition
from server.diffusion.schedules import Spacing
from server.diffusion.task import Task

_TOKENS = 512


class ZImage(FlowModel):
    """A loaded Z-Image model; see LoadedModel for the interface."""

    text_encoder: Any
    tokenizer: Any

    def spacing(self, width: int, height: int) -> Spacing | None:
        shift = shift_of(self.tokens(width, height), self.schedule_config)
        return lambda total: {"sigmas": torch.linspace(1.0, 1 / total, total).tolist(), "mu": shift}

    def condition(self, task: Task) -> Condition:
        positive = self._embed(whole_text(task.prompt), task)
        if task.guidance <= 1.0:
            return positive
        return replace(positive, negative=self._embed(whole_text(task.negative), task))

    def _embed(self, text: str, task: Task) -> Condition:
        def compute() -> Condition:
            said = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True, enable_thinking=True
            )
            words = self.tokenizer(
                [said], padding="max_length", max_length=_TOKENS, truncation=True, return_tensors="pt"
            )
            real = words.attention_mask.to(self.device).bool()
            states = self.text_encoder(
                input_ids=words.input_ids.to(self.device), attention_mask=real, output_hidden_states=True
            ).hidden_states[-2]
            return Condition(states[0][real[0]][None].to(self.dtype))

        return self.read_once(text, task, compute)

    def predict(
        self,
        inputs: torch.Tensor,
        timestep: torch.Tensor,
        condition: Condition,
        guidance: float,
        added: Mapping[str, Any] | None = None,
    ) -> torch.Tensor:
        dtype = self.transformer.dtype
        words = [condition.embeds[0].to(dtype)]
        if condition.negative is not None:
            words.append(condition.negative.embeds[0].to(dtype))
        picture = inputs.to(dtype)[0].unsqueeze(1)
        time = ((1000 - timestep) / 1000).expand(len(words))
        out = self.transformer([picture] * len(words), time, words, return_dict=False, **(added or {}))[0]
        found = [-part.to(torch.float32).squeeze(1)[None] for part in out]
        if condition.negative is None:
            return found[0]
        positive, negative = found
        return positive + (guidance - 1.0) * (positive - negative)
