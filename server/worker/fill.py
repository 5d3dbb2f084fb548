# SPDX-License-Identifier: GPL-3.0-or-later
"""What is put under a mask before it is repainted at full strength: neutral, blurred surroundings or border colours.

Pure functions on uint8 arrays: image (height, width, 3), mask (height, width).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.uint8]
Floats = NDArray[np.float32]

NEUTRAL = 127


def fill(image: Array, mask: Array, mode: str) -> Array:
    """`image` with its masked part replaced; partly masked pixels are mixed. `original` changes nothing."""
    if mode == "original" or not mask.any():
        return image
    known = 1.0 - mask.astype(np.float32) / 255.0
    under: Floats | float
    if mode == "neutral" or not (mask == 0).any():
        under = float(NEUTRAL)
    elif mode == "blur":
        under = _push_pull(image.astype(np.float32), known)
    elif mode == "border":
        under = _nearest_borders(image, mask == 0)
    else:
        raise ValueError(f"unknown fill mode {mode!r}")
    mixed = image * known[..., None] + under * (1.0 - known[..., None])
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def _push_pull(image: Floats, weight: Floats) -> Floats:
    """Smooth interpolation of what is known (push-pull on an image pyramid, Gortler et al. 1996)."""
    height, width = weight.shape
    if min(height, width) <= 1 or weight.min() >= 1.0:
        total = max(float(weight.sum()), 1e-6)
        mean = (image * weight[..., None]).sum(axis=(0, 1)) / total
        return np.where(weight[..., None] > 0, image, mean).astype(np.float32)
    padded = np.pad(image * weight[..., None], ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    weights = np.pad(weight, ((0, height % 2), (0, width % 2)), mode="edge")
    colour_sum = padded[0::2, 0::2] + padded[1::2, 0::2] + padded[0::2, 1::2] + padded[1::2, 1::2]
    weight_sum = weights[0::2, 0::2] + weights[1::2, 0::2] + weights[0::2, 1::2] + weights[1::2, 1::2]
    smaller = colour_sum / np.maximum(weight_sum, 1e-6)[..., None]
    coarse = _push_pull(smaller, np.minimum(weight_sum, 1.0))
    size = (coarse.shape[1] * 2, coarse.shape[0] * 2)
    channels = [Image.fromarray(coarse[..., c]).resize(size, Image.Resampling.BILINEAR) for c in range(3)]
    up = np.stack([np.asarray(channel, np.float32) for channel in channels], axis=-1)[:height, :width]
    keep = weight[..., None]
    return (image * keep + up * (1.0 - keep)).astype(np.float32)


def _nearest_borders(image: Array, known: NDArray[np.bool_]) -> Floats:
    """Per pixel the mean of the nearest known pixels to the left, right, above and below, nearer ones counting more."""
    colours = np.zeros(image.shape, np.float32)
    weights = np.zeros(known.shape, np.float32)
    for axis in (0, 1):
        length = known.shape[axis]
        index = np.arange(length, dtype=np.int64).reshape((-1, 1) if axis == 0 else (1, -1))
        before = np.maximum.accumulate(np.where(known, index, -1), axis=axis)
        flipped = np.flip(np.where(known, index, length), axis)
        after = np.flip(np.minimum.accumulate(flipped, axis=axis), axis)
        for nearest, exists in ((before, before >= 0), (after, after < length)):
            at = np.clip(nearest, 0, length - 1)
            weight = np.where(exists, 1.0 / (np.abs(index - at) + 1.0), 0.0).astype(np.float32)
            taken = np.take_along_axis(image, at[..., None], axis=axis)
            colours += taken * weight[..., None]
            weights += weight
    mean = image[known].mean(axis=0)
    return np.where(weights[..., None] > 0, colours / np.maximum(weights, 1e-9)[..., None], mean).astype(np.float32)
