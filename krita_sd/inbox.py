# SPDX-License-Identifier: GPL-3.0-or-later
"""What waits for the link thread: commands of the GUI thread (never block) and messages of the reader (bounded)."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

MAX_WAITING = 32
"""Messages that may wait before the reader is held back (each at most 1 MiB)."""


class Inbox:
    """Two queues behind one condition. `None` from `take` means that the connection is over."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._commands: deque[Callable[[], Any]] = deque()
        self._messages: deque[str | bytes] = deque()
        self._hung_up = False
        self._closed = False

    def put(self, command: Callable[[], Any]) -> None:
        """Add a command; returns at once."""
        with self._changed:
            self._commands.append(command)
            self._changed.notify_all()

    def put_message(self, message: str | bytes) -> bool:
        """Add a message that arrived; waits while too many are there. False when the connection is over."""
        with self._changed:
            while len(self._messages) >= MAX_WAITING and not self._hung_up:
                self._changed.wait()
            if self._hung_up:
                return False
            self._messages.append(message)
            self._changed.notify_all()
            return True

    def hang_up(self) -> None:
        """The connection is over: `take` says so after what has arrived."""
        with self._changed:
            self._hung_up = True
            self._changed.notify_all()

    def reopen(self) -> None:
        """A new connection: messages of the old one are dropped, commands are kept."""
        with self._changed:
            self._hung_up = self._closed
            self._messages.clear()

    def close(self) -> None:
        """For good."""
        with self._changed:
            self._closed = self._hung_up = True
            self._changed.notify_all()

    def take(self, block: bool) -> list[Any]:
        """All commands and one message; then None when the connection is over. Empty only without `block`."""
        with self._changed:
            while block and not (self._commands or self._messages or self._hung_up):
                self._changed.wait()
            items: list[Any] = list(self._commands)
            self._commands.clear()
            if self._messages:
                items.append(self._messages.popleft())
                self._changed.notify_all()
            elif self._hung_up:
                items.append(None)
            return items

    def drain(self, seconds: float, stopping: threading.Event) -> Iterator[Callable[[], Any]]:
        """Commands that come within `seconds`; ends early when `hang_up` asks for a new attempt."""
        end = time.monotonic() + seconds
        while not stopping.is_set():
            with self._changed:
                if not self._commands:
                    left = end - time.monotonic()
                    if left <= 0 or self._hung_up:
                        return
                    self._changed.wait(left)
                    continue
                command = self._commands.popleft()
            yield command
