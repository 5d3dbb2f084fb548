# SPDX-License-Identifier: GPL-3.0-or-later
"""Which networks that enlarge or clean a picture are known by their tensor names, and which of them can run here.

ESRGAN's and Real-ESRGAN's own run always. The others run where the extra package `spandrel` is installed, whose
networks these are. No torch: the library lists a file before anybody opens it.
"""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from krita_sd.geometry import NativeRange
from krita_sd.wire.errors import Code, WireError

from .header import read_header
from .memory import WORKSPACE

Shapes = Mapping[str, tuple[int, ...]]

EXTRA = "upscalers"
"""The extra of pyproject.toml that brings `spandrel`, and what install.py calls it."""

SIDES = (256, 192, 128, 64)
"""Pixels of a piece that an upscaler is given at once, from what is quickest to what needs least memory."""

ELEMENTS, OUTPUT_ELEMENTS = 10_500, 130
"""Numbers alive at the peak: per pixel that goes into a network of the extra (HAT, the hungriest), and per pixel that
comes out of any. Traced on networks of full size by tests/engine/test_upscale_extra.py."""


@dataclass(frozen=True)
class Network:
    """A row: tensors that a file of this network has all of; own: the engine reads it without the extra."""

    title: str
    marks: tuple[str, ...]
    own: bool = False


NETWORKS = (
    Network("MM-RealSR", ("am_list.0.fc.0.weight", "de_net.conv_first.0.weight")),
    Network("ESRGAN+", ("model.0.weight", "model.1.sub.0.RDB1.conv1x1.weight")),
    Network("ESRGAN", ("model.1.sub.0.RDB1.conv1.0.weight",), own=True),
    Network("ESRGAN", ("RRDB_trunk.0.RDB1.conv1.weight",), own=True),
    Network("ESRGAN", ("body.0.rdb1.conv1.weight",), own=True),
    Network("HAT", ("conv_first.weight", "layers.0.residual_group.overlap_attn.qkv.weight")),
    Network("ATD", ("conv_first.weight", "layers.0.residual_group.layers.0.attn_atd.scale")),
    Network("CRAFT", ("conv_first.weight", "layers.0.residual_group.hf_blocks.0.attn.temperature")),
    Network("DRCT", ("conv_first.weight", "layers.0.swin1.attn.qkv.weight", "layers.0.adjust1.weight")),
    Network("RGT", ("conv_first.weight", "before_RG.1.weight", "layers.0.blocks.0.gamma")),
    Network("DAT", ("conv_first.weight", "before_RG.1.weight", "layers.0.blocks.0.attn.attns.0.rpe_biases")),
    Network("GRL", ("conv_first.weight", "layers.0.blocks.0.attn.window_attn.attn_transform.logit_scale")),
    Network("Swin2SR", ("patch_embed.proj.weight", "layers.0.residual_group.blocks.0.attn.relative_position_index")),
    Network("SwinIR", ("layers.0.residual_group.blocks.0.attn.relative_position_index",)),
    Network("FDAT", ("groups.0.blocks.0.attn.bias", "groups.0.blocks.0.inter.cg.1.weight", "upsampler.MetaUpsample")),
    Network("MoESR", ("in_to_dim.weight", "blocks.0.blocks.0.conv.dwconv_hw.weight", "upscale.MetaUpsample")),
    Network("MoSR", ("gblocks.0.weight", "gblocks.1.fc1.weight", "gblocks.1.conv.weight")),
    Network("PLKSR", ("feats.0.weight", "feats.1.refine.weight")),
    Network("OmniSR", ("residual_layer.0.residual_layer.0.layer.0.fn.0.weight", "input.weight", "up.0.weight")),
    Network("SPAN", ("conv_1.sk.weight", "block_1.c1_r.sk.weight", "upsampler.0.weight")),
    Network("SwiftSRGAN", ("initial.cnn.depthwise.weight", "final_conv.pointwise.weight")),
    Network("Real-CUGAN", ("unet1.conv1.conv.0.weight", "unet2.conv2.seblock.conv1.weight")),
    Network("RCAN", ("tail.1.weight", "body.0.body.0.body.3.conv_du.0.weight")),
    Network("SAFMN", ("to_feat.weight", "feats.0.safm.mfr.0.weight", "to_img.0.weight")),
    Network("SAFMN-BCIE", ("to_feat.1.weight", "feats.0.layers.0.safm.mfr.0.weight", "to_img.2.weight")),
    Network("SeemoRe", ("conv_1.weight", "body.0.local_block.block.moe_layer.experts.0.conv_1.weight")),
    Network("DITN", ("sft.weight", "UFONE.0.ITLs.0.attn.temperature", "upsample.0.weight")),
    Network("DCTLSA", ("fea_conv.weight", "B1.body.0.transformer_body.0.blocks.0.attn.qkv.weight")),
    Network("AuraSR", ("mid_block2.block1.proj.weights", "final_res_block.block1.proj.weights")),
    Network("IPT", ("sub_mean.weight", "add_mean.weight", "body.encoder.layers.0.self_attn.in_proj_weight")),
    Network("FBCNN", ("m_head.weight", "m_body_encoder.0.res.0.weight", "qf_pred.0.res.0.weight")),
    Network("DRUNet", ("m_head.weight", "m_body.0.res.0.weight", "m_tail.weight")),
    Network("SCUNet", ("m_head.0.weight", "m_tail.0.weight")),
    Network("Uformer", ("input_proj.proj.0.weight", "output_proj.proj.0.weight", "conv.blocks.0.norm1.weight")),
    Network("KBNet", ("intro.weight", "encoders.0.0.attgamma", "ending.weight")),
    Network("KBNet", ("patch_embed.proj.weight", "latent.0.ffn.qkv.weight", "refinement.0.attn.dwconv.0.weight")),
    Network("NAFNet", ("intro.weight", "middle_blks.0.sca.1.weight", "ending.weight")),
    Network("FFTformer", ("encoder_level1.0.ffn.fft", "fuse2.conv.weight")),
    Network("MixDehazeNet", ("patch_merge1.proj.weight", "layer1.blocks.0.conv3_19.weight")),
    Network("RetinexFormer", ("body.0.estimator.conv1.weight", "body.0.denoiser.embedding.weight")),
    Network("HVI-CIDNet", ("HVE_block0.1.weight", "trans.density_k")),
)
"""Asked in this order: what is named first is told from what has some of the same tensors."""

_WRAPPERS = ("params_ema.", "params.", "model_state.", "state_dict.", "module.", "netG.", "model_g.")
_LAYOUT = re.compile(r"(layers\.\d+\.(residual_group\.blocks|blocks)\.\d+\.|conv_first\.weight$)")


def bare(names: Mapping[str, object]) -> dict[str, str]:
    """Tensor names as the networks call them -> as the file does. Of several sets of weights, the averaged one."""
    found = {name: name for name in names}
    for prefix in _WRAPPERS:
        inside = {name.removeprefix(prefix): stored for name, stored in found.items() if name.startswith(prefix)}
        found = inside or found
    if any(name.startswith("model.conv_first.") for name in found):  # GRL's training keeps the network in `model`
        found = {name.removeprefix("model."): stored for name, stored in found.items() if name.startswith("model.")}
    return found


def network_of(shapes: Shapes) -> Network | None:
    """The network in a file by its header; one with the title "" is built like an upscaler and not known; None: no
    upscaler."""
    stored = bare(shapes)
    for network in NETWORKS:
        if all(mark in stored for mark in network.marks):
            return network
    found = {name: shapes[place] for name, place in stored.items()}
    first = found.get("body.0.weight", ())  # the compact ones: a plain row of convolutions
    if len(first) == 4 and first[1] == 3 and "body.1.weight" in found:
        return Network("Real-ESRGAN compact", (), own=True)
    first = found.get("model.0.weight", ())  # DnCNN: a plain row as well
    if len(first) == 4 and first[1:] == (3, 3, 3) and len(found.get("model.2.weight", ())) == 4:
        return Network("DnCNN", ())
    return Network("", ()) if any(_LAYOUT.match(name) for name in found) else None


def models_page_section() -> list[str]:
    """What docs/models.md says about upscalers."""
    others = sorted({network.title for network in NETWORKS if not network.own} | {"DnCNN"}, key=str.lower)
    return [
        "Upscalers, and networks that clean a picture without enlarging it, `.safetensors` files for RGB pictures:",
        "",
        "- ESRGAN, Real-ESRGAN and its compact ones, BSRGAN, RealSR: always.",
        f"- With `python3 install.py --with {EXTRA}`: {', '.join(others)}.",
    ]


def extra_present() -> bool:
    """Whether the packages of the extra are installed; they are not imported."""
    return all(importlib.util.find_spec(name) is not None for name in ("spandrel", "einops"))


def cannot_run(name: str, shapes: Shapes) -> WireError | None:
    """Why the upscaler in the file `name` cannot run now; None when it can, as far as its header tells."""
    network = network_of(shapes)
    if network is None or not network.title:
        return WireError(
            Code.MODEL_UNSUPPORTED,
            f"{name} is an upscaler of a kind that is not known here.",
            "Use one of the kinds in docs/models.md, or choose none.",
        )
    channels = _channels(shapes)
    if channels not in (0, *(3 * fold * fold for fold in (1, 2, 3, 4, 8))):  # pixels may be folded into channels
        return WireError(
            Code.MODEL_UNSUPPORTED,
            f"{name} works on pictures of {channels} channels, not on colour pictures.",
            "Use one that was made for RGB, or choose none.",
        )
    return None if network.own or extra_present() else lacks_extra(name, network.title)


def lacks_extra(name: str, title: str) -> WireError:
    """The file `name` holds a network of the extra, which is not installed."""
    return WireError(
        Code.MODEL_UNSUPPORTED,
        f"{name} is a {title} network, which needs a package that is not installed; run "
        f"python3 install.py --with {EXTRA} and rescan the models.",
        "Or use an ESRGAN model, which needs nothing more.",
    )


def _channels(shapes: Shapes) -> int:
    """What the first convolution reads, where its name tells it; else 0."""
    stored = bare(shapes)
    first = next((stored[name] for name in ("conv_first.weight", "model.0.weight") if name in stored), "")
    shape = shapes.get(first, ())
    return shape[1] if len(shape) == 4 else 0


def piece_bytes(side: int, scale: int, own: bool, itemsize: int) -> int:
    """Bytes that one piece of side x side pixels needs beside the weights."""
    elements = max(OUTPUT_ELEMENTS * scale * scale, 0 if own else ELEMENTS)
    return int(WORKSPACE * itemsize * elements * side * side)


def piece_side(free: int, scale: int, own: bool, itemsize: int) -> int:
    """The largest of SIDES whose piece fits into `free` bytes (0: not known); the smallest where none does."""
    if free <= 0:
        return SIDES[0]
    return next((side for side in SIDES if piece_bytes(side, scale, own, itemsize) <= free), SIDES[-1])


def needed_bytes(path: Path, itemsize: int) -> tuple[int, int]:
    """(of the weights, of the smallest piece) of an upscaler for four times the size, as most are. Raises
    WireError(model_missing, model_corrupt)."""
    shapes = read_header(path).shapes
    network = network_of(shapes)
    own = network is not None and network.own
    size = itemsize if own else 4  # most others run in float32 only
    return size * sum(math.prod(shape) for shape in shapes.values()), piece_bytes(SIDES[-1], 4, own, size)


def refined_side(native: NativeRange) -> int:
    """Side of the pieces in which a model with these sizes refines what was enlarged."""
    side = math.sqrt(native.pixels or native.max_pixels)
    return max(native.multiple, int(side) // native.multiple * native.multiple)
