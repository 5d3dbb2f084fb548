# SPDX-License-Identifier: GPL-3.0-or-later
"""Maps of tones: tile (the picture without its finest detail), blur, and depth guessed from brightness."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Pixels = NDArray[np.uint8]

_NATIVE = 512.0


def tiled(picture: Pixels) -> Pixels:
    """The picture reduced to half its detail and brought back: what a tile ControlNet adds detail to."""
    height, width = picture.shape[:2]
    small = (max(1, width // 2), max(1, height // 2))
    image = Image.fromarray(picture).resize(small, Image.Resampling.BOX)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), np.uint8)


def blurred(picture: Pixels) -> Pixels:
    """The picture out of focus: a Gaussian of 12 pixels at a short side of 512."""
    sigma = 12.0 * max(0.25, min(picture.shape[:2]) / _NATIVE)
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(sigma)), np.uint8)


def luminance_depth(picture: Pixels) -> Pixels:
    """Brightness as nearness (white = near), smoothed and stretched to the whole range. A guess, and meant for layers
    that were painted as depth or lit from the front; a trained model knows better."""
    sigma = 2.0 * max(0.25, min(picture.shape[:2]) / _NATIVE)
    grey = np.asarray(Image.fromarray(picture).convert("L").filter(ImageFilter.GaussianBlur(sigma)), np.float32)
    low, high = float(grey.min()), float(grey.max())
    if high - low >= 8.0:
        grey = (grey - low) * (255.0 / (high - low))
    return np.repeat(np.rint(grey).astype(np.uint8)[..., None], 3, axis=2)
