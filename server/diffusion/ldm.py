# SPDX-License-Identifier: GPL-3.0-or-later
"""Original single-file layout of Stable Diffusion 1.x, 2.x and XL: configs read off tensor shapes, names translated.

Pure functions on names and shapes; no torch. `Shapes` maps tensor names to shapes. A file that does not have the
layout raises KeyError or ValueError here, which the loader turns into a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from server.diffusion.weights import Source, is_weight

Shapes = Mapping[str, tuple[int, ...]]

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP = "cond_stage_model.transformer."
OPENCLIP = "cond_stage_model.model."
XL_CLIP = "conditioner.embedders.0.transformer."
XL_OPENCLIP = "conditioner.embedders.1.model."
XL_SIZES = 6  # numbers that SDXL is told: original height and width, crop, wanted height and width
# Stored beside the weights, and no part of them: schedules, training state, what belongs to CLIP's image side.
_IGNORED = re.compile(
    r"\.position_ids$|^cond_stage_model\.(model\.)?(logit_scale|text_projection|attn_mask)"
    r"|^cond_stage_model\.transformer\.(text_projection|logit_scale)"
    r"|^conditioner\.embedders\.0\.transformer\.(text_projection|logit_scale)"
    r"|^conditioner\.embedders\.[01]\.(model\.)?(logit_scale|attn_mask)"
    r"|^first_stage_model\.(loss|model_ema)\."
)


def unused(shapes: Shapes, sources: Iterable[Source], layers_dropped: str = "") -> list[str]:
    """Names under the model's own prefixes that no source reads and that are not known to be idle."""
    read = {source.name for source in sources}
    ours = (UNET, VAE, "cond_stage_model.", "conditioner.")
    return [
        name
        for name in shapes
        if name.startswith(ours)
        and name not in read
        and is_weight(name)
        and not _IGNORED.search(name)
        and not (layers_dropped and name.startswith(layers_dropped))
    ]


def unet_config(shapes: Shapes, heads_of_64: bool) -> dict[str, Any]:
    """The diffusers config of the UNet. `heads_of_64`: SD2.x's heads of 64 channels; otherwise eight heads."""
    channels: list[int] = []
    depths: list[int] = []
    layers = [0]
    index = 1
    while f"{UNET}input_blocks.{index}.0.op.weight" in shapes or _resnet(index) in shapes:
        if _resnet(index) in shapes:
            if layers[-1] == 0:
                channels.append(shapes[_resnet(index)][0])
                depths.append(_depth(shapes, f"{UNET}input_blocks.{index}.1."))
            layers[-1] += 1
        else:
            layers.append(0)
        index += 1
    middle = f"{UNET}middle_block.1."
    if len(set(layers)) != 1 or not any(depths) or _depth(shapes, middle) != depths[-1] + (depths[-1] == 0):
        raise ValueError("not a UNet of SD1, SD2 or SDXL")
    config = {
        "sample_size": 64,
        "in_channels": shapes[f"{UNET}input_blocks.0.0.weight"][1],
        "out_channels": shapes[f"{UNET}out.2.weight"][0],
        "block_out_channels": channels,
        "layers_per_block": layers[0],
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)],
        "cross_attention_dim": shapes[f"{middle}transformer_blocks.0.attn2.to_k.weight"][1],
        "attention_head_dim": [max(1, size // 64) for size in channels] if heads_of_64 else 8,
        "use_linear_projection": len(shapes[f"{middle}proj_in.weight"]) == 2,
    }
    if (label := shapes.get(f"{UNET}label_emb.0.0.weight")) is not None:
        pooled = shapes[f"{XL_OPENCLIP}text_projection"][1]
        config |= {
            "transformer_layers_per_block": [max(1, depth) for depth in depths],
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": (label[1] - pooled) // XL_SIZES,
            "projection_class_embeddings_input_dim": label[1],
        }
    elif max(depths) > 1:
        raise ValueError("not a UNet of SD1 or SD2")
    return config


def _depth(shapes: Shapes, home: str) -> int:
    """How many transformer blocks an attention has; 0 where there is none."""
    depth = 0
    while f"{home}transformer_blocks.{depth}.norm1.weight" in shapes:
        depth += 1
    return depth


def _resnet(index: int) -> str:
    return f"{UNET}input_blocks.{index}.0.out_layers.3.weight"


def vae_config(shapes: Shapes) -> dict[str, Any]:
    """The diffusers config of the autoencoder."""
    channels: list[int] = []
    while (first := f"{VAE}encoder.down.{len(channels)}.block.0.conv2.weight") in shapes:
        channels.append(shapes[first][0])
    layers = 0
    while f"{VAE}encoder.down.0.block.{layers}.conv2.weight" in shapes:
        layers += 1
    if not channels:
        raise ValueError("no autoencoder")
    return {
        "in_channels": shapes[f"{VAE}encoder.conv_in.weight"][1],
        "out_channels": shapes[f"{VAE}decoder.conv_out.weight"][0],
        "latent_channels": shapes[f"{VAE}decoder.conv_in.weight"][1],
        "down_block_types": ["DownEncoderBlock2D"] * len(channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(channels),
        "block_out_channels": channels,
        "layers_per_block": layers,
        "scaling_factor": 0.18215,
    }


def clip_prefix(shapes: Shapes, home: str = CLIP) -> str:
    """Where CLIP's tensors are: most files have `text_model.` in the name, some were saved without."""
    wrapped = home + "text_model."
    return wrapped if f"{wrapped}embeddings.token_embedding.weight" in shapes else home


def clip_config(shapes: Shapes, openclip: bool, home: str = "") -> dict[str, Any]:
    """The sizes of the text encoder under the prefix `home`. Of SD2.x the last layer is left out: it is never run."""
    if openclip:
        home = home or OPENCLIP
        vocabulary, width = shapes[f"{home}token_embedding.weight"]
        layer = f"{home}transformer.resblocks.{{}}.mlp.c_fc.weight"
    else:
        prefix = clip_prefix(shapes, home or CLIP)
        vocabulary, width = shapes[f"{prefix}embeddings.token_embedding.weight"]
        layer = f"{prefix}encoder.layers.{{}}.mlp.fc1.weight"
    layers = 0
    while layer.format(layers) in shapes:
        layers += 1
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes[layer.format(0)][0],
        "num_hidden_layers": layers - 1 if home == OPENCLIP else layers,
        "num_attention_heads": max(1, width // 64),
        "projection_dim": shapes.get(f"{home}text_projection", (width, width))[1] if openclip else width,
    }


_UNET_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_UNET_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def unet_sources(names: Iterable[str], config: Mapping[str, Any]) -> dict[str, Source]:
    """diffusers name -> where the original file has it, for every tensor of the UNet."""
    return {name: Source(UNET + _unet_name(name, config)) for name in names}


def _unet_name(name: str, config: Mapping[str, Any]) -> str:
    per_block = config["layers_per_block"] + 1
    if match := _UNET_BLOCK.fullmatch(name):
        side, block, kind, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        if kind == "downsamplers":
            return f"input_blocks.{(block + 1) * per_block}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            place = 2 if config["up_block_types"][block] == "CrossAttnUpBlock2D" else 1
            return f"output_blocks.{(block + 1) * per_block - 1}.{place}.{rest}"
        home = f"input_blocks.{1 + block * per_block + layer}" if side == "down" else ""
        home = home or f"output_blocks.{block * per_block + layer}"
        return f"{home}.0.{_resnet_part(rest)}" if kind == "resnets" else f"{home}.1.{rest}"
    if match := _UNET_MIDDLE.fullmatch(name):
        if match[1] == "attentions":
            return f"middle_block.1.{match[3]}"
        return f"middle_block.{2 * int(match[2])}.{_resnet_part(match[3])}"
    top, _, leaf = name.rpartition(".")
    return f"{_UNET_TOP[top]}.{leaf}"


def _resnet_part(rest: str) -> str:
    part, _, leaf = rest.rpartition(".")
    return f"{_RESNET[part]}.{leaf}"


_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_VAE_BLOCK = re.compile(r"(encoder|decoder)\.(down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)")
_VAE_MIDDLE = re.compile(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def vae_sources(names: Iterable[str], config: Mapping[str, Any]) -> dict[str, Source]:
    """diffusers name -> where the original file has it, for every tensor of the autoencoder."""
    return {name: Source(VAE + _vae_name(name, len(config["block_out_channels"]))) for name in names}


def _vae_name(name: str, blocks: int) -> str:
    if match := _VAE_BLOCK.fullmatch(name):
        half, side, block, kind, layer, rest = match[1], match[2], int(match[3]), match[4], match[5], match[6]
        home = f"{half}.{side}.{block if side == 'down' else blocks - 1 - block}"
        if kind == "resnets":
            return f"{home}.block.{layer}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
        return f"{home}.{kind.removesuffix('rs')}.{rest}"
    if match := _VAE_MIDDLE.fullmatch(name):
        half, kind, number, rest = match[1], match[2], int(match[3]), match[4]
        if kind == "resnets":
            return f"{half}.mid.block_{number + 1}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
        part, _, leaf = rest.rpartition(".")
        return f"{half}.mid.attn_1.{_VAE_ATTENTION[part]}.{leaf}"
    return name.replace("conv_norm_out", "norm_out")


def clip_sources(names: Iterable[str], shapes: Shapes, openclip: bool, home: str = "") -> dict[str, Source]:
    """Text encoder name (with or without `text_model.`) -> where the original file has it, under the prefix `home`."""
    if not openclip:
        prefix = clip_prefix(shapes, home or CLIP)
        return {name: Source(prefix + name.removeprefix("text_model.")) for name in names}
    return {name: _openclip_source(name.removeprefix("text_model."), shapes, home or OPENCLIP) for name in names}


_OPENCLIP_TOP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
_OPENCLIP_PARTS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def _openclip_source(name: str, shapes: Shapes, prefix: str) -> Source:
    if name == "text_projection.weight":
        return Source(f"{prefix}text_projection", transposed=True)
    if name in _OPENCLIP_TOP:
        return Source(prefix + _OPENCLIP_TOP[name])
    match = re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if match is None:
        raise KeyError(name)
    home = f"{prefix}transformer.resblocks.{match[1]}."
    if match[2] in _OPENCLIP_PARTS:
        return Source(f"{home}{_OPENCLIP_PARTS[match[2]]}.{match[3]}")
    # OpenCLIP packs query, key and value into one matrix, in this order.
    place = ("q_proj", "k_proj", "v_proj").index(match[2].removeprefix("self_attn."))
    packed = f"{home}attn.in_proj_{match[3]}"
    third = shapes[packed][0] // 3
    return Source(packed, rows=((place * third, (place + 1) * third),))
