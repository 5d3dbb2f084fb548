# SPDX-License-Identifier: GPL-3.0-or-later
"""Redux: what an image encoder sees in a reference picture becomes words of Flux 1, behind those of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from krita_sd.wire.errors import Code, WireError
from server.diffusion.features.control import acts, picture_hash
from server.diffusion.model import Condition, LoadedModel
from server.diffusion.sampling import Feature
from server.diffusion.schedules import Schedule
from server.diffusion.task import ControlLayer
from server.diffusion.tiles import Tile


class ReduxWords(Feature):
    """The reference pictures of one job. Raises WireError(model_unsupported) when the words do not fit the model."""

    def __init__(self, model: LoadedModel, schedule: Schedule, layers: Sequence[ControlLayer]) -> None:
        self._schedule = schedule
        self._layers = list(layers)
        self._index = 0
        width = getattr(model.denoiser.config, "joint_attention_dim", None)
        for layer in layers:
            if not model.family.startswith("flux1") or layer.model.width != width:
                raise WireError(
                    Code.MODEL_UNSUPPORTED,
                    f"The Redux model {layer.model.name} does not fit this model; it was made for Flux 1.",
                    "Choose a Flux 1 model, or an IP-Adapter of this model's family.",
                )

    def before_model(self, index: int, inputs: torch.Tensor) -> torch.Tensor:
        self._index = index
        return inputs

    def told(self, condition: Condition, tile: Tile | None) -> Condition:
        """`condition` with the words for the pictures that act in this step; their weight is their length."""
        words = [condition.embeds]
        for layer in self._layers:
            if acts(layer, self._index, self._schedule):
                words.append(seen(layer).to(condition.embeds.dtype) * layer.weight)
        return replace(condition, embeds=torch.cat(words, dim=1))

    def added(self, timestep: torch.Tensor, condition: Condition, tile: Tile | None = None) -> dict[str, Any]:
        """Nothing: the words are in the condition."""
        return {}


def seen(layer: ControlLayer) -> torch.Tensor:
    """The words for a layer's picture, (1, tokens, width); found once and kept with the model."""
    model = layer.model

    def compute() -> torch.Tensor:
        side = model.encoder.config.image_size
        pixels = SiglipImageProcessorPil(size={"height": side, "width": side})(layer.image, return_tensors="pt")
        weight = next(model.encoder.parameters())
        states = model.encoder(pixels["pixel_values"].to(weight.device, weight.dtype)).last_hidden_state
        words: torch.Tensor = model.embedder(states).image_embeds
        return words

    found: torch.Tensor = model.maps.get(picture_hash(layer.image), compute)
    return found
