# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of families: one module and one row each. What each can do is `server.library.capabilities`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Family:
    """One row. maker: class of the loaded model, "module:name". parts: classes of a diffusers folder's parts with
    weights, "library:class" or "library:class|class". tokenizers: their kinds, by part. optional: parts that a folder
    may lack. layout: of single files ("" when only folders can be loaded); config: what those lack. image_reader:
    folder of the settings by which a text encoder sees pictures.
    """

    title: str
    maker: str
    parts: Mapping[str, str]
    tokenizers: Mapping[str, str] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    layout: str = ""
    config: str = ""
    image_reader: str = ""


_HERE = "server.diffusion.families."
_UNET = {"unet": "diffusers:UNet2DConditionModel", "vae": "diffusers:AutoencoderKL"}
_CLIP = "transformers:CLIPTextModel"
_CLIP_G = "transformers:CLIPTextModelWithProjection"
_T5 = "transformers:T5EncoderModel"

FAMILIES: dict[str, Family] = {
    "sd1": Family(
        "Stable Diffusion 1.x", f"{_HERE}sd:StableDiffusion", {**_UNET, "text_encoder": _CLIP},
        {"tokenizer": "clip"}, layout="clip", config="sd1.json",
    ),
    "sd2": Family(
        "Stable Diffusion 2.x", f"{_HERE}sd:StableDiffusion", {**_UNET, "text_encoder": _CLIP},
        {"tokenizer": "clip"}, layout="openclip", config="sd2.json",
    ),
    "sdxl": Family(
        "Stable Diffusion XL", f"{_HERE}sdxl:StableDiffusionXL",
        {**_UNET, "text_encoder": _CLIP, "text_encoder_2": _CLIP_G},
        {"tokenizer": "clip", "tokenizer_2": "clip"}, layout="xl", config="sdxl.json",
    ),
    "flux1": Family(
        "Flux 1", f"{_HERE}flux1:Flux1",
        {"transformer": "diffusers:FluxTransformer2DModel", "vae": "diffusers:AutoencoderKL",
         "text_encoder": _CLIP, "text_encoder_2": _T5},
        {"tokenizer": "clip", "tokenizer_2": "any"}, layout="original",
    ),
    "flux1-kontext": Family(
        "Flux 1 Kontext", f"{_HERE}kontext:Kontext",
        {"transformer": "diffusers:FluxTransformer2DModel", "vae": "diffusers:AutoencoderKL",
         "text_encoder": _CLIP, "text_encoder_2": _T5},
        {"tokenizer": "clip", "tokenizer_2": "any"}, layout="original",
    ),
    "sd3": Family(
        "Stable Diffusion 3", f"{_HERE}sd3:StableDiffusion3",
        {"transformer": "diffusers:SD3Transformer2DModel", "vae": "diffusers:AutoencoderKL",
         "text_encoder": _CLIP_G, "text_encoder_2": _CLIP_G, "text_encoder_3": _T5},
        {"tokenizer": "clip", "tokenizer_2": "clip", "tokenizer_3": "any"},
        optional=("text_encoder_3", "tokenizer_3"), layout="original",
    ),
    "chroma": Family(
        "Chroma", f"{_HERE}chroma:Chroma",
        {"transformer": "diffusers:ChromaTransformer2DModel", "vae": "diffusers:AutoencoderKL", "text_encoder": _T5},
        {"tokenizer": "any"}, layout="original",
    ),
    "flux2": Family(
        "Flux 2", f"{_HERE}flux2:Flux2",
        {"transformer": "diffusers:Flux2Transformer2DModel", "vae": "diffusers:AutoencoderKLFlux2",
         "text_encoder": "transformers:Qwen3ForCausalLM|Mistral3ForConditionalGeneration"},
        {"tokenizer": "any"}, layout="original",
    ),
    "z-image": Family(
        "Z-Image", f"{_HERE}z_image:ZImage",
        {"transformer": "diffusers:ZImageTransformer2DModel", "vae": "diffusers:AutoencoderKL",
         "text_encoder": "transformers:Qwen3Model"},
        {"tokenizer": "any"}, layout="original",
    ),
    "qwen-image": Family(
        "Qwen-Image", f"{_HERE}qwen_image:QwenImage",
        {"transformer": "diffusers:QwenImageTransformer2DModel", "vae": "diffusers:AutoencoderKLQwenImage",
         "text_encoder": "transformers:Qwen2_5_VLForConditionalGeneration"},
        {"tokenizer": "any"}, layout="original",
    ),
    "qwen-image-edit": Family(
        "Qwen-Image Edit", f"{_HERE}qwen_edit:QwenImageEdit",
        {"transformer": "diffusers:QwenImageTransformer2DModel", "vae": "diffusers:AutoencoderKLQwenImage",
         "text_encoder": "transformers:Qwen2_5_VLForConditionalGeneration"},
        {"tokenizer": "any"}, layout="original", image_reader="processor",
    ),
}  # fmt: skip
