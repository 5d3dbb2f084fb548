# SPDX-License-Identifier: GPL-3.0-or-later
"""The transformers in the layout of their authors: configurations read off shapes, names translated by diffusers.

diffusers' own converters are asked, but never given weights: they cut and join rows only, so each stored tensor is
stood in for by the numbers of its rows, and what comes out says where every tensor of the module is. Weights are then
read one by one as everywhere else, and LoRAs for packed layers find their rows in the same table.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from diffusers.loaders import single_file_utils as converters

from server.diffusion.weights import Source, is_weight
from server.library.companions import build_of, transformer_prefix

Shapes = Mapping[str, tuple[int, ...]]
Bare = dict[str, tuple[int, ...]]

_UNITS = 6  # rows that stand for a tensor: halves and thirds are whole numbers
_PACKED = "linear1"  # ... but diffusers cuts Flux's single blocks by their published sizes: 3 x 3072, then 4 x 3072
_PACKED_UNITS = 7 * 3072


def names(family: str, shapes: Shapes) -> dict[str, Source]:
    """diffusers name -> where a file has it, for every tensor of the family's transformer.

    Raises KeyError when the file lacks a tensor, ValueError when it has one that cannot be cut as the family's are.
    """
    prefix = transformer_prefix(shapes, family)
    if prefix is None:
        raise KeyError(family)
    bare = bare_names(shapes, prefix)
    return {
        name: Source(prefix + source.name, source.rows) for name, source in _translated(family, bare).items()
    }  # fmt: skip


def bare_names(shapes: Shapes, prefix: str) -> Bare:
    """The transformer's own tensors without their prefix; scales of 8-bit weights and markers are no tensors of it."""
    return {
        name[len(prefix) :]: shape
        for name, shape in shapes.items()
        if name.startswith(prefix) and is_weight(name) and (prefix or not name.startswith(_OTHER_PARTS))
    }


_OTHER_PARTS = ("text_encoders.", "vae.", "first_stage_model.", "model.")


def _translated(family: str, bare: Bare) -> dict[str, Source]:
    stand_ins = StandIns(bare)
    out: dict[str, Source] = {}
    for name, rows in CONVERTERS[build_of(family)]({name: stand_ins.rows(name) for name in bare}).items():
        stored, pieces, units = stand_ins.place(rows)
        out[name] = Source(stored, () if pieces == [(0, units)] else scaled(pieces, units, bare[stored][0]))
    return out


class StandIns:
    """Numbers of rows in the place of tensors. `place` tells where rows that a converter cut and joined are from."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names: list[str] = []
        self._starts: list[int] = [0]
        self._known: dict[str, torch.Tensor] = {}
        for name in names:
            self.rows(name)

    def rows(self, name: str) -> torch.Tensor:
        """The rows that stand for the tensor `name`."""
        if name not in self._known:
            units = _PACKED_UNITS if _PACKED in name else _UNITS
            self._known[name] = torch.arange(self._starts[-1], self._starts[-1] + units)
            self._names.append(name)
            self._starts.append(self._starts[-1] + units)
        return self._known[name]

    def place(self, rows: torch.Tensor) -> tuple[str, list[tuple[int, int]], int]:
        """(tensor, [first, last) of each run of its rows, how many rows stand for it). Raises ValueError."""
        edges = [0, *((rows[1:] - rows[:-1] != 1).nonzero().flatten() + 1).tolist(), len(rows)]
        at = bisect_right(self._starts, int(rows[0])) - 1
        first, last = self._starts[at], self._starts[at + 1]
        pieces = [(int(rows[a]) - first, int(rows[b - 1]) + 1 - first) for a, b in zip(edges[:-1], edges[1:])]
        if any(not 0 <= a < b <= last - first for a, b in pieces):
            raise ValueError("a tensor is put together from several")
        return self._names[at], pieces, last - first


def scaled(pieces: list[tuple[int, int]], units: int, real: int) -> tuple[tuple[int, int], ...]:
    """Runs of `units` stand-in rows as runs of the `real` rows. Raises ValueError when they cannot be cut so."""
    if any(edge * real % units for piece in pieces for edge in piece):
        raise ValueError("a packed tensor cannot be cut evenly")
    return tuple((a * real // units, b * real // units) for a, b in pieces)


def _unchanged(tensors: dict[str, Any]) -> dict[str, Any]:
    return tensors


CONVERTERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "sd3": converters.convert_sd3_transformer_checkpoint_to_diffusers,
    "flux1": converters.convert_flux_transformer_checkpoint_to_diffusers,
    "flux2": converters.convert_flux2_transformer_checkpoint_to_diffusers,
    "chroma": converters.convert_chroma_transformer_checkpoint_to_diffusers,
    "z-image": converters.convert_z_image_transformer_checkpoint_to_diffusers,
    "qwen-image": _unchanged,  # the authors published it in diffusers' names
}

IDLE = {"z-image": ("norm_final.weight",)}
"""Tensors that files of a family have and its network never reads."""


def config(family: str, shapes: Shapes) -> dict[str, Any]:
    """The diffusers configuration of the transformer in a file. Raises KeyError, ValueError, IndexError."""
    prefix = transformer_prefix(shapes, family)
    if prefix is None:
        raise KeyError(family)
    return _CONFIGS[build_of(family)](bare_names(shapes, prefix))


def _count(bare: Bare, home: str) -> int:
    """How many numbered blocks there are under `home`."""
    numbers = {int(name[len(home) :].partition(".")[0]) for name in bare if name.startswith(home)}
    if numbers != set(range(len(numbers))):
        raise ValueError(f"{home} has gaps")
    return len(numbers)


def _axes(head: int, published: tuple[int, ...]) -> list[int]:
    """How a head's width is shared by the axes of places: as in the published model, whose heads have 128."""
    return [part * head // 128 for part in published]


def _flux(bare: Bare) -> dict[str, Any]:
    head = bare["double_blocks.0.img_attn.norm.query_norm.scale"][0]
    width, channels = bare["img_in.weight"]
    return {
        "in_channels": channels,
        "out_channels": bare["final_layer.linear.weight"][0],
        "num_layers": _count(bare, "double_blocks."),
        "num_single_layers": _count(bare, "single_blocks."),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": bare["txt_in.weight"][1],
        "axes_dims_rope": _axes(head, (16, 56, 56)),
    }


def _flux1(bare: Bare) -> dict[str, Any]:
    return {
        **_flux(bare),
        "pooled_projection_dim": bare["vector_in.in_layer.weight"][1],
        "guidance_embeds": "guidance_in.in_layer.weight" in bare,
    }


def _flux2(bare: Bare) -> dict[str, Any]:
    width = bare["img_in.weight"][0]
    after = bare["single_blocks.0.linear2.weight"][1]  # attention and feed-forward side by side
    found = _flux(bare)
    del found["out_channels"]  # as many as come in
    return {
        **found,
        "timestep_guidance_channels": bare["time_in.in_layer.weight"][1],
        "mlp_ratio": (after - width) / width,
        "axes_dims_rope": [found["attention_head_dim"] // 4] * 4,
        "guidance_embeds": "guidance_in.in_layer.weight" in bare,
    }


def _chroma(bare: Bare) -> dict[str, Any]:
    hidden, channels = bare["distilled_guidance_layer.in_proj.weight"]
    return {
        **_flux(bare),
        "approximator_num_channels": channels,
        "approximator_hidden_dim": hidden,
        "approximator_layers": _count(bare, "distilled_guidance_layer.layers."),
    }


def _sd3(bare: Bare) -> dict[str, Any]:
    width, channels, patch, _ = bare["x_embedder.proj.weight"]
    layers = _count(bare, "joint_blocks.")
    twice = sorted({int(name.split(".")[1]) for name in bare if ".x_block.attn2." in name})
    return {
        "sample_size": 128,
        "patch_size": patch,
        "in_channels": channels,
        "out_channels": bare["final_layer.linear.weight"][0] // patch**2,
        "num_layers": layers,
        # As many heads as blocks: the rule by which its authors made every size of it.
        "num_attention_heads": layers,
        "attention_head_dim": width // layers,
        "joint_attention_dim": bare["context_embedder.weight"][1],
        "caption_projection_dim": bare["context_embedder.weight"][0],
        "pooled_projection_dim": bare["y_embedder.mlp.0.weight"][1],
        "pos_embed_max_size": math.isqrt(bare["pos_embed"][1]),
        "dual_attention_layers": twice,
        "qk_norm": "rms_norm" if "joint_blocks.0.x_block.attn.ln_q.weight" in bare else None,
    }


def _z_image(bare: Bare) -> dict[str, Any]:
    width, cell = bare["x_embedder.weight"]
    head = bare["layers.0.attention.q_norm.weight"][0]
    return {
        "in_channels": cell // 4,
        "dim": width,
        "n_layers": _count(bare, "layers."),
        "n_refiner_layers": _count(bare, "noise_refiner."),
        "n_heads": width // head,
        "n_kv_heads": width // head,
        "cap_feat_dim": bare["cap_embedder.1.weight"][1],
        "axes_dims": _axes(head, (32, 48, 48)),
        "axes_lens": [1536, 512, 512],
    }


def _qwen_image(bare: Bare) -> dict[str, Any]:
    width, channels = bare["img_in.weight"]
    head = bare["transformer_blocks.0.attn.norm_q.weight"][0]
    return {
        "patch_size": 2,
        "in_channels": channels,
        "out_channels": bare["proj_out.weight"][0] // 4,
        "num_layers": _count(bare, "transformer_blocks."),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": bare["txt_in.weight"][1],
        "axes_dims_rope": _axes(head, (16, 56, 56)),
    }


_CONFIGS: dict[str, Callable[[Bare], dict[str, Any]]] = {
    "sd3": _sd3,
    "flux1": _flux1,
    "flux2": _flux2,
    "chroma": _chroma,
    "z-image": _z_image,
    "qwen-image": _qwen_image,
}
