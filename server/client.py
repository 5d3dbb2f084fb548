# SPDX-License-Identifier: GPL-3.0-or-later
"""A headless client over the same wire as the plugin: an asyncio shell around `krita_sd.wire.client.ClientCore`.

async with Client(url, token) as client:
    client.core.submit(job, recipe, pictures)
    async for event in client.events(): ...
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from krita_sd import tls
from krita_sd.wire import PROTOCOL
from krita_sd.wire.client import ClientCore, Connected, Event, Refused
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.limits import MAX_MESSAGE, PING_SECONDS, PING_TIMEOUT_SECONDS

CONNECT_SECONDS = 10.0
RECONNECT_SECONDS = 30.0
"""How long a lost connection is tried again before the client gives up."""

RETRY_SECONDS = 0.2

SUPERSEDED = 4001
"""Close code of a connection whose session has opened a newer one."""


async def open_socket(url: str, token: str) -> ClientConnection:
    """One connection, straight to the server. Raises WireError in one sentence."""
    try:
        address, encryption = await asyncio.to_thread(tls.opened, url, CONNECT_SECONDS)
        return await connect(
            address,
            ssl=encryption,
            subprotocols=[Subprotocol(PROTOCOL)],
            additional_headers={"Authorization": f"Bearer {token}"},
            compression=None,
            # A proxy of the environment must never see loopback traffic, nor the token.
            proxy=None,
            user_agent_header=None,
            open_timeout=CONNECT_SECONDS,
            ping_interval=PING_SECONDS,
            ping_timeout=PING_TIMEOUT_SECONDS,
            close_timeout=3.0,
            max_size=MAX_MESSAGE,
        )
    except InvalidStatus as error:
        status = error.response.status_code
        if status == 401:
            raise WireError(
                Code.UNAUTHORIZED, "The server does not accept this token.", "Copy the token of that server."
            ) from None
        raise WireError(Code.BAD_REQUEST, f"The server refused the connection (status {status}).") from None
    except (InvalidURI, ValueError) as error:
        if distrust := tls.untrusted(error):
            raise distrust from None
        raise WireError(
            Code.BAD_REQUEST, f"{url} is not an address of a server.", "Use one like ws://127.0.0.1:8188/v1."
        ) from None
    except (OSError, InvalidHandshake, asyncio.TimeoutError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "no answer"
        raise WireError(
            Code.INTERRUPTED,
            f"No server can be reached at {url} ({reason}).",
            "Start it, or check address and port.",
            retryable=True,
        ) from None


class Client:
    """One session; reconnects and resumes by itself. Drive it through `core`, then call `flush`; read `events`."""

    def __init__(self, url: str, token: str, *, session: str | None = None, name: str = "headless") -> None:
        self.core = ClientCore(session or uuid.uuid4().hex, name)
        self._url = url
        self._token = token
        self._events: asyncio.Queue[Event | WireError] = asyncio.Queue()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._socket: ClientConnection | None = None

    async def __aenter__(self) -> Client:
        """Connect and wait for the welcome. Raises WireError when the first connection fails."""
        self._task = asyncio.create_task(self._run())
        event = await self._events.get()
        if isinstance(event, WireError):
            await self.close()
            raise event
        if isinstance(event, Refused):
            await self.close()
            raise event.error
        assert isinstance(event, Connected)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Send what is waiting (acknowledgements), then close."""
        if self._socket is not None:
            try:
                await self._drain(self._socket)
                await self._socket.close()
            except ConnectionClosed:
                pass
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def flush(self) -> None:
        """`core` was given something to send."""
        self._wake.set()

    def drop(self) -> None:
        """Cut the connection as a broken network would, without a closing handshake (for tests)."""
        if self._socket is not None:
            self._socket.transport.abort()

    async def next_event(self) -> Event:
        """The next event. Raises WireError when the connection is lost for good."""
        event = await self._events.get()
        if isinstance(event, WireError):
            raise event
        return event

    async def events(self) -> AsyncIterator[Event]:
        """All events, for ever."""
        while True:
            yield await self.next_event()

    async def _run(self) -> None:
        connected_once = False
        deadline = 0.0
        while True:
            try:
                self._socket = await open_socket(self._url, self._token)
            except WireError as error:
                if not connected_once or not error.retryable or time.monotonic() > deadline:
                    self._events.put_nowait(error)
                    return
                await asyncio.sleep(RETRY_SECONDS)
                continue
            connected_once = True
            await self._converse(self._socket)
            if self._socket.close_code == SUPERSEDED:
                # Not tried again: two clients with one session would throw each other out for ever.
                self._events.put_nowait(WireError(Code.INTERRUPTED, "This session was opened by another client."))
                return
            deadline = time.monotonic() + RECONNECT_SECONDS

    async def _converse(self, socket: ClientConnection) -> None:
        self.core.connect()
        sender = asyncio.create_task(self._send(socket))
        self._wake.set()
        try:
            async for message in socket:
                for event in self.core.receive(message):
                    self._events.put_nowait(event)
                self._wake.set()
        except ConnectionClosed:
            pass
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            self.core.disconnect()

    async def _send(self, socket: ClientConnection) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._drain(socket)

    async def _drain(self, socket: ClientConnection) -> None:
        while (message := self.core.outgoing()) is not None:
            await socket.send(message)
