# SPDX-License-Identifier: GPL-3.0-or-later
"""Single files of ControlNets and T2I-Adapters: original names translated, configurations read off tensor shapes.

Pure functions on names and shapes; no torch. A file that does not have the layout raises KeyError or ValueError.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]

PREFIX = "control_model."
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_TOP = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "input_hint_block.0": "controlnet_cond_embedding.conv_in",
    "input_hint_block.14": "controlnet_cond_embedding.conv_out",
    "middle_block_out.0": "controlnet_mid_block",
}
_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}


def is_controlnet(shapes: Shapes) -> bool:
    """Whether these are a ControlNet's tensors, in either layout."""
    return any(
        name.removeprefix(PREFIX).startswith(("input_hint_block.", "controlnet_cond_embedding.")) for name in shapes
    )


def is_adapter(shapes: Shapes) -> bool:
    """Whether these are a T2I-Adapter's tensors, in either layout."""
    return any(re.fullmatch(r"(adapter\.)?body\.0\.(resnets\.0\.)?block1\.weight", name) for name in shapes)


def controlnet_names(shapes: Shapes) -> dict[str, str]:
    """diffusers name -> name in the file."""
    if any(name.startswith("controlnet_cond_embedding.") for name in shapes):
        return {name: name for name in shapes}
    places = _places({name.removeprefix(PREFIX) for name in shapes})
    return {_controlnet_name(name.removeprefix(PREFIX), places): name for name in shapes}


def _places(names: set[str]) -> dict[str, str]:
    """Number of an input block -> its place among the blocks of diffusers; one that halves the size ends a block."""
    places: dict[str, str] = {}
    block = layer = 0
    index = 1
    while any(name.startswith(f"input_blocks.{index}.") for name in names):
        if f"input_blocks.{index}.0.op.weight" in names:
            places[str(index)] = f"down_blocks.{block}.downsamplers.0"
            block, layer = block + 1, 0
        else:
            places[str(index)] = f"down_blocks.{block}.{{}}.{layer}"
            layer += 1
        index += 1
    return places


def _controlnet_name(name: str, places: Mapping[str, str]) -> str:
    stem, _, leaf = name.rpartition(".")
    if stem in _TOP:
        return f"{_TOP[stem]}.{leaf}"
    if match := re.fullmatch(r"input_hint_block\.(\d+)", stem):
        return f"controlnet_cond_embedding.blocks.{int(match[1]) // 2 - 1}.{leaf}"
    if match := re.fullmatch(r"zero_convs\.(\d+)\.0", stem):
        return f"controlnet_down_blocks.{match[1]}.{leaf}"
    if match := re.fullmatch(r"middle_block\.(\d)\.(.+)", stem):
        home = f"mid_block.{_MIDDLE[match[1]]}"
        return f"{home}.{match[2] if match[1] == '1' else _RESNET[match[2]]}.{leaf}"
    if match := re.fullmatch(r"input_blocks\.(\d+)\.0\.op", stem):
        return f"{places[match[1]]}.conv.{leaf}"
    match = re.fullmatch(r"input_blocks\.(\d+)\.(0|1)\.(.+)", stem)
    if match is None:
        raise KeyError(name)
    part = "resnets" if match[2] == "0" else "attentions"
    inner = _RESNET[match[3]] if match[2] == "0" else match[3]
    return f"{places[match[1]].format(part)}.{inner}.{leaf}"


def controlnet_config(shapes: Shapes) -> dict[str, Any]:
    """The diffusers config of a ControlNet whose tensors have these shapes under diffusers names."""
    channels: list[int] = []
    depths: list[int] = []
    while (first := f"down_blocks.{len(channels)}.resnets.0.conv1.weight") in shapes:
        block = f"down_blocks.{len(channels)}."
        channels.append(shapes[first][0])
        depths.append(_count(shapes, block + "attentions.0.transformer_blocks.{}.norm1.weight"))
    middle = _count(shapes, "mid_block.attentions.0.transformer_blocks.{}.norm1.weight")
    if not channels or not any(depths):
        raise ValueError("not a ControlNet")
    first_depth = next(index for index, depth in enumerate(depths) if depth)
    home = f"down_blocks.{first_depth}.attentions.0."
    linear = len(shapes[home + "proj_in.weight"]) == 2
    hint = "controlnet_cond_embedding."
    hints = [shapes[hint + "conv_in.weight"][0]]
    while (name := f"{hint}blocks.{2 * len(hints) - 1}.weight") in shapes:
        hints.append(shapes[name][0])
    config: dict[str, Any] = {
        "in_channels": shapes["conv_in.weight"][1],
        "conditioning_channels": shapes[hint + "conv_in.weight"][1],
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D",
        "block_out_channels": channels,
        "layers_per_block": _count(shapes, "down_blocks.0.resnets.{}.conv1.weight"),
        "cross_attention_dim": shapes[home + "transformer_blocks.0.attn2.to_k.weight"][1],
        "transformer_layers_per_block": [depth or 1 for depth in depths[:-1]] + [middle or depths[-1] or 1],
        # SD1.x has eight heads in every layer; those with linear projections have heads of 64 channels.
        "attention_head_dim": [max(1, size // 64) for size in channels] if linear else 8,
        "use_linear_projection": linear,
        "conditioning_embedding_out_channels": hints,
    }
    if "add_embedding.linear_1.weight" in shapes:
        config["addition_embed_type"] = "text_time"
        config["addition_time_embed_dim"] = 256
        config["projection_class_embeddings_input_dim"] = shapes["add_embedding.linear_1.weight"][1]
    if "task_embedding" in shapes:
        types, width = shapes["task_embedding"]
        config |= {"num_control_type": types, "num_trans_channel": width}
        config["num_proj_channel"] = shapes["spatial_ch_projs.weight"][0]
        config["num_trans_layer"] = _count(shapes, "transformer_layes.{}.ln_1.weight")
        config["addition_time_embed_dim"] = shapes["control_add_embedding.linear_1.weight"][1] // types
    return config


def adapter_names(shapes: Shapes) -> dict[str, str]:
    """diffusers name -> name in the file, for a T2I-Adapter. The authors' files number all layers in one row."""
    if any(name.startswith("adapter.") for name in shapes):
        return {name: name for name in shapes}
    if any(".resnets." in name for name in shapes):
        return {"adapter." + name: name for name in shapes}
    per_block = _layers_between_changes(shapes)
    names: dict[str, str] = {}
    for name in shapes:
        match = re.fullmatch(r"body\.(\d+)\.(.+)", name)
        if match is None:
            names["adapter." + name] = name
            continue
        block, layer = divmod(int(match[1]), per_block)
        inner = match[2] if match[2].startswith("in_conv.") else f"resnets.{layer}.{match[2]}"
        names[f"adapter.body.{block}.{inner}"] = name
    return names


def _layers_between_changes(shapes: Shapes) -> int:
    widths: list[int] = []
    while (name := f"body.{len(widths)}.block1.weight") in shapes:
        widths.append(shapes[name][0])
    changes = [index for index in range(1, len(widths)) if f"body.{index}.in_conv.weight" in shapes]
    if not changes or changes[0] < 1:
        raise ValueError("not a T2I-Adapter")
    return changes[0]


def adapter_config(shapes: Shapes) -> dict[str, Any]:
    """The diffusers config of a T2I-Adapter whose tensors have these shapes under diffusers names."""
    channels: list[int] = []
    while (name := f"adapter.body.{len(channels)}.resnets.0.block1.weight") in shapes:
        channels.append(shapes[name][0])
    layers = _count(shapes, "adapter.body.0.resnets.{}.block1.weight")
    if "adapter.conv_in.weight" not in shapes:
        raise ValueError("not a full T2I-Adapter")
    cells = shapes["adapter.conv_in.weight"][1]
    # XL adapters look at 16 x 16 pixels per cell, the others at 8 x 8, in colour or grey.
    kind, factor, depth = {
        16 * 16 * 3: ("full_adapter_xl", 16, 3),
        8 * 8 * 3: ("full_adapter", 8, 3),
        16 * 16: ("full_adapter_xl", 16, 1),
        8 * 8: ("full_adapter", 8, 1),
    }[cells]
    return {
        "in_channels": depth,
        "channels": channels,
        "num_res_blocks": layers,
        "downscale_factor": factor,
        "adapter_type": kind,
    }


def _count(shapes: Shapes, pattern: str) -> int:
    count = 0
    while pattern.format(count) in shapes:
        count += 1
    return count
