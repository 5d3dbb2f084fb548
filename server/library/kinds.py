# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies beside the checkpoints: LoRAs, control models, adapters, embeddings, VAEs, upscalers, text encoders.

Told by tensor names and shapes, like the families themselves. The width of the words that a layer reads tells SD1
(768), SD2 (1024) and SDXL (2048) apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .upscalers import network_of

Shapes = Mapping[str, tuple[int, ...]]

WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}

_LORA = re.compile(r"[._]lora(_|\.|$)|^lora_|\.hada_w|\.lokr_w|\.oft_|\.dora_scale$")
_QKV = re.compile(r"layers[._]\d+[._]attention[._](qkv|out)\.(lora_A|lora_down)")
_WORDS = re.compile(r"(attn2[._]to_k|attn2_to_k|attn2\.processor\.to_k_lora)")


def other_kind(shapes: Shapes) -> tuple[str, str] | None:
    """(kind, family) of a file that is no checkpoint; None when it may be one. Family "" fits several or is open."""
    for kind, find in (
        ("lora", _lora),
        ("ip_adapter", _ip_adapter),
        ("redux", _redux),
        ("controlnet", _controlnet),
        ("t2i_adapter", _t2i_adapter),
        ("embedding", _embedding),
    ):
        family = find(shapes)
        if family is not None:
            return kind, family
    return None


def part_kind(shapes: Shapes) -> tuple[str, str] | None:
    """(kind, family) of a single part of a model, or an upscaler; asked after the checkpoints."""
    for kind, find in (("upscaler", _upscaler), ("vae", _vae), ("text_encoder", _text_encoder)):
        family = find(shapes)
        if family is not None:
            return kind, family
    return None


def _any(names: Iterable[str], *parts: str) -> bool:
    return any(part in name for name in names for part in parts)


def _lora(shapes: Shapes) -> str | None:
    if not any(_LORA.search(name) for name in shapes):
        return None
    if _any(shapes, "to_qkv_mlp_proj", "double_stream_modulation"):
        return "flux2"
    if _any(shapes, "single_transformer_blocks", "double_blocks", "single_blocks"):
        return "chroma" if _any(shapes, "distilled_guidance_layer") else "flux1"
    if _any(shapes, "joint_blocks", "ff_context"):
        return "sd3"
    if _any(shapes, "img_mlp", "txt_mlp", "img_mod", "txt_mod"):
        return "qwen-image"
    if _any(shapes, "noise_refiner", "context_refiner", "layers_0_attention_to_", "layers.0.attention.to_"):
        return "z-image"
    for name, shape in shapes.items():
        if _QKV.search(name) and shape[-1] == 3840:  # Lumina's, of the same build, are narrower
            return "z-image"
    if _any(shapes, "lora_te2_", "text_encoder_2"):
        return "sdxl"
    for name, shape in shapes.items():
        if _WORDS.search(name) and _any((name,), "down", "lora_A", "hada_w1_b") and len(shape) == 2:
            return WIDTHS.get(shape[1], "")
    return ""


def _ip_adapter(shapes: Shapes) -> str | None:
    if _any(shapes, "ip_adapter_double_stream", "ip_adapter_single_stream"):
        return "flux1"
    for name, shape in shapes.items():
        if "to_k_ip.weight" in name and len(shape) == 2:
            return WIDTHS.get(shape[1], "")
    return None


def _redux(shapes: Shapes) -> str | None:
    return "flux1" if {"redux_up.weight", "redux_down.weight"} <= set(shapes) else None


def _controlnet(shapes: Shapes) -> str | None:
    if _any(shapes, "control_layers.", "control_all_x_embedder"):
        return "z-image"
    if any(name.startswith("controlnet_blocks.") for name in shapes):
        if _any(shapes, "txt_norm."):
            return "qwen-image"
        return "sd3" if _any(shapes, "pos_embed_input", "pos_embed.") else "flux1"
    if any(name.startswith("lllite_") for name in shapes):
        return "lllite"
    marks = ("controlnet_cond_embedding", "controlnet_down_blocks")
    if not _any(shapes, *marks) and not any(name.startswith("control_model.") for name in shapes):
        return None
    for name, shape in shapes.items():
        if name.endswith("attn2.to_k.weight") and len(shape) == 2:
            return WIDTHS.get(shape[1], "")
    return ""


def _t2i_adapter(shapes: Shapes) -> str | None:
    for prefix in ("", "adapter."):
        entry = shapes.get(f"{prefix}conv_in.weight")
        original = f"{prefix}body.0.block1.weight" in shapes
        if entry is not None and len(entry) == 4 and (original or f"{prefix}body.0.resnets.0.block1.weight" in shapes):
            # SDXL's adapters shrink pictures by 16 into channels, the others by 8.
            return {192: "sd1", 64: "sd1", 768: "sdxl", 256: "sdxl"}.get(entry[1], "")
    return None


def _embedding(shapes: Shapes) -> str | None:
    if "clip_g" in shapes and "clip_l" in shapes:
        return "sdxl"
    for name in ("emb_params", "clip_l", "string_to_param.*"):
        if name in shapes:
            return WIDTHS.get(shapes[name][-1] if shapes[name] else 0, "")
    if len(shapes) == 1:
        ((_, shape),) = shapes.items()
        if len(shape) in (1, 2) and shape[-1] in (768, 1024) and (len(shape) == 1 or shape[0] <= 75):
            return WIDTHS[shape[-1]]
    return None


@dataclass(frozen=True)
class Inversion:
    """A textual inversion as prompts call it: its own token where the file states one, and its number of vectors."""

    token: str = ""
    vectors: int = 1


def inversion_of(shapes: Shapes) -> Inversion:
    """What a file of kind "embedding" says about itself."""
    for name in ("emb_params", "clip_l", "string_to_param.*"):
        if name in shapes:
            return Inversion("", shapes[name][0] if len(shapes[name]) == 2 else 1)
    name, shape = next(iter(shapes.items()))
    return Inversion(name.strip("<>"), shape[0] if len(shape) == 2 else 1)


def _upscaler(shapes: Shapes) -> str | None:
    return "" if network_of(shapes) is not None else None


def _vae(shapes: Shapes) -> str | None:
    for prefix in ("", "first_stage_model.", "vae."):
        entry = shapes.get(f"{prefix}decoder.conv_in.weight")
        if entry is not None:
            return {16: "flux1", 32: "flux2"}.get(entry[1] if len(entry) > 1 else 0, "")
        if len(shapes.get(f"{prefix}decoder.conv1.weight", ())) == 5:
            return "qwen-image"
    return None


def _text_encoder(shapes: Shapes) -> str | None:
    names = ("text_model.encoder.layers.0.", "encoder.block.0.layer.0.SelfAttention.", "model.layers.0.self_attn.")
    return "" if _any(shapes, *names, "transformer.resblocks.0.attn.in_proj_weight") else None
