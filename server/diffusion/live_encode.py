# SPDX-License-Identifier: GPL-3.0-or-later
"""A tiny encoder that computes again only what a stroke changed: it keeps what each of its layers gave.

Every layer sees a few pixels around each of its own, so a change grows from layer to layer; the first layers, at the
picture's full size, cost most and change least.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from krita_sd.geometry import Bounds, Extent

MOST_PIXELS = 768 * 768
"""Of a picture whose layers are kept: of a TAESD's, 500 bytes per pixel in bfloat16."""

MOST_SHARE = 0.5
"""Of the picture: where more has changed, all of it is encoded."""


@dataclass(frozen=True)
class _Layer:
    """reach: how many pixels of its input beside its own a pixel of the output depends on, to every side."""

    module: Any
    reach: int
    stride: int

    def changed(self, box: Bounds, out: Extent) -> Bounds:
        """What of the output a changed box of the input changes."""
        x, y = (-((self.reach - begin) // self.stride) for begin in (box.x, box.y))
        right, bottom = ((end - 1 + self.reach) // self.stride + 1 for end in (box.right, box.bottom))
        return Bounds(x, y, right - x, bottom - y).intersect(Bounds.of(out))

    def again(self, inputs: torch.Tensor, kept: torch.Tensor, box: Bounds) -> None:
        """Compute `box` of the output `kept` again."""
        # Begun on the stride's grid. The module takes what lies beyond its piece for the picture's edge, and gives
        # wrong pixels beside a cut: these are needed for nothing.
        margin, stride = -(-self.reach // self.stride), self.stride
        piece = box.pad(margin).intersect(Bounds(0, 0, kept.shape[3], kept.shape[2]))
        found = self.module(_cut(inputs, Bounds(*(length * stride for length in piece))))
        _cut(kept, box).copy_(_cut(found, box.relative_to(piece)))


def patched_encoder(tiny: Any) -> PatchedEncoder | None:
    """One for an AutoencoderTiny on a processor; elsewhere many small calls cost more than they save."""
    if tiny is None or next(tiny.parameters()).device.type != "cpu":
        return None
    try:
        return PatchedEncoder(tiny)
    except ValueError:
        return None


class PatchedEncoder:
    """Encodes RGB pixels (1, 3, h, w), -1..1, as the AutoencoderTiny does. Not thread-safe."""

    def __init__(self, tiny: Any) -> None:
        """Raises ValueError for an encoder of other layers than convolutions and TAESD's blocks."""
        self._layers = [_layer(module) for module in tiny.encoder.layers]
        self._pixels: torch.Tensor | None = None
        self._kept: list[torch.Tensor] = []

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Latents (1, channels, h/8, w/8) of the same type; a tensor of its own."""
        box = self._changed(pixels)
        if box is None:
            return self._whole(pixels)
        self._pixels = pixels
        inputs = _unit(pixels)
        for layer, kept in zip(self._layers, self._kept):
            if box.is_empty:
                break
            box = layer.changed(box, Extent(kept.shape[3], kept.shape[2]))
            layer.again(inputs, kept, box)
            inputs = kept
        return self._kept[-1].clone()

    def _whole(self, pixels: torch.Tensor) -> torch.Tensor:
        inputs, kept = _unit(pixels), []
        for layer in self._layers:
            inputs = layer.module(inputs)
            kept.append(inputs)
        small = pixels.shape[2] * pixels.shape[3] <= MOST_PIXELS
        self._pixels, self._kept = (pixels, kept) if small else (None, [])
        return inputs.clone()

    def _changed(self, pixels: torch.Tensor) -> Bounds | None:
        """The rectangle around the pixels that are not those of the last call; None when all is to be encoded."""
        before = self._pixels
        if before is None or (before.shape, before.dtype) != (pixels.shape, pixels.dtype):
            return None
        different = (before != pixels).any(dim=1)[0]
        rows, columns = different.any(dim=1).nonzero()[:, 0], different.any(dim=0).nonzero()[:, 0]
        if not len(rows):
            return Bounds(0, 0, 0, 0)
        x, y = int(columns[0]), int(rows[0])
        box = Bounds(x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y)
        return box if box.width * box.height <= MOST_SHARE * different.numel() else None


def _unit(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.add(1).div(2)  # as diffusers' EncoderTiny, which does it in these two steps


def _layer(module: Any) -> _Layer:
    convolutions = [part for part in module.modules() if isinstance(part, torch.nn.Conv2d)]
    for part in convolutions:
        same = all(size % 2 == 1 and edge == size // 2 for size, edge in zip(part.kernel_size, part.padding))
        if not same or set(part.dilation) != {1} or part.padding_mode != "zeros" or part.stride[0] != part.stride[1]:
            raise ValueError("this convolution cannot be computed in pieces")
    stride = convolutions[0].stride[0] if convolutions else 1
    known = isinstance(module, torch.nn.Conv2d) or type(module).__name__ == "AutoencoderTinyBlock"
    if not known or (stride != 1 and convolutions != [module]) or any(p.stride[0] != stride for p in convolutions):
        raise ValueError("this layer cannot be computed in pieces")
    return _Layer(module, sum(part.kernel_size[0] // 2 for part in convolutions), stride)


def _cut(tensor: torch.Tensor, box: Bounds) -> torch.Tensor:
    return tensor[..., box.y : box.bottom, box.x : box.right]
