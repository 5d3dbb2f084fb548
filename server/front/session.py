# SPDX-License-Identifier: GPL-3.0-or-later
"""What the server owes one client: reliable items kept until acknowledged, and lossy slots where new overwrites old.

A session outlives its connections and the server process. It knows no sockets: a connection attaches a `Mailbox`,
takes out of it what to send next, and detaches.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from krita_sd.wire.errors import WireError
from krita_sd.wire.frames import Picture
from krita_sd.wire.messages import Result, State
from krita_sd.wire.values import dump

from .blobs import Blobs
from .journal import Journal, Row

MAX_ITEMS = 20_000
"""Unacknowledged items of one session; a client that never acknowledges loses the oldest."""

MAX_RELIABLE_PREVIEW_BYTES = 256 * 1024**2


@dataclass
class Item:
    """One reliable message; `picture` is the hash of the result whose chunks follow it.

    seq 0: a preview that must not be overwritten (`preview` holds it); kept in memory only and gone once it is sent.
    """

    seq: int
    text: str = ""
    picture: str | None = None
    saved: bool = False
    preview: Picture | None = None
    header: dict[str, Any] = field(default_factory=dict)


@dataclass
class Preview:
    """The content of a lossy preview slot. `taken` is called when it starts to leave."""

    picture: Picture
    header: dict[str, Any]
    taken: Callable[[], None]


class Mailbox:
    """The sending side of one connection: what of the session has not been sent on it. `wake` is called on news."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self.items: deque[Item] = deque()


class Session:
    """State of one client session. All methods run on the event loop's thread."""

    def __init__(self, id: str, journal: Journal, blobs: Blobs, seq: int = 0) -> None:
        self.id = id
        self.seq = seq
        self.seen = time.time()
        self._journal = journal
        self._blobs = blobs
        self._outbox: deque[Item] = deque()
        self._progress: dict[str, str] = {}
        self._previews: dict[str, Preview] = {}
        self._mailbox: Mailbox | None = None
        self._preview_bytes = 0

    @property
    def attached(self) -> bool:
        return self._mailbox is not None

    @property
    def acked(self) -> int:
        """Up to here nothing is held any more."""
        return next((item.seq - 1 for item in self._outbox if item.seq), self.seq)

    # Connections -------------------------------------------------------------------------------------------------

    def attach(self, mailbox: Mailbox) -> None:
        """Send through `mailbox` from now on, beginning with the oldest item that is not acknowledged."""
        self.seen = time.time()
        mailbox.items.extend(self._outbox)
        self._mailbox = mailbox
        self.save()
        mailbox.wake()

    def detach(self, mailbox: Mailbox) -> None:
        """Stop using `mailbox`; nothing happens when a newer connection has taken over."""
        if self._mailbox is mailbox:
            self._mailbox = None
            self.seen = time.time()

    def acknowledge(self, seq: int) -> None:
        """The client has everything up to `seq`."""
        done = 0
        while self._outbox and self._outbox[0].seq <= seq:
            item = self._outbox.popleft()
            if item.seq == 0:
                # A preview between acknowledged items was overtaken by them; it is sent already or of no use.
                self._preview_bytes -= len(item.preview.data) if item.preview else 0
                continue
            done = item.seq
            if item.picture is not None:
                self._blobs.unpin([item.picture])
        if done:
            self._journal.do("delete from items where session=? and seq<=?", (self.id, done))

    def save(self) -> None:
        """Write the session's own row."""
        self._journal.do("insert or replace into sessions values (?,?,?)", (self.id, self.seq, self.seen))

    def restore(self, row: Row) -> None:
        """Take back a saved item (session, seq, text, picture)."""
        _, seq, text, picture = row
        self._outbox.append(Item(seq, text, picture, saved=True))
        self.seq = max(self.seq, seq)
        if picture is not None:
            self._blobs.pin([picture])

    # Reliable ----------------------------------------------------------------------------------------------------

    def push_state(
        self, job: str, state: str, index: int = 0, count: int = 1, error: WireError | None = None, **more: Any
    ) -> None:
        """Tell the client that a job entered a state."""
        message = State(self._next_seq(), job, state, index, count, error=error, **more)
        self._push(Item(message.seq, message.to_text()))

    def push_result(self, job: str, index: int, count: int, picture: dict[str, Any], data: dict[str, Any]) -> None:
        """Deliver a picture that the blob store holds; pinned until acknowledged."""
        seq = self._next_seq()
        body = {"type": Result.type, "seq": seq, "job": job, "index": index, "count": count, "picture": picture}
        body |= {key: data[key] for key in ("recipe", "steps_run", "partial", "ms")}
        self._blobs.pin([picture["id"]])
        self._push(Item(seq, dump(body), picture["id"]))

    def push_preview(self, picture: Picture, header: dict[str, Any]) -> None:
        """Send a preview that must not be overwritten. Bounded: beyond it the preview is dropped."""
        if self._preview_bytes + len(picture.data) > MAX_RELIABLE_PREVIEW_BYTES:
            return
        self._preview_bytes += len(picture.data)
        item = Item(0, preview=picture, header=header, saved=True)
        self._outbox.append(item)
        if self._mailbox is not None:
            self._mailbox.items.append(item)
            self._mailbox.wake()

    def sent(self, item: Item) -> None:
        """A reliable preview has left completely and is not kept."""
        if item.seq == 0 and item in self._outbox:
            self._outbox.remove(item)
            self._preview_bytes -= len(item.preview.data) if item.preview else 0

    def _next_seq(self) -> int:
        self.seq += 1
        return self.seq

    def _push(self, item: Item) -> None:
        def saved() -> None:
            item.saved = True
            if self._mailbox is not None:
                self._mailbox.wake()

        self._outbox.append(item)
        if self._mailbox is not None:
            self._mailbox.items.append(item)
        self._journal.do("insert or replace into items values (?,?,?,?)", (self.id, item.seq, item.text, item.picture))
        self._journal.do("update sessions set seq=? where session=?", (item.seq, self.id), saved)
        if len(self._outbox) > MAX_ITEMS:
            self.acknowledge(self._outbox[len(self._outbox) - MAX_ITEMS].seq)

    # Lossy -------------------------------------------------------------------------------------------------------

    def set_progress(self, job: str, text: str) -> None:
        """Replace the progress of a job that has not left yet."""
        self._progress[job] = text
        if self._mailbox is not None:
            self._mailbox.wake()

    def set_preview(self, job: str, preview: Preview) -> None:
        """Replace the preview of a job that has not left yet."""
        self._previews[job] = preview
        if self._mailbox is not None:
            self._mailbox.wake()

    def drop_lossy(self, job: str) -> None:
        """The job has ended: what has not left is stale."""
        self._progress.pop(job, None)
        self._previews.pop(job, None)

    def take_progress(self) -> str | None:
        """One progress message, oldest job first."""
        return self._progress.pop(next(iter(self._progress))) if self._progress else None

    def take_preview(self) -> Preview | None:
        """One preview; its slot is free from now on."""
        if not self._previews:
            return None
        preview = self._previews.pop(next(iter(self._previews)))
        preview.taken()
        return preview
