# SPDX-License-Identifier: GPL-3.0-or-later
"""Live's part of the link: commands go into its thread, frames come out ready to be drawn. Qt-free."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from krita_sd.geometry import Bounds, Extent
from krita_sd.live.feed import Core, Feed, Look, Wish
from krita_sd.live.machine import Said, Wanted
from krita_sd.wire import client
from krita_sd.wire.frames import Picture
from krita_sd.wire.live import place_of


@dataclass(frozen=True)
class LiveReady:
    """A frame. image: what `develop` made of it. arrived: seconds of the monotonic clock.

    parts: what the server says of its own time, in seconds, by station. extent: of the region. box: the part of the
    region that the picture fills, stretched where it has fewer pixels.
    """

    live: str
    generation: int
    picture: Picture
    image: Any
    arrived: float
    parts: dict[str, float]
    extent: Extent
    box: Bounds


@dataclass(frozen=True)
class LiveWaiting:
    """A frame, or a newer one, can be taken with `Desk.take`."""

    live: str
    generation: int


class Desk:
    """`run` brings work into the link's thread. `listen` says, before the link starts, who is told what happens."""

    def __init__(self, core: Core, run: Callable[[Callable[[], Any]], None]) -> None:
        self._run = run
        self._emit: Callable[[Any], None] = lambda _event: None
        self._develop: Callable[[Picture, bool], Any] = lambda picture, _opaque: picture
        self._prepare: Callable[[Picture, str], Picture] = lambda picture, _type: picture
        self._feed = Feed(core, lambda event: self._emit(event), prepare=lambda *given: self._prepare(*given))
        self._lock = threading.Lock()
        self._ready: LiveReady | None = None

    # Called in the GUI thread; all return at once --------------------------------------------------------------------

    def listen(
        self,
        emit: Callable[[Any], None],
        develop: Callable[[Picture, bool], Any],
        prepare: Callable[[Picture, str], Picture],
    ) -> None:
        """All are called in the link's thread: for every event, every frame (and whether it is opaque) and every
        control layer (with its type)."""
        self._emit, self._develop, self._prepare = emit, develop, prepare

    def open(self, live: str, width: int, height: int, wish: Wish) -> None:
        """Live begins on a region of that extent; its pixels follow with `look`."""
        self._run(lambda: self._feed.open(live, width, height, wish))

    def close(self, live: str) -> None:
        """Live ends; a frame that waits is dropped."""
        self._run(lambda: self._feed.close(live))
        with self._lock:
            self._ready = None

    def look(self, look: Look) -> None:
        """Pixels were read: they are compared, and what changed is sent."""
        self._run(lambda: self._feed.look(look))

    def ask(self, live: str, generation: int, wish: Wish, whole: bool = False) -> None:
        """Another wish for the same pixels; `whole`: the server needs all of them again."""
        self._run(lambda: self._feed.ask(live, generation, wish, whole))

    def take(self) -> LiveReady | None:
        """The newest frame; older ones are gone."""
        with self._lock:
            ready, self._ready = self._ready, None
            return ready

    # Called in the link's thread -------------------------------------------------------------------------------------

    def handle(self, event: client.Event) -> bool:
        """Take an event of the session if it is about Live."""
        if isinstance(event, client.LiveFrame):
            self._frame(event)
        elif isinstance(event, client.LiveCanvasWanted):
            self._emit(Wanted(event.live))
        elif isinstance(event, client.LiveStatus):
            state = event.state
            self._emit(Said(state.live, state.state, str(state.error) if state.error is not None else state.text))
        else:
            return False
        return True

    def _frame(self, event: client.LiveFrame) -> None:
        arrived = time.monotonic()
        extent = self._feed.extent(event.live)
        if extent is None:
            return  # of a session that has ended
        said = event.header.get("ms")
        said = said if isinstance(said, dict) else {}
        parts = {str(key): value / 1000 for key, value in said.items() if isinstance(value, (int, float))}
        box = place_of(event.header, *extent)
        image = self._develop(event.picture, event.header.get("opaque") is True)
        place = Bounds(*box) if box is not None else Bounds.of(extent)
        with self._lock:
            self._ready = LiveReady(event.live, event.generation, event.picture, image, arrived, parts, extent, place)
        self._emit(LiveWaiting(event.live, event.generation))
