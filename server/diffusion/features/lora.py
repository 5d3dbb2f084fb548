# SPDX-License-Identifier: GPL-3.0-or-later
"""LoRAs for one job: added into the weights before it and taken out after it, bit for bit.

Adding once costs nothing per step and keeps every weight where it is in memory. What was there is kept as a copy and
copied back: subtracting again would leave rounding behind. Layouts: kohya (diffusers and original names), diffusers
(old and new), peft. Hu et al., "LoRA", 2021.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from krita_sd.wire.errors import Code, WireError
from server.diffusion import ldm
from server.diffusion.sampling import Feature
from server.diffusion.weights import TensorFiles, corrupt

Loras = tuple[tuple[Path, float], ...]

_SUFFIXES = {
    "down": r"\.lora_down\.weight|\.lora_A(?:\.[^.]+)?\.weight|(?:[._]lora|\.lora_linear_layer)\.down\.weight",
    "up": r"\.lora_up\.weight|\.lora_B(?:\.[^.]+)?\.weight|(?:[._]lora|\.lora_linear_layer)\.up\.weight",
    "alpha": r"\.alpha",
}
_KINDS = {kind: re.compile(rf"(.+?)(?:{pattern})") for kind, pattern in _SUFFIXES.items()}
_KOHYA = {
    "lora_unet_": "unet",
    "lora_transformer_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
_DOTTED = {
    "unet.": "unet",
    "transformer.": "unet",
    "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2",
    "base_model.model.": "unet",
}


@dataclass(frozen=True)
class Change:
    """One layer's part of one LoRA: weight += strength * up @ down, float32 on the CPU."""

    module: Any
    down: torch.Tensor
    up: torch.Tensor
    strength: float


def fingerprint(loras: Loras) -> tuple[Any, ...]:
    """What the text encoder's output depends on, besides the prompt: changes when a file is replaced."""
    out: list[Any] = []
    for path, weight in loras:
        try:
            stat = path.stat()
        except OSError:
            out.append((str(path), weight, None))
            continue
        out.append((str(path), weight, stat.st_mtime_ns, stat.st_size))
    return tuple(out)


class LoraWeights(Feature):
    """The LoRAs of a job in the weights of the denoiser and the text encoder.

    Raises WireError on entering: model_missing, model_corrupt, model_unsupported (made for another kind of model).
    """

    def __init__(self, denoiser: Any, encoders: Mapping[str, Any], loras: Loras) -> None:
        self._targets = {"unet": denoiser, **encoders}
        self._loras = loras
        self._kept: list[tuple[Any, torch.Tensor]] = []

    def __enter__(self) -> LoraWeights:
        names = {part: _flat_names(part, module) for part, module in self._targets.items()}
        changes: dict[int, list[Change]] = {}
        # All files are read and checked before the first weight is touched.
        for path, weight in self._loras:
            for change in read_lora(path, weight, names):
                changes.setdefault(id(change.module), []).append(change)
        try:
            with torch.inference_mode(False), torch.no_grad():
                for group in changes.values():
                    self._apply(group)
        except BaseException:
            self._restore()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _apply(self, changes: list[Change]) -> None:
        module = changes[0].module
        weight = module.weight
        self._kept.append((module, weight.detach().clone()))
        total = weight.to(torch.float32)
        for change in changes:
            up, down = change.up.to(weight.device), change.down.to(weight.device)
            total = total + change.strength * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
        weight.copy_(total)

    def _restore(self) -> None:
        with torch.inference_mode(False), torch.no_grad():
            for module, before in self._kept:
                module.weight.copy_(before)
        self._kept.clear()


def _flat_names(part: str, root: Any) -> dict[str, Any]:
    """Every name under which a file may address a layer, with dots as underscores -> the layer."""
    layers = {
        name: module for name, module in root.named_modules() if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))
    }
    flat = {name.replace(".", "_"): module for name, module in layers.items()}
    if part == "unet" and "up_block_types" not in root.config:
        # Transformers: diffusers' names; those of the authors pack several layers into one.
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


def read_lora(path: Path, weight: float, names: Mapping[str, Mapping[str, Any]]) -> list[Change]:
    """The changes that a LoRA file asks for; every tensor of it must be understood and fit."""
    if not path.is_file():
        raise WireError(Code.MODEL_MISSING, f"The LoRA {path.name} is no longer there.", "Rescan the model folders.")
    parts: dict[str, dict[str, torch.Tensor]] = {}
    with TensorFiles([path]) as files:
        for key in files.names():
            kind, base = _split(key, path)
            parts.setdefault(base, {})[kind] = files.read(key)
        alphas = _stated_alphas(path, files.metadata)
    changes = [_change(path, weight, base, tensors, alphas, names) for base, tensors in parts.items()]
    if not changes:
        raise corrupt(path.name)
    return changes


def _split(key: str, path: Path) -> tuple[str, str]:
    for kind, pattern in _KINDS.items():
        if match := pattern.fullmatch(key):
            return kind, match[1]
    raise _foreign(path)


def _change(
    path: Path,
    weight: float,
    base: str,
    tensors: Mapping[str, torch.Tensor],
    alphas: Mapping[str, float],
    names: Mapping[str, Mapping[str, Any]],
) -> Change:
    part, name = _resolve(base)
    module = names.get(part, {}).get(name)
    if module is None:
        raise _foreign(path)
    if "down" not in tensors or "up" not in tensors:
        raise corrupt(path.name)
    down, up = tensors["down"].to(torch.float32), tensors["up"].to(torch.float32)
    shape = module.weight.shape
    if down.ndim < 2 or up.ndim < 2 or up.shape[1:].numel() != down.shape[0]:
        raise corrupt(path.name)
    if (up.shape[0], down.shape[1:].numel()) != (shape[0], shape[1:].numel()):
        raise _foreign(path)
    if not (bool(torch.isfinite(down).all()) and bool(torch.isfinite(up).all())):
        raise corrupt(path.name)
    rank = down.shape[0]
    alpha = float(tensors["alpha"]) if "alpha" in tensors else alphas.get(base, alphas.get(part, float(rank)))
    return Change(module, down, up, weight * alpha / rank)


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
    if f"{prefix}lora_alpha" in stated:
        out[prefix.removesuffix(".") or "unet"] = float(stated[f"{prefix}lora_alpha"])
    for name, alpha in (stated.get(f"{prefix}alpha_pattern") or {}).items():
        out.update({base + name: float(alpha) for base in bases})
    return out


def _foreign(path: Path) -> WireError:
    return WireError(
        Code.MODEL_UNSUPPORTED,
        f"The LoRA {path.name} does not fit this model; it was made for another kind of model or in another format.",
        "Choose a LoRA for this model's family, or take it out of the prompt.",
    )
