# SPDX-License-Identifier: GPL-3.0-or-later
"""Flux 2: dev (Mistral reads, guidance as an input of the network) and Klein (Qwen3 reads, guidance by a second call
or, distilled, none).

Latents are cells of 16 x 16 pixels, whitened by the statistics that the autoencoder carries; one cell is one token.
Three inner layers of the language model, laid side by side, are the words. The model looks at reference pictures
itself; when it repaints a part, the picture around it is one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE

from server.diffusion.families.common import Moments
from server.diffusion.families.flow import FlowModel, whole_text
from server.diffusion.features.looks import fitted
from server.diffusion.model import Condition
from server.diffusion.schedules import Spacing
from server.diffusion.task import Pixels, Task

_TOKENS = 512
_QWEN_LAYERS = (9, 18, 27)
_MISTRAL_LAYERS = (10, 20, 30)
_LARGEST_REFERENCE = 1024 * 1024  # pixels
_APART = 10  # between two reference pictures on the first axis of places


class Flux2(FlowModel):
    """A loaded Flux 2 model; see LoadedModel for the interface."""

    text_encoder: Any
    tokenizer: Any
    looks_itself = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.multiple = self.factor
        self.embeds_guidance = bool(self.transformer.config.guidance_embeds)
        self.is_mistral = "Mistral" in type(self.text_encoder).__name__

    def is_few_step(self, parts: Mapping[str, Any]) -> bool:
        return bool(parts.get("is_distilled"))

    def measure_autoencoder(self) -> None:
        config = self.vae.config
        self.factor = 2 * 2 ** (len(config.block_out_channels) - 1)
        self.latent_channels = 4 * config.latent_channels

    @property
    def autoencoder_factor(self) -> int:
        return self.factor // 2

    def moments(self, image: torch.Tensor) -> Moments:
        # The pipelines take the middle of the distribution and draw nothing.
        return _folded(self.vae.encode(image.to(self.vae.dtype), return_dict=False)[0].mode().to(torch.float32)), None

    def _statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of every latent channel, float32 (1, channels, 1, 1)."""
        norm = self.vae.bn
        mean, variance = (part.to(torch.float32).view(1, -1, 1, 1) for part in (norm.running_mean, norm.running_var))
        return mean, torch.sqrt(variance + self.vae.config.batch_norm_eps)

    def scaled(self, latents: torch.Tensor) -> torch.Tensor:
        mean, deviation = self._statistics()
        return (latents - mean) / deviation

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        mean, deviation = self._statistics()
        return self.vae.decode(_unfolded(latents * deviation + mean).to(self.vae.dtype), return_dict=False)[0]

    def spacing(self, width: int, height: int) -> Spacing | None:
        tokens = self.tokens(width, height)
        return lambda total: {"sigmas": np.linspace(1.0, 1 / total, total), "mu": shift_of(tokens, total)}

    def sees_canvas(self, task: Task) -> bool:
        return task.mask is not None

    def reference_pixels(self, picture: Pixels) -> Pixels:
        return fitted(picture, _LARGEST_REFERENCE, self.multiple)

    def condition(self, task: Task) -> Condition:
        positive = self._embed(whole_text(task.prompt), task)
        if task.guidance <= 1.0 or self.embeds_guidance or self.parts.get("is_distilled"):
            return positive
        return replace(positive, negative=self._embed(whole_text(task.negative), task))

    def _embed(self, text: str, task: Task) -> Condition:
        def compute() -> Condition:
            read, layers = (self._mistral, _MISTRAL_LAYERS) if self.is_mistral else (self._qwen, _QWEN_LAYERS)
            words = read(text)
            states = self.text_encoder(
                input_ids=words["input_ids"].to(self.device),
                attention_mask=words["attention_mask"].to(self.device),
                output_hidden_states=True,
                use_cache=False,
            ).hidden_states
            return Condition(torch.cat([states[layer] for layer in layers], dim=-1).to(self.dtype))

        return self.read_once(text, task, compute)

    def _qwen(self, text: str) -> Mapping[str, torch.Tensor]:
        said = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        words: Mapping[str, torch.Tensor] = self.tokenizer(
            said, padding="max_length", max_length=_TOKENS, truncation=True, return_tensors="pt"
        )
        return words

    def _mistral(self, text: str) -> Mapping[str, torch.Tensor]:
        said = [
            {"role": role, "content": [{"type": "text", "text": part}]}
            for role, part in (("system", SYSTEM_MESSAGE), ("user", text.replace("[IMG]", "")))
        ]
        words: Mapping[str, torch.Tensor] = self.tokenizer.apply_chat_template(
            [said],
            add_generation_prompt=False,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding="max_length",
            truncation=True,
            max_length=_TOKENS,
        )
        return words

    def predict(
        self,
        inputs: torch.Tensor,
        timestep: torch.Tensor,
        condition: Condition,
        guidance: float,
        added: Mapping[str, Any] | None = None,
    ) -> torch.Tensor:
        dtype = self.transformer.dtype
        shown = [inputs, *condition.references]
        tokens = torch.cat([_tokens(part) for part in shown], dim=1).to(dtype)
        places = torch.cat([_places(part, _APART * number) for number, part in enumerate(shown)]).to(self.device)
        scale = torch.full([1], guidance, dtype=torch.float32, device=self.device) if self.embeds_guidance else None
        height, width = inputs.shape[-2:]

        def call(words: torch.Tensor) -> torch.Tensor:
            count = torch.zeros(words.shape[1], 4, dtype=torch.int64)
            count[:, 3] = torch.arange(words.shape[1])
            out = self.transformer(
                hidden_states=tokens,
                timestep=timestep.expand(1).to(torch.float32) / 1000,
                guidance=scale,
                encoder_hidden_states=words.to(dtype),
                txt_ids=count.to(self.device),
                img_ids=places,
                return_dict=False,
                **(added or {}),
            )[0]
            return out[:, : height * width].to(torch.float32)

        found = call(condition.embeds)
        if condition.negative is not None:
            negative = call(condition.negative.embeds)
            found = negative + guidance * (found - negative)
        return found.transpose(1, 2).reshape(1, -1, height, width)


def shift_of(tokens: int, steps: int) -> float:
    """How far the noise levels move: linear in the tokens at 10 and at 200 steps, and between them in the steps.

    Both lines were fitted by the model's authors; beyond 4300 tokens the number of steps does not matter.
    """
    many = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return many
    few = 8.73809524e-05 * tokens + 1.89833333
    slope = (many - few) / 190.0
    return slope * steps + (many - 200.0 * slope)


def _tokens(latents: torch.Tensor) -> torch.Tensor:
    return latents.flatten(2).transpose(1, 2)


def _places(latents: torch.Tensor, first: int) -> torch.Tensor:
    """Picture, row, column and 0 of every token, (tokens, 4)."""
    height, width = latents.shape[-2:]
    return torch.cartesian_prod(torch.tensor([first]), torch.arange(height), torch.arange(width), torch.arange(1))


def _folded(latents: torch.Tensor) -> torch.Tensor:
    """(1, c, h, w) -> (1, 4 c, h/2, w/2)."""
    return torch.nn.functional.pixel_unshuffle(latents, 2)


def _unfolded(latents: torch.Tensor) -> torch.Tensor:
    """The inverse of `_folded`."""
    return torch.nn.functional.pixel_shuffle(latents, 2)
