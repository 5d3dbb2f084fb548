# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures that a model looks at itself, as tokens beside those of the picture it paints: the canvas and references.

Flux Kontext, Flux 2 and Qwen-Image Edit were trained to do so. A picture acts in its share of the steps; its weight
is no number that such a model knows, only 0 leaves it out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from krita_sd.wire.errors import Code, WireError
from server.diffusion.features.control import acts
from server.diffusion.model import Condition, LoadedModel
from server.diffusion.sampling import Feature
from server.diffusion.schedules import Schedule
from server.diffusion.task import ControlLayer, Pixels, Task
from server.diffusion.tiles import Tile


@dataclass(frozen=True)
class OwnEyes:
    """Stands where a control layer has its model: the model that paints looks at the picture itself."""

    name: str = "the model itself"
    kind: str = "own"

    def unload(self) -> None:
        """Nothing to free."""


def reference_layers(task: Task) -> list[ControlLayer]:
    """The control layers that the model itself looks at."""
    return [layer for layer in task.controls if layer.model.kind == "own" and layer.weight != 0.0]


def looked_at(model: LoadedModel, task: Task) -> list[Pixels]:
    """What the model looks at itself, ready to be encoded: the canvas first, then reference pictures."""
    canvas = [task.image] if task.image is not None and model.sees_canvas(task) else []
    return [*canvas, *(model.reference_pixels(layer.image) for layer in reference_layers(task))]


class Looks(Feature):
    """The canvas and the reference pictures of one job. Raises WireError(model_unsupported) for other models.

    shift: by how many cells (down, across) the picture, and so the canvas, is rolled at this call.
    """

    shift = (0, 0)

    def __init__(self, model: LoadedModel, schedule: Schedule, task: Task) -> None:
        self._schedule = schedule
        self._index = 0
        self._layers = reference_layers(task)
        if self._layers and not model.looks_itself:
            raise WireError(
                Code.MODEL_UNSUPPORTED,
                "This model cannot look at reference pictures by itself.",
                "Choose an IP-Adapter for the reference layer.",
            )
        latents = [model.scaled(model.encode_pixels(pixels)[0]) for pixels in looked_at(model, task)]
        self._canvas = latents[: len(latents) - len(self._layers)]
        self._references = latents[len(self._canvas) :]
        self._factor = model.factor

    def before_model(self, index: int, inputs: torch.Tensor) -> torch.Tensor:
        self._index = index
        return inputs

    def told(self, condition: Condition, tile: Tile | None) -> Condition:
        """`condition` with the pictures that are looked at in this step; of the canvas only the tile."""
        canvas = [torch.roll(part, self.shift, (2, 3)) for part in self._canvas] if any(self.shift) else self._canvas
        if tile is not None:
            canvas = [part[..., tile.y : tile.y + tile.height, tile.x : tile.x + tile.width] for part in canvas]
        seen = [
            latents
            for layer, latents in zip(self._layers, self._references)
            if acts(layer, self._index, self._schedule)
        ]
        return replace(condition, references=(*canvas, *seen))

    def added(self, timestep: torch.Tensor, condition: Condition, tile: Tile | None = None) -> dict[str, Any]:
        """Nothing: the model knows what to do with a condition's references."""
        return {}


def fitted(picture: Pixels, largest: int, multiple: int) -> Pixels:
    """A reference of at most `largest` pixels, its middle cut to sides that are multiples of `multiple`."""
    height, width = picture.shape[:2]
    if width * height > largest:
        scale = math.sqrt(largest / (width * height))
        picture = resized(picture, int(width * scale), int(height * scale))
        height, width = picture.shape[:2]
    if min(width, height) < multiple:
        scale = multiple / min(width, height)
        picture = resized(picture, math.ceil(width * scale), math.ceil(height * scale))
        height, width = picture.shape[:2]
    inner_width, inner_height = width // multiple * multiple, height // multiple * multiple
    left, top = (width - inner_width) // 2, (height - inner_height) // 2
    return np.ascontiguousarray(picture[top : top + inner_height, left : left + inner_width])


def resized(picture: Pixels, width: int, height: int) -> Pixels:
    """RGB bytes resampled to that size (Lanczos, as the pipelines do)."""
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS), np.uint8)


def nearest_of(picture: Pixels, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The (width, height) whose aspect ratio is nearest to the picture's."""
    aspect = picture.shape[1] / picture.shape[0]
    return min(sizes, key=lambda size: (abs(aspect - size[0] / size[1]), *size))
