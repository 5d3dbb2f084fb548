# SPDX-License-Identifier: GPL-3.0-or-later
"""Enlarging a picture to an exact size: by a loaded upscaler, piece by piece, or by Lanczos resampling without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from krita_sd.wire.errors import Code, WireError
from server.diffusion import esrgan, upscale_spandrel
from server.diffusion.model import bytes_to_device
from server.diffusion.sampling import Control, no_control
from server.diffusion.task import Cancelled, Pixels
from server.diffusion.tiles import Floats, Tile, blended, tiles
from server.diffusion.weights import IsCancelled, Loader, Progress, Source, TensorFiles, empty_module
from server.library.upscalers import SIDES, cannot_run, network_of

OVERLAP = 32
"""Pixels that neighbouring pieces have in common."""

MAX_RUNS = 4
"""An upscaler for twice the size is run again until the wanted size is reached, at most so often."""

MAX_FOLD = 16
"""Pieces begin at multiples of what a network wants its sides to be, up to here; beyond, it pads them itself."""


@dataclass(eq=False)
class Upscaler:
    """An upscaler in memory; `scale`: how many times larger its output is. run: a picture's floats of 0..1
    (1, 3, h, w) -> (1, 3, h scale, w scale). fold: sides and places of pieces are multiples of it. own: an ESRGAN,
    which needs less memory. side: of the largest piece that memory has not run out with."""

    name: str
    scale: int
    module: Any
    device: torch.device
    run: Callable[[torch.Tensor], torch.Tensor]
    fold: int = 1
    own: bool = True
    side: int = SIDES[0]

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        found: torch.dtype = next(self.module.parameters()).dtype
        return found

    def unload(self) -> None:
        """Free the memory; it cannot be used afterwards."""
        self.module = self.run = None  # type: ignore[assignment]


def load_upscaler(
    path: Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
) -> Upscaler:
    """The upscaler in a safetensors file. Raises WireError(model_missing, model_unsafe, model_corrupt,
    model_unsupported), Cancelled. `dtype` defaults to float32 on the CPU and float16 elsewhere; see `precision`."""
    if not path.exists():
        raise WireError(Code.MODEL_MISSING, f"The upscaler {path.name} is no longer there.", "Rescan the models.")
    if path.suffix.lower() != ".safetensors":
        raise WireError(
            Code.MODEL_UNSAFE,
            f"The file {path.name} is in a format that is not safe to open.",
            "Convert it to safetensors first.",
        )
    place = torch.device(device)
    with TensorFiles([path]) as files:
        shapes = files.shapes()
        refused = cannot_run(path.name, shapes)
        if refused is not None:
            raise refused
        network = network_of(shapes)
        if network is None or not network.own:
            found = upscale_spandrel.load(files, path.name, progress, cancelled)
            module = found.module.to(place, precision(dtype, place, found.half))
            fold = found.multiple if found.multiple <= MAX_FOLD else 1
            return Upscaler(path.stem, found.scale, module, place, found.run, fold, own=False)
        try:
            make, names = esrgan.network(shapes)
        except (KeyError, ValueError, IndexError) as error:
            raise WireError(
                Code.MODEL_UNSUPPORTED,
                f"The file {path.name} is not an upscaler of a kind that is known here.",
                "Use an ESRGAN or Real-ESRGAN model, or choose none.",
            ) from error
        module = empty_module(make)
        loader = Loader(files, path.name, precision(dtype, place), place, progress, cancelled)
        loader.fill(module, "upscaler", {name: Source(stored) for name, stored in names.items()})
    return Upscaler(path.stem, module.scale, module, place, module, getattr(module, "fold", 1))


def precision(wanted: torch.dtype | None, device: torch.device, half: bool = True) -> torch.dtype:
    """float16 where it is wanted (elsewhere than on the CPU: unless another is) and the network can; else float32.

    Never bfloat16, which keeps eight bits of a number: an ESRGAN of full size is up to four of a picture's 256 levels
    off in it, and half of one in float16.
    """
    if wanted is None:
        wanted = torch.float32 if device.type == "cpu" else torch.float16
    elif wanted is torch.bfloat16 and device.type != "cpu":
        wanted = torch.float16
    return torch.float16 if wanted is torch.float16 and half else torch.float32


def enlarge(
    image: Pixels,
    width: int,
    height: int,
    upscaler: Upscaler | None = None,
    control: Control = no_control,
    progress: Progress | None = None,
    side: int = SIDES[0],
) -> Pixels:
    """uint8 (h, w, 3) to exactly uint8 (height, width, 3). Raises Cancelled, asked before every piece.

    An upscaler is run until the wanted size is reached or passed; the exact size is made by resampling. `progress`
    hears 0..1 after every piece; `side`: of pieces, in pixels of what goes in.
    """
    runs = _runs(image, width, height, upscaler)
    for number in range(runs):

        def told(share: float, done: int = number) -> None:
            if progress is not None:
                progress((done + share) / runs)

        assert upscaler is not None
        image = _run(image, upscaler, control, told, side)
    if image.shape[:2] == (height, width):
        return np.ascontiguousarray(image)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS), np.uint8)


def _runs(image: Pixels, width: int, height: int, upscaler: Upscaler | None) -> int:
    """How often the network is run over the whole picture."""
    if upscaler is None:
        return 0
    if upscaler.scale == 1:
        return 1
    runs, (high, wide) = 0, image.shape[:2]
    while runs < MAX_RUNS and (wide < width or high < height):
        runs, high, wide = runs + 1, high * upscaler.scale, wide * upscaler.scale
    return runs


@torch.inference_mode()
def _run(image: Pixels, upscaler: Upscaler, control: Control, told: Progress, side: int) -> Pixels:
    """One run of the network over the whole picture, `scale` times larger."""
    scale, fold = upscaler.scale, upscaler.fold
    wanted = (image.shape[0] * scale, image.shape[1] * scale)
    if upscaler.own or max(image.shape[:2]) > side:
        # Networks that fold pixels into channels need sides and places that are multiples of that.
        image = np.pad(image, ((0, -image.shape[0] % fold), (0, -image.shape[1] % fold), (0, 0)), mode="edge")
    height, width = image.shape[:2]

    def pieces() -> Iterator[tuple[Tile, Floats]]:
        made = tiles(width * scale, height * scale, side * scale, OVERLAP * scale, scale * fold)
        for number, tile in enumerate(made, 1):
            if control() == "cancel":
                raise Cancelled
            x, y, w, h = (length // scale for length in (tile.x, tile.y, tile.width, tile.height))
            yield tile, _piece(image[y : y + h, x : x + w], upscaler)
            told(number / len(made))

    out = blended(width * scale, height * scale, 3, pieces())
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)[: wanted[0], : wanted[1]]


def _piece(image: Pixels, upscaler: Upscaler) -> Floats:
    """uint8 (h, w, 3) -> float32 (h scale, w scale, 3), 0..255. What is invalid in float16 is tried in float32, and
    from then on."""
    tensor = bytes_to_device(image, upscaler.device)[None].permute(0, 3, 1, 2)
    while True:
        out = upscaler.run(tensor.to(upscaler.dtype) / 255.0)[0].to(torch.float32)
        if bool(torch.isfinite(out).all()):
            break
        if upscaler.dtype is torch.float32:
            hint = "Choose another upscaler, or none."
            raise WireError(Code.NAN_OUTPUT, "The upscaler produced invalid numbers.", hint)
        upscaler.module.to(torch.float32)
    finished: Floats = (out.clamp(0.0, 1.0) * 255.0).permute(1, 2, 0).cpu().numpy()
    return finished
