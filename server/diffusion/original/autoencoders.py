# SPDX-License-Identifier: GPL-3.0-or-later
"""Autoencoders of the transformer families in single files: the authors' names, or those of diffusers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from diffusers import AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

from server.diffusion import ldm
from server.diffusion.weights import Source, empty_module, modern_name

Shapes = Mapping[str, tuple[int, ...]]
Sources = dict[str, Source]

PREFIXES = ("", "vae.", "first_stage_model.")
"""What may stand before the names in a file of its own."""

# What no shape shows: how latents are scaled and shifted for the transformer.
_SCALES = {
    "vae:flux1": {"scaling_factor": 0.3611, "shift_factor": 0.1159},
    "vae:sd3": {"scaling_factor": 1.5305, "shift_factor": 0.0609},
}
_COUNTERS = "num_batches_tracked"  # of training
_BLOCK = re.compile(r"encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.conv2\.weight")


def build(shapes: Shapes, prefix: str, role: str) -> tuple[Any, Sources]:
    """The empty autoencoder of a role ("vae:flux1", ...), and where its weights are. Raises KeyError, ValueError."""
    bare = {modern_name(name[len(prefix) :]): name for name in shapes if name.startswith(prefix)}
    sizes = {name: shapes[place] for name, place in bare.items()}
    if role == "vae:qwen-image":
        module, names = _of_films(sizes)
    elif role == "vae:flux2":
        # Its authors count the two small convolutions to the halves that they belong to.
        outer = {name: re.sub(r"^(en|de)coder\.((post_)?quant_conv\.)", r"\2", name) for name in sizes}
        module, names = _plain({outer[name]: shape for name, shape in sizes.items()}, AutoencoderKLFlux2, {})
        inner = {place: name for name, place in outer.items()}
        names = {name: inner.get(place, place) for name, place in names.items()}
    else:
        module, names = _plain(sizes, AutoencoderKL, _SCALES[role])
    return module, {name: Source(bare[names[name]]) for name in module.state_dict() if not name.endswith(_COUNTERS)}


def home(shapes: Shapes) -> str:
    """The prefix of the autoencoder in a file of its own. Raises KeyError when there is none."""
    for prefix in PREFIXES:
        if any(f"{prefix}decoder.{name}.weight" in shapes for name in ("conv_in", "conv1")):
            return prefix
    raise KeyError("decoder")


def _plain(sizes: Shapes, kind: Any, scales: Mapping[str, float]) -> tuple[Any, dict[str, str]]:
    original = "encoder.down.0.block.0.conv2.weight" in sizes
    config = ldm.vae_config({ldm.VAE + name: shape for name, shape in sizes.items()}) if original else _sizes(sizes)
    config.pop("scaling_factor", None)
    config |= {
        **scales,
        "use_quant_conv": "quant_conv.weight" in sizes,
        "use_post_quant_conv": "post_quant_conv.weight" in sizes,
    }
    module = empty_module(lambda: kind(**config))
    wanted = module.state_dict()
    if not original:
        return module, {name: name for name in wanted}
    return module, {
        name: source.name.removeprefix(ldm.VAE) for name, source in ldm.vae_sources(wanted, config).items()
    }  # fmt: skip


def _sizes(sizes: Shapes) -> dict[str, Any]:
    """The configuration of an autoencoder in diffusers' names."""
    blocks: dict[int, int] = {}
    layers = 0
    for name, shape in sizes.items():
        if match := _BLOCK.fullmatch(name):
            blocks[int(match[1])] = shape[0]
            layers = max(layers, int(match[2]) + 1)
    if not blocks:
        raise KeyError("encoder.down_blocks")
    return {
        "latent_channels": sizes["decoder.conv_in.weight"][1],
        "down_block_types": ["DownEncoderBlock2D"] * len(blocks),
        "up_block_types": ["UpDecoderBlock2D"] * len(blocks),
        "block_out_channels": [blocks[number] for number in range(len(blocks))],
        "layers_per_block": layers,
    }


def _of_films(sizes: Shapes) -> tuple[Any, dict[str, str]]:
    """Qwen-Image's: the autoencoder of the film model Wan, whose names diffusers translates."""
    names = {name: name for name in sizes}
    if "encoder.conv1.weight" in sizes:
        names = convert_wan_vae_to_diffusers(names)
    first, last = sizes[names["encoder.conv_in.weight"]], sizes[names["post_quant_conv.weight"]]
    return empty_module(lambda: AutoencoderKLQwenImage(base_dim=first[0], z_dim=last[0])), names
