# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a file or folder cannot be used, each in one sentence."""

from __future__ import annotations

from pathlib import Path

from krita_sd.wire.errors import Code

from .capabilities import CONTROLLED, FILES, FOLDERS
from .companions import encoder_role
from .family import INPAINTING_CHANNELS, PLAIN_CHANNELS, TITLES, Detected, read_json
from .header import Header

UNSAFE = frozenset({".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle"})
COMPONENTS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3", "image_embedder")


def unsafe_folder(folder: Path, kind: str) -> tuple[str, Code] | None:
    """Why the weights of a diffusers folder cannot be loaded; None when they are all there and safe to open."""
    denoiser = "transformer" if (folder / "transformer").is_dir() else "unet"
    named = read_json(folder / "model_index.json")
    more = [part for part in COMPONENTS[4:] if isinstance(named.get(part), list) and all(named[part])]
    wanted = ("image_embedder",) if kind == "redux" else (denoiser, "vae", "text_encoder", *more)
    for part in wanted:
        if any((folder / part).glob("*.safetensors")):
            continue
        if any(file.suffix.lower() in UNSAFE for file in (folder / part).glob("*")):
            why = f"{folder.name} has weights that can run code when opened; convert it to safetensors first."
            return why, Code.MODEL_UNSAFE
        return f"The model folder {folder.name} has no weights for its {part.replace('_', ' ')}.", Code.MODEL_CORRUPT
    return None


def offers_of(header: Header, detected: Detected) -> tuple[str, int]:
    """What a file can be to single files that lack it: (role, width)."""
    if detected.kind == "text_encoder":
        return encoder_role(header.shapes)
    return (f"vae:{detected.family}", 0) if detected.kind == "vae" else ("", 0)


def unsupported(
    name: str, detected: Detected, families: frozenset[str], offers: tuple[str, int] = ("", 0)
) -> tuple[str, Code] | None:
    """Why a model cannot be used, in one sentence; `families`: those that can be loaded in this form."""
    if detected.kind in ("unknown", "component"):
        return f"{name} is not a kind of model that is known here.", Code.MODEL_UNSUPPORTED
    if detected.kind == "text_encoder" and not offers[0]:
        return f"{name} is a text encoder of a kind that no model here reads with.", Code.MODEL_UNSUPPORTED
    if detected.kind == "ip_adapter" and detected.family == "flux1":
        return f"{name} is an IP-Adapter for Flux 1, where Redux is used for references.", Code.MODEL_UNSUPPORTED
    if detected.kind == "controlnet" and detected.family not in CONTROLLED | {""}:
        title = TITLES.get(detected.family, "SDXL in the form of LLLite")
        return f"{name} is a ControlNet for {title}, which is not supported yet.", Code.MODEL_UNSUPPORTED
    if detected.kind != "checkpoint":
        return None
    if not detected.family:
        return f"The architecture of {name} is not known here.", Code.MODEL_UNSUPPORTED
    title = TITLES.get(detected.family, detected.family)
    if detected.family not in families:
        if detected.family in FOLDERS:
            return f"{name} is {title} in a single file; use its diffusers folder instead.", Code.MODEL_UNSUPPORTED
        return f"{name} is {title}, which is not supported yet.", Code.MODEL_UNSUPPORTED
    if detected.family in FILES and detected.channels not in PLAIN_CHANNELS | INPAINTING_CHANNELS:
        return f"{name} takes {detected.channels} input channels, which is not supported yet.", Code.MODEL_UNSUPPORTED
    return None
