# SPDX-License-Identifier: GPL-3.0-or-later
"""The picture that Live shows: kept between frames, and sent no larger than what the model painted of it.

whole canvas                 at the model's own size: whoever shows it stretches it, which is cheaper than to send it
window of native detail      at the canvas's size: the rest of the last picture, enlarged, with the window in it
selection                    the rectangle around what may change, at the canvas's size, transparent beside it

Where the receiver cannot place a part, everything is sent at the canvas's size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from krita_sd.geometry import Bounds, Extent
from server.diffusion.live_canvas import content_of, painted, paste, resized
from server.diffusion.live_window import Window, feather
from server.diffusion.model import Recent, bytes_to_device
from server.diffusion.task import Pixels

_KEPT = 4


@dataclass(frozen=True)
class Part:
    """`pixels` uint8 (h, w, 4) BGRA fill the rectangle `box` of the canvas, stretched where they are fewer. opaque:
    nothing of them is transparent."""

    pixels: torch.Tensor
    box: Bounds
    opaque: bool


class Shown:
    """The last picture of a canvas. Not thread-safe; what `put` returns is valid until the next call."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._frame: torch.Tensor | None = None
        self._small: torch.Tensor | None = None
        self._feathers: Recent[torch.Tensor] = Recent(_KEPT)
        self._composites: Recent[tuple[torch.Tensor, Bounds]] = Recent(_KEPT)

    @property
    def exists(self) -> bool:
        """Whether there is a picture into which a window can be put."""
        return self._frame is not None or self._small is not None

    def clear(self) -> None:
        """Nothing to build on any more."""
        self._frame = self._small = None

    def put(self, canvas: Extent, window: Window, decoded: torch.Tensor, fit: bool) -> Part:
        """A window of decoded pixels float (1, 3, h, w), -1..1, on a canvas of that extent. fit: a part may be sent."""
        content = content_of(window.plan)
        if fit and window.whole and content.pixels < canvas.pixels:
            small = torch.empty(content.height, content.width, 4, dtype=torch.uint8, device=self._device)
            small[..., :3] = painted(decoded, window.plan)[0].permute(1, 2, 0)
            small[..., 3] = 255
            self._frame, self._small = None, small
            return Part(small, Bounds.of(canvas), True)
        frame = self._at_full_size(canvas)
        blend = None
        if not window.whole:
            blend = self._feathers.get((window.source, canvas), lambda: feather(window.source, canvas, self._device))
        paste(frame, window.source, painted(decoded, window.plan), blend)
        frame[..., 3] = 255
        return Part(frame, Bounds.of(canvas), True)

    def put_selected(
        self, canvas: Extent, window: Window, decoded: torch.Tensor, fit: bool, key: object, composite: Pixels
    ) -> Part:
        """The same, where only what is selected shows. composite: uint8 (height, width) of the canvas, named by
        `key`."""
        alpha, box = self._composite(key, composite)
        frame = self._at_full_size(canvas)
        paste(frame, window.source, painted(decoded, window.plan), None)
        frame[..., 3] = alpha
        return self._cut(frame, box, canvas, fit)

    def as_it_is(self, pixels: torch.Tensor, fit: bool, key: object = None, composite: Pixels | None = None) -> Part:
        """The canvas's own pixels uint8 (height, width, 4) BGRA; only what is selected if there is a composite."""
        self.clear()
        frame, canvas = pixels.clone(), Extent(pixels.shape[1], pixels.shape[0])
        if composite is None:
            return Part(frame, Bounds.of(canvas), False)
        frame[..., 3], box = self._composite(key, composite)
        return self._cut(frame, box, canvas, fit)

    def _at_full_size(self, canvas: Extent) -> torch.Tensor:
        if self._small is not None:
            picture = resized(self._small[None].permute(0, 3, 1, 2), canvas)
            self._frame, self._small = picture[0].permute(1, 2, 0).contiguous(), None
        if self._frame is None or self._frame.shape[:2] != (canvas.height, canvas.width):
            self._frame = torch.zeros(canvas.height, canvas.width, 4, dtype=torch.uint8, device=self._device)
        return self._frame

    def _composite(self, key: object, composite: Pixels) -> tuple[torch.Tensor, Bounds]:
        return self._composites.get(key, lambda: (bytes_to_device(composite, self._device), _bounds(composite)))

    @staticmethod
    def _cut(frame: torch.Tensor, box: Bounds, canvas: Extent, fit: bool) -> Part:
        if not fit or box.is_empty:
            return Part(frame, Bounds.of(canvas), False)
        return Part(frame[box.y : box.bottom, box.x : box.right].contiguous(), box, False)


def _bounds(mask: Pixels) -> Bounds:
    """The smallest rectangle around what is not 0."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return Bounds(0, 0, 0, 0)
    x, y = int(columns[0]), int(rows[0])
    return Bounds(x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y)
