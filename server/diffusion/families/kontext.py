# SPDX-License-Identifier: GPL-3.0-or-later
"""Flux 1 Kontext: edits what it sees. The canvas and reference pictures are tokens beside those of the new picture."""

from __future__ import annotations

import torch

from server.diffusion.families.common import Moments
from server.diffusion.families.flux1 import Flux1
from server.diffusion.features.looks import nearest_of, resized
from server.diffusion.task import Pixels, Task

# Width and height of the pictures that it was trained to look at; the transposed ones too.
_SIZES = (
    (672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248), (880, 1184), (944, 1104),
)  # fmt: skip
SIZES = (*_SIZES, (1024, 1024), *((height, width) for width, height in _SIZES))


class Kontext(Flux1):
    """A loaded Flux 1 Kontext model; see LoadedModel for the interface."""

    looks_itself = True

    def moments(self, image: torch.Tensor) -> Moments:
        # The pipelines take the middle of the distribution and draw nothing.
        return super().moments(image)[0], None

    def sees_canvas(self, task: Task) -> bool:
        return True

    def reference_pixels(self, picture: Pixels) -> Pixels:
        return resized(picture, *nearest_of(picture, SIZES))
