# SPDX-License-Identifier: GPL-3.0-or-later
"""What Live does next: a state machine fed with events, which answers with effects. Pure: no Qt, no clock.

    off -> starting -> on            the first frame has come
    off -> paused -> starting        something is in the way; a sentence says what
    starting | on -> failed          the server cannot; tried again when the painter changes something

Every session with the server has an id of its own: other pixels, another region or a pause end it, so nothing that
belongs to it can be taken for the next. Generations increase over all sessions. Shown are only frames of the present
session, newer than the one shown, and not older than the last Undo; an older one is held until the document has been
read again: Undo may have changed no pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from krita_sd.geometry import Bounds
from krita_sd.text import tr


class Phase(str, Enum):
    OFF = "off"
    STARTING = "starting"
    ON = "on"
    PAUSED = "paused"
    FAILED = "failed"


@dataclass(frozen=True)
class Aim:
    """Which pixels Live is about: a document and a rectangle in its pixels."""

    document: str
    bounds: Bounds


# Events --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Switched:
    """The painter turned Live on or off."""

    on: bool


@dataclass(frozen=True)
class Surroundings:
    """What Live should look at now (None: nothing), and what is in its way ("": nothing)."""

    aim: Aim | None
    obstacle: str = ""


@dataclass(frozen=True)
class Wished:
    """The recipe (with mask and control pictures; anything comparable) is this now."""

    wish: Any


@dataclass(frozen=True)
class Changed:
    """The document may have changed anywhere in the region, and is idle."""


@dataclass(frozen=True)
class Undone:
    """The document went back: what is being computed shows something that does not exist any more."""


@dataclass(frozen=True)
class Same:
    """The whole region was read for that generation, and is what the last request was about."""

    live: str
    generation: int


@dataclass(frozen=True)
class Wanted:
    """The server does not have the canvas (any more)."""

    live: str


@dataclass(frozen=True)
class FrameCame:
    """A picture of that generation waits to be shown."""

    live: str
    generation: int


@dataclass(frozen=True)
class Said:
    """The server's word about a session: loading, ready or failed, with a sentence."""

    live: str
    state: str
    text: str = ""


# Effects -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Open:
    """Begin to watch `aim`; its first request is `generation`, with all pixels."""

    live: str
    aim: Aim
    generation: int


@dataclass(frozen=True)
class Close:
    """Stop watching, tell the server, and take the picture away."""

    live: str


@dataclass(frozen=True)
class Ask:
    """Request `generation` with the present wish and what changed. `whole`: send every tile again."""

    live: str
    generation: int
    whole: bool = False


@dataclass(frozen=True)
class LookAgain:
    """Read the whole region and compare; a request follows only if something changed."""

    live: str


@dataclass(frozen=True)
class Show:
    """Show the waiting frame of that generation."""

    live: str
    generation: int


Effect = Open | Close | Ask | LookAgain | Show


class Machine:
    """`phase` and `text` are for the docker; `live` is the id of the running session, "" without one."""

    def __init__(self, new_id: Callable[[], str]) -> None:
        self._new_id = new_id
        self.wanted = False
        self.phase = Phase.OFF
        self.text = ""
        self.live = ""
        self.aim: Aim | None = None
        self.wish: Any = None
        self.generation = 0
        self.shown = 0
        self._seen = Surroundings(None)
        self._floor = 0
        self._held = 0
        self._failure: str | None = None

    def feed(self, event: Any) -> list[Effect]:
        """Take one event; return what is to be done, in order."""
        return list(self._feed(event))

    def number(self) -> int:
        """The generation of a request that will be sent only if the pixels turn out to have changed."""
        self.generation += 1
        return self.generation

    def _feed(self, event: Any) -> Iterator[Effect]:
        match event:
            case Switched(on):
                self.wanted, self._failure = on, None
                yield from self._reconcile()
            case Surroundings():
                if event.aim != self._seen.aim:
                    self._failure = None
                self._seen = event
                yield from self._reconcile()
            case Wished(wish):
                if wish != self.wish:
                    self.wish, self._failure = wish, None
                    running = self.live
                    yield from self._reconcile()
                    if running and running == self.live:
                        yield Ask(self.live, self.number())
            case Changed():
                if self.live:
                    yield LookAgain(self.live)
            case Undone():
                # Also requests that are on their way: their number is taken already.
                self._floor = self.generation + 1
                if self.live:
                    yield LookAgain(self.live)
            case _ if event.live == self.live != "":
                yield from self._of_session(event)

    def _of_session(self, event: Any) -> Iterator[Effect]:
        match event:
            case Wanted():
                yield Ask(self.live, self.number(), whole=True)
            case FrameCame(_, generation):
                if generation >= self._floor:
                    yield from self._show(generation)
                else:
                    self._held = max(self._held, generation)
            case Same(_, generation):
                if generation >= self._floor:
                    self._floor = 0
                    yield from self._show(self._held)
            case Said(_, "failed", text):
                self._failure = text or tr("Live stopped.")
                yield from self._reconcile()
            case Said(_, state, text):
                self.text = text or (tr("The server loads the model ...") if state == "loading" else "")

    def _show(self, generation: int) -> Iterator[Effect]:
        if generation > self.shown:
            self.shown = generation
            self.phase, self.text = Phase.ON, ""
            yield Show(self.live, generation)

    def _reconcile(self) -> Iterator[Effect]:
        """Make the session what circumstances want it to be."""
        target = self._seen.aim
        if not self.wanted or self._seen.obstacle or self.wish is None or self._failure is not None:
            target = None
        if self.live and target != self.aim:
            yield Close(self.live)
            self.live, self.aim = "", None
        if target is not None and not self.live:
            self.live, self.aim = self._new_id(), target
            self._floor = self.number()
            self._held = 0
            self.phase, self.text = Phase.STARTING, ""
            yield Open(self.live, target, self.generation)
        if not self.live:
            self.phase, self.text = self._idle_phase()

    def _idle_phase(self) -> tuple[Phase, str]:
        if not self.wanted:
            return Phase.OFF, ""
        if self._failure is not None:
            return Phase.FAILED, self._failure
        return Phase.PAUSED, self._seen.obstacle
