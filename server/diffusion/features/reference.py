# SPDX-License-Identifier: GPL-3.0-or-later
"""Reference pictures: IP-Adapters let the UNet attend to what an image encoder sees in them.

Ye et al., "IP-Adapter", 2023. The processors of the attention layers are exchanged for one job and put back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import torch
from PIL import Image

from krita_sd.wire.errors import Code, WireError
from server.diffusion.features.control import acts, picture_hash
from server.diffusion.model import Condition, LoadedModel, bytes_to_device
from server.diffusion.sampling import Feature
from server.diffusion.schedules import Schedule
from server.diffusion.task import ControlLayer, Pixels
from server.diffusion.tiles import Tile

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the pictures that CLIP was trained on, per channel, 0..1 (Radford et al. 2021)."""


class References(Feature):
    """The reference pictures of one job. Raises WireError(model_unsupported) when an adapter does not fit."""

    def __init__(self, model: LoadedModel, schedule: Schedule, layers: Sequence[ControlLayer]) -> None:
        self._model: Any = model
        self._unet: Any = model.denoiser
        self._schedule = schedule
        self._layers = list(layers)
        for layer in layers:
            self._check(layer)
        names = getattr(self._unet, "attn_processors", ())
        wide = getattr(self._unet.config, "addition_embed_type", None) == "text_time"
        self._shares = [shares_of(names, layer.type, wide) for layer in layers]

    def _check(self, layer: ControlLayer) -> None:
        width = getattr(self._unet.config, "cross_attention_dim", None)
        places = sum(name.endswith("attn2.processor") for name in getattr(self._unet, "attn_processors", ()))
        tensors = layer.model.state["ip_adapter"]
        if tensors["1.to_k_ip.weight"].shape[1] != width or len(tensors) != 2 * places:
            raise _misfit(layer.model.name)

    def __enter__(self) -> References:
        unet = self._unet
        self._before = (unet.attn_processors, unet.encoder_hid_proj, unet.config.encoder_hid_dim_type)
        try:
            unet._load_ip_adapter_weights([layer.model.state for layer in self._layers])
        except (KeyError, ValueError, IndexError, RuntimeError) as error:
            # Tensors are missing or do not fit together; the library has changed half of the model by then.
            self._restore()
            raise _misfit(" and ".join(layer.model.name for layer in self._layers)) from error
        self._processors = [
            (one, [shares.get(name, 0.0) for shares in self._shares])
            for name, one in unet.attn_processors.items()
            if hasattr(one, "to_k_ip")
        ]
        unet.requires_grad_(False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        processors, projection, stated = self._before
        # The projection first: some have attention of their own, which would be counted.
        self._unet.encoder_hid_proj = projection
        self._unet.set_attn_processor(processors)
        self._unet.config.encoder_hid_dim_type = stated

    def before_model(self, index: int, inputs: torch.Tensor) -> torch.Tensor:
        weights = [layer.weight if acts(layer, index, self._schedule) else 0.0 for layer in self._layers]
        for processor, shares in self._processors:
            processor.scale = [weight * share for weight, share in zip(weights, shares)]
        return inputs

    def added(self, timestep: torch.Tensor, condition: Condition, tile: Tile | None = None) -> dict[str, Any]:
        """Keyword arguments for the UNet's call: what the encoders see, negative first where guidance runs a pair."""
        dtype = self._unet.dtype
        known = self._model.conditioning(condition, dtype).get("added_cond_kwargs", {})
        embeds = [self._embeds(layer, condition.is_pair).to(dtype) for layer in self._layers]
        return {"added_cond_kwargs": {**known, "image_embeds": embeds}}

    def _embeds(self, layer: ControlLayer, pair: bool) -> torch.Tensor:
        model = layer.model

        def seen() -> tuple[torch.Tensor, torch.Tensor]:
            encoder = model.encoder
            pixels = encoder_pixels(layer.image, encoder.config.image_size, encoder.device).to(encoder.dtype)
            if model.plain:
                embeds = encoder(pixels).image_embeds
                return embeds[None], torch.zeros_like(embeds)[None]
            inner = [encoder(one, output_hidden_states=True).hidden_states[-2] for one in (pixels, pixels * 0.0)]
            return inner[0][None], inner[1][None]

        positive, negative = model.maps.get(picture_hash(layer.image), seen)
        return torch.cat([negative, positive]) if pair else positive


def shares_of(names: Iterable[str], type: str, wide: bool) -> dict[str, float]:
    """How much each layer of words (processor's name) follows a picture: 0..1 by the type of the reference.

    What is where in a picture is decided in the deepest blocks on the way down, how it is painted elsewhere: in SDXL
    (`wide`) in the middle of the first block on the way up (Wang et al., "InstantStyle", 2024), in SD1 in all blocks
    that are not deep.
    """
    words = [name for name in names if name.endswith("attn2.processor")]
    if type not in ("style", "composition"):
        return dict.fromkeys(words, 1.0)
    deepest = max((name for name in words if name.startswith("down_blocks.")), key=_place, default="")
    last = [name for name in words if _place(name) == _place(deepest) and name.startswith("down_blocks.")]
    first_up = min((_place(name)[0] for name in words if name.startswith("up_blocks.")), default=0)
    if type == "composition" and wide:
        return dict.fromkeys(last, 1.0)
    block = f"down_blocks.{_place(deepest)[0]}." if deepest else ""
    if type == "composition":
        return {name: 1.0 if name in last else 0.25 for name in words if name.startswith(block)}
    if wide:
        return {name: 1.0 for name in words if name.startswith(f"up_blocks.{first_up}.attentions.1.")}
    return {name: 1.0 for name in words if not name.startswith((block, f"up_blocks.{first_up}."))}


def _place(name: str) -> tuple[int, ...]:
    """(block, attention) out of "down_blocks.2.attentions.1...."."""
    return tuple(int(part) for part in name.split(".")[:4] if part.isdigit())


def _misfit(name: str) -> WireError:
    return WireError(
        Code.MODEL_UNSUPPORTED,
        f"The IP-Adapter {name} does not fit this model; it was made for another kind.",
        "Choose one of this model's family.",
    )


def encoder_pixels(image: Pixels, side: int, device: torch.device) -> torch.Tensor:
    """RGB bytes of any size as CLIP's image encoder takes them: the middle square, float32 (1, 3, side, side)."""
    height, width = image.shape[:2]
    scale = side / min(height, width)
    size = (max(side, int(width * scale)), max(side, int(height * scale)))
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), np.uint8)
    top, left = (resized.shape[0] - side) // 2, (resized.shape[1] - side) // 2
    square = np.ascontiguousarray(resized[top : top + side, left : left + side])
    unit = bytes_to_device(square, device)[None].permute(0, 3, 1, 2).to(torch.float32) / 255.0
    mean, deviation = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (MEAN, DEVIATION))
    return (unit - mean) / deviation
