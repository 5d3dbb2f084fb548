# SPDX-License-Identifier: GPL-3.0-or-later
"""Which architecture a file or folder holds: by tensor names and shapes, or by a folder's own configuration.

Never by file name: names lie. Families that the engine cannot run yet are named all the same, so that the painter
reads "SDXL is not supported yet" instead of "unknown file".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from krita_sd.geometry import LARGE_NATIVE, NATIVE, NativeRange, stated_native

from .header import Header, corrupt
from .kinds import other_kind, part_kind

TITLES = {
    "sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x", "sdxl": "Stable Diffusion XL",
    "sdxl-refiner": "the SDXL refiner", "sd3": "Stable Diffusion 3", "flux1": "Flux 1",
    "flux1-kontext": "Flux 1 Kontext", "flux2": "Flux 2", "qwen-image-edit": "Qwen-Image Edit",
    "z-image": "Z-Image", "qwen-image": "Qwen-Image", "chroma": "Chroma",
}  # fmt: skip

MAX_CONFIG = 1024 * 1024
"""Bytes of a JSON configuration file."""


INPAINTING_CHANNELS = frozenset({9, 33, 384})
"""Input channels of the models with mask channels: the UNets, SD3, and Flux Fill's tokens."""


PLAIN_CHANNELS = frozenset({4, 16, 64})
"""Input channels of the models without: latents of 4 or 16 channels, and tokens of 2 x 2 cells."""


@dataclass(frozen=True)
class Detected:
    """kind: checkpoint | lora | vae | controlnet | t2i_adapter | ip_adapter | redux | embedding | upscaler |
    text_encoder | component | unknown. channels: of the denoiser's input."""

    kind: str
    family: str = ""
    channels: int = 4

    @property
    def inpainting(self) -> bool:
        return self.channels in INPAINTING_CHANNELS


UNKNOWN = Detected("unknown")
_LDM = "model.diffusion_model."


def detect(header: Header) -> Detected:
    """Classify a single file by its header."""
    shapes = header.shapes
    other = other_kind(shapes)
    if other is not None:
        return Detected(*other)
    conv_in = shapes.get(_LDM + "input_blocks.0.0.weight")
    if conv_in is not None and len(conv_in) == 4:
        return Detected("checkpoint", _unet_family(shapes), conv_in[1])
    family, channels = _transformer_family(shapes)
    if family:
        return Detected("checkpoint", family, channels)
    part = part_kind(shapes)
    if part is not None:
        return Detected(*part)
    if "conv_in.weight" in shapes or any(name.startswith(_DIFFUSERS_PARTS) for name in shapes):
        return Detected("component")
    return UNKNOWN


_DIFFUSERS_PARTS = ("transformer_blocks.0.", "single_transformer_blocks.0.", "down_blocks.0.")


def _unet_family(shapes: dict[str, tuple[int, ...]]) -> str:
    label = shapes.get(_LDM + "label_emb.0.0.weight")
    if label is not None:
        return "sdxl-refiner" if label[-1] == 2560 else "sdxl"
    if any(name.startswith("conditioner.embedders.") for name in shapes):
        return "sdxl"
    # The text encoder decides: OpenCLIP's layout is SD 2.x, transformers' is SD 1.x; the width only where both lack.
    if any(name.startswith("cond_stage_model.model.") for name in shapes):
        return "sd2"
    if any(name.startswith("cond_stage_model.transformer.") for name in shapes):
        return "sd1"
    widths = [shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight") and len(shape) == 2]
    return {768: "sd1", 1024: "sd2", 2048: "sdxl"}.get(widths[0] if widths else 0, "")


def _transformer_family(shapes: dict[str, tuple[int, ...]]) -> tuple[str, int]:
    """(family, input channels) of the transformers in the layout of their authors; "" for parts in diffusers' names."""
    bare = {name.removeprefix(_LDM).removeprefix("diffusion_model."): shape for name, shape in shapes.items()}
    channels = _width(bare, "img_in.weight", 64)

    def has(prefix: str) -> bool:
        return any(name.startswith(prefix) for name in bare)

    if has("joint_blocks.0."):
        return "sd3", bare.get("x_embedder.proj.weight", (0, 4))[1]
    if has("double_stream_modulation_img."):
        return "flux2", _width(bare, "img_in.weight", 128) // 2  # counted as the others', whose tokens are half as wide
    if has("distilled_guidance_layer."):
        return "chroma", channels
    if has("double_blocks.0.img_") and not has("txt_in.individual_token_refiner."):  # Hunyuan's have that
        return "flux1", channels
    wide = _width(bare, "cap_embedder.1.weight", 0, axis=0) == 3840  # Lumina's, of the same build, are narrower
    if has("noise_refiner.0.") and (has("cap_pad_token") or wide):
        return "z-image", 4
    if has("transformer_blocks.0.attn.add_k_proj.") and has("txt_norm."):
        return "qwen-image", channels
    return "", 4


def _width(shapes: dict[str, tuple[int, ...]], name: str, fallback: int, axis: int = 1) -> int:
    shape = shapes.get(name, ())
    return shape[axis] if len(shape) == 2 else fallback


PIPELINES = {
    "StableDiffusionPipeline": "", "StableDiffusionImg2ImgPipeline": "", "StableDiffusionInpaintPipeline": "",
    "StableDiffusionXLPipeline": "sdxl", "StableDiffusionXLInpaintPipeline": "sdxl",
    "StableDiffusionXLImg2ImgPipeline": "sdxl", "StableDiffusion3Pipeline": "sd3",
    "StableDiffusion3Img2ImgPipeline": "sd3", "StableDiffusion3InpaintPipeline": "sd3", "FluxPipeline": "flux1",
    "FluxImg2ImgPipeline": "flux1", "FluxInpaintPipeline": "flux1", "FluxFillPipeline": "flux1",
    "FluxKontextPipeline": "flux1-kontext", "FluxKontextInpaintPipeline": "flux1-kontext", "Flux2Pipeline": "flux2",
    "Flux2KleinPipeline": "flux2", "Flux2KleinInpaintPipeline": "flux2",
    "ZImagePipeline": "z-image", "ZImageImg2ImgPipeline": "z-image", "QwenImagePipeline": "qwen-image",
    "QwenImageImg2ImgPipeline": "qwen-image", "QwenImageInpaintPipeline": "qwen-image",
    "QwenImageEditPipeline": "qwen-image-edit", "QwenImageEditPlusPipeline": "qwen-image-edit",
    "QwenImageEditInpaintPipeline": "qwen-image-edit",
    "ChromaPipeline": "chroma", "ChromaImg2ImgPipeline": "chroma",
}  # fmt: skip
"""diffusers pipeline classes; "" is told apart by the UNet's configuration."""


def detect_folder(folder: Path) -> Detected:
    """Classify a diffusers folder (one with model_index.json). Raises WireError(model_corrupt) on damaged JSON."""
    name = read_json(folder / "model_index.json").get("_class_name")
    if name == "FluxPriorReduxPipeline":
        return Detected("redux", "flux1")
    family = PIPELINES.get(name) if isinstance(name, str) else None
    if family is None:
        return Detected("checkpoint", "")
    if family:
        part = "unet" if family == "sdxl" else "transformer"
        config = read_json(folder / part / "config.json") if (folder / part / "config.json").is_file() else {}
        channels = config.get("in_channels", 4)
        channels = channels if isinstance(channels, int) else 4
        return Detected("checkpoint", family, channels // 2 if family == "flux2" else channels)
    unet = read_json(folder / "unet" / "config.json")
    channels = unet.get("in_channels", 4)
    # Widths vary between small and fine-tuned models; linear projections came with SD 2.x.
    second = unet.get("use_linear_projection") is True or unet.get("cross_attention_dim") == 1024
    return Detected("checkpoint", "sd2" if second else "sd1", channels if isinstance(channels, int) else 4)


def is_distilled(folder: Path, family: str) -> bool:
    """Whether a diffusers folder holds a model for a few steps without guidance: Flux 1 schnell, distilled Klein."""
    if family == "flux1":
        config = folder / "transformer" / "config.json"
        return config.is_file() and read_json(config).get("guidance_embeds") is False
    return family == "flux2" and read_json(folder / "model_index.json").get("is_distilled") is True


def native_of(folder: Path, family: str, settings: dict[str, Any]) -> NativeRange:
    """The native sizes of a diffusers folder: what its settings (krita_sd.json) say, else its UNet's `sample_size`
    times the VAE's factor, half as much again for the largest, else the family's."""
    if family not in NATIVE:
        return LARGE_NATIVE
    unet = folder / "unet" / "config.json"
    sample = read_json(unet).get("sample_size") if unet.is_file() else None
    widths = read_json(folder / "vae" / "config.json").get("block_out_channels")
    factor = 2 ** (len(widths) - 1) if isinstance(widths, list) and widths else 8
    given = settings.get("native")
    size = sample if isinstance(sample, int) else None
    second_pass = settings.get("second_pass", True) is True
    try:
        return stated_native(family, size, factor, given if isinstance(given, dict) else None, second_pass)
    except ValueError:
        # Loading refuses such a folder in a sentence; listing it must not fail.
        return stated_native(family, size, factor, None, second_pass)


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object of at most 1 MiB. Raises WireError(model_corrupt)."""
    name = f"{path.parent.name}/{path.name}"
    try:
        with open(path, "rb") as stream:
            raw = stream.read(MAX_CONFIG + 1)
        if len(raw) > MAX_CONFIG:
            raise corrupt(name, "is too large for a configuration file")
        value = json.loads(raw.decode("utf-8"))
    except FileNotFoundError:
        raise corrupt(name, "is missing") from None
    except (OSError, UnicodeDecodeError, ValueError, RecursionError):
        raise corrupt(name, "cannot be read") from None
    if not isinstance(value, dict):
        raise corrupt(name, "cannot be read")
    return value
