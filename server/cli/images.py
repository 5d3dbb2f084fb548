# SPDX-License-Identifier: GPL-3.0-or-later
"""Picture files of the command line <-> pictures of the wire, and the recipe inside a PNG.

Files are untrusted: the size in the header is checked before anything is decoded.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, PngImagePlugin

from krita_sd.geometry import Bounds, Extent
from krita_sd.wire import parameters
from krita_sd.wire.errors import Code, WireError, bad_request
from krita_sd.wire.frames import Picture
from krita_sd.wire.limits import MAX_PICTURE, MAX_SIDE
from krita_sd.wire.recipe import Recipe
from krita_sd.wire.values import dump

Array = NDArray[np.uint8]

KEY = "krita_sd"
"""Text chunk of a PNG that holds the recipe as JSON."""


def read_image(file: Path) -> Array:
    """Any picture file -> (height, width, 4) RGBA, 8 bit, upright. Raises WireError in one sentence."""
    image = _open(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = _upright(image)
            return np.asarray(_eight_bit(image).convert("RGBA"), np.uint8)
    except (OSError, ValueError, SyntaxError, MemoryError, EOFError):
        raise bad_request(f"The picture {file} is damaged or cut off.") from None


def read_mask(file: Path) -> Array:
    """Any picture file -> (height, width): its brightness, times its alpha where it has one."""
    rgba = read_image(file)
    grey = np.asarray(Image.fromarray(rgba[..., :3]).convert("L"), np.uint16)
    return ((grey * rgba[..., 3] + 127) // 255).astype(np.uint8)


def _open(file: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file)
    except Image.DecompressionBombError:
        raise _too_large(file) from None
    except FileNotFoundError:
        raise bad_request(f"There is no file {file}.") from None
    except (OSError, ValueError, SyntaxError):
        raise bad_request(f"The file {file} is not a picture that can be read.") from None
    width, height = image.size
    if width * height * 4 > MAX_PICTURE or max(width, height) > MAX_SIDE:
        raise _too_large(file, f" ({width} x {height} pixels)")
    return image


def _too_large(file: Path, size: str = "") -> WireError:
    return WireError(Code.TOO_LARGE, f"The picture {file} is too large{size}.", "Use a smaller one.")


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    return ImageOps.exif_transpose(image) or image


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit and float greys are scaled, not cut; the rest Pillow converts rightly."""
    if image.mode.startswith("I;16") or image.mode == "I":
        wide = np.asarray(image).astype(np.int64)
        return Image.fromarray(np.clip((wide + 128) // 257, 0, 255).astype(np.uint8))
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        scale = 255.0 if float(values.max(initial=0.0)) <= 1.0 else 1.0
        return Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8))
    return image


def resized(array: Array, size: Extent) -> Array:
    """`array` at another size; the same array when it has it already."""
    if (array.shape[1], array.shape[0]) == tuple(size):
        return array
    method = Image.Resampling.BILINEAR if array.ndim == 2 else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(array).resize(size, method), np.uint8)


def cut(array: Array, region: Bounds) -> Array:
    """The part of a picture or mask inside `region`."""
    return np.ascontiguousarray(array[region.y : region.bottom, region.x : region.right])


def to_picture(array: Array) -> Picture:
    """RGBA -> bgra8, a mask -> grey8."""
    height, width = array.shape[:2]
    if array.ndim == 2:
        return Picture("grey8", width, height, array.tobytes())
    return Picture("bgra8", width, height, array[..., [2, 1, 0, 3]].tobytes())


def from_picture(picture: Picture) -> Array:
    """bgra8 -> RGBA."""
    pixels = np.frombuffer(picture.data, np.uint8).reshape(picture.height, picture.width, 4)
    return pixels[..., [2, 1, 0, 3]]


def composited(base: Array, layer: Array, region: Bounds) -> Array:
    """`layer` (RGBA, straight alpha) over `base` (RGBA) at `region`. Where its alpha is 0, `base` keeps its bytes."""
    out = base.copy()
    under = out[region.y : region.bottom, region.x : region.right]
    touched = layer[..., 3] > 0
    above, below = layer[touched].astype(np.int64), under[touched].astype(np.int64)
    alpha_above, alpha_below = above[:, 3:], below[:, 3:]
    rest = alpha_below * (255 - alpha_above)
    alpha = alpha_above * 255 + rest  # of 255 * 255
    colour = (above[:, :3] * alpha_above * 255 + below[:, :3] * rest + alpha // 2) // np.maximum(alpha, 1)
    under[touched] = np.concatenate([colour, (alpha + 127) // 255], axis=1).astype(np.uint8)
    return out


def write_png(file: Path, rgba: Array, texts: dict[str, str]) -> None:
    """Write a PNG with text chunks; opaque pictures as RGB. A file of that name is replaced in one step."""
    opaque = int(rgba[..., 3].min()) == 255
    image = Image.fromarray(np.ascontiguousarray(rgba[..., :3] if opaque else rgba))
    chunks = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        chunks.add_text(key, text.replace("\0", " "))
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        image.save(temporary, "PNG", pnginfo=chunks, compress_level=4)
        os.replace(temporary, file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise WireError(
            Code.DISK_FULL, f"The picture cannot be written to {file} ({error.strerror or error})."
        ) from None


def texts_of(recipe: Recipe, model: str, more: dict[str, Any]) -> dict[str, str]:
    """The text chunks of a result: our recipe as JSON and AUTOMATIC1111's "parameters"."""
    return {KEY: dump({"recipe": recipe.to_json(), **more}), "parameters": parameters.write(recipe, model)}
