# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures larger than a model was made for: denoised and decoded in overlapping pieces that are blended.

The pieces are blended in every step (MultiDiffusion, Bar-Tal et al. 2023), so that neighbours agree long before the
end and no seam is left to hide; the noise is that of the whole picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch

from server.diffusion.features.control import Controls
from server.diffusion.features.control_flow import FlowControls
from server.diffusion.features.looks import Looks
from server.diffusion.features.redux import ReduxWords
from server.diffusion.features.reference import References
from server.diffusion.model import Condition, LoadedModel
from server.diffusion.sampling import Control, Feature
from server.diffusion.task import Cancelled, Task
from server.diffusion.tiles import Tile, tiles

Guide = Controls | FlowControls | References | Looks | ReduxWords
"""What takes part in every prediction of a job."""

_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0

OVERLAP = 0.25
"""Share of a piece's side that it has in common with its neighbour."""


class Predictor:
    """The model's guided prediction for one job: with its control layers, and in pieces when the task says so."""

    def __init__(
        self,
        model: LoadedModel,
        task: Task,
        condition: Condition,
        guides: Sequence[Guide],
        control: Control,
    ) -> None:
        self._model = model
        self._guidance = task.guidance
        self._condition = condition
        self._guides = guides
        self._control = control
        self._wrap = "" if model.wraps_itself else task.wrap
        self._calls = 0
        self._pieces: tuple[tuple[Tile, torch.Tensor], ...] = ()
        if task.pieces and max(task.width, task.height) > task.pieces:
            factor, grid = model.factor, model.multiple // model.factor
            side = task.pieces // factor
            made = tiles(task.width // factor, task.height // factor, side, int(side * OVERLAP), grid)
            self._pieces = tuple((tile, torch.from_numpy(tile.weights).to(model.device)) for tile in made)

    def __call__(self, inputs: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """Float32 (1, channels, h, w). Raises Cancelled between two pieces."""
        if not self._wrap:
            return self._whole(inputs, timestep)
        # A seamless picture may be looked at from anywhere: its edges are elsewhere in every step, so none is left.
        shift = walk(self._calls, inputs.shape[-2:], self._wrap, self._model.multiple // self._model.factor)
        self._calls += 1
        for guide in self._guides:
            if isinstance(guide, (FlowControls, Looks)):
                guide.shift = shift
        found = self._whole(torch.roll(inputs, shift, (2, 3)), timestep)
        return torch.roll(found, (-shift[0], -shift[1]), (2, 3))

    def _whole(self, inputs: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        if not self._pieces:
            return self._predict(inputs, timestep, None)
        total: torch.Tensor | None = None
        for tile, weights in self._pieces:
            if self._control() == "cancel":
                raise Cancelled
            part = self._predict(_cut(inputs, tile), timestep, tile) * weights
            if total is None:
                total = torch.zeros(*part.shape[:2], *inputs.shape[-2:], dtype=part.dtype, device=part.device)
            _cut(total, tile).add_(part)
        assert total is not None
        return total

    def _predict(self, inputs: torch.Tensor, timestep: torch.Tensor, tile: Tile | None) -> torch.Tensor:
        condition = self._condition
        for guide in self._guides:
            if isinstance(guide, (Looks, ReduxWords)):
                condition = guide.told(condition, tile)
        added: dict[str, Any] = {}
        for guide in self._guides:
            added |= guide.added(timestep, condition, tile)
        return self._model.predict(inputs, timestep, condition, self._guidance, added)


def walk(call: int, sides: Sequence[int], wrap: str, grid: int) -> tuple[int, int]:
    """By how many cells (down, across) a picture of these sides is rolled at a call, in multiples of `grid`: golden
    sections of what is left, so that the edges of few calls lie far from one another."""

    def along(side: int, start: float) -> int:
        return int((start + call * _GOLDEN) % 1.0 * (side // grid)) * grid

    return along(sides[0], 0.0) if "y" in wrap else 0, along(sides[1], 0.5) if "x" in wrap else 0


def _cut(tensor: torch.Tensor, tile: Tile) -> torch.Tensor:
    return tensor[..., tile.y : tile.y + tile.height, tile.x : tile.x + tile.width]


class PiecewiseAutoencoder(Feature):
    """The autoencoder works in pieces of `side` pixels for the time of a job, blended in latents and in pixels.

    The pieces' borders see less of the picture than its middle would: an approximation, for what cannot be done whole.
    """

    def __init__(self, model: LoadedModel, side: int) -> None:
        self._model = model
        self._module = model.autoencoder
        self._factor = model.autoencoder_factor
        self._cells = max(1, side // self._factor)

    def __enter__(self) -> PiecewiseAutoencoder:
        self._before = self._model.encoding
        self._model.encoding = (*self._before, "pieces", self._cells)
        encode, decode = self._module.encode, self._module.decode
        self._module.__dict__["encode"] = lambda image, return_dict=True: self._encode(encode, image)
        self._module.__dict__["decode"] = lambda latents, return_dict=True: (self._decode(decode, latents),)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in ("encode", "decode"):
            self._module.__dict__.pop(name, None)
        self._model.encoding = self._before

    def _tiles(self, width: int, height: int) -> tuple[Tile, ...]:
        return tiles(width, height, self._cells, int(self._cells * OVERLAP))

    def _encode(self, encode: Callable[..., Any], image: torch.Tensor) -> Any:
        factor = self._factor
        height, width = image.shape[-2] // factor, image.shape[-1] // factor
        made = self._tiles(width, height)
        if len(made) == 1:
            return encode(image, return_dict=False)
        total: torch.Tensor | None = None
        spread: Any = None
        for tile in made:
            x, y = tile.x * factor, tile.y * factor
            part = image[..., y : y + tile.height * factor, x : x + tile.width * factor]
            spread = encode(part, return_dict=False)[0]
            total = _laid(total, spread.parameters, tile, width, height)
        return (type(spread)(total),)

    def _decode(self, decode: Callable[..., Any], latents: torch.Tensor) -> torch.Tensor:
        factor = self._factor
        height, width = latents.shape[-2] * factor, latents.shape[-1] * factor
        made = tiles(width, height, self._cells * factor, int(self._cells * OVERLAP) * factor, factor)
        if len(made) == 1:
            whole: torch.Tensor = decode(latents, return_dict=False)[0]
            return whole
        total: torch.Tensor | None = None
        for tile in made:
            x, y, w, h = (length // factor for length in (tile.x, tile.y, tile.width, tile.height))
            part = decode(latents[..., y : y + h, x : x + w], return_dict=False)[0]
            total = _laid(total, part, tile, width, height)
        assert total is not None
        return total


def _laid(total: torch.Tensor | None, part: torch.Tensor, tile: Tile, width: int, height: int) -> torch.Tensor:
    """`part` with its weights laid into the whole, in float32."""
    if total is None:
        total = torch.zeros(*part.shape[:-2], height, width, device=part.device)
    _cut(total, tile).add_(part.to(torch.float32) * torch.from_numpy(tile.weights).to(part.device))
    return total
