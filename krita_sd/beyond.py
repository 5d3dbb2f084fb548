# SPDX-License-Identifier: GPL-3.0-or-later
"""Continuing a picture beyond its edge: how large the canvas becomes, and what of it is painted. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from krita_sd.geometry import Bounds, Extent
from krita_sd.text import tr
from krita_sd.wire.errors import bad_request
from krita_sd.wire.limits import MAX_SIDE

SIDES = ("left", "right", "top", "bottom", "all")
REACHES: dict[str, float | int] = {
    "eighth": 0.125, "quarter": 0.25, "half": 0.5, "64": 64, "128": 128, "256": 256, "512": 512
}  # fmt: skip
"""How far the canvas grows at an end: a share of that side, or pixels."""

MAX_OVERLAP = 96
"""Pixels of the old picture that are painted again at most."""

_MULTIPLE = 8


@dataclass(frozen=True)
class Beyond:
    """`canvas` in coordinates of the old one, so it may begin below zero; `painted` (what changes, as a rectangle)
    and `kept` (the part of it that does not) in those of the new one."""

    canvas: Bounds
    painted: Bounds
    kept: Bounds


def beyond(extent: Extent, side: str, reach: str = "quarter") -> Beyond:
    """The canvas larger by one of `REACHES` towards `side`. Raises WireError when it would be too large.

    A quarter as much of the old picture at that edge is painted too: there the new fades into the old, and the seam
    lies in the picture and not where it ends.
    """
    across, down = _part(extent.width, REACHES[reach]), _part(extent.height, REACHES[reach])
    ends = {"left": (across, 0, 0, 0), "top": (0, down, 0, 0), "right": (0, 0, across, 0), "bottom": (0, 0, 0, down)}
    left, top, right, bottom = ends.get(side, (across, down, across, down))
    canvas = Bounds(-left, -top, left + extent.width + right, top + extent.height + bottom)
    if canvas.extent.longest > MAX_SIDE:
        raise bad_request(
            tr("A canvas of {width} x {height} pixels is too large.", width=canvas.width, height=canvas.height)
        )
    inner = [_overlap(end, size) for end, size in zip((left, top, right, bottom), (extent.width, extent.height) * 2)]
    kept = Bounds(
        left + inner[0], top + inner[1], extent.width - inner[0] - inner[2], extent.height - inner[1] - inner[3]
    )
    whole = Bounds(0, 0, canvas.width, canvas.height)
    painted = {
        "left": Bounds(0, 0, kept.x, whole.height),
        "top": Bounds(0, 0, whole.width, kept.y),
        "right": Bounds(kept.x + kept.width, 0, whole.width - kept.x - kept.width, whole.height),
        "bottom": Bounds(0, kept.y + kept.height, whole.width, whole.height - kept.y - kept.height),
    }.get(side, whole)
    return Beyond(canvas, painted, kept)


def _part(size: int, reach: float | int) -> int:
    pixels = reach if isinstance(reach, int) else size * reach
    return max(_MULTIPLE, round(pixels / _MULTIPLE) * _MULTIPLE)


def _overlap(end: int, size: int) -> int:
    """Never more than a third of the old picture, which may be one pixel wide."""
    return min(end // 4, MAX_OVERLAP, size // 3)


def mask(made: Beyond, region: Bounds) -> bytes:
    """grey8 of `region` (coordinates of the new canvas), rows top-down: 255 where the picture is painted."""
    first = min(max(made.kept.x - region.x, 0), region.width)
    last = min(max(made.kept.x + made.kept.width - region.x, first), region.width)
    through = b"\xff" * first + b"\0" * (last - first) + b"\xff" * (region.width - last)
    full = b"\xff" * region.width
    rows = range(region.y, region.y + region.height)
    return b"".join(through if made.kept.y <= row < made.kept.y + made.kept.height else full for row in rows)
