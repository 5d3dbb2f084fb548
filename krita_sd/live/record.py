# SPDX-License-Identifier: GPL-3.0-or-later
"""Frames of Live as lossless files in one folder per recording, written in a thread of their own."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from krita_sd.text import tr

log = logging.getLogger(__name__)

MAX_WAITING = 24
"""Frames that may wait for the disk; the next one is left out then, and counted."""


def default_folder(home: Path) -> Path:
    """Where recordings go when the painter chose nothing: the folder of pictures, if there is one."""
    pictures = home / "Pictures"
    return (pictures if pictures.is_dir() else home) / "Krita SD" / "Live"


class Recorder:
    """One recording. `folder` is made with the first frame; names sort in the order of showing."""

    def __init__(self, parent: Path, clock: time.struct_time | None = None) -> None:
        """parent: folder of all recordings. clock: local time of the start, now when None."""
        stamp = time.strftime("%Y-%m-%d %H-%M-%S", clock or time.localtime())
        self.folder = _free(parent / stamp)
        self.written = 0
        self.left_out = 0
        self.problem = ""
        self._queue: queue.Queue[Any] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._write, name="krita-sd-record", daemon=True)
        self._thread.start()

    def add(self, draw: Callable[[], Any]) -> None:
        """Take a frame, which `draw` makes into a QImage in the recording's thread; returns at once."""
        try:
            self._queue.put_nowait(draw)
        except queue.Full:
            self.left_out += 1

    def close(self, timeout: float = 5.0) -> None:
        """Write what waits, then end."""
        try:
            self._queue.put(None, timeout=timeout)
        except queue.Full:
            return  # the disk hangs; the thread is a daemon
        self._thread.join(timeout)

    def _write(self) -> None:
        while (draw := self._queue.get()) is not None:
            if self.problem:
                continue
            path = self.folder / f"frame {self.written + 1:05d}.png"
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                # 100 is the fastest compression, still lossless.
                if not draw().save(str(path), "PNG", 100):
                    raise OSError(tr("the file could not be written"))
                self.written += 1
            except OSError as error:
                log.warning("recording: %s", error)
                self.problem = tr("Recording stopped: {strerror}.", strerror=error.strerror or error)


def _free(folder: Path) -> Path:
    """That folder, or the same with a number when it exists."""
    number = 2
    wanted = folder
    while wanted.exists():
        wanted = folder.with_name(f"{folder.name} ({number})")
        number += 1
    return wanted
