# SPDX-License-Identifier: GPL-3.0-or-later
"""The layers of a transformer under the names of its authors, for LoRAs: which rows of a packed layer each one is.

diffusers converts LoRAs by tables of their own, layer by layer and for the published sizes only. Its converters of
whole models know the same names: they are asked here for what they would take, for any size and every form of LoRA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from server.diffusion.original.transformers import CONVERTERS, StandIns, scaled

Layer = tuple[str, tuple[tuple[int, int], ...], int]
"""(diffusers name, [first, last) of the packed layer's rows, how many it has); no rows: the whole layer."""


def packed_layers(root: Any) -> dict[str, list[Layer]]:
    """Name of its authors -> layers, for the linear layers of a diffusers transformer; empty for other networks."""
    family = _FAMILIES.get(type(root).__name__)
    if family is None:
        return {}
    if family == "z-image":
        return _grouped(root, {name: place for name in _linear(root) if (place := _z_image(name)) is not None})
    asked = _Asked(_SEEDS[family](root.config))
    converted = CONVERTERS[family](asked)
    found = {name.removesuffix(".weight"): rows for name, rows in converted.items() if name.endswith(".weight")}
    linear = _linear(root)
    places = {name: asked.stand_ins.place(rows) for name, rows in found.items() if name in linear}
    return _grouped(root, {name: (stored.removesuffix(".weight"), *rest) for name, (stored, *rest) in places.items()})


_FAMILIES = {
    "FluxTransformer2DModel": "flux1",
    "Flux2Transformer2DModel": "flux2",
    "ChromaTransformer2DModel": "chroma",
    "SD3Transformer2DModel": "sd3",
    "ZImageTransformer2DModel": "z-image",
}
Place = tuple[str, list[tuple[int, int]], int]


def _linear(root: Any) -> set[str]:
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return {name for name, module in root.named_modules() if isinstance(module, kinds)}


def _grouped(root: Any, places: dict[str, Any]) -> dict[str, list[Layer]]:
    out: dict[str, list[Layer]] = {}
    for name, (original, pieces, units) in places.items():
        if pieces == [(0, units)]:
            out.setdefault(original, []).append((name, (), 0))
            continue
        own = root.get_submodule(name).weight.shape[0]
        total = own * units // sum(b - a for a, b in pieces)
        out.setdefault(original, []).append((name, scaled(pieces, units, total), total))
    return out


class _Asked(dict[str, Any]):
    """A checkpoint that has every tensor it is asked for. `seeds` are names that converters look for and count."""

    def __init__(self, seeds: list[str]) -> None:
        super().__init__(dict.fromkeys(seeds))
        self.stand_ins = StandIns()

    def pop(self, name: str, *_: Any) -> Any:
        return self.stand_ins.rows(name)

    def __missing__(self, name: str) -> Any:
        return self.stand_ins.rows(name)


def _flux_seeds(config: Any) -> list[str]:
    seeds = [f"double_blocks.{number}.img" for number in range(config.num_layers)]
    seeds += [f"single_blocks.{number}.lin" for number in range(config.num_single_layers)]
    return seeds + (["guidance_in"] if config.get("guidance_embeds") else [])


def _flux2_seeds(config: Any) -> list[str]:
    """All of them: this converter counts nothing, and takes what is there."""
    seeds = ["img_in", "txt_in", "time_in.in_layer", "time_in.out_layer", "final_layer.linear"]
    seeds += ["final_layer.adaLN_modulation.1"]
    seeds += [f"{side}.lin" for side in ("double_stream_modulation_img", "double_stream_modulation_txt")]
    seeds += ["single_stream_modulation.lin"]
    seeds += ["guidance_in.in_layer", "guidance_in.out_layer"] if config.guidance_embeds else []
    for number in range(config.num_layers):
        for side in ("img", "txt"):
            leaves = (f"{side}_attn.qkv", f"{side}_attn.proj", f"{side}_mlp.0", f"{side}_mlp.2")
            seeds += [f"double_blocks.{number}.{leaf}" for leaf in leaves]
    seeds += [f"single_blocks.{number}.linear{side}" for number in range(config.num_single_layers) for side in (1, 2)]
    return [f"{seed}.weight" for seed in seeds]


def _chroma_seeds(config: Any) -> list[str]:
    guide = [f"distilled_guidance_layer.layers.{number}.in" for number in range(config.approximator_layers)]
    return _flux_seeds(config) + guide


def _sd3_seeds(config: Any) -> list[str]:
    seeds = [f"joint_blocks.{number}.x_block" for number in range(config.num_layers)]
    seeds += [f"joint_blocks.{number}.x_block.attn2.qkv" for number in config.dual_attention_layers]
    return seeds + (["joint_blocks.0.x_block.attn.ln_q"] if config.qk_norm else [])


_SEEDS: dict[str, Callable[[Any], list[str]]] = {
    "flux1": _flux_seeds,
    "flux2": _flux2_seeds,
    "chroma": _chroma_seeds,
    "sd3": _sd3_seeds,
}


def _z_image(name: str) -> Place | None:
    """Z-Image's authors pack query, key and value, and name three layers otherwise: too little to ask anyone."""
    for third, leaf in enumerate(("to_q", "to_k", "to_v")):
        if name.endswith(f".attention.{leaf}"):
            return name.removesuffix(leaf) + "qkv", [(2 * third, 2 * third + 2)], 6
    other = name.replace(".attention.to_out.0", ".attention.out").replace("all_x_embedder.2-1", "x_embedder")
    other = other.replace("all_final_layer.2-1", "final_layer")
    return (other, [(0, 1)], 1) if other != name else None
