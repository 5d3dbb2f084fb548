# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures of the wire <-> arrays of the engine, and resampling between document and render pixels.

A region is mapped by one uniform scale (`geometry.plan_render`); what the required multiple adds beyond the right and
bottom edge is padded with the edge's own pixels and cut off again, so nothing is stretched.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from krita_sd.geometry import Extent, RenderPlan
from krita_sd.wire.frames import Picture

Array = NDArray[np.uint8]

PAPER = 255
"""What lies under transparent pixels of an input: white, like a new document."""


def rgb_of(picture: Picture) -> Array:
    """bgra8 -> (height, width, 3) RGB, laid over paper where it is transparent."""
    pixels = np.frombuffer(picture.data, np.uint8).reshape(picture.height, picture.width, 4)
    rgb = pixels[..., 2::-1]
    alpha = pixels[..., 3:]
    if int(alpha.min()) == 255:
        return np.ascontiguousarray(rgb)
    mixed = rgb.astype(np.uint16) * alpha + PAPER * (255 - alpha.astype(np.uint16))
    return ((mixed + 127) // 255).astype(np.uint8)


def straight_of(picture: Picture) -> tuple[Array, Array | None]:
    """bgra8 -> (height, width, 3) RGB as it is under its alpha, and the alpha; None when all of it is opaque."""
    pixels = np.frombuffer(picture.data, np.uint8).reshape(picture.height, picture.width, 4)
    alpha = np.ascontiguousarray(pixels[..., 3])
    if int(alpha.min()) == 255:
        return rgb_of(picture), None
    # Colour under full transparency is arbitrary and would bleed into the edges: paper instead.
    rgb = np.where(alpha[..., None] == 0, np.uint8(PAPER), pixels[..., 2::-1])
    return np.ascontiguousarray(rgb), alpha


def grey_of(picture: Picture) -> Array:
    """grey8 -> (height, width)."""
    return np.frombuffer(picture.data, np.uint8).reshape(picture.height, picture.width)


def picture_of(rgb: Array, alpha: Array | None = None) -> Picture:
    """(height, width, 3) RGB and an alpha (255 when None) -> bgra8."""
    height, width = rgb.shape[:2]
    pixels = np.empty((height, width, 4), np.uint8)
    pixels[..., :3] = rgb[..., ::-1]
    pixels[..., 3] = 255 if alpha is None else alpha
    return Picture("bgra8", width, height, pixels.tobytes())


def to_render(array: Array, plan: RenderPlan, wrap: str = "") -> Array:
    """A region (target size, 2 or 3 dimensions) in render pixels, padded to `plan.extent`.

    With `wrap` ("x", "y" or "xy") nothing is padded, because padding would be a seam: the region fills the extent,
    stretched by what rounding to the multiple asks for.
    """
    if wrap:
        return wrapped_resize(array, plan.extent, wrap)
    if not plan.is_exact:
        width, height = (math.ceil(length - 1e-6) for length in plan.content)
        width, height = max(1, width), max(1, height)
        box = (0.0, 0.0, width / plan.scale, height / plan.scale)
        array = _pad(array, math.ceil(box[2]), math.ceil(box[3]))
        image = Image.fromarray(array)
        method = Image.Resampling.BILINEAR if array.ndim == 2 else Image.Resampling.LANCZOS
        array = np.asarray(image.resize((width, height), method, box=_inside(box, image)), np.uint8)
    return _pad(array, plan.extent.width, plan.extent.height)


def from_render(array: Array, plan: RenderPlan, size: Extent | None = None, wrap: str = "") -> Array:
    """A render (any size that covers `plan.extent`, such as a small preview) back to `size`, by default the target."""
    size = size or plan.target
    if wrap:
        return wrapped_resize(array, size, wrap)
    ratio_x, ratio_y = array.shape[1] / plan.extent.width, array.shape[0] / plan.extent.height
    box = (0.0, 0.0, plan.content[0] * ratio_x, plan.content[1] * ratio_y)
    if box[2:] == (size.width, size.height):
        return np.ascontiguousarray(array[: size.height, : size.width])
    image = Image.fromarray(array)
    resized = image.resize(size, Image.Resampling.LANCZOS, box=_inside(box, image))
    return np.asarray(resized, np.uint8)


_MARGIN = 16


def wrapped_resize(array: Array, size: Extent, wrap: str) -> Array:
    """Resampled as a whole, seeing beyond the edges along `wrap` what lies at the opposite ones."""
    height, width = array.shape[:2]
    if (width, height) == tuple(size):
        return np.ascontiguousarray(array)
    rest = [(0, 0)] * (array.ndim - 2)
    array = np.pad(array, [(0, 0), (_MARGIN, _MARGIN), *rest], mode="wrap" if "x" in wrap else "edge")
    array = np.pad(array, [(_MARGIN, _MARGIN), (0, 0), *rest], mode="wrap" if "y" in wrap else "edge")
    box = (_MARGIN, _MARGIN, _MARGIN + width, _MARGIN + height)
    method = Image.Resampling.BILINEAR if array.ndim == 2 else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(array).resize(size, method, box=box), np.uint8)


def resize_grey(array: Array, size: Extent) -> Array:
    """A mask at another size."""
    return np.asarray(Image.fromarray(array).resize(size, Image.Resampling.BILINEAR), np.uint8)


def preview_size(plan: RenderPlan, available: Extent, max_pixels: int) -> Extent:
    """The largest extent in the target's shape that neither exceeds what was computed nor `max_pixels`."""
    ratio = min(available.width / plan.extent.width, available.height / plan.extent.height) * plan.scale
    ratio = min(ratio, 1.0, math.sqrt(max_pixels / plan.target.pixels))
    return Extent(max(1, int(plan.target.width * ratio)), max(1, int(plan.target.height * ratio)))


def _inside(box: tuple[float, float, float, float], image: Image.Image) -> tuple[float, float, float, float]:
    return 0.0, 0.0, min(box[2], image.width), min(box[3], image.height)


def _pad(array: Array, width: int, height: int) -> Array:
    extra = (height - array.shape[0], width - array.shape[1])
    if extra[0] <= 0 and extra[1] <= 0:
        return np.ascontiguousarray(array)
    padding = [(0, max(0, extra[0])), (0, max(0, extra[1]))] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, padding, mode="edge")
