# SPDX-License-Identifier: GPL-3.0-or-later
"""Qwen-Image: a vision language model reads the prompt inside a fixed instruction, an autoencoder of films encodes.

Guidance runs the negative prompt as a call of its own; every token of the guided prediction is brought back to the
length it has without guidance. Latents have means and deviations per channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from server.diffusion.families.common import Moments
from server.diffusion.families.flow import FlowModel, pack, unpack, whole_text
from server.diffusion.model import Condition
from server.diffusion.task import Task

_TOKENS = 512
_READ = 1024  # tokens of the prompt that the language model reads
# What the model was trained with, around every prompt; the instruction's tokens are dropped from the states.
_BEFORE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
)
_AFTER = "<|im_end|>\n<|im_start|>assistant\n"
_DROPPED = 34


class QwenImage(FlowModel):
    """A loaded Qwen-Image model; see LoadedModel for the interface."""

    text_encoder: Any
    tokenizer: Any

    def measure_autoencoder(self) -> None:
        config = self.vae.config
        self.factor = 2 ** len(config.temperal_downsample)
        self.latent_channels = config.z_dim
        self.latent_mean, deviation = (
            torch.tensor(numbers, dtype=torch.float32, device=self.device).view(1, -1, 1, 1)
            for numbers in (config.latents_mean, config.latents_std)
        )
        self.latent_factor = 1.0 / deviation

    def moments(self, image: torch.Tensor) -> Moments:
        spread = self.vae.encode(image.to(self.vae.dtype).unsqueeze(2), return_dict=False)[0]
        return spread.mean[:, :, 0].to(torch.float32), spread.std[:, :, 0].to(torch.float32)

    def scaled(self, latents: torch.Tensor) -> torch.Tensor:
        return (latents - self.latent_mean) * self.latent_factor

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        latents = latents / self.latent_factor + self.latent_mean
        return self.vae.decode(latents.to(self.vae.dtype).unsqueeze(2), return_dict=False)[0][:, :, 0]

    def condition(self, task: Task) -> Condition:
        positive = self._embed(whole_text(task.prompt), task)
        if task.guidance <= 1.0:
            return positive
        return replace(positive, negative=self._embed(whole_text(task.negative), task))

    def _embed(self, text: str, task: Task) -> Condition:
        def compute() -> Condition:
            words = self.tokenizer(
                [_BEFORE + text + _AFTER], max_length=_READ + _DROPPED, truncation=True, return_tensors="pt"
            )
            states = self.text_encoder(
                input_ids=words.input_ids.to(self.device),
                attention_mask=words.attention_mask.to(self.device),
                output_hidden_states=True,
            ).hidden_states[-1]
            return Condition(states[:, _DROPPED:][:, :_TOKENS].to(self.dtype))

        return self.read_once(text, task, compute)

    def predict(
        self,
        inputs: torch.Tensor,
        timestep: torch.Tensor,
        condition: Condition,
        guidance: float,
        added: Mapping[str, Any] | None = None,
    ) -> torch.Tensor:
        height, width = inputs.shape[-2:]
        shown = [inputs, *condition.references]
        tokens = torch.cat([pack(part) for part in shown], dim=1).to(self.transformer.dtype)
        places = [[(1, part.shape[2] // 2, part.shape[3] // 2) for part in shown]]

        def call(words: Condition) -> torch.Tensor:
            out = self.transformer(
                hidden_states=tokens,
                timestep=timestep.expand(1).to(torch.float32) / 1000,
                encoder_hidden_states=words.embeds.to(tokens.dtype),
                encoder_hidden_states_mask=None,
                img_shapes=places,
                return_dict=False,
                **(added or {}),
            )[0]
            return out[:, : height * width // 4].to(torch.float32)

        positive = call(condition)
        if condition.negative is None:
            return unpack(positive, height, width)
        negative = call(condition.negative)
        guided = negative + guidance * (positive - negative)
        length = torch.norm(positive, dim=-1, keepdim=True) / torch.norm(guided, dim=-1, keepdim=True)
        return unpack(guided * length, height, width)
