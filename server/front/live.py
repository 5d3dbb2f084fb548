# SPDX-License-Identifier: GPL-3.0-or-later
"""Live in the front: which canvas the worker has at which version, and one waiting request per session.

Pixels go through without being kept here. A request is handed on as soon as its files are known; until then a newer one
overwrites it, and the worker overwrites in its turn what it has not begun. While a picture of the generate lane is
being made Live waits for its end, and says so; between two pictures a waiting frame comes first. So neither starves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from krita_sd.wire.errors import Code, WireError, bad_request
from krita_sd.wire.frames import Picture
from krita_sd.wire.live import Live, LiveState, Patch, runs
from krita_sd.wire.message import Message
from server.pool import Pool, WorkerEvent

from .blobs import Blobs
from .resolve import Resolver
from .session import Preview, Session

log = logging.getLogger(__name__)

MAX_SESSIONS = 4
"""Live sessions of one connection."""

MAX_DEATHS = 2
"""Workers that may die without a frame between before a session is told that it failed."""

PAUSED = "Waiting for the picture that is being made."

Reply = Callable[[Message], None]

_SAID = ("generation", "box", "opaque", "steps", "ms", "counts")
"""What the client is told of a frame beside its pixels."""


@dataclass(eq=False)
class _Live:
    """One live session. version: of the worker's canvas, 0 when it has none. lost: the client was told so. left_out:
    a sentence about what its recipe asks for and Live does not do; also told.

    known: the recipe that was resolved last, and what came out.
    """

    id: str
    number: int
    session: Session
    reply: Reply
    width: int = 0
    height: int = 0
    version: int = 0
    lost: bool = False
    waiting: Live | None = None
    task: asyncio.Task[None] | None = None
    known: tuple[Any, dict[str, Any]] | None = None
    pictures: set[str] = field(default_factory=set)
    generation: int = 0
    deaths: int = 0
    left_out: str = ""
    paused: bool = False


class LiveFront:
    """All live sessions of a server. Runs on the event loop's thread."""

    def __init__(self, pool: Pool, resolver: Resolver, blobs: Blobs) -> None:
        self._pool = pool
        self._resolver = resolver
        self._blobs = blobs
        self._by_name: dict[tuple[Reply, str], _Live] = {}
        self._by_number: dict[int, _Live] = {}
        self._last = 0
        self.forwarded = 0

    # Requests ----------------------------------------------------------------------------------------------------

    async def patch(self, session: Session, reply: Reply, header: dict[str, Any], strip: Picture) -> None:
        """A canvas changed. Raises WireError(bad_request, queue_full); a patch on something else is answered `lost`."""
        patch = (
            await asyncio.to_thread(Patch.read, header, strip) if len(strip.data) > 2**20 else Patch.read(header, strip)
        )
        live = self._by_name.get((reply, patch.live))
        if live is None:
            live = self._open(session, reply, patch.live)
        if patch.base == 0:
            live.width, live.height, live.lost = patch.width, patch.height, False
        elif (patch.base, patch.width, patch.height) != (live.version, live.width, live.height):
            self._lose(live, 0)
            return
        live.version = patch.version
        order = {"do": "live_patch", "live": live.number, "whole": patch.base == 0, "tiles": runs(list(patch.tiles))}
        self._pool.live({**order, "width": patch.width, "height": patch.height}, strip.data)

    def request(self, session: Session, reply: Reply, message: Live) -> None:
        """Make a picture. Raises WireError with `job` = the live's name when it cannot be."""
        message, left_out = _without_unsupported(message)
        live = self._by_name.get((reply, message.live))
        if live is None or live.version != message.canvas or live.version == 0:
            live = live or self._open(session, reply, message.live)
            self._lose(live, message.generation)
            return
        try:
            self._check(live, message)
        except WireError as error:
            error.job = message.live
            raise
        if left_out != live.left_out:
            live.left_out = left_out
            reply(LiveState(live.id, "ready", message.generation, left_out))
        live.waiting = message
        if live.task is None:
            live.task = asyncio.create_task(self._forward(live))

    def stop(self, reply: Reply, name: str) -> None:
        """The session is over; a frame that has not left is dropped."""
        live = self._by_name.pop((reply, name), None)
        if live is None:
            return
        del self._by_number[live.number]
        if live.task is not None:
            live.task.cancel()
        live.session.drop_live(name)
        self._pool.live({"do": "live_stop", "live": live.number})

    def leave(self, reply: Reply) -> None:
        """The connection is gone, and with it all its live sessions."""
        for owner, name in list(self._by_name):
            if owner == reply:
                self.stop(reply, name)

    def _open(self, session: Session, reply: Reply, name: str) -> _Live:
        if sum(owner == reply for owner, _ in self._by_name) >= MAX_SESSIONS:
            raise WireError(
                Code.QUEUE_FULL, "Too many live sessions are open.", "Turn Live off in another document.", job=name
            )
        self._last += 1
        live = _Live(name, self._last, session, reply)
        self._by_name[reply, name] = self._by_number[live.number] = live
        return live

    def _lose(self, live: _Live, generation: int) -> None:
        live.version, live.waiting = 0, None
        if not live.lost:
            live.lost = True
            live.reply(LiveState(live.id, "lost", generation))

    def _check(self, live: _Live, message: Live) -> None:
        recipe = message.recipe
        if recipe.kind not in ("img2img", "inpaint"):
            raise bad_request("Live paints over the canvas: its recipe must be img2img or inpaint.")
        if (recipe.width, recipe.height) != (live.width, live.height):
            raise bad_request("The canvas and the wanted picture have different sizes.")
        missing = self._blobs.missing(recipe.blobs())
        if missing:
            raise WireError(
                Code.BLOB_MISSING,
                "The server no longer has a picture that Live needs.",
                "It will be sent again.",
                retryable=True,
                details={"missing": missing},
            )

    async def _forward(self, live: _Live) -> None:
        """Hand on the newest request until there is none."""
        try:
            while live.waiting is not None:
                message, live.waiting = live.waiting, None
                body = await self._body(live, message)
                if live.waiting is not None or live.version == 0:
                    continue  # a newer one came while files were looked up, or the canvas is gone
                live.generation = message.generation
                self.forwarded += 1
                order = {"do": "live", "live": live.number, "generation": message.generation, "fit": message.fit}
                self._pool.live({**order, **body})
                self._say_paused(live)
        except WireError as error:
            error.job = live.id
            live.reply(LiveState(live.id, "failed", error=error))
        except Exception:  # a bug here must not end in silence
            log.exception("live")
            problem = WireError(Code.INTERNAL, "The server met an unexpected problem.", "The server's log has more.")
            live.reply(LiveState(live.id, "failed", error=problem))
        finally:
            live.task = None

    async def _body(self, live: _Live, message: Live) -> dict[str, Any]:
        recipe = message.recipe
        if live.known is None or live.known[0] != recipe:
            resolved = await asyncio.to_thread(self._resolver.resolve, recipe)
            for digest in set(recipe.blobs()) - live.pictures:
                picture = await self._blobs.get(digest)
                if picture is None:
                    raise WireError(Code.INTERRUPTED, "A picture that Live needs was lost.", retryable=True)
                order = {"do": "live_picture", "live": live.number, "hash": digest, **picture.describe()}
                self._pool.live(order, picture.data)
            live.pictures = set(recipe.blobs())
            body = {"recipe": recipe.to_json(), "words": resolved.words_json(), "model": resolved.model}
            live.known = recipe, {**body, "blobs": sorted(live.pictures)}
        return live.known[1]

    def _say_paused(self, live: _Live) -> None:
        if self._pool.idle() == live.paused:
            live.paused = not live.paused
            live.reply(LiveState(live.id, "ready", live.generation, PAUSED if live.paused else live.left_out))

    # What the worker says ----------------------------------------------------------------------------------------

    def on_event(self, event: WorkerEvent) -> bool:
        """Take an event of the pool; whether it was about Live alone."""
        if event.kind == "died":
            self._worker_died()
            return False
        if event.kind not in ("live", "live_state"):
            return False
        live = self._by_number.get(int(event.data["live"]))
        if live is None:
            return True  # stopped meanwhile
        if event.kind == "live":
            self._frame(live, event)
        else:
            error = event.data.get("error")
            problem = WireError.from_json(error) if error is not None else None
            live.reply(LiveState(live.id, event.data["state"], event.data["generation"], error=problem))
        return True

    def _frame(self, live: _Live, event: WorkerEvent) -> None:
        data = event.data
        live.deaths = 0
        live.paused = False
        picture = Picture(data["format"], data["width"], data["height"], event.payload)
        header = {"live": live.id, **{key: data[key] for key in _SAID}}
        live.session.set_live(live.id, Preview(picture, header, lambda: None))

    def _worker_died(self) -> None:
        for live in list(self._by_number.values()):
            live.known = None
            live.pictures.clear()
            if live.version == 0:
                continue
            live.deaths += 1
            if live.deaths > MAX_DEATHS:
                live.version, live.lost, live.deaths = 0, False, 0
                problem = WireError(
                    Code.WORKER_DIED, "Live made the server's worker stop twice.", "Choose a smaller region or model."
                )
                live.reply(LiveState(live.id, "failed", live.generation, error=problem))
            else:
                live.lost = False
                self._lose(live, live.generation)


def _without_unsupported(message: Live) -> tuple[Live, str]:
    """The request with only what Live does, and a sentence about the rest: a marked layer must not end Live."""
    recipe = message.recipe
    if not recipe.variation:
        return message, ""
    return replace(message, recipe=recipe.replace(variation=0.0)), "Live does without variations."
