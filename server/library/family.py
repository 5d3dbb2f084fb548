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

from krita_sd.geometry import NATIVE, NativeRange, stated_native

from .header import Header, corrupt

SUPPORTED = frozenset({"sd1", "sd2", "sdxl"})
"""Families of which the engine has a module."""

TITLES = {
    "sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x", "sdxl": "Stable Diffusion XL",
    "sdxl-refiner": "the SDXL refiner", "sd3": "Stable Diffusion 3", "flux1": "Flux 1", "flux2": "Flux 2",
    "z-image": "Z-Image", "qwen-image": "Qwen-Image", "chroma": "Chroma",
}  # fmt: skip

MAX_CONFIG = 1024 * 1024
"""Bytes of a JSON configuration file."""


@dataclass(frozen=True)
class Detected:
    """kind: checkpoint | lora | vae | controlnet | embedding | component | unknown. channels: of the UNet's input."""

    kind: str
    family: str = ""
    channels: int = 4

    @property
    def inpainting(self) -> bool:
        return self.channels == 9


UNKNOWN = Detected("unknown")
_LDM = "model.diffusion_model."


def detect(header: Header) -> Detected:
    """Classify a single file by its header."""
    shapes = header.shapes
    if any(".lora_" in name or name.startswith("lora_") or ".hada_" in name for name in shapes):
        return Detected("lora", _lora_family(shapes))
    if "emb_params" in shapes or "clip_l" in shapes or "string_to_param.*" in shapes:
        return Detected("embedding")
    if any(name.startswith("control_model.") or "controlnet_cond_embedding" in name for name in shapes):
        return Detected("controlnet")
    conv_in = shapes.get(_LDM + "input_blocks.0.0.weight")
    if conv_in is not None and len(conv_in) == 4:
        return Detected("checkpoint", _unet_family(shapes), conv_in[1])
    transformer = _transformer_family(shapes)
    if transformer:
        return Detected("checkpoint", transformer)
    if "decoder.conv_in.weight" in shapes or "first_stage_model.decoder.conv_in.weight" in shapes:
        return Detected("vae")
    if "conv_in.weight" in shapes or any(name.startswith("text_model.") for name in shapes):
        return Detected("component")
    return UNKNOWN


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


def _transformer_family(shapes: dict[str, tuple[int, ...]]) -> str:
    prefixes = {"joint_blocks": "sd3", "double_stream_modulation_img": "flux2", "distilled_guidance_layer": "chroma"}
    names = [name.removeprefix(_LDM) for name in shapes]
    for prefix, family in prefixes.items():
        if any(name.startswith(prefix) for name in names):
            return family
    if any(name.startswith("double_blocks.0.") for name in names):
        return "flux1"
    if any(name.startswith("noise_refiner.0.") for name in names):
        return "z-image"
    if any(name.startswith("transformer_blocks.0.attn.add_k_proj") for name in names):
        return "qwen-image"
    return ""


def _lora_family(shapes: dict[str, tuple[int, ...]]) -> str:
    if any("double_blocks" in name or "single_transformer_blocks" in name for name in shapes):
        return "flux1"
    if any(name.startswith("lora_te2_") or "text_encoder_2" in name for name in shapes):
        return "sdxl"
    for name, shape in shapes.items():
        if "attn2" in name and "to_k" in name and ("down" in name or "lora_A" in name) and len(shape) == 2:
            return {768: "sd1", 1024: "sd2", 2048: "sdxl"}.get(shape[1], "")
    return ""


PIPELINES = {
    "StableDiffusionPipeline": "", "StableDiffusionImg2ImgPipeline": "", "StableDiffusionInpaintPipeline": "",
    "StableDiffusionXLPipeline": "sdxl", "StableDiffusionXLInpaintPipeline": "sdxl",
    "StableDiffusionXLImg2ImgPipeline": "sdxl", "StableDiffusion3Pipeline": "sd3", "FluxPipeline": "flux1",
    "FluxFillPipeline": "flux1", "FluxKontextPipeline": "flux1", "Flux2Pipeline": "flux2",
    "Flux2KleinPipeline": "flux2", "ZImagePipeline": "z-image", "QwenImagePipeline": "qwen-image",
    "QwenImageEditPipeline": "qwen-image", "ChromaPipeline": "chroma",
}  # fmt: skip
"""diffusers pipeline classes; "" is told apart by the UNet's configuration."""


def detect_folder(folder: Path) -> Detected:
    """Classify a diffusers folder (one with model_index.json). Raises WireError(model_corrupt) on damaged JSON."""
    name = read_json(folder / "model_index.json").get("_class_name")
    family = PIPELINES.get(name) if isinstance(name, str) else None
    if family is None:
        return Detected("checkpoint", "")
    if family:
        return Detected("checkpoint", family)
    unet = read_json(folder / "unet" / "config.json")
    channels = unet.get("in_channels", 4)
    # Widths vary between small and fine-tuned models; linear projections came with SD 2.x.
    second = unet.get("use_linear_projection") is True or unet.get("cross_attention_dim") == 1024
    return Detected("checkpoint", "sd2" if second else "sd1", channels if isinstance(channels, int) else 4)


def native_of(folder: Path, family: str, settings: dict[str, Any]) -> NativeRange | None:
    """The native sizes of a diffusers folder: what its settings (krita_sd.json) say, else its UNet's `sample_size`
    times the VAE's factor, half as much again for the largest; None when neither is stated."""
    sample = read_json(folder / "unet" / "config.json").get("sample_size")
    widths = read_json(folder / "vae" / "config.json").get("block_out_channels")
    factor = 2 ** (len(widths) - 1) if isinstance(widths, list) and widths else 8
    given = settings.get("native")
    if family not in NATIVE:
        return None
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
