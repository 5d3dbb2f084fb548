# SPDX-License-Identifier: GPL-3.0-or-later
"""One websocket connection: hello, a loop that reads requests, a task that sends what the session owes.

The sender prefers answers, then reliable items in their order, then progress, then previews; answers and progress
also slip between the chunks of a picture.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
import uuid
from collections import deque
from collections.abc import Iterator

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from krita_sd.wire.errors import Code, WireError, bad_request
from krita_sd.wire.frames import Assembler, Chunk, decode_frame, split
from krita_sd.wire.limits import MAX_NAME
from krita_sd.wire.live import Live, LiveStop
from krita_sd.wire.messages import (
    Ack,
    Cancel,
    Error,
    Finish,
    Have,
    Hello,
    ListModels,
    Message,
    Missing,
    Submit,
    choose_protocol,
    parse_from_client,
)
from krita_sd.wire.queries import Download, Estimate, FreeMemory, Move, ReadPrompt
from krita_sd.wire.version import VERSION

from . import memory
from .hub import Hub
from .session import Item, Mailbox, Session

log = logging.getLogger(__name__)

HELLO_SECONDS = 10.0
MAX_ANSWERS = 64
"""Unsent answers above which no further request is read: a client that does not listen is not heard."""

LARGE = 1024 * 1024
"""Bytes of a canvas patch above which its chunks are joined in a thread: a copy must not hold up the loop."""

SUPERSEDED = 4001
"""Close code of a connection whose session has opened a newer one."""

BAD_HELLO = 4002


class Connection:
    """Drives one websocket until it is closed."""

    def __init__(self, hub: Hub, socket: ServerConnection, live: dict[str, Connection]) -> None:
        self._hub = hub
        self._socket = socket
        self._live = live
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._mailbox = Mailbox(self._wake.set)
        self._answers: deque[str] = deque()
        self._frames: Iterator[bytes] | None = None
        self._current: Item | None = None
        self._uploads = Assembler()
        self._patches: dict[str, str] = {}
        self._last_error: tuple[str, str] | None = None

    async def run(self) -> None:
        """Serve the connection; returns when it is closed, never raises for what the peer did."""
        try:
            hello = await self._hello()
            if hello is not None:
                await self._serve(hello)
        except ConnectionClosed:
            pass

    async def close(self, code: int, reason: str) -> None:
        await self._socket.close(code, reason)

    async def _hello(self) -> Hello | None:
        try:
            message = parse_from_client(await asyncio.wait_for(self._receive_text(), HELLO_SECONDS))
            await self._hub.ready()
            if not isinstance(message, Hello):
                raise bad_request("The first message must be hello.")
            choose_protocol(message.protocols, message.version, VERSION)
            return message
        except WireError as error:
            await self._socket.send(Error(error).to_text())
            await self.close(BAD_HELLO, "no usable hello")
        except asyncio.TimeoutError:
            await self.close(BAD_HELLO, "no hello")
        return None

    async def _receive_text(self) -> str:
        data = await self._socket.recv()
        if isinstance(data, bytes):
            raise bad_request("The first message must be hello.")
        return data

    async def _serve(self, hello: Hello) -> None:
        session, welcome = self._hub.welcome(hello)
        previous = self._live.get(session.id)
        self._live[session.id] = self
        if previous is not None:
            await previous.close(SUPERSEDED, "the session was opened again")
        await self._socket.send(welcome.to_text())
        if self._live.get(session.id) is not self:
            return  # superseded in its turn while it waited
        session.attach(self._mailbox)
        self._hub.scheduler.wake()
        self._hub.audience.add(self._reply)
        sender = asyncio.create_task(self._send_loop(session))
        try:
            async for data in self._socket:
                await self._answer(session, data)
                while len(self._answers) > MAX_ANSWERS and not sender.done():
                    self._room.clear()
                    await self._room.wait()
        finally:
            self._hub.audience.discard(self._reply)
            self._hub.live.leave(self._reply)
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            session.detach(self._mailbox)
            if self._live.get(session.id) is self:
                del self._live[session.id]

    # Requests ----------------------------------------------------------------------------------------------------

    async def _answer(self, session: Session, data: str | bytes) -> None:
        try:
            if isinstance(data, bytes):
                await self._upload(session, data)
            else:
                reply = await self._request(session, parse_from_client(data))
                if reply is not None:
                    self._reply(reply)
            self._last_error = None
        except WireError as error:
            # One sentence for a picture that is too large, not one per chunk of it.
            repeated = isinstance(data, bytes) and self._last_error == (error.code.value, error.message)
            self._last_error = (error.code.value, error.message)
            if not repeated:
                self._reply(Error(error))
        except ConnectionClosed:
            raise
        except Exception as error:  # a bug in one request must not take the connection and its results with it
            ref = uuid.uuid4().hex[:8]
            log.error("ref %s\n%s", ref, traceback.format_exc())
            name = type(error).__name__
            self._reply(Error(WireError(Code.INTERNAL, f"The server met an unexpected problem ({name}).", ref=ref)))

    async def _upload(self, session: Session, data: bytes) -> None:
        chunk = decode_frame(data)
        if chunk.role == "canvas":
            await self._patch(session, chunk)
            return
        if chunk.role != "blob":
            raise bad_request(f"A client cannot send a {chunk.role}.")
        # The last chunk joins all of them: a copy of the whole picture, which must not hold up the loop.
        picture = await asyncio.to_thread(self._uploads.feed, chunk) if chunk.last else self._uploads.feed(chunk)
        if picture is not None:
            await self._hub.blobs.receive(chunk.id, picture)

    async def _patch(self, session: Session, chunk: Chunk) -> None:
        """A part of a canvas patch. One that was given up half-way is forgotten when the next of its canvas begins."""
        name = str(chunk.header.get("live"))[:MAX_NAME]
        before = self._patches.pop(name, chunk.id)
        if before != chunk.id:
            self._uploads.drop("canvas", before)
        large = chunk.last and chunk.total > LARGE
        strip = await asyncio.to_thread(self._uploads.feed, chunk) if large else self._uploads.feed(chunk)
        if strip is not None:
            await self._hub.live.patch(session, self._reply, chunk.header, strip)
        else:
            self._patches[name] = chunk.id

    async def _request(self, session: Session, message: Message) -> Message | None:
        scheduler = self._hub.scheduler
        if isinstance(message, Submit):
            scheduler.submit(session, message)
        elif isinstance(message, Cancel):
            scheduler.cancel(session, message.job)
        elif isinstance(message, Move):
            scheduler.move(session, message.job, message.before)
        elif isinstance(message, Finish):
            scheduler.finish(session, message.job)
        elif isinstance(message, Ack):
            session.acknowledge(min(message.seq, session.seq))
        elif isinstance(message, Have):
            return Missing(tuple(self._hub.blobs.missing(message.hashes)))
        elif isinstance(message, ListModels):
            if message.rescan:
                await self._hub.rescan()
            return self._hub.models_message()
        elif isinstance(message, ReadPrompt):
            return await asyncio.to_thread(scheduler.resolver.answer, message)
        elif isinstance(message, Live):
            self._hub.live.request(session, self._reply, message)
        elif isinstance(message, LiveStop):
            self._hub.live.stop(self._reply, message.live)
        elif isinstance(message, Estimate):
            return await asyncio.to_thread(memory.answer, self._hub.library, self._hub.pool.device(), message)
        elif isinstance(message, Download):
            return await self._hub.downloads.answer(message)
        elif isinstance(message, FreeMemory):
            self._hub.pool.free_memory()
        elif isinstance(message, Hello):
            raise bad_request("Hello was said already.")
        else:
            raise WireError(Code.UNSUPPORTED, f"This server does not know {message.type}.", "Update both sides.")
        return None

    def _reply(self, message: Message) -> None:
        self._answers.append(message.to_text())
        self._wake.set()

    # Sending -----------------------------------------------------------------------------------------------------

    async def _send_loop(self, session: Session) -> None:
        try:
            while True:
                message = await self._next(session)
                if message is None:
                    self._wake.clear()
                    # Looked at again after clearing: what came in between has set it for us.
                    message = await self._next(session)
                    if message is None:
                        await self._wake.wait()
                        continue
                await self._socket.send(message)
                self._room.set()
        except ConnectionClosed:
            pass
        finally:
            self._room.set()

    async def _next(self, session: Session) -> str | bytes | None:
        """The next websocket message, or None when there is nothing to send."""
        if self._answers:
            return self._answers.popleft()
        if self._frames is not None:
            progress = session.take_progress()
            if progress is not None:
                return progress
            frame = next(self._frames, None)
            if frame is not None:
                return frame
            self._frames = None
            if self._current is not None:
                session.sent(self._current)
                self._current = None
        item = self._next_item()
        if item is not None:
            return await self._begin(session, item)
        progress = session.take_progress()
        if progress is not None:
            return progress
        live = session.take_live()
        if live is not None:
            name = f"{live.header['live']}:{live.header['generation']}"
            self._frames = split(live.picture, "live", name, live.header)
            return next(self._frames)
        preview = session.take_preview()
        if preview is not None:
            self._frames = split(preview.picture, "preview", preview.header["job"], preview.header)
            return next(self._frames)
        return None

    def _next_item(self) -> Item | None:
        items = self._mailbox.items
        return items.popleft() if items and items[0].saved else None

    async def _begin(self, session: Session, item: Item) -> str | bytes:
        if item.preview is not None:
            self._current = item
            self._frames = split(item.preview, "preview", item.header["job"], item.header)
            return next(self._frames)
        if item.picture is not None:
            picture = await self._hub.blobs.get(item.picture)
            if picture is not None:
                self._frames = split(picture, "result", item.picture)
            else:
                log.error("the picture of item %d of a session is gone", item.seq)
        return item.text
