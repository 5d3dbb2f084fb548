# SPDX-License-Identifier: GPL-3.0-or-later
"""Flux 1: dev (guidance as an input of the network), schnell (none, four steps) and Fill (inpainting channels).

T5's states are the words, CLIP's pooled output goes to the modulation. Neither knows weights of words: they are read
as plain text, and there is no negative prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from server.diffusion.families.flow import FlowModel, pack, unpack, whole_text
from server.diffusion.model import Condition, bytes_to_device, sample_latents
from server.diffusion.task import Pixels, Task

_TOKENS = 512
_TOKENS_FEW_STEPS = 256  # schnell was distilled with this length


class Flux1(FlowModel):
    """A loaded Flux 1 model; see LoadedModel for the interface."""

    ENCODERS = ("text_encoder", "text_encoder_2")
    text_encoder: Any
    text_encoder_2: Any
    tokenizer: Any
    tokenizer_2: Any

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        config = self.transformer.config
        self.embeds_guidance = bool(config.guidance_embeds)
        self.inpainting = config.in_channels > 4 * self.latent_channels

    def is_few_step(self, parts: Mapping[str, Any]) -> bool:
        return not parts["transformer"].config.guidance_embeds

    def condition(self, task: Task) -> Condition:
        text = whole_text(task.prompt)
        length = _TOKENS if self.embeds_guidance else _TOKENS_FEW_STEPS

        def compute() -> Condition:
            words = self.tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
            pooled = self.text_encoder(words.input_ids.to(self.device)).pooler_output
            words = self.tokenizer_2(
                text, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            )
            states = self.text_encoder_2(words.input_ids.to(self.device))[0]
            return Condition(states.to(self.dtype), pooled.to(self.dtype))

        return self.read_once((text, length), task, compute)

    def predict(
        self,
        inputs: torch.Tensor,
        timestep: torch.Tensor,
        condition: Condition,
        guidance: float,
        added: Mapping[str, Any] | None = None,
    ) -> torch.Tensor:
        dtype = self.transformer.dtype
        height, width = inputs.shape[-2:]
        shown = [inputs, *condition.references]
        tokens = torch.cat([pack(part) for part in shown], dim=1).to(dtype)
        places = [self.places(part.shape[2] // 2, part.shape[3] // 2, dtype, n) for n, part in enumerate(shown)]
        scale = torch.full([1], guidance, dtype=torch.float32, device=self.device) if self.embeds_guidance else None
        out = self.transformer(
            hidden_states=tokens,
            timestep=timestep.expand(1).to(torch.float32) / 1000,
            guidance=scale,
            pooled_projections=None if condition.pooled is None else condition.pooled.to(dtype),
            encoder_hidden_states=condition.embeds.to(dtype),
            txt_ids=torch.zeros(condition.embeds.shape[1], 3, device=self.device, dtype=dtype),
            img_ids=torch.cat(places),
            return_dict=False,
            **(added or {}),
        )[0]
        return unpack(out[:, : height * width // 4].to(torch.float32), height, width)

    def mask_channels(self, pixels: Pixels, selected: Pixels, generator: torch.Generator) -> torch.Tensor:
        """Fill sees the masked picture's latents and then every pixel of the mask, one channel per pixel of a cell."""
        known = sample_latents(self, pixels, generator, hole=selected > 0)
        mask = (bytes_to_device(selected, self.device) > 0).to(torch.float32)
        cells = torch.nn.functional.pixel_unshuffle(mask[None, None], self.factor)
        return torch.cat([known, cells], dim=1)
