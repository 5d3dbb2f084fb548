# SPDX-License-Identifier: GPL-3.0-or-later
"""From what was read to what is sent: compares, cuts tiles and hashes masks. Lives in the link thread; Qt-free.

Only one session is open at a time. What a look found leaves at once, without another turn through the GUI thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from krita_sd.geometry import Bounds, Extent
from krita_sd.live.tiles import Mirror
from krita_sd.wire.frames import Picture
from krita_sd.wire.live import Live
from krita_sd.wire.recipe import Recipe


class Core(Protocol):
    """The part of `wire.client.ClientCore` that this needs."""

    def live(
        self, request: Live, pictures: dict[str, Picture], width: int, height: int, tiles: Mapping[int, bytes]
    ) -> None: ...

    def live_stop(self, live: str) -> None: ...


@dataclass(frozen=True)
class Wish:
    """What is asked for: `recipe` without the hashes of its pictures. `mask`: grey8 of the region, or None.

    controls: one bgra8 picture per entry of `recipe.controls`, whose `image` is filled in here. fit: a frame may be
    smaller than the region, or a part of it.
    """

    recipe: Recipe
    mask: Picture | None = None
    controls: tuple[Picture, ...] = ()
    fit: bool = True


@dataclass(frozen=True)
class Look:
    """Pixels that were read: `patches` of the region and full-width `rows` (y, bytes) as samples.

    generation: of the request that follows if anything differs. always: it follows in any case.
    """

    live: str
    generation: int
    patches: tuple[tuple[Bounds, bytes], ...] = ()
    rows: tuple[tuple[int, bytes], ...] = ()
    always: bool = False


@dataclass(frozen=True)
class Sent:
    """A request left. `changed`: rectangle of the region whose tiles went along; `at`: of a monotonic clock."""

    live: str
    generation: int
    changed: Bounds
    tiles: int
    bytes: int
    at: float


@dataclass(frozen=True)
class Unchanged:
    """Nothing differed, so no request left under this number. It answers every look that sends nothing."""

    live: str
    generation: int


@dataclass(frozen=True)
class Suspect:
    """A sampled row differs there, outside of what was read as a patch: rectangle of the region."""

    live: str
    box: Bounds


@dataclass
class _Open:
    """asked: a request is due as soon as everything for it is there."""

    mirror: Mirror
    wish: Wish
    request: Recipe | None = None
    pictures: dict[str, Picture] = field(default_factory=dict)
    asked: bool = False

    @property
    def ready(self) -> bool:
        """Whether all pixels were read, and those of a selection and of control layers with them."""
        masked = self.wish.recipe.kind == "inpaint"
        drawn = len(self.wish.controls) == len(self.wish.recipe.controls)
        return self.mirror.complete and drawn and (self.wish.mask is not None or not masked)


class Feed:
    """`emit` is told what became of every look. `prepare` makes a control layer's pixels into what a model expects of
    a control of that type."""

    def __init__(
        self,
        core: Core,
        emit: Callable[[Any], None],
        clock: Callable[[], float] = time.monotonic,
        prepare: Callable[[Picture, str], Picture] = lambda picture, _type: picture,
    ) -> None:
        self._core = core
        self._prepare = prepare
        self._emit = emit
        self._clock = clock
        self._live = ""
        self._open: _Open | None = None

    def open(self, live: str, width: int, height: int, wish: Wish) -> None:
        """Another session; the one before is closed."""
        self.close(self._live)
        self._live, self._open = live, _Open(Mirror(width, height), wish)

    def extent(self, live: str) -> Extent | None:
        """Of the region of that session; None when it is not open."""
        here = self._open
        return Extent(here.mirror.width, here.mirror.height) if here is not None and live == self._live else None

    def close(self, live: str) -> None:
        """The session ends; late looks of it are ignored."""
        if live and live == self._live:
            self._core.live_stop(live)
            self._live, self._open = "", None

    def look(self, look: Look) -> None:
        """Compare what was read; send what changed."""
        here = self._open
        if here is None or look.live != self._live:
            return
        suspects = here.mirror.suspects(look.rows)
        for box, data in look.patches:
            suspects -= here.mirror.write(box, data)
        # A row that was sampled inside of a patch is known by now.
        left = here.mirror.suspects(look.rows) if suspects and look.patches else suspects
        if left:
            self._emit(Suspect(look.live, here.mirror.box_of(left)))
        here.asked |= look.always
        if here.ready and (here.asked or here.mirror.dirty):
            self._send(here, look.generation)
        else:
            self._emit(Unchanged(look.live, look.generation))

    def ask(self, live: str, generation: int, wish: Wish, whole: bool = False) -> None:
        """Request with another wish; `whole`: with every tile. Before the region was read once, only remembered."""
        here = self._open
        if here is None or live != self._live:
            return
        if wish != here.wish:
            here.wish, here.request = wish, None
        if whole:
            here.mirror.mark_all()
        if here.ready:
            self._send(here, generation)
        else:
            here.asked = True
            self._emit(Unchanged(live, generation))

    def _send(self, here: _Open, generation: int) -> None:
        here.asked = False
        if here.request is None:
            here.request, here.pictures = self._named(here.wish)
        changed = here.mirror.box_of(here.mirror.dirty)
        tiles = here.mirror.take()
        # The core numbers the versions of the canvas itself.
        request = Live(self._live, generation, 0, here.request, here.wish.fit)
        self._core.live(request, here.pictures, here.mirror.width, here.mirror.height, tiles)
        size = sum(map(len, tiles.values()))
        self._emit(Sent(self._live, generation, changed, len(tiles), size, self._clock()))

    def _named(self, wish: Wish) -> tuple[Recipe, dict[str, Picture]]:
        """The recipe with the hashes of its pictures, and these by hash."""
        pictures: dict[str, Picture] = {}

        def name(picture: Picture) -> str:
            digest = picture.hash
            pictures[digest] = picture
            return digest

        recipe = wish.recipe
        if wish.mask is not None:
            recipe = recipe.replace(mask=name(wish.mask))
        if wish.controls:
            drawn = zip(recipe.controls, wish.controls)
            named = (replace(entry, image=name(self._prepare(picture, entry.type))) for entry, picture in drawn)
            recipe = recipe.replace(controls=tuple(named))
        return recipe, pictures
