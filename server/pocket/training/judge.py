# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at pictures without a neural network: which shape, which colours, how much of a colour."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from .captions import Item, Scene
from .render import render
from .words import COLOURS, SHAPES, THINGS

FRAME = 64
NAMES = tuple(COLOURS)
REFERENCE = np.array([COLOURS[name] for name in NAMES], np.float32)
ACCEPT = 0.7
"""Least overlap (intersection over union) with the best template for an object to count as that shape."""


@dataclass(frozen=True)
class Verdict:
    """What is seen: shape word ("" for a blob), its overlap with the template, both colours with their RGB, place."""

    shape: str
    overlap: float
    colour: str
    background: str
    object_rgb: np.ndarray
    background_rgb: np.ndarray
    centre: tuple[float, float]
    area: float


def nearest_colour(rgb: np.ndarray) -> str:
    return NAMES[int(((REFERENCE - rgb) ** 2).sum(1).argmin())]


def background_of(picture: np.ndarray) -> np.ndarray:
    """The median colour of a frame of 1/24 of the side."""
    edge = max(4, picture.shape[0] // 24)
    rows = (picture[:edge], picture[-edge:], picture[:, :edge], picture[:, -edge:])
    return np.median(np.concatenate([r.reshape(-1, 3) for r in rows]), axis=0).astype(np.float32)


def silhouette(picture: np.ndarray) -> np.ndarray:
    """(h, w) bool: what differs from the background by more than half of what most of it differs by."""
    distance = np.sqrt(((picture.astype(np.float32) - background_of(picture)) ** 2).sum(2))
    strong = distance[distance > 30]
    level = 0.5 * float(np.median(strong)) if len(strong) > 20 else 30.0
    mask = Image.fromarray(((distance > max(20.0, level)) * 255).astype(np.uint8))
    return np.asarray(mask.filter(ImageFilter.MedianFilter(5))) > 127


def framed(mask: np.ndarray) -> np.ndarray:
    """The silhouette centred and scaled to a third of a FRAME x FRAME picture, as 0..1 floats."""
    ys, xs = np.nonzero(mask)
    if len(xs) < 30:
        return np.zeros((FRAME, FRAME), np.float32)
    side = max(8.0, float(np.sqrt(len(xs) * 3.0)))
    left, top = xs.mean() - side / 2, ys.mean() - side / 2
    image = Image.fromarray((mask * 255).astype(np.uint8))
    box = (1.0 * side / FRAME, 0.0, float(left), 0.0, 1.0 * side / FRAME, float(top))
    cut = image.transform((FRAME, FRAME), Image.Transform.AFFINE, box, Image.Resampling.BILINEAR)
    return np.asarray(cut, np.float32) / 255


@functools.cache
def templates(names: tuple[str, ...]) -> tuple[tuple[str, ...], np.ndarray]:
    """Framed silhouettes of the named objects in several turns and colours: (names, (n, FRAME, FRAME))."""
    found, frames = [], []
    for word in names:
        for angle in (-0.1, 0.0, 0.1):
            for colour, ground in (("black", "white"), ("red", "yellow"), ("green", "brown"), ("cyan", "black")):
                for flip in (False, True) if word in THINGS else (False,):
                    item = Item(word, colour, radius=0.4, angle=angle, flip=flip)
                    picture = np.asarray(render(Scene("shape", (item,), ground), 192, 192))
                    found.append(word)
                    frames.append(framed(silhouette(picture)))
    return tuple(found), np.stack(frames)


def overlaps(mask: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    """Best intersection over union with any template of each name."""
    frame = framed(mask)
    found, frames = templates(names)
    both = np.minimum(frames, frame).sum((1, 2))
    either = np.maximum(frames, frame).sum((1, 2)) + 1e-6
    best: dict[str, float] = {}
    for word, value in zip(found, both / either, strict=True):
        best[word] = max(best.get(word, 0.0), float(value))
    return best


def judge(picture: np.ndarray, names: tuple[str, ...] = SHAPES) -> Verdict:
    """What one object on a plain background is; picture is (h, w, 3) uint8."""
    mask = silhouette(picture)
    behind = background_of(picture)
    if mask.sum() < 30:
        return Verdict("", 0.0, "", nearest_colour(behind), behind, behind, (0.5, 0.5), 0.0)
    scores = overlaps(mask, names)
    word = max(scores, key=lambda name: scores[name])
    core = np.asarray(Image.fromarray((mask * 255).astype(np.uint8)).filter(ImageFilter.MinFilter(5))) > 127
    rgb = np.median(picture[core if core.sum() >= 20 else mask], axis=0).astype(np.float32)
    ys, xs = np.nonzero(mask)
    h, w = mask.shape
    centre = (float(xs.mean()) / w, float(ys.mean()) / h)
    shape = word if scores[word] >= ACCEPT else ""
    return Verdict(shape, scores[word], nearest_colour(rgb), nearest_colour(behind), rgb, behind, centre, mask.mean())


def share_of_colour(picture: np.ndarray, rgb: tuple[int, int, int], within: float = 60.0) -> float:
    """The share of pixels within this Euclidean distance of a colour."""
    distance = np.sqrt(((picture.astype(np.float32) - np.array(rgb, np.float32)) ** 2).sum(2))
    return float((distance < within).mean())


def pieces(mask: np.ndarray, least: float = 0.004) -> int:
    """How many separate parts (4-connected on a grid of 64 cells) the silhouette has, specks left out."""
    small = np.asarray(Image.fromarray((mask * 255).astype(np.uint8)).resize((64, 64), Image.Resampling.BOX)) > 127
    left, count = small.copy(), 0
    while left.any():
        y, x = np.argwhere(left)[0]
        stack, size = [(int(y), int(x))], 0
        left[y, x] = False
        while stack:
            cy, cx = stack.pop()
            size += 1
            for ny, nx in ((cy + 1, cx), (cy - 1, cx), (cy, cx + 1), (cy, cx - 1)):
                if 0 <= ny < 64 and 0 <= nx < 64 and left[ny, nx]:
                    left[ny, nx] = False
                    stack.append((ny, nx))
        count += size >= least * 64 * 64
    return count
