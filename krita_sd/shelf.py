# SPDX-License-Identifier: GPL-3.0-or-later
"""The pixels of results: the newest in memory, older ones in a private folder, so that a long strip stays small."""

from __future__ import annotations

import functools
import logging
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from krita_sd.wire.frames import Picture

log = logging.getLogger(__name__)

MEMORY = 96 * 1024 * 1024
"""Bytes of results that are kept in memory."""


class Shelf:
    """`put` and `get` in the GUI thread; files are written by `defer` (the link's thread). A result is read back from
    its file in one go: 4 MiB of page cache take about a millisecond."""

    def __init__(self, defer: Callable[[Callable[[], None]], None], memory: int = MEMORY) -> None:
        self._defer = defer
        self._memory = memory
        self._lock = threading.Lock()
        self._pictures: dict[str, Picture] = {}
        self._files: dict[str, tuple[Path, str, int, int]] = {}
        self._leaving: set[str] = set()
        self._folder: Path | None = None

    def put(self, key: str, picture: Picture) -> None:
        """Keep a picture; the oldest ones go to files when there are too many."""
        with self._lock:
            self._pictures[key] = picture
            held = sum(len(item.data) for name, item in self._pictures.items() if name not in self._leaving)
            leaving = []
            for name, item in self._pictures.items():
                if held <= self._memory or name == key:
                    break
                if name not in self._leaving:
                    held -= len(item.data)
                    self._leaving.add(name)
                    leaving.append(name)
        for name in leaving:
            self._defer(functools.partial(self._write, name))

    def get(self, key: str) -> Picture | None:
        """The picture; None when it is gone (its file was deleted from outside)."""
        with self._lock:
            picture = self._pictures.get(key)
            place = self._files.get(key)
        if picture is not None or place is None:
            return picture
        path, kind, width, height = place
        try:
            return Picture(kind, width, height, path.read_bytes())
        except (OSError, ValueError) as error:
            log.warning("a result could not be read back (%s)", error)
            return None

    def drop(self, key: str) -> None:
        """Forget a picture."""
        with self._lock:
            self._pictures.pop(key, None)
            place = self._files.pop(key, None)
        if place is not None:
            self._defer(lambda: place[0].unlink(missing_ok=True))

    def close(self) -> None:
        """Delete the folder."""
        with self._lock:
            folder, self._folder = self._folder, None
            self._files.clear()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _write(self, key: str) -> None:
        with self._lock:
            picture = self._pictures.get(key)
            if picture is None:
                self._leaving.discard(key)
                return
            if self._folder is None:
                self._folder = Path(tempfile.mkdtemp(prefix="krita-sd-results-"))
            path = self._folder / f"{len(self._files)}-{key.replace(':', '-')}.raw"
        try:
            path.write_bytes(picture.data)
        except OSError as error:
            log.warning("a result stays in memory (%s)", error)  # the disk is full: better here than nowhere
            return
        with self._lock:
            self._leaving.discard(key)
            if self._pictures.pop(key, None) is not None:
                self._files[key] = (path, picture.format, picture.width, picture.height)
            else:
                path.unlink(missing_ok=True)
