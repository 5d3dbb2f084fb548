# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading LoRA files: which layer of which part of a model each tensor is for, in every layout of names.

Layouts: kohya and LyCORIS (diffusers and original names), diffusers (old and new), peft.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from krita_sd.wire.errors import Code, WireError
from server.diffusion import ldm
from server.diffusion.features.lora_forms import Form, form_of, split_name
from server.diffusion.original.layers import packed_layers
from server.diffusion.weights import TensorFiles, corrupt

_KOHYA = {
    "lora_unet_": "unet",
    "lora_transformer_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_te3_": "text_encoder_3",
    "lycoris_": "unet",
}
_DOTTED = {
    "unet.": "unet",
    "transformer.": "unet",
    "model.diffusion_model.": "unet",
    "diffusion_model.": "unet",
    "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder_3.": "text_encoder_3",
    "base_model.model.": "unet",
}


@dataclass(frozen=True)
class Change:
    """One LoRA's part in one parameter ("weight" or "bias") of a layer."""

    module: Any
    name: str
    form: Form
    strength: float


@dataclass(frozen=True)
class Target:
    """A layer that a name in a file means, or those of a packed layer's rows ([first, last) of `total`) that it has."""

    module: Any
    rows: tuple[tuple[int, int], ...] = ()
    total: int = 0


def flat_names(part: str, root: Any) -> dict[str, tuple[Target, ...]]:
    """Every name under which a file may address a layer, with dots as underscores -> the layer, or several layers that
    the authors of a transformer pack into one."""
    flat: dict[str, tuple[Target, ...]] = {name: (Target(module),) for name, module in _flat_layers(part, root).items()}
    if part == "unet":
        for name, layers in packed_layers(root).items():
            targets = tuple(Target(root.get_submodule(layer), rows, total) for layer, rows, total in layers)
            flat.setdefault(name.replace(".", "_"), targets)
    return flat


def _flat_layers(part: str, root: Any) -> dict[str, Any]:
    layers = {
        name: module for name, module in root.named_modules() if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))
    }
    flat = {name.replace(".", "_"): module for name, module in layers.items()}
    if part == "unet" and "up_block_types" not in root.config:
        return flat
    if part == "unet":
        sources = ldm.unet_sources([f"{name}.weight" for name in layers], root.config)
        for name, source in sources.items():
            original = source.name.removeprefix(ldm.UNET).removesuffix(".weight").replace(".", "_")
            flat[original] = layers[name.removesuffix(".weight")]
        # diffusers once called the output projection's LoRA `to_out`, though the layer is `to_out.0`.
        flat.update(
            {name.removesuffix("_0"): module for name, module in list(flat.items()) if name.endswith("to_out_0")}
        )
        return flat
    flat = {name.removeprefix("text_model_"): module for name, module in flat.items()}
    for name, module in list(flat.items()):
        # Old diffusers files name the text encoder's projections as the UNet's.
        older = re.sub(r"self_attn_(q|k|v|out)_proj$", r"self_attn_to_\1", name)
        flat[older] = module
    return flat


def read_lora(path: Path, weight: float, names: Mapping[str, Mapping[str, tuple[Target, ...]]]) -> list[Change]:
    """The changes that a LoRA file asks for; every tensor of it must be understood and fit."""
    if not path.is_file():
        raise WireError(Code.MODEL_MISSING, f"The LoRA {path.name} is no longer there.", "Rescan the model folders.")
    parts: dict[str, dict[str, torch.Tensor]] = {}
    with TensorFiles([path]) as files:
        for key in files.names():
            found = split_name(key)
            if found is None:
                raise _foreign(path)
            kind, base = found
            parts.setdefault(base, {})[kind] = files.read(key)
        alphas = _stated_alphas(path, files.metadata)
    changes = [
        change for base, tensors in parts.items() for change in _changes(path, weight, base, tensors, alphas, names)
    ]
    if not changes:
        raise corrupt(path.name)
    return changes


def _changes(
    path: Path,
    weight: float,
    base: str,
    stored: Mapping[str, torch.Tensor],
    alphas: Mapping[str, float],
    names: Mapping[str, Mapping[str, tuple[Target, ...]]],
) -> list[Change]:
    part, name = _resolve(base)
    targets = names.get(part, {}).get(name, ())
    if not targets:
        raise _foreign(path)
    tensors = {kind: tensor.to(torch.float32) for kind, tensor in stored.items()}
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        raise corrupt(path.name)
    alpha = tensors.pop("alpha", None)
    bias = tensors.pop("diff_b", None)
    stated = alphas.get(base, alphas.get(part)) if alpha is None else float(alpha)
    try:
        changes = []
        for target in targets:
            if tensors:
                form = form_of(tensors, stated, target.rows, target.total)
                changes.append(Change(target.module, "weight", form, weight))
            if bias is not None:
                form = Form({"diff": bias}, 1.0, target.rows, target.total)
                changes.append(Change(target.module, "bias", form, weight))
        for change in changes:
            parameter = getattr(change.module, change.name)
            if parameter is None:
                raise _foreign(path)
            change.form.check(parameter)
    except (KeyError, IndexError, RuntimeError) as error:
        raise corrupt(path.name) from error
    except ValueError as error:
        raise _foreign(path) from error
    return changes


def _resolve(base: str) -> tuple[str, str]:
    """A layer's name in a file as (part of the model, flat name); ("", ...) when it belongs to no part."""
    for prefix, part in _KOHYA.items():
        if base.startswith(prefix):
            return part, base.removeprefix(prefix).removeprefix("text_model_")
    part = "unet"
    for prefix, owner in _DOTTED.items():
        if base.startswith(prefix):
            part, base = owner, base.removeprefix(prefix)
            break
    if base.startswith("lora_"):
        return "", base
    return part, base.replace(".processor", "").replace(".", "_").removeprefix("text_model_")


def _stated_alphas(path: Path, metadata: Mapping[str, str]) -> dict[str, float]:
    """Alphas that are not tensors: diffusers writes them into the header, peft into a file beside the weights."""
    found: dict[str, float] = {}
    beside = path.parent / "adapter_config.json"
    try:
        stated = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        for part in ("unet", "text_encoder", "text_encoder_2"):
            found.update(_alphas(stated, f"{part}.", [f"{part}."]))
        if path.name == "adapter_model.safetensors" and beside.is_file():
            found.update(_alphas(json.loads(beside.read_text("utf-8")), "", ["base_model.model."]))
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise corrupt(path.name) from error
    return found


def _alphas(stated: Mapping[str, Any], prefix: str, bases: Iterable[str]) -> dict[str, float]:
    out: dict[str, float] = {}
    for key in ("lora_alpha", "alpha"):  # peft's name for LoRA and DoRA, and for LoHa and LoKr
        if f"{prefix}{key}" in stated:
            out[prefix.removesuffix(".") or "unet"] = float(stated[f"{prefix}{key}"])
    for name, alpha in (stated.get(f"{prefix}alpha_pattern") or {}).items():
        out.update({base + name: float(alpha) for base in bases})
    return out


def _foreign(path: Path) -> WireError:
    return WireError(
        Code.MODEL_UNSUPPORTED,
        f"The LoRA {path.name} does not fit this model; it was made for another kind of model or in another format.",
        "Choose a LoRA for this model's family, or take it out of the prompt.",
    )
