# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps results until they are applied or discarded: each in a file, so that a crash of Krita loses none, and the
newest in memory, so that a long strip stays small."""

from __future__ import annotations

import functools
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from krita_sd.wire.errors import WireError
from krita_sd.wire.frames import Picture
from krita_sd.wire.recipe import Recipe

log = logging.getLogger(__name__)

MEMORY = 64 * 1024 * 1024
"""Bytes of results that are kept in memory."""

RESTORED = 64
"""Results of earlier runs that come back; older ones are deleted."""


@dataclass(frozen=True)
class Kept:
    """A result with all that the strip needs to know."""

    job: str
    index: int
    recipe: Recipe
    partial: bool
    picture: Picture

    @property
    def key(self) -> str:
        return f"{self.job}:{self.index}"


class Shelf:
    """`put`, `at_hand` and `drop` are called in the GUI thread; files are written by `defer`, in the link's thread.
    `get` may read a file, and is called in any."""

    def __init__(self, folder: Path, defer: Callable[[Callable[[], None]], None], memory: int = MEMORY) -> None:
        self._folder = folder
        self._defer = defer
        self._memory = memory
        self._lock = threading.Lock()
        self._pictures: dict[str, Picture] = {}
        self._written: dict[str, tuple[Path, str, int, int]] = {}
        self._dropped: set[str] = set()

    def put(self, kept: Kept, safe: Callable[[], None]) -> None:
        """Keep a result. `safe` is called in the link's thread when it is in a file: only then may the server forget
        it. On a full disk it stays in memory, and with the server."""
        with self._lock:
            self._pictures[kept.key] = kept.picture
            self._dropped.discard(kept.key)
        self._defer(functools.partial(self._write, kept, safe))

    def at_hand(self, key: str) -> Picture | None:
        """The picture, when it is in memory."""
        with self._lock:
            return self._pictures.get(key)

    def get(self, key: str) -> Picture | None:
        """The picture; None when it is gone (its file was deleted from outside)."""
        with self._lock:
            picture = self._pictures.get(key)
            place = self._written.get(key)
        if picture is not None or place is None:
            return picture
        path, kind, width, height = place
        try:
            return Picture(kind, width, height, path.read_bytes())
        except (OSError, WireError) as error:
            log.warning("a result could not be read back (%s)", error)
            return None

    def drop(self, key: str) -> None:
        """Forget a result."""
        with self._lock:
            self._pictures.pop(key, None)
            self._dropped.add(key)
            place = self._written.pop(key, None)
        if place is not None:
            self._defer(functools.partial(_unlink, place[0]))

    def settle(self, done: list[str]) -> None:
        """Krita quits and the link's thread has ended: delete the files of these results here."""
        self._defer = lambda work: work()
        for key in done:
            self.drop(key)

    def restore(self) -> Iterator[Kept]:
        """Results of an earlier run, oldest first. In the link's thread, before anything was put."""
        described = sorted(self._folder.glob("*.json"), key=_time)
        for path in described[:-RESTORED]:
            _unlink(path.with_suffix(".raw"))
        for path in described[-RESTORED:]:
            raw = path.with_suffix(".raw")
            try:
                data = json.loads(path.read_text(encoding="utf-8"))
                picture = Picture(data["format"], data["width"], data["height"], raw.read_bytes())
                recipe = Recipe.from_json(data["recipe"])
                kept = Kept(str(data["job"]), int(data["index"]), recipe, data["partial"] is True, picture)
            except (OSError, ValueError, KeyError, TypeError, WireError) as error:
                log.warning("a kept result could not be read (%s)", error)
                _unlink(raw)
                continue
            self._remember(kept, raw)
            yield kept

    def _write(self, kept: Kept, safe: Callable[[], None]) -> None:
        with self._lock:
            if kept.key in self._dropped:
                safe()
                return
        raw = self._folder / f"{_name(kept.job)}-{kept.index}.raw"
        picture = kept.picture
        data = {"job": kept.job, "index": kept.index, "partial": kept.partial, "recipe": kept.recipe.to_json()}
        data |= {"format": picture.format, "width": picture.width, "height": picture.height}
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            raw.write_bytes(picture.data)
            draft = raw.with_suffix(".tmp")
            draft.write_text(json.dumps(data), encoding="utf-8")
            os.replace(draft, raw.with_suffix(".json"))  # last: half a result is none
        except OSError as error:
            log.warning("a result stays in memory (%s)", error)
            return
        self._remember(kept, raw)
        safe()

    def _remember(self, kept: Kept, raw: Path) -> None:
        picture = kept.picture
        with self._lock:
            if kept.key in self._dropped:
                _unlink(raw)
                return
            self._written[kept.key] = (raw, picture.format, picture.width, picture.height)
            held = sum(len(item.data) for item in self._pictures.values())
            for name in list(self._pictures):
                if held <= self._memory:
                    break
                if name in self._written and name != kept.key:
                    held -= len(self._pictures.pop(name).data)


def _name(job: str) -> str:
    """A job id as a file name: our own are hexadecimal, but they come back from a server."""
    return "".join(char for char in job if char.isascii() and char.isalnum())[:64] or "job"


def _time(path: Path) -> tuple[float, str]:
    try:
        return path.stat().st_mtime, path.name
    except OSError:
        return 0.0, path.name


def _unlink(raw: Path) -> None:
    for path in (raw.with_suffix(".json"), raw):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s could not be deleted (%s)", path.name, error)
