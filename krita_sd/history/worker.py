# SPDX-License-Identifier: GPL-3.0-or-later
"""One thread for slow work on files, in which what a painter waits for comes before what can wait."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

_END = 1 << 30


class Worker:
    """Runs what is posted, one after the other. The thread starts with the first work."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: queue.PriorityQueue[tuple[int, int, Callable[[], object] | None]] = queue.PriorityQueue()
        self._number = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def post(self, work: Callable[[], object], urgent: bool = False) -> None:
        """Run `work` in the thread; `urgent` before all that is not. Returns at once; ignored after `close`."""
        if self._closed:
            return
        self._queue.put((0 if urgent else 1, next(self._number), work))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def close(self, timeout: float) -> bool:
        """Finish what was posted; False when that takes longer than `timeout` seconds (the thread is a daemon)."""
        self._closed = True
        if self._thread is None:
            return True
        self._queue.put((_END, next(self._number), None))
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            work = self._queue.get()[2]
            if work is None:
                return
            try:
                work()
            except Exception:  # one piece of work must not end the thread for all that follow
                log.exception("history")
