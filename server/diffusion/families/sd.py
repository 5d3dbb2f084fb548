# SPDX-License-Identifier: GPL-3.0-or-later
"""Stable Diffusion 1.x and 2.x: one UNet with cross attention, one CLIP text encoder, one KL autoencoder.

Epsilon and v-prediction; 4 channels, or 9 for inpainting models; guidance by a pair of predictions, or as an input of
the network in models distilled for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from krita_sd.geometry import NativeRange
from server.diffusion.checks import in_float32, is_finite, nan_output
from server.diffusion.features.lora import LoraWeights, fingerprint
from server.diffusion.features.preview import Previewer
from server.diffusion.model import Hole, LoadedModel, Recent, pixels_to_tensor
from server.diffusion.prompt import parse_prompt
from server.diffusion.sampling import Feature
from server.diffusion.task import Pixels, Task
from server.diffusion.text import encode_chunks, split_chunks

_CONDITIONS_KEPT = 16
_CANVASES_KEPT = 16  # half a megabyte each at 1024 x 1024; the previews' fit takes six


class StableDiffusion(LoadedModel):
    """A loaded SD1.x or SD2.x model; see LoadedModel for the interface."""

    def __init__(
        self,
        family: str,
        unet: Any,
        vae: Any,
        text_encoder: Any,
        tokenizer: Any,
        schedule_config: Mapping[str, Any],
        native: NativeRange,
        defaults: dict[str, Any],
        tiny: Any | None = None,
    ) -> None:
        self.family = family
        self.native = native
        self.defaults = defaults
        self.schedule_config = dict(schedule_config)
        self.unet = unet
        self.vae = vae
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.tiny = tiny
        self.device = unet.device
        self.dtype = unet.dtype
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.latent_channels = vae.config.latent_channels
        self.latent_scale = float(vae.config.scaling_factor)
        self.inpainting = unet.config.in_channels > self.latent_channels
        self.embeds_guidance = unet.config.time_cond_proj_dim is not None
        self.scales: Recent[torch.Tensor] = Recent(_CONDITIONS_KEPT)
        self.embeddings: Recent[torch.Tensor] = Recent(_CONDITIONS_KEPT)
        self.canvases: Recent[tuple[torch.Tensor, torch.Tensor]] = Recent(_CANVASES_KEPT)
        self.previewer = Previewer(self)

    @property
    def denoiser(self) -> Any:
        return self.unet

    @property
    def autoencoder(self) -> Any:
        return self.vae

    @property
    def tiny_decoder(self) -> Any | None:
        return self.tiny

    def condition(self, task: Task) -> torch.Tensor:
        positive = split_chunks(self.tokenizer, parse_prompt(task.prompt))
        if task.guidance <= 1.0 or self.embeds_guidance:
            return self._embed(positive, task)
        negative = split_chunks(self.tokenizer, parse_prompt(task.negative))
        while len(negative) < len(positive):
            negative.append(())
        while len(positive) < len(negative):
            positive.append(())
        return torch.cat([self._embed(negative, task), self._embed(positive, task)])

    def _embed(self, chunks: list[tuple[tuple[int, float], ...]], task: Task) -> torch.Tensor:
        def compute() -> torch.Tensor:
            out = encode_chunks(self.text_encoder, self.tokenizer, chunks, task.clip_skip)
            if not is_finite(out):
                with in_float32(self.text_encoder) as widened:
                    if widened:
                        out = encode_chunks(self.text_encoder, self.tokenizer, chunks, task.clip_skip)
                if not is_finite(out):
                    raise nan_output("reading the prompt")
            return out.to(self.dtype)

        return self.embeddings.get((tuple(chunks), task.clip_skip, fingerprint(task.loras)), compute)

    def predict(
        self, inputs: torch.Tensor, timestep: torch.Tensor, condition: torch.Tensor, guidance: float
    ) -> torch.Tensor:
        pair = len(condition) == 2
        dtype = self.unet.dtype  # float32 during a retry
        inputs = (torch.cat([inputs, inputs]) if pair else inputs).to(dtype)
        scale = self._scale(guidance).to(dtype) if self.embeds_guidance else None
        condition = condition.to(dtype)
        out = self.unet(inputs, timestep, condition, timestep_cond=scale, return_dict=False)[0]
        out = out.to(torch.float32)
        if not pair:
            return out
        negative, positive = out.chunk(2)
        return negative + guidance * (positive - negative)

    def _scale(self, guidance: float) -> torch.Tensor:
        """Guidance as an input of the network, for distilled models (LCM) that do it themselves: (1, width).

        The usual sinusoidal embedding, of 1000 (guidance - 1); float32 throughout, as it was trained with.
        """
        half = self.unet.config.time_cond_proj_dim // 2

        def compute() -> torch.Tensor:
            spacing = torch.log(torch.tensor(10000.0)) / (half - 1)
            angles = torch.tensor(guidance - 1.0) * 1000.0 * torch.exp(torch.arange(half) * -spacing)
            return torch.cat([torch.sin(angles), torch.cos(angles)])[None].to(self.device)

        return self.scales.get(guidance, compute)

    def encode_pixels(self, pixels: Pixels, hole: Hole | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        digest = hashlib.blake2b(pixels.tobytes(), digest_size=16)
        digest.update(b"" if hole is None else hole.tobytes())
        return self.canvases.get((pixels.shape, digest.digest()), lambda: self._encode(pixels, hole))

    def _encode(self, pixels: Pixels, hole: Hole | None) -> tuple[torch.Tensor, torch.Tensor]:
        image = pixels_to_tensor(pixels, self.device)
        if hole is not None:
            image = image * torch.from_numpy(~hole).to(self.device)

        def moments() -> tuple[torch.Tensor, torch.Tensor]:
            spread = self.vae.encode(image.to(self.vae.dtype), return_dict=False)[0]
            return spread.mean.to(torch.float32), spread.std.to(torch.float32)

        mean, deviation = moments()
        if not (is_finite(mean) and is_finite(deviation)):
            with in_float32(self.vae) as widened:
                if widened:
                    mean, deviation = moments()
            if not (is_finite(mean) and is_finite(deviation)):
                raise nan_output("reading the picture")
        return mean, deviation

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        latents = latents / self.latent_scale
        return self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0]

    def weight_features(self, task: Task) -> list[Feature]:
        return [LoraWeights(self.unet, self.text_encoder, task.loras)] if task.loras else []

    def unload(self) -> None:
        self.embeddings.clear()
        self.canvases.clear()
        self.unet = self.vae = self.text_encoder = self.tiny = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
