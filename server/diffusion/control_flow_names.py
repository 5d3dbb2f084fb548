# SPDX-License-Identifier: GPL-3.0-or-later
"""Single files of ControlNets for transformers, in diffusers' names: configurations read off the shapes.

Pure functions on names and shapes; no torch. A file that does not have the layout raises KeyError, ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]

_HEAD = 64  # of SD3, where no norm shows it
_LAYERS, _REFINERS = 30, (0, 1)  # of Z-Image
_SEEN = "control_all_x_embedder.2-1.weight"
REFINER = "control_noise_refiner."
REFINER_ENTRY = f"{REFINER}0.before_proj.weight"
"""Of a ControlNet of Z-Image. Version 2.0 was trained without its refiner, and its files have zeros there."""


def is_flow_net(shapes: Shapes) -> bool:
    """Whether these are the tensors of a ControlNet between the blocks of a transformer."""
    return "controlnet_blocks.0.weight" in shapes or _SEEN in shapes


def flow_net(shapes: Shapes) -> tuple[str, dict[str, Any]]:
    """(kind, diffusers config) of such a ControlNet."""
    if _SEEN in shapes:
        return "z_image_net", _z_image(shapes)
    if "txt_norm.weight" in shapes:
        return "qwen_net", _qwen(shapes)
    if "pos_embed_input.proj.weight" in shapes:
        return "sd3_net", _sd3(shapes)
    return "flux_net", _flux(shapes)


def _flux(shapes: Shapes) -> dict[str, Any]:
    width, channels = shapes["x_embedder.weight"]
    double = _count(shapes, "transformer_blocks.{}.norm1.linear.weight")
    single = _count(shapes, "single_transformer_blocks.{}.norm.linear.weight")
    home = "transformer_blocks.0." if double else "single_transformer_blocks.0."
    head = shapes[home + "attn.norm_q.weight"][0]
    hint = shapes.get("input_hint_block.conv_out.weight", (0,))[0]
    modes = shapes.get("controlnet_mode_embedder.weight", (None,))[0]
    return {
        "patch_size": math.isqrt(channels // hint) if hint else 1,
        "in_channels": channels,
        "num_layers": double,
        "num_single_layers": single,
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shapes["context_embedder.weight"][1],
        "pooled_projection_dim": shapes["time_text_embed.text_embedder.linear_1.weight"][1],
        "guidance_embeds": "time_text_embed.guidance_embedder.linear_1.weight" in shapes,
        "axes_dims_rope": _axes(head),
        "num_mode": modes,
        "conditioning_embedding_channels": hint or None,
    }


def _sd3(shapes: Shapes) -> dict[str, Any]:
    width, seen, patch, _ = shapes["pos_embed_input.proj.weight"]
    places = shapes.get("pos_embed.pos_embed")
    channels = shapes["pos_embed.proj.weight"][1] if places else 16
    words = shapes.get("context_embedder.weight", (width, None))
    layers = _count(shapes, "controlnet_blocks.{}.weight")
    normed = shapes.get("transformer_blocks.0.attn.norm_q.weight")
    head = normed[0] if normed else min(_HEAD, width)
    config = {
        "patch_size": patch,
        "in_channels": channels,
        "num_layers": layers,
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": words[1],
        "caption_projection_dim": words[0],
        "pooled_projection_dim": shapes["time_text_embed.text_embedder.linear_1.weight"][1],
        "out_channels": channels,
        "extra_conditioning_channels": seen - channels,
        "dual_attention_layers": [
            index for index in range(layers) if f"transformer_blocks.{index}.attn2.to_q.weight" in shapes
        ],
        "qk_norm": "rms_norm" if normed else None,
        "use_pos_embed": places is not None,
        # The first ones, for 3.0 (no norms, a table of places of their own), know no pooled words.
        "force_zeros_for_pooled_projection": places is not None and normed is None,
    }
    return {**config, "pos_embed_max_size": math.isqrt(places[1])} if places else config


def _qwen(shapes: Shapes) -> dict[str, Any]:
    width, channels = shapes["img_in.weight"]
    head = shapes["transformer_blocks.0.attn.norm_q.weight"][0]
    return {
        "in_channels": channels,
        "num_layers": _count(shapes, "transformer_blocks.{}.img_mod.1.weight"),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": shapes["txt_norm.weight"][0],
        "axes_dims_rope": _axes(head),
        "extra_condition_channels": shapes["controlnet_x_embedder.weight"][1] - channels,
    }


def _z_image(shapes: Shapes) -> dict[str, Any]:
    width, channels = shapes[_SEEN]
    layers = _count(shapes, "control_layers.{}.after_proj.weight")
    head = shapes["control_layers.0.attention.norm_q.weight"][0]
    refiners = _count(shapes, REFINER + "{}.attention_norm1.weight")
    refined = "control_noise_refiner" if REFINER_ENTRY in shapes else None if refiners else "control_layers"
    return {
        "control_in_dim": channels // 4,
        # As far from one another as they can be: 6 of the first version, 15 of the second, 3 of its small ones.
        "control_layers_places": [index * round(_LAYERS / layers) for index in range(layers)],
        "control_refiner_layers_places": list(range(refiners)) or list(_REFINERS),
        "add_control_noise_refiner": refined,
        "n_refiner_layers": refiners or len(_REFINERS),
        "dim": width,
        "n_heads": width // head,
        "n_kv_heads": width // head,
    }


def without_refiner(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a ControlNet of Z-Image in whose file the refiner is all zeros: its first layers take its place."""
    return {**config, "add_control_noise_refiner": "control_layers"}


def _axes(head: int) -> list[int]:
    """How a head's width is shared by number, row and column: as in the published ones, whose heads have 128."""
    return [part * head // 128 for part in (16, 56, 56)]


def _count(shapes: Shapes, pattern: str) -> int:
    count = 0
    while pattern.format(count) in shapes:
        count += 1
    return count
