# SPDX-License-Identifier: GPL-3.0-or-later
"""Live: a canvas that both sides know, patched by tiles, and requests of which only the newest counts.

    client                                          server
    frames of role "canvas" (a `Patch`)             canvas NAME goes from version `base` to `version`
    live {live, generation, canvas, recipe}         a mailbox of one: overwrites a request that has not begun
                                                    frames of role "live": a picture (live, generation),
                                                    the `box` of the canvas that it fills, whether it is `opaque`
                                                    live_state {live, generation, state, ...}
    live_stop {live}

Nothing of this is replayed after a lost connection: the client opens the canvas again with all its tiles.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import WireError, bad_request
from .frames import Picture, split
from .limits import MAX_NAME, MAX_PICTURE, MAX_SIDE
from .message import Message
from .recipe import Recipe
from .values import Fields

TILE = 64
"""Pixels along a side of the square tiles in which a canvas travels."""

LIVE_STATES = ("loading", "ready", "lost", "failed")
"""`lost`: the server does not have the canvas at the version that a patch or a request names; send all tiles again."""

_MAX_VERSION = 2**53
_TILE_BYTES = TILE * TILE * 4


@dataclass(frozen=True)
class Live(Message):
    """Make a picture of canvas `canvas` (the version that a patch brought) by `recipe`, whose `image` is absent: the
    canvas stands for it. `generation` increases with every request of this `live`; a newer one overwrites an older.

    fit: the frame may have fewer pixels than the canvas, or be a part of it; `place_of` its header says where.
    """

    type = "live"
    live: str
    generation: int
    canvas: int
    recipe: Recipe
    fit: bool = False

    @classmethod
    def read(cls, read: Fields) -> Live:
        live = read.identifier("live", MAX_NAME)
        try:
            return cls(
                live,
                read.integer("generation", 0, _MAX_VERSION),
                read.integer("canvas", 1, _MAX_VERSION),
                Recipe.from_json(read.object("recipe"), live=True),
                read.flag("fit", False),
            )
        except WireError as error:
            error.job = live
            raise


@dataclass(frozen=True)
class LiveStop(Message):
    """Live is off: drop canvas, request and what is being computed for it."""

    type = "live_stop"
    live: str

    @classmethod
    def read(cls, read: Fields) -> LiveStop:
        return cls(read.identifier("live", MAX_NAME))


@dataclass(frozen=True)
class LiveState(Message):
    """What became of a live session; not kept for a connection that is gone."""

    type = "live_state"
    live: str
    state: str
    generation: int = 0
    text: str = ""
    error: WireError | None = None

    @classmethod
    def read(cls, read: Fields) -> LiveState:
        error = read.data.get("error")
        return cls(
            read.identifier("live", MAX_NAME),
            read.choice("state", LIVE_STATES),
            read.integer("generation", 0, _MAX_VERSION, 0),
            read.text("text", 4096, ""),
            WireError.from_json(error) if error is not None else None,
        )


@dataclass(frozen=True)
class Patch:
    """Changed tiles of a canvas of width x height pixels of `bgra8`. `base` 0: a new canvas, all tiles are here.

    tiles: index (row * columns + column) -> TILE * TILE * 4 bytes; tiles at the right and bottom edge are filled up
    with anything.
    """

    live: str
    base: int
    version: int
    width: int
    height: int
    tiles: Mapping[int, bytes] = field(repr=False)

    def frames(self) -> Iterator[bytes]:
        """The binary frames that carry this patch: one picture, its tiles below each other."""
        order = sorted(self.tiles)
        strip = Picture("bgra8", TILE, TILE * len(order), b"".join(self.tiles[index] for index in order))
        header = {"live": self.live, "base": self.base, "version": self.version, "tiles": runs(order)}
        header |= {"canvas_width": self.width, "canvas_height": self.height}
        return split(strip, "canvas", f"{self.live}:{self.version}", header)

    @classmethod
    def read(cls, header: dict[str, Any], strip: Picture) -> Patch:
        """Out of the header of a frame and the assembled picture. Raises WireError(bad_request)."""
        read = Fields(header, "canvas patch")
        width, height = (read.integer(f"canvas_{side}", 1, MAX_SIDE) for side in ("width", "height"))
        if width * height * 4 > MAX_PICTURE:
            raise bad_request(f"A canvas of {width} x {height} pixels is too large.", "Work on a smaller region.")
        base, version = (read.integer(key, 0, _MAX_VERSION) for key in ("base", "version"))
        order = _expanded(header.get("tiles"), columns(width) * columns(height))
        fits = (strip.format, strip.width, strip.height) == ("bgra8", TILE, TILE * len(order))
        if not fits or version <= base or (base == 0 and len(order) != columns(width) * columns(height)):
            raise bad_request("A canvas patch does not fit its canvas.")
        cut = {index: strip.data[at * _TILE_BYTES : (at + 1) * _TILE_BYTES] for at, index in enumerate(order)}
        return cls(read.identifier("live", MAX_NAME), base, version, width, height, cut)


def place_of(header: Mapping[str, Any], width: int, height: int) -> tuple[int, int, int, int] | None:
    """x, y, width and height on a canvas of that extent that a frame with this header fills; None: all of it.

    A frame that does not say, or says something impossible, fills the canvas.
    """
    box = header.get("box")
    if not isinstance(box, list) or len(box) != 4 or not all(type(number) is int for number in box):
        return None
    x, y, wide, high = box
    inside = x >= 0 and y >= 0 and wide > 0 and high > 0 and x + wide <= width and y + high <= height
    return (x, y, wide, high) if inside and (wide, high) != (width, height) else None


def columns(side: int) -> int:
    """How many tiles cover `side` pixels."""
    return -(-side // TILE)


def runs(order: list[int]) -> list[list[int]]:
    """Increasing indices as [first, count] pairs: a whole canvas is one pair."""
    out: list[list[int]] = []
    for index in order:
        if out and index == out[-1][0] + out[-1][1]:
            out[-1][1] += 1
        else:
            out.append([index, 1])
    return out


def _expanded(value: Any, limit: int) -> list[int]:
    order: list[int] = []
    for item in value if isinstance(value, list) else ():
        whole = isinstance(item, list) and len(item) == 2 and all(type(number) is int for number in item)
        if not whole or item[0] < (order[-1] + 1 if order else 0) or item[1] < 1 or item[0] + item[1] > limit:
            raise bad_request("The tiles of a canvas patch must be increasing and lie on the canvas.")
        order.extend(range(item[0], item[0] + item[1]))
    if not order:
        raise bad_request("A canvas patch has no tiles.")
    return order
