# SPDX-License-Identifier: GPL-3.0-or-later
"""The client side of live: one unsent request per session, tiles that wait for it, and frames that are not stale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from .errors import Code, WireError
from .events import Event, LiveCanvasWanted, LiveFrame, LiveStatus
from .frames import Chunk, Picture, split
from .limits import MAX_NAME
from .live import Live, LiveState, Patch, columns
from .values import Fields

_MAX_REPAIRS = 3


@dataclass(eq=False)
class _Session:
    """version: of the canvas at the server, 0 when it has none. tiles: changed since then. waiting: not sent yet.

    shown: the newest generation that was delivered. last: the newest request that left, with its pictures.
    """

    width: int
    height: int
    shown: int
    version: int = 0
    counted: int = 0
    tiles: dict[int, bytes] = field(default_factory=dict)
    pictures: dict[str, Picture] = field(default_factory=dict)
    waiting: Live | None = None
    last: Live | None = None
    repairs: int = 0

    @property
    def sendable(self) -> bool:
        return self.waiting is not None and (self.version > 0 or self.whole)

    @property
    def whole(self) -> bool:
        """Whether every tile of the canvas waits here."""
        return len(self.tiles) == columns(self.width) * columns(self.height)


class LiveRequests:
    """All live sessions of one client. `known`: blobs that the server has, shared with the jobs."""

    def __init__(self, known: set[str]) -> None:
        self._known = known
        self._sessions: dict[str, _Session] = {}
        self._sending: Iterator[str | bytes] | None = None

    def request(
        self, request: Live, pictures: Mapping[str, Picture], width: int, height: int, tiles: Mapping[int, bytes]
    ) -> None:
        """See `ClientCore.live`."""
        session = self._sessions.get(request.live)
        if session is None or (session.width, session.height) != (width, height):
            shown = request.generation - 1 if session is None else session.shown
            counted = 0 if session is None else session.counted
            session = self._sessions[request.live] = _Session(width, height, shown, counted=counted)
        session.tiles.update(tiles)
        session.pictures = dict(pictures)
        session.waiting = request
        session.repairs = 0

    def stop(self, live: str) -> bool:
        """Forget a session; False when there was none."""
        return self._sessions.pop(live, None) is not None

    def disconnected(self) -> None:
        """What was half sent is forgotten; the server forgets the canvases."""
        self._sending = None
        for session in self._sessions.values():
            session.version = 0
            session.waiting = session.waiting or session.last

    def welcomed(self) -> list[Event]:
        """A server answers again: which canvases must be sent as a whole."""
        return [LiveCanvasWanted(live) for live, session in self._sessions.items() if not session.whole]

    # Sending -----------------------------------------------------------------------------------------------------

    def outgoing(self) -> str | bytes | None:
        """The next message of a request that may leave now. One request leaves as a whole before the next begins."""
        while True:
            if self._sending is not None:
                message = next(self._sending, None)
                if message is not None:
                    return message
                self._sending = None
            for live, session in self._sessions.items():
                if session.sendable:
                    # Sessions take turns.
                    self._sessions[live] = self._sessions.pop(live)
                    self._sending = self._send(live, session)
                    break
            else:
                return None

    def _send(self, live: str, session: _Session) -> Iterator[str | bytes]:
        request, tiles, pictures = session.waiting, session.tiles, session.pictures
        assert request is not None
        session.waiting, session.tiles = None, {}
        session.last = request
        for digest in request.recipe.blobs():
            if digest in self._known or digest not in pictures:
                continue
            for frame in split(pictures[digest], "blob", digest):
                if self._sessions.get(live) is not session:
                    return
                yield frame
            self._known.add(digest)
        base = session.version
        if base == 0 and len(tiles) < columns(session.width) * columns(session.height):
            return  # the canvas was lost meanwhile; the request waits for all tiles
        if tiles:
            session.counted += 1
            version = session.version = session.counted
            for frame in Patch(live, base, version, session.width, session.height, tiles).frames():
                if self._sessions.get(live) is not session or session.version != version:
                    return  # stopped, or the server turned out to lack what this builds on
                yield frame
        if self._sessions.get(live) is session and session.version:
            yield replace(request, canvas=session.version).to_text()

    # Arrivals ----------------------------------------------------------------------------------------------------

    def wants(self, chunk: Chunk) -> bool:
        """Whether a chunk of a frame belongs to a picture that may still be shown."""
        live, generation = _address(chunk)
        session = self._sessions.get(live)
        return session is not None and generation > session.shown

    def frame(self, chunk: Chunk, picture: Picture) -> list[Event]:
        """The event for a complete picture; none when a newer one has been delivered."""
        live, generation = _address(chunk)
        if not self.wants(chunk):
            return []
        self._sessions[live].shown = generation
        return [LiveFrame(live, generation, picture, chunk.header)]

    def state(self, state: LiveState) -> list[Event]:
        """What the server says about a session; nothing about one that was stopped."""
        session = self._sessions.get(state.live)
        if session is None:
            return []
        if state.state != "lost":
            return [LiveStatus(state)]
        if session.version == 0:
            return []  # known: all tiles are on their way here
        self._lose(session)
        return [] if session.whole else [LiveCanvasWanted(state.live)]

    def error(self, error: WireError) -> list[Event] | None:
        """Events for an error about a live session; None when it is about something else."""
        session = self._sessions.get(error.job or "")
        if session is None or error.job is None:
            return None
        if error.code is Code.BLOB_MISSING and session.repairs < _MAX_REPAIRS:
            missing = error.details.get("missing")
            self._known -= set(missing) if isinstance(missing, list) else set(session.pictures)
            session.repairs += 1
            session.waiting = session.waiting or session.last
            return []
        generation = session.last.generation if session.last is not None else 0
        return [LiveStatus(LiveState(error.job, "failed", generation, error=error))]

    def _lose(self, session: _Session) -> None:
        session.version = 0
        session.waiting = session.waiting or session.last


def _address(chunk: Chunk) -> tuple[str, int]:
    read = Fields(chunk.header, "live header")
    return read.identifier("live", MAX_NAME), read.integer("generation", 0, 2**53)
