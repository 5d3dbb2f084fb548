# SPDX-License-Identifier: GPL-3.0-or-later
"""The one thread that talks to the server, so that the GUI thread never waits for a network, a hash or a codec.

Commands go in through a queue (`submit`, `cancel`, ...: they return at once); events come out through `emit`, which is
called in this thread (in Krita it is a Qt signal, whose receiver lives in the GUI thread). Qt-free, so that it is
tested against a real server without Krita. The session logic itself is `wire.client.ClientCore`.
"""

from __future__ import annotations

import importlib
import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from krita_sd import tls
from krita_sd.inbox import Inbox
from krita_sd.live.desk import Desk
from krita_sd.text import tr
from krita_sd.wire import PROTOCOL, client
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.frames import Picture
from krita_sd.wire.limits import MAX_MESSAGE, PING_SECONDS, PING_TIMEOUT_SECONDS
from krita_sd.wire.message import Message
from krita_sd.wire.messages import PreviewWish
from krita_sd.wire.recipe import Control, Recipe

log = logging.getLogger(__name__)

BACKOFF = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds before the next attempt to connect; the last one repeats."""

SCALE_SHARE = 4
"""Enlarging previews may take one part in so many of this thread's time: it shares Python's lock with the GUI."""

OPEN_TIMEOUT = 10.0
"""Seconds for the TCP and websocket handshake."""


@dataclass(frozen=True)
class Target:
    """Where to connect: websocket address, bearer token and how the status line calls it."""

    uri: str
    token: str
    name: str


@dataclass(frozen=True)
class LinkState:
    """`kind`: starting, connecting, connected, waiting (will try again by itself) or stopped. `text` is a sentence."""

    kind: str
    text: str
    hint: str = ""
    code: Code | None = None


@dataclass(frozen=True)
class PreviewWaiting:
    """A preview of this job can be taken with `Link.take_preview`."""

    job: str


@dataclass(frozen=True)
class Draft:
    """A job to submit. Its pictures are not hashed yet; the recipe's hashes are filled in here."""

    job: str
    recipe: Recipe
    image: Picture | None = None
    mask: Picture | None = None
    count: int = 1
    place: str = "back"
    previews: PreviewWish = PreviewWish()
    controls: tuple[tuple[Control, Picture], ...] = ()


# What a Link needs from outside: where the server is (may start one; raises WireError) and how to scale a preview.
Locate = Callable[[Callable[[LinkState], None], threading.Event], Target]
Scale = Callable[[Picture, int, int], Picture]


class Link:
    """A session with a server that survives its connections. Connect receivers of `emit` first, then `start`."""

    def __init__(self, core: client.ClientCore, locate: Locate, emit: Callable[[Any], None], scale: Scale) -> None:
        self._core = core
        self._locate = locate
        self._emit = emit
        self._scale = scale
        self._inbox = Inbox()
        self.live = Desk(core, self._inbox.put)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="krita-sd-link", daemon=True)
        self._extents: dict[str, tuple[int, int]] = {}
        self._cancelled: set[str] = set()
        self._finished: set[str] = set()
        self._previews: dict[str, client.PreviewReady] = {}
        self._previews_lock = threading.Lock()
        self._not_before = 0.0
        self._fatal: WireError | None = None

    # Called in the GUI thread; all return at once --------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 0.8) -> bool:
        """Close the connection and end the thread; False when it did not end in time (it is a daemon)."""
        self._stopping.set()
        self._inbox.close()
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def submit(self, draft: Draft) -> None:
        self._inbox.put(lambda: self._submit(draft))

    def cancel(self, job: str) -> None:
        self._inbox.put(lambda: self._cancel(job))

    def finish(self, job: str) -> None:
        self._inbox.put(lambda: self._finish(job))

    def list_models(self, rescan: bool = False) -> None:
        self._inbox.put(lambda: self._core.list_models(rescan))

    def ask(self, message: Message) -> None:
        """A question beside the jobs; `client.Answered` follows. Dropped without a connection."""
        self._inbox.put(lambda: self._core.ask(message))

    def stored(self, seq: int) -> None:
        """The result with this seq is safe; the server may forget it."""
        self._inbox.put(lambda: self._core.stored(seq))

    def run(self, work: Callable[[], None]) -> None:
        """Do `work` (a codec, a file) in this thread."""
        self._inbox.put(work)

    def reconnect(self) -> None:
        """Try now: the address may have changed, or the painter asks for it."""
        self._inbox.hang_up()

    def take_preview(self, job: str) -> client.PreviewReady | None:
        """The newest preview of `job`, scaled to the job's extent; older ones are gone."""
        with self._previews_lock:
            return self._previews.pop(job, None)

    @property
    def position(self) -> tuple[str, int]:
        """(server instance, last seq that is safe here): to be persisted, for resuming after a restart of Krita."""
        return self._core.instance, self._core.last_seq

    # The thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        attempt = 0
        while not self._stopping.is_set():
            try:
                if self._session():
                    attempt = 0
            except WireError as error:
                if not self._stopping.is_set():
                    self._report(LinkState("waiting", error.message, error.hint, error.code))
            except Exception as error:  # this thread must not die: it reports and tries again
                log.exception("link")
                self._report(
                    LinkState("waiting", tr("The connection failed ({error}).", error=error), "", Code.INTERNAL)
                )
            self._core.disconnect()
            if not self._stopping.is_set():
                self._idle(BACKOFF[min(attempt, len(BACKOFF) - 1)])
                attempt += 1
        self._report(LinkState("stopped", tr("Not connected.")))

    def _report(self, state: LinkState) -> None:
        self._emit(state)

    def _idle(self, seconds: float) -> None:
        """Between two attempts commands are still obeyed: a submit is kept, a cancel of an unsent job concluded."""
        self._inbox.reopen()
        for item in self._inbox.drain(seconds, self._stopping):
            self._obey(item)

    def _session(self) -> bool:
        """One connection from opening to loss. True when the server had welcomed us."""
        target = self._locate(self._report, self._stopping)
        self._report(LinkState("connecting", tr("Connecting to {name} ...", name=target.name)))
        socket = _open(target)
        self._inbox.reopen()
        self._fatal = None
        reader = threading.Thread(target=self._read, args=(socket,), name="krita-sd-read", daemon=True)
        try:
            self._core.connect()
            reader.start()
            self._pump(socket)
            welcomed = self._core.welcome is not None
        finally:
            self._inbox.hang_up()
            socket.close()
            if reader.ident is not None:
                reader.join(1.0)  # so that nothing of this connection arrives in the next one
        if self._fatal is not None:
            raise self._fatal
        if not self._stopping.is_set():
            hint = tr("Trying again; nothing that was computed is lost.")
            self._report(LinkState("waiting", tr("The connection to the server was lost."), hint))
        return welcomed

    def _pump(self, socket: Any) -> None:
        closed = _closed_error()
        while not self._stopping.is_set():
            message = self._core.outgoing()
            if message is not None:
                try:
                    socket.send(message)
                except closed:
                    return
            # Between two chunks of an upload everything that waits is handled: a cancel overtakes a picture.
            for item in self._inbox.take(block=message is None):
                if item is None:
                    return
                self._obey(item)

    def _obey(self, item: Any) -> None:
        if callable(item):
            try:
                item()
            except WireError as error:
                self._emit(client.Refused(error))
            return
        for event in self._core.receive(item):
            self._handle(event)

    def _read(self, socket: Any) -> None:
        """Reader thread: blocks when the link thread is behind, so memory stays bounded."""
        try:
            for message in socket:
                if not self._inbox.put_message(message):
                    return
        except Exception as error:  # whatever ends a connection ends it the same way
            log.info("connection ended: %s", error)
        self._inbox.hang_up()

    def _handle(self, event: client.Event) -> None:
        if isinstance(event, client.PreviewReady):
            self._preview(event)
            return
        if self.live.handle(event):
            return
        if isinstance(event, client.Connected):
            self._repeat_wishes(event)
            for job in event.welcome.jobs:  # of an earlier run of the plugin too
                size = job.get("width"), job.get("height")
                if isinstance(size[0], int) and isinstance(size[1], int):
                    self._extents.setdefault(str(job.get("job")), (size[0], size[1]))
        elif isinstance(event, client.JobState) and client.is_over(event.state):
            self._forget(event.state.job)
        elif isinstance(event, client.JobLost):
            self._forget(event.job)
        elif isinstance(event, client.Refused) and self._core.welcome is None:
            self._fatal = event.error
            self._inbox.hang_up()
            return
        self._emit(event)

    def _repeat_wishes(self, event: client.Connected) -> None:
        """A cancel or finish that was pressed while there was no connection is said now."""
        alive = {str(job.get("job")) for job in event.welcome.jobs}
        for job in self._cancelled & alive:
            self._core.cancel(job)
        for job in (self._finished - self._cancelled) & alive:
            self._core.finish(job)

    def _forget(self, job: str) -> None:
        self._extents.pop(job, None)
        self._cancelled.discard(job)
        self._finished.discard(job)
        with self._previews_lock:
            self._previews.pop(job, None)

    def _preview(self, event: client.PreviewReady) -> None:
        extent = self._extents.get(event.job)
        if extent is None or event.job in self._cancelled:
            return
        picture = event.picture
        if (picture.width, picture.height) != extent or picture.format != "bgra8":
            begin = time.monotonic()
            if begin < self._not_before:
                return  # a newer one follows, or the result
            picture = self._scale(picture, *extent)
            self._not_before = begin + SCALE_SHARE * (time.monotonic() - begin)
        ready = client.PreviewReady(event.job, event.index, event.step, event.total, picture)
        with self._previews_lock:
            first = event.job not in self._previews
            self._previews[event.job] = ready
        if first:
            self._emit(PreviewWaiting(event.job))

    def _submit(self, draft: Draft) -> None:
        if draft.job in self._cancelled:
            return
        pictures = {}
        recipe = draft.recipe
        if draft.image is not None:
            digest = draft.image.hash
            pictures[digest] = draft.image
            recipe = recipe.replace(image=digest)
        if draft.mask is not None:
            digest = draft.mask.hash
            pictures[digest] = draft.mask
            recipe = recipe.replace(mask=digest)
        controls = []
        for control, picture in draft.controls:
            pictures[picture.hash] = picture
            controls.append(replace(control, image=picture.hash))
        if controls:
            recipe = recipe.replace(controls=tuple(controls))
        self._extents[draft.job] = (recipe.width, recipe.height)
        self._core.submit(draft.job, recipe, pictures, count=draft.count, place=draft.place, previews=draft.previews)

    def _cancel(self, job: str) -> None:
        self._cancelled.add(job)
        with self._previews_lock:
            self._previews.pop(job, None)
        for event in self._core.cancel(job):
            self._handle(event)

    def _finish(self, job: str) -> None:
        self._finished.add(job)
        for event in self._core.finish(job):
            self._handle(event)


def _library(name: str) -> Any:
    """A module of `websockets`: the copy that install.py put beside us; a test run outside Krita may use its own."""
    try:
        return importlib.import_module(f"krita_sd._vendor.websockets.{name}")
    except ModuleNotFoundError:
        if "krita" in sys.modules:
            raise WireError(
                Code.INTERNAL,
                tr("The plugin is not completely installed."),
                tr("Run install.py again and restart Krita."),
            ) from None
        return importlib.import_module(f"websockets.{name}")


def _closed_error() -> Any:
    return _library("exceptions").ConnectionClosed


def _open(target: Target) -> Any:
    """Open the websocket. Raises WireError with one sentence."""
    errors = _library("exceptions")
    try:
        address, encryption = tls.opened(target.uri, OPEN_TIMEOUT)
        return _library("sync.client").connect(
            address,
            ssl=encryption,
            subprotocols=[PROTOCOL],
            additional_headers={"Authorization": f"Bearer {target.token}"},
            compression=None,
            max_size=MAX_MESSAGE,
            proxy=None,  # a proxy from the environment must not come between us and the loopback
            open_timeout=OPEN_TIMEOUT,
            close_timeout=0.3,
            ping_interval=PING_SECONDS,
            ping_timeout=PING_TIMEOUT_SECONDS,
        )
    except errors.InvalidStatus as error:
        status = error.response.status_code
        if status in (400, 401):
            hint = tr(
                "Check the token in the connection settings; it is in the file 'token' of the server's state folder."
            )
            raise WireError(Code.UNAUTHORIZED, tr("{name} refused the access token.", name=target.name), hint) from None
        raise WireError(
            Code.BAD_REQUEST, tr("{name} refused the connection (HTTP {status}).", name=target.name, status=status)
        ) from None
    except (errors.InvalidURI, ValueError) as error:
        if distrust := tls.untrusted(error):
            raise distrust from None
        hint = tr("It must look like ws://127.0.0.1:8765/v1, or wss://... as the server prints it.")
        raise WireError(Code.BAD_REQUEST, tr("The server address cannot be read."), hint) from None
    except errors.InvalidHandshake:
        hint = tr("Something else may be listening on this address; check it.")
        raise WireError(
            Code.VERSION,
            tr("{name} does not speak our protocol ({protocol}).", name=target.name, protocol=PROTOCOL),
            hint,
        ) from None
    except (OSError, EOFError, TimeoutError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise WireError(
            Code.INTERRUPTED,
            tr("{name} does not answer ({reason}).", name=target.name, reason=reason),
            tr("Trying again. If this goes on, check the address and the log on the Server page."),
            retryable=True,
        ) from None
