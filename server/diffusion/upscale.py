# SPDX-License-Identifier: GPL-3.0-or-later
"""Enlarging a picture to an exact size: by a loaded upscaler, piece by piece, or by Lanczos resampling without one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from krita_sd.wire.errors import Code, WireError
from server.diffusion import esrgan
from server.diffusion.model import bytes_to_device
from server.diffusion.sampling import Control, no_control
from server.diffusion.task import Cancelled, Pixels
from server.diffusion.tiles import Floats, Tile, blended, tiles
from server.diffusion.weights import IsCancelled, Loader, Progress, Source, TensorFiles, empty_module

SIDE, OVERLAP = 256, 32
"""Pixels of a piece that an upscaler is given, and of what neighbours have in common."""

MAX_RUNS = 4
"""An upscaler for twice the size is run again until the wanted size is reached, at most so often."""


@dataclass(eq=False)
class Upscaler:
    """An upscaler in memory; `scale`: how many times larger its output is."""

    name: str
    scale: int
    module: Any
    device: torch.device

    def unload(self) -> None:
        """Free the memory; it cannot be used afterwards."""
        self.module = None


def load_upscaler(
    path: Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
) -> Upscaler:
    """The upscaler in a safetensors file. Raises WireError(model_missing, model_unsafe, model_corrupt,
    model_unsupported), Cancelled. `dtype` defaults to float32 on the CPU and float16 elsewhere."""
    if not path.exists():
        raise WireError(Code.MODEL_MISSING, f"The upscaler {path.name} is no longer there.", "Rescan the models.")
    if path.suffix.lower() != ".safetensors":
        raise WireError(
            Code.MODEL_UNSAFE,
            f"The file {path.name} is in a format that is not safe to open.",
            "Convert it to safetensors first.",
        )
    place = torch.device(device)
    if dtype is None:
        dtype = torch.float32 if place.type == "cpu" else torch.float16
    with TensorFiles([path]) as files:
        try:
            make, names = esrgan.network(files.shapes())
        except (KeyError, ValueError, IndexError) as error:
            raise WireError(
                Code.MODEL_UNSUPPORTED,
                f"The file {path.name} is not an upscaler of a kind that is known here.",
                "Use an ESRGAN or Real-ESRGAN model, or choose none.",
            ) from error
        module = empty_module(make)
        loader = Loader(files, path.name, dtype, place, progress, cancelled)
        loader.fill(module, "upscaler", {name: Source(stored) for name, stored in names.items()})
    return Upscaler(path.stem, module.scale, module, place)


def enlarge(
    image: Pixels, width: int, height: int, upscaler: Upscaler | None = None, control: Control = no_control
) -> Pixels:
    """uint8 (h, w, 3) to exactly uint8 (height, width, 3). Raises Cancelled, asked before every piece.

    An upscaler is run until the wanted size is reached or passed; the exact size is made by resampling.
    """
    runs = 0
    while upscaler is not None and upscaler.scale > 1 and runs < MAX_RUNS:
        if image.shape[1] >= width and image.shape[0] >= height:
            break
        image = _run(image, upscaler, control)
        runs += 1
    if upscaler is not None and upscaler.scale == 1:
        image = _run(image, upscaler, control)
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS), np.uint8)


@torch.inference_mode()
def _run(image: Pixels, upscaler: Upscaler, control: Control) -> Pixels:
    """One run of the network over the whole picture, `scale` times larger."""
    scale = upscaler.scale
    wanted = (image.shape[0] * scale, image.shape[1] * scale)
    # Networks that fold pixels into channels need sides and places that are multiples of that.
    fold = getattr(upscaler.module, "fold", 1)
    image = np.pad(image, ((0, -image.shape[0] % fold), (0, -image.shape[1] % fold), (0, 0)), mode="edge")
    height, width = image.shape[:2]

    def pieces() -> Iterator[tuple[Tile, Floats]]:
        made = tiles(width * scale, height * scale, SIDE * scale, OVERLAP * scale, scale * fold)
        for tile in made:
            if control() == "cancel":
                raise Cancelled
            x, y, w, h = (length // scale for length in (tile.x, tile.y, tile.width, tile.height))
            yield tile, _piece(image[y : y + h, x : x + w], upscaler)

    out = blended(width * scale, height * scale, 3, pieces())
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)[: wanted[0], : wanted[1]]


def _piece(image: Pixels, upscaler: Upscaler) -> Floats:
    """uint8 (h, w, 3) -> float32 (h scale, w scale, 3), 0..255."""
    dtype = next(upscaler.module.parameters()).dtype
    tensor = bytes_to_device(image, upscaler.device)[None].permute(0, 3, 1, 2).to(dtype) / 255.0
    out = upscaler.module(tensor)[0].to(torch.float32).clamp(0.0, 1.0) * 255.0
    if not bool(torch.isfinite(out).all()):
        raise WireError(Code.NAN_OUTPUT, "The upscaler produced invalid numbers.", "Choose another upscaler, or none.")
    finished: Floats = out.permute(1, 2, 0).cpu().numpy()
    return finished
