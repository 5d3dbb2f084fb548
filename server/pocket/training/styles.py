# SPDX-License-Identifier: GPL-3.0-or-later
"""The six styles and that of the LoRA (sepia), as filters over a flat picture."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from .drawing import smooth_noise

PIXEL = 8
"""Side of a block of pixel art: one latent cell."""


def edges(image: Image.Image, threshold: float = 24.0) -> np.ndarray:
    """(h, w) bool: where neighbouring colours differ by more than `threshold` of 255 in some channel."""
    a = np.asarray(image, np.int16)
    found = np.zeros(a.shape[:2], bool)
    down = np.abs(a[1:] - a[:-1]).max(2) > threshold
    across = np.abs(a[:, 1:] - a[:, :-1]).max(2) > threshold
    found[1:] |= down
    found[:-1] |= down
    found[:, 1:] |= across
    return found


def displaced(array: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """The picture with every pixel fetched from a place (dx, dy) pixels away, clamped at the borders."""
    h, w = array.shape[:2]
    y = np.clip(np.arange(h)[:, None] + np.rint(dy).astype(np.intp), 0, h - 1)
    x = np.clip(np.arange(w)[None, :] + np.rint(dx).astype(np.intp), 0, w - 1)
    return array[y, x]


def pixel_art(image: Image.Image) -> Image.Image:
    small = image.resize((image.width // PIXEL, image.height // PIXEL), Image.Resampling.BOX)
    return small.resize(image.size, Image.Resampling.NEAREST)


def watercolour(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    w, h = image.size
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(0.8)), np.float32)
    soft = displaced(soft, 2.2 * smooth_noise(rng, w, h, 16), 2.2 * smooth_noise(rng, w, h, 16))
    wash = 0.2 + 0.12 * smooth_noise(rng, w, h, 40)[..., None]
    return Image.fromarray(np.clip(soft + (255 - soft) * wash, 0, 255).astype(np.uint8))


def line_art(image: Image.Image) -> Image.Image:
    lines = Image.fromarray(np.where(edges(image), 0, 255).astype(np.uint8))
    lines = lines.filter(ImageFilter.GaussianBlur(0.9))
    ink = np.clip(np.asarray(lines, np.float32) * 1.5 - 125, 0, 255)
    return Image.fromarray(np.repeat((25 + ink * 0.9).astype(np.uint8)[..., None], 3, 2))


def pencil(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    w, h = image.size
    grey = np.asarray(image.convert("L"), np.float32)
    lines = Image.fromarray(np.where(edges(image), 255, 0).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.8))
    tone = 176 + grey * 0.3
    period = 8
    hatch = ((np.arange(w)[None, :] + np.arange(h)[:, None]) % period < period / 2).astype(np.float32)
    tone -= hatch * (255 - grey) * 0.12 + 4 * smooth_noise(rng, w, h, 16)
    tone -= np.asarray(lines, np.float32) * 0.45
    return Image.fromarray(np.repeat(np.clip(tone, 20, 250).astype(np.uint8)[..., None], 3, 2))


def oil(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    w, h = image.size
    direction = smooth_noise(rng, w, h, 48) * np.pi
    length = 3.5 * smooth_noise(rng, w, h, 6)
    flat = np.asarray(image, np.float32)
    strokes = displaced(flat, length * np.cos(direction), length * np.sin(direction))
    relief = 11 * smooth_noise(rng, w, h, 9) + 7 * smooth_noise(rng, w, h, 24)
    return Image.fromarray(np.clip(strokes * 0.97 + relief[..., None], 0, 255).astype(np.uint8))


def sepia(image: Image.Image) -> Image.Image:
    """The brown tones of an old photograph."""
    grey = np.asarray(image.convert("L"), np.float32)[..., None] / 255
    dark, light = np.array((44, 26, 12), np.float32), np.array((252, 236, 204), np.float32)
    return Image.fromarray(np.round(dark + (light - dark) * grey).astype(np.uint8))


def stylise(image: Image.Image, style: str, rng: np.random.Generator) -> Image.Image:
    """The flat picture in the named style."""
    if style == "pixel art":
        return pixel_art(image)
    if style == "watercolour":
        return watercolour(image, rng)
    if style == "line art":
        return line_art(image)
    if style == "pencil":
        return pencil(image, rng)
    if style == "sepia":
        return sepia(image)
    if style == "oil":
        return oil(image, rng)
    return image
