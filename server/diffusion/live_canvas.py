# SPDX-License-Identifier: GPL-3.0-or-later
"""The canvas as a uint8 tensor on the device, patched by tiles and read as model input; what is painted as bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from krita_sd.geometry import Bounds, Extent, RenderPlan
from krita_sd.wire.live import TILE, columns


class DeviceCanvas:
    """A canvas of width x height pixels of bgra8, in whole tiles. `serial` grows with every change of pixels."""

    def __init__(self, width: int, height: int, device: torch.device) -> None:
        self.extent = Extent(width, height)
        self.serial = 0
        self._columns, self._rows = columns(width), columns(height)
        self._device = device
        self._tiles = torch.zeros(self._rows, TILE, self._columns, TILE, 4, dtype=torch.uint8, device=device)
        self._clear: set[int] = set(range(self._rows * self._columns))
        self.changed: set[int] = set()

    @property
    def pixels(self) -> torch.Tensor:
        """uint8 (height, width, 4), BGRA; a view."""
        whole = self._tiles.reshape(self._rows * TILE, self._columns * TILE, 4)
        return whole[: self.extent.height, : self.extent.width]

    def patch(self, tiles: Mapping[int, bytes]) -> None:
        """Replace tiles: index (row * columns + column) -> TILE * TILE * 4 bytes."""
        if not tiles:
            return
        order = sorted(tiles)
        data = bytearray(b"".join(tiles[index] for index in order))
        staged = torch.frombuffer(data, dtype=torch.uint8).reshape(len(order), TILE, TILE, 4)
        for place, index in enumerate(order):
            # Known from the bytes at hand: asking the device would mean to wait for it.
            height, width = self._inside(index)
            opaque = bool((staged[place, :height, :width, 3] == 255).all())
            (self._clear.discard if opaque else self._clear.add)(index)
        if self._device.type == "cuda":
            staged = staged.pin_memory().to(self._device, non_blocking=True)
        if len(order) == self._rows * self._columns:
            grid = staged.reshape(self._rows, self._columns, TILE, TILE, 4)
            self._tiles.copy_(grid.permute(0, 2, 1, 3, 4))
        else:
            for place, index in enumerate(order):
                row, column = divmod(index, self._columns)
                self._tiles[row, :, column] = staged[place]
        self.changed.update(order)
        self.serial += 1

    def _inside(self, index: int) -> tuple[int, int]:
        """Height and width of the part of a tile that lies on the canvas; what is beyond is filled up with anything."""
        row, column = divmod(index, self._columns)
        return min(TILE, self.extent.height - row * TILE), min(TILE, self.extent.width - column * TILE)

    @property
    def opaque(self) -> bool:
        """Whether no pixel of the canvas is transparent."""
        return not self._clear

    def box_of(self, tiles: Iterable[int]) -> Bounds:
        """The smallest rectangle of the canvas that contains `tiles`; empty for none."""
        box = Bounds(0, 0, 0, 0)
        for index in tiles:
            row, column = divmod(index, self._columns)
            box = box.union(Bounds(column * TILE, row * TILE, TILE, TILE))
        return box.intersect(Bounds.of(self.extent))

    def read(self, source: Bounds, plan: RenderPlan) -> torch.Tensor:
        """The pixels of `source` as the model sees them: float32 RGB (1, 3, h, w), -1..1, of `plan.extent`."""
        part = self.pixels[source.y : source.bottom, source.x : source.right].permute(2, 0, 1)[None]
        if not self.opaque:
            part = _over_paper(part)
        return fitted(part, plan)[:, :3].flip(1).to(torch.float32) / 127.5 - 1.0


def content_of(plan: RenderPlan) -> Extent:
    """The part of a render that is not padding, in whole pixels."""
    width, height = (max(1, round(length)) for length in plan.content)
    return Extent(min(width, plan.extent.width), min(height, plan.extent.height))


def fitted(part: torch.Tensor, plan: RenderPlan) -> torch.Tensor:
    """uint8 (1, channels, h, w) of a plan's target as it is rendered: uint8 of `plan.extent`, padded with its edge."""
    small = resized(part, content_of(plan))
    right, bottom = plan.extent.width - small.shape[3], plan.extent.height - small.shape[2]
    if not right and not bottom:
        return small
    # Of bytes torch repeats no edges.
    padded = torch.nn.functional.pad(small.to(torch.float32), (0, right, 0, bottom), mode="replicate")
    return padded.to(torch.uint8)


def _over_paper(part: torch.Tensor) -> torch.Tensor:
    """uint8 (1, 4, h, w) laid over white, as transparent pixels of an input are seen everywhere."""
    alpha = part[:, 3:].to(torch.int32)
    mixed = (part[:, :3].to(torch.int32) * alpha + 255 * (255 - alpha) + 127) // 255
    return torch.cat([mixed.to(torch.uint8), torch.full_like(part[:, 3:], 255)], dim=1)


def resized(picture: torch.Tensor, size: Extent) -> torch.Tensor:
    """uint8 (1, channels, h, w) at another size, smoothed when it shrinks."""
    if picture.shape[-2:] == (size.height, size.width):
        return picture
    # Bytes are resampled as bytes where the device can: twelve times faster than as floats on a processor.
    whole = picture if picture.device.type == "cpu" else picture.to(torch.float32)
    out = torch.nn.functional.interpolate(
        whole, size=(size.height, size.width), mode="bilinear", antialias=True, align_corners=False
    )
    return out if out.dtype == torch.uint8 else out.round().clamp(0.0, 255.0).to(torch.uint8)


def painted(decoded: torch.Tensor, plan: RenderPlan) -> torch.Tensor:
    """What a render shows as bytes: uint8 (1, 3, h, w) BGR, channels last, of decoded pixels float, -1..1."""
    content = content_of(plan)
    unit = decoded[:, :, : content.height, : content.width].to(torch.float32)
    pixels = (unit * 127.5 + 127.5).round().clamp(0.0, 255.0).to(torch.uint8).flip(1)
    return pixels.contiguous(memory_format=torch.channels_last)


def paste(frame: torch.Tensor, box: Bounds, pixels: torch.Tensor, blend: torch.Tensor | None) -> None:
    """Put `painted` pixels into the colours of `frame` uint8 (height, width, 4) BGRA at `box`, at its size.

    blend: how much of them shows, float32 (box height, box width, 1); None: all.
    """
    fitting = resized(pixels, box.extent)[0].permute(1, 2, 0)
    place = frame[box.y : box.bottom, box.x : box.right, :3]
    if blend is not None:
        before = place.to(torch.float32)
        fitting = (before + (fitting.to(torch.float32) - before) * blend).round().to(torch.uint8)
    place.copy_(fitting)
