# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of families: one module and one row each. What each can do is `server.library.capabilities`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Family:
    """One row. maker: class of the loaded model, "module:name". parts: classes of a diffusers folder's parts with
    weights, "library:class". tokenizers: their kinds, by part. layout: of single files; config: what those lack.
    """

    title: str
    maker: str
    parts: Mapping[str, str]
    tokenizers: Mapping[str, str] = field(default_factory=dict)
    layout: str = ""
    config: str = ""


_HERE = "server.diffusion.families."
_UNET = {"unet": "diffusers:UNet2DConditionModel", "vae": "diffusers:AutoencoderKL"}
_CLIP = "transformers:CLIPTextModel"
_CLIP_G = "transformers:CLIPTextModelWithProjection"

FAMILIES: dict[str, Family] = {
    "sd1": Family(
        "Stable Diffusion 1.x", f"{_HERE}sd:StableDiffusion", {**_UNET, "text_encoder": _CLIP},
        {"tokenizer": "clip"}, "clip", "sd1.json",
    ),
    "sd2": Family(
        "Stable Diffusion 2.x", f"{_HERE}sd:StableDiffusion", {**_UNET, "text_encoder": _CLIP},
        {"tokenizer": "clip"}, "openclip", "sd2.json",
    ),
    "sdxl": Family(
        "Stable Diffusion XL", f"{_HERE}sdxl:StableDiffusionXL",
        {**_UNET, "text_encoder": _CLIP, "text_encoder_2": _CLIP_G},
        {"tokenizer": "clip", "tokenizer_2": "clip"}, "xl", "sdxl.json",
    ),
    "flux1": Family(
        "Flux 1", f"{_HERE}flux1:Flux1",
        {"transformer": "diffusers:FluxTransformer2DModel", "vae": "diffusers:AutoencoderKL",
         "text_encoder": _CLIP, "text_encoder_2": "transformers:T5EncoderModel"},
        {"tokenizer": "clip", "tokenizer_2": "any"},
    ),
}  # fmt: skip
