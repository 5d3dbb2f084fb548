# SPDX-License-Identifier: GPL-3.0-or-later
"""Would a job fit, and how: an estimate of the peak memory from sizes alone, and the rung of the ladder it needs.

Weights come from safetensors headers, activations from numbers per latent cell and per pixel that were traced on
full-size models without values (tests/engine/test_memory.py does it again). No torch: the front answers before a
model is loaded, and the worker decides by the same function.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from krita_sd.wire.errors import WireError

from .companions import encoder_role, is_loaded
from .header import read_header

RUNGS = ("full", "encoders", "model", "groups", "tiled", "fp8")
"""The ladder, each with all above it. full: everything on the device. encoders: text encoders leave after the prompt is
read. model: one part at a time. groups: the denoiser a block at a time. tiled: the autoencoder by tiles. fp8: the
denoiser stored in 8 bits."""

CELL_ELEMENTS = {"sd1": 8400, "sd2": 8400, "sdxl": 5100}
"""Numbers alive at the peak of one UNet call, per latent cell and picture of the batch."""

TRANSFORMER_ELEMENTS = 26_000
"""The same for the transformers (SD3, Flux, ...), per cell of 8 x 8 pixels, text tokens included from 512^2 on."""

DECODE_ELEMENTS = 780
"""Numbers alive at the peak of the autoencoder, per pixel; encoding needs less."""

TILE_SIDE = 512
WORKSPACE = 1.35
"""Share that libraries take beside the tensors themselves (convolution workspaces, fragmentation)."""

BASE = 300 * 1024**2
"""Bytes of a started device: kernels, handles, allocator."""

_ENCODERS = ("text_encoder", "text_encoders", "cond_stage_model", "conditioner", "image_encoder")
_AUTOENCODERS = ("vae", "first_stage_model", "taesd")
_IGNORED = ("model_ema.", "safety_checker")

_SAYS = {
    "full": "Fits: needs about {needed} of {free} free.",
    "encoders": "Fits when the text encoders wait outside: needs about {needed} of {free} free.",
    "model": "Will offload (a part at a time, slower): needs about {needed} of {free} free.",
    "groups": "Will offload (a block at a time, much slower): needs about {needed} of {free} free.",
    "tiled": "Will offload and decode by tiles (much slower): needs about {needed} of {free} free.",
    "part": "Will offload (a part at a time, slower) and decode by tiles: needs about {needed} of {free} free.",
    "fp8": "Will offload in 8 bits (much slower, a little coarser): needs about {needed} of {free} free.",
}


@dataclass(frozen=True)
class Weights:
    """How many numbers each part of a model has (not bytes: the device's precision decides those)."""

    denoiser: int
    encoders: int
    autoencoder: int

    @property
    def all(self) -> int:
        return self.denoiser + self.encoders + self.autoencoder


@dataclass(frozen=True)
class Load:
    """One job as memory sees it. width, height: render size in pixels. pair: guidance runs two at once. itemsize:
    bytes per number. extra: bytes of what stays loaded beside the model (an upscaler)."""

    family: str
    weights: Weights
    width: int
    height: int
    pair: bool = True
    itemsize: int = 2
    extra: int = 0


@dataclass(frozen=True)
class Verdict:
    """verdict: fits | offloads | too_big | unknown. rung: where to start. needed, free: bytes. tiled: the autoencoder
    works by tiles, on that rung or because only its pixels do not fit."""

    verdict: str
    rung: str
    needed: int
    free: int
    text: str
    tiled: bool = False


def weights_of(path: Path, parts: Mapping[str, Path] | None = None) -> Weights:
    """Out of the headers of a single file or a diffusers folder; `parts`: files with what a single file lacks.

    Raises WireError(model_corrupt, model_missing).
    """
    counts = {"denoiser": 0, "encoders": 0, "autoencoder": 0}
    borrowed = [(file, part) for part, file in (parts or {}).items()]
    own = _files(path)
    for number, (file, folder) in enumerate((*own, *borrowed)):
        shapes = read_header(file).shapes
        role = encoder_role(shapes)[0] if number >= len(own) else ""  # folders are loaded whole
        for name, shape in shapes.items():
            home = folder or name
            if not is_loaded(name, role):
                continue
            # Names without a dot are tables of the schedule, not weights.
            if "." in name and not name.startswith(_IGNORED) and not home.startswith(_IGNORED):
                counts[_part(home)] += math.prod(shape)
    return Weights(**counts)


def _files(path: Path) -> list[tuple[Path, str]]:
    if path.is_file():
        return [(path, "")]
    seen: dict[str, list[Path]] = {}
    for file in sorted(path.glob("*/*.safetensors")):
        if file.parent.name not in ("lora", "controlnet"):
            seen.setdefault(file.parent.name, []).append(file)
    # A folder may hold the same weights in two precisions ("x.safetensors" and "x.fp16.safetensors").
    return [
        (file, folder)
        for folder, files in seen.items()
        for file in files
        if len(files) == 1 or ".fp16." not in file.name or all(".fp16." in other.name for other in files)
    ]


def _part(home: str) -> str:
    if home.startswith(_ENCODERS):
        return "encoders"
    return "autoencoder" if home.startswith(_AUTOENCODERS) else "denoiser"


def peak(load: Load, rung: str, tiled: bool = False) -> int:
    """Bytes that the device needs at once on that rung; `tiled`: with the autoencoder by tiles on any of them."""
    step = RUNGS.index(rung)
    weights, size = load.weights, load.itemsize
    denoising = _denoising(load)
    decoding = _decoding(load, tiled or step >= RUNGS.index("tiled"))
    denoiser, encoders, autoencoder = (size * n for n in (weights.denoiser, weights.encoders, weights.autoencoder))
    if step == 0:
        most = denoiser + encoders + autoencoder + max(denoising, decoding)
    elif step == 1:
        most = max(encoders + autoencoder, denoiser + autoencoder + max(denoising, decoding))
    else:
        share = {2: 1.0, 3: 0.12, 4: 0.12, 5: 0.06}[step]  # a few of the blocks at a time
        most = max(encoders * min(1.0, 2 * share), denoiser * share + denoising, autoencoder + decoding)
    return int(most) + load.extra + BASE


def judge(load: Load, free: int, offloading: bool = True) -> Verdict:
    """The first rung that fits into `free` bytes (0: not known). Without `offloading` (the processor: weights are in
    main memory anyway) only "full" and "tiled" make sense.

    Offloading a part at a time gives the same bytes and tiles nearly do, so the rungs above come first; but where only
    the autoencoder's pixels are too many, tiles come before the denoiser is cut into blocks.
    """
    rungs = RUNGS if offloading else ("full", "tiled")
    needed = peak(load, rungs[0])
    if free <= 0:
        return Verdict("unknown", rungs[0], needed, 0, f"Needs about {_size(needed)}.")
    for rung in rungs:
        needed = peak(load, rung) if offloading else _on_processor(load, rung)
        tiled = RUNGS.index(rung) >= RUNGS.index("tiled")
        says = "full" if rung == "full" or not offloading else rung
        if needed > free and rung == "model":
            needed, tiled, says = peak(load, rung, tiled=True), True, "part"
        if needed <= free:
            kind = "fits" if rung in ("full", "encoders") or not offloading else "offloads"
            text = _SAYS[says].format(needed=_size(needed), free=_size(free))
            return Verdict(kind, rung, needed, free, text, tiled)
    text = (
        f"Too big: needs about {_size(needed)}, and {_size(free)} are free. "
        "Choose a smaller region or model, or close other programs."
    )
    return Verdict("too_big", rungs[-1], needed, free, text, True)


def _on_processor(load: Load, rung: str) -> int:
    # All weights stay where they are; only the autoencoder's pixels shrink.
    working = max(_denoising(load), _decoding(load, tiled=rung == "tiled"))
    return int(load.itemsize * load.weights.all + working) + load.extra + BASE


def _denoising(load: Load) -> float:
    per_cell = CELL_ELEMENTS.get(load.family, TRANSFORMER_ELEMENTS)
    cells = load.width * load.height / 64 * (2 if load.pair else 1)
    return WORKSPACE * load.itemsize * per_cell * cells


def _decoding(load: Load, tiled: bool) -> float:
    pixels = load.width * load.height
    return WORKSPACE * load.itemsize * DECODE_ELEMENTS * (min(pixels, TILE_SIDE**2) if tiled else pixels)


def next_rung(rung: str, offloading: bool = True) -> str | None:
    """One step down the ladder; None at its foot."""
    rungs = RUNGS if offloading else ("full", "tiled")
    at = rungs.index(rung) + 1 if rung in rungs else len(rungs)
    return rungs[at] if at < len(rungs) else None


def estimate(
    path: Path,
    family: str,
    width: int,
    height: int,
    *,
    pair: bool,
    itemsize: int,
    free: int,
    offloading: bool,
    parts: Mapping[str, Path] | None = None,
    extra: int = 0,
) -> Verdict:
    """`judge` for the model at `path` with `extra` bytes beside it; `unknown` with a sentence when no header can be
    read."""
    try:
        weights = weights_of(path, parts)
    except WireError as error:
        return Verdict("unknown", "full", 0, free, str(error))
    return judge(Load(family, weights, width, height, pair, itemsize, extra), free, offloading)


def _size(count: int) -> str:
    return f"{count / 1024**3:.1f} GB" if count >= 1024**3 // 10 * 9 else f"{count / 1024**2:.0f} MB"
