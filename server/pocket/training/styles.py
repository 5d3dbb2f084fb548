# SPDX-License-Identifier: GPL-3.0-or-later
"""The six styles and that of the LoRA (sepia), as filters over a flat picture."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from .drawing import smooth_noise

PIXEL = 8
"""Side of a block of pixel art: one latent cell."""
DAB = 16
"""Size of a dab of oil paint in pixels: two latent cells, always in the same places, so that it can be learnt."""


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
    rims = Image.fromarray(np.where(edges(image), 255, 0).astype(np.uint8)).filter(ImageFilter.GaussianBlur(2))
    soft = soft * (1 - np.asarray(rims, np.float32)[..., None] * np.float32(0.35 / 255))
    wash = 0.3 + 0.14 * smooth_noise(rng, w, h, 40)[..., None]
    return Image.fromarray(np.clip(soft + (255 - soft) * wash, 0, 255).astype(np.uint8))


def line_art(image: Image.Image, bold: bool = False) -> Image.Image:
    """Dark lines on white, about 4 pixels wide, `bold` ones as wide as a latent cell."""
    lines = Image.fromarray(np.where(edges(image), 0, 255).astype(np.uint8)).filter(
        ImageFilter.MinFilter(7 if bold else 3)
    )
    lines = lines.filter(ImageFilter.GaussianBlur(0.9))
    ink = np.clip(np.asarray(lines, np.float32) * 1.5 - 125, 0, 255)
    return Image.fromarray(np.repeat((25 + ink * 0.9).astype(np.uint8)[..., None], 3, 2))


def pencil(image: Image.Image, rng: np.random.Generator, bold: bool = False) -> Image.Image:
    w, h = image.size
    grey = np.asarray(image.convert("L"), np.float32)
    lines = Image.fromarray(np.where(edges(image), 255, 0).astype(np.uint8))
    lines = lines.filter(ImageFilter.MaxFilter(5 if bold else 3)).filter(ImageFilter.GaussianBlur(0.8))
    tone = 176 + grey * 0.3
    period = 16
    hatch = ((np.arange(w)[None, :] + np.arange(h)[:, None]) % period < period / 2).astype(np.float32)
    tone -= hatch * (255 - grey) * 0.35 + 4 * smooth_noise(rng, w, h, 16)
    tone -= np.asarray(lines, np.float32) * 0.5
    return Image.fromarray(np.repeat(np.clip(tone, 20, 250).astype(np.uint8)[..., None], 3, 2))


def oil(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    w, h = image.size
    x, y = np.arange(w, dtype=np.float32)[None, :], np.arange(h, dtype=np.float32)[:, None]
    along, across = np.pi * (x - y) / DAB, np.pi * (x + y) / DAB
    dabs = np.sin(across) * np.cos(along / 2)
    flat = np.asarray(image, np.float32)
    strokes = displaced(flat, 4 * dabs, -4 * dabs)
    relief = 20 * dabs + 6 * smooth_noise(rng, w, h, 24)
    return Image.fromarray(np.clip(8 + strokes * 0.93 + relief[..., None], 0, 255).astype(np.uint8))


def sepia(image: Image.Image) -> Image.Image:
    """The brown tones of an old photograph."""
    grey = np.asarray(image.convert("L"), np.float32)[..., None] / 255
    dark, light = np.array((44, 26, 12), np.float32), np.array((252, 236, 204), np.float32)
    return Image.fromarray(np.round(dark + (light - dark) * grey).astype(np.uint8))


def stylise(image: Image.Image, style: str, rng: np.random.Generator, bold: bool = False) -> Image.Image:
    """The flat picture in the named style, `bold` with wide lines."""
    if style == "pixel art":
        return pixel_art(image)
    if style == "watercolour":
        return watercolour(image, rng)
    if style == "line art":
        return line_art(image, bold)
    if style == "pencil":
        return pencil(image, rng, bold)
    if style == "sepia":
        return sepia(image)
    if style == "oil":
        return oil(image, rng)
    return image
