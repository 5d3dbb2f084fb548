# SPDX-License-Identifier: GPL-3.0-or-later
"""What the server owes one client: reliable items kept until acknowledged, and lossy slots where new overwrites old.

A session outlives its connections and the server process. It knows no sockets: a connection attaches a `Mailbox`,
takes out of it what to send next, and detaches.
"""

from __future__ import annotations

import json
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

MAX_RESULT_BYTES = 4 * 1024**3
"""Unacknowledged pictures of one session; beyond it the oldest are let go, so that nobody's absence fills the disk."""


@dataclass(eq=False)
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
    size: int = 0


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
        self._frames: dict[str, Preview] = {}
        self._mailbox: Mailbox | None = None
        self._preview_bytes = 0
        self._result_bytes = 0

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
        done = [index for index, item in enumerate(self._outbox) if 0 < item.seq <= seq]
        # Previews before the last acknowledged item have left before it; those behind it have not.
        for _ in range(done[-1] + 1 if done else 0):
            item = self._outbox.popleft()
            if item.preview is not None:
                self._preview_bytes -= len(item.preview.data)
            if item.picture is not None:
                self._release(item)
        if done:
            self._journal.do("delete from items where session=? and seq<=?", (self.id, seq))

    def save(self) -> None:
        """Write the session's own row."""
        self._journal.do("insert or replace into sessions values (?,?,?)", (self.id, self.seq, self.seen))

    def restore(self, row: Row) -> None:
        """Take back a saved item (session, seq, text, picture)."""
        _, seq, text, picture = row
        item = Item(seq, text, picture, saved=True)
        self._outbox.append(item)
        self.seq = max(self.seq, seq)
        if picture is not None:
            self._hold(item, json.loads(text)["picture"]["bytes"])

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
        body |= {key: data[key] for key in ("recipe", "steps_run", "partial", "ms", "reading")}
        body["computed"] = data.get("computed", {})
        item = Item(seq, dump(body), picture["id"])
        self._hold(item, picture["bytes"])
        self._push(item)
        self._let_go()

    def _hold(self, item: Item, size: int) -> None:
        item.size = size
        self._result_bytes += size
        self._blobs.pin([str(item.picture)])

    def _release(self, item: Item) -> None:
        self._result_bytes -= item.size
        self._blobs.unpin([str(item.picture)])
        item.picture = None

    def _let_go(self) -> None:
        for item in self._outbox:
            if self._result_bytes <= MAX_RESULT_BYTES:
                break
            if item.picture is None:
                continue
            self._release(item)
            # Its number must still arrive, or the client would wait for it for ever.
            body = json.loads(item.text)
            text = "This picture waited too long to be fetched and was let go."
            item.text = State(item.seq, body["job"], "decoding", body["index"], body["count"], text=text).to_text()
            self._save_item(item)

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
        self._save_item(item)
        self._journal.do("update sessions set seq=? where session=?", (item.seq, self.id), saved)
        if len(self._outbox) > MAX_ITEMS:
            self.acknowledge(self._outbox[len(self._outbox) - MAX_ITEMS].seq)

    def _save_item(self, item: Item) -> None:
        self._journal.do("insert or replace into items values (?,?,?,?)", (self.id, item.seq, item.text, item.picture))

    # Lossy -------------------------------------------------------------------------------------------------------

    def set_progress(self, job: str, text: str) -> None:
        """Replace the progress of a job that has not left yet."""
        self._progress[job] = text
        if self._mailbox is not None:
            self._mailbox.wake()

    def set_queue(self, text: str) -> None:
        """Replace the order of the queue that has not left yet."""
        self.set_progress("", text)  # no job has an empty name

    def set_downloads(self, text: str) -> None:
        """Replace the state of the downloads that has not left yet."""
        self.set_progress(" ", text)  # no job has a space in its name

    def set_preview(self, job: str, preview: Preview) -> None:
        """Replace the preview of a job that has not left yet."""
        self._previews[job] = preview
        if self._mailbox is not None:
            self._mailbox.wake()

    def set_live(self, live: str, frame: Preview) -> None:
        """Replace the frame of a live session that has not left yet."""
        self._frames[live] = frame
        if self._mailbox is not None:
            self._mailbox.wake()

    def drop_live(self, live: str) -> None:
        """The live session is over."""
        self._frames.pop(live, None)

    def take_live(self) -> Preview | None:
        """One live frame; its slot is free from now on."""
        return self._frames.pop(next(iter(self._frames))) if self._frames else None

    def drop_progress(self, job: str) -> None:
        """The job is in another state: progress that has not left is stale."""
        self._progress.pop(job, None)

    def drop_lossy(self, job: str) -> None:
        """The job has ended: what has not left is stale."""
        self._progress.pop(job, None)
        self._previews.pop(job, None)

    def drop_previews(self, job: str) -> None:
        """The job was cancelled: nobody wants even those previews that were promised."""
        for item in [item for item in self._outbox if item.preview is not None and item.header["job"] == job]:
            self.sent(item)
            if self._mailbox is not None and item in self._mailbox.items:
                self._mailbox.items.remove(item)

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
