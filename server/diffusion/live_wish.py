# SPDX-License-Identifier: GPL-3.0-or-later
"""What Live is asked for, and what it answers: plain frozen data."""

from __future__ import annotations

from dataclasses import dataclass, field

from krita_sd.geometry import Bounds, Extent
from server.diffusion.live_guides import LiveControl
from server.diffusion.task import Pixels, Task


@dataclass(frozen=True)
class Selection:
    """What may change: `denoise` and `composite`, uint8 (height, width) of the canvas; `box` holds the selection.
    key: equal for equal masks."""

    key: object
    box: Bounds
    feather: int
    grow: int
    denoise: Pixels = field(repr=False, compare=False)
    composite: Pixels = field(repr=False, compare=False)


@dataclass(frozen=True)
class Wish:
    """What Live shall make of the canvas. task: as for `generate`; its size and pictures are not looked at, nor its
    control layers, in whose place are `controls`."""

    task: Task
    strength: float
    selection: Selection | None = None
    controls: tuple[LiveControl, ...] = ()


@dataclass(frozen=True)
class LiveFrame:
    """bgra8 bytes of `extent` that fill `box` of the canvas (transparent outside of the selection), steps run,
    milliseconds by part. opaque: nothing is transparent."""

    data: bytes
    extent: Extent
    box: Bounds
    opaque: bool
    steps: int
    ms: dict[str, float]
