# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures in one folder and an SQLite index beside them. Every call blocks: made for one thread of its own. Qt-free.

The pictures are the truth: each PNG carries its recipe, and is written whole or not at all. The index is derived: what
a crash left out of it is taken in when it is opened, and a damaged one is made anew.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from krita_sd.metadata import png, recipes
from krita_sd.shelf import Kept
from krita_sd.wire.frames import Picture
from krita_sd.wire.parameters import Found

log = logging.getLogger(__name__)

MAX_BYTES = 4 * 1024**3
"""Bytes of pictures that are kept; beyond it the oldest ones without a star go. Starred ones stay in any case."""

INDEX = "index.sqlite"
STARS = "starred.json"
"""Keys of the starred pictures, for the case that the index is lost."""

_TABLE = """
create table if not exists pictures (key text primary key, file text unique not null, created real not null,
    starred integer not null, bytes integer not null, width integer not null, height integer not null,
    details text not null, words text not null, thumbnail blob);
create index if not exists by_time on pictures (created);
"""
_VERSION = 1
_COLUMNS = "key, file, created, starred, width, height, details"


@dataclass(frozen=True)
class Entry:
    """One picture of the history. `details` is the JSON that its file carries."""

    key: str
    file: str
    created: float
    starred: bool
    width: int
    height: int
    details: str

    @property
    def found(self) -> Found:
        """Recipe and name of the model."""
        return recipes.of_json(self.details) or Found()


@dataclass(frozen=True)
class Codec:
    """How pictures become files and small ones; given from outside, because the plugin uses Qt for it.

    write: bgra8 -> the PNG file of that name, losslessly. small: a thumbnail as JPEG or PNG.
    """

    write: Callable[[Picture, Path], None]
    small: Callable[[Picture], bytes]


class Store:
    """The history in `folder`. `open` comes first; everything in one thread."""

    def __init__(self, folder: Path, codec: Codec, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._codec = codec
        self._max = max_bytes
        self._base: sqlite3.Connection | None = None

    # Life ------------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Open or make the index and bring it in line with the files. Raises OSError when there can be none."""
        if self._base is not None:
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._base = self._connect()
            self._reconcile()
        except sqlite3.DatabaseError as error:
            log.warning("the index of the history is damaged (%s); it is made anew", error)
            self.close()
            for suffix in ("", "-wal", "-shm"):
                (self._folder / f"{INDEX}{suffix}").unlink(missing_ok=True)
            self._base = self._connect()
            self._reconcile()

    def close(self) -> None:
        if self._base is not None:
            self._base.close()
            self._base = None

    def _connect(self) -> sqlite3.Connection:
        base = sqlite3.connect(self._folder / INDEX, isolation_level=None)
        try:
            base.execute("pragma journal_mode=wal")
            base.execute("pragma synchronous=normal")
            if base.execute("pragma user_version").fetchone()[0] not in (0, _VERSION):
                base.execute("drop table if exists pictures")
            base.executescript(_TABLE)
            base.execute(f"pragma user_version={_VERSION}")
        except sqlite3.DatabaseError:
            base.close()
            raise
        return base

    @property
    def _index(self) -> sqlite3.Connection:
        if self._base is None:
            self.open()
        assert self._base is not None
        return self._base

    def _reconcile(self) -> None:
        """Rows without a file go, files without a row come in, half written files are deleted."""
        with os.scandir(self._folder) as listing:
            present = {item.name for item in listing}
        for name in present:
            if name.endswith(".tmp"):
                (self._folder / name).unlink(missing_ok=True)
        known = {file for (file,) in self._index.execute("select file from pictures")}
        self._index.executemany("delete from pictures where file=?", [(file,) for file in known - present])
        stars = self._stars()
        for name in sorted(present - known):
            if name.endswith(".png"):
                self._take_in(self._folder / name, stars)

    def _stars(self) -> set[str]:
        try:
            keys = json.loads((self._folder / STARS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return set()
        return {key for key in keys if isinstance(key, str)} if isinstance(keys, list) else set()

    def _take_in(self, path: Path, stars: set[str]) -> None:
        try:
            texts = recipes.read_texts(path)
            status = path.stat()
        except OSError as error:
            log.warning("%s could not be read (%s)", path.name, error)
            return
        details = recipes.details_of(texts)
        found = recipes.found_in(texts) or Found()
        name, created = details.get("key"), details.get("created")
        key = name if isinstance(name, str) else path.stem
        when = float(created) if isinstance(created, (int, float)) else status.st_mtime
        size = found.values.get("width", 0), found.values.get("height", 0)
        self._insert(key, path.name, when, key in stars, status.st_size, size, texts)

    # Writing ---------------------------------------------------------------------------------------------------------

    def add(self, kept: Kept, model: str, created: float | None = None) -> bool:
        """Keep a picture. False when it is there already. Raises OSError when it cannot be written."""
        if self._index.execute("select 1 from pictures where key=?", (kept.key,)).fetchone():
            return False
        created = time.time() if created is None else created
        more = {"key": kept.key, "partial": kept.partial, "created": created}
        texts = recipes.texts_of(kept.recipe, model, **more)
        path = self._free_name(kept, created)
        plain, draft = path.with_suffix(".plain.tmp"), path.with_suffix(".tmp")
        try:
            self._codec.write(kept.picture, plain)
            with plain.open("rb") as source, draft.open("wb") as target:
                png.copy_with(source, target, texts)
            os.replace(draft, path)
        finally:
            plain.unlink(missing_ok=True)
            draft.unlink(missing_ok=True)
        size = kept.picture.width, kept.picture.height
        small = self._codec.small(kept.picture)
        self._insert(kept.key, path.name, created, False, path.stat().st_size, size, texts, small)
        self.prune()
        return True

    def _free_name(self, kept: Kept, created: float) -> Path:
        day = time.strftime("%Y%m%d-%H%M%S", time.localtime(created))
        job = "".join(char for char in kept.job if char.isascii() and char.isalnum())
        for name in (f"{day}-{job[:8]}-{kept.index}", f"{day}-{job[:64]}-{kept.index}"):
            path = self._folder / f"{name}.png"
            if not path.exists():
                return path
        return self._folder / f"{day}-{job[:64]}-{kept.index}-{time.time_ns()}.png"

    def _insert(
        self,
        key: str,
        file: str,
        created: float,
        starred: bool,
        size: int,
        extent: tuple[int, int],
        texts: dict[str, str],
        thumbnail: bytes | None = None,
    ) -> None:
        details = texts.get(recipes.KEY, "{}")
        found = recipes.found_in(texts) or Found()
        row = (key, file, created, starred, size, *extent, details, _words(found), thumbnail)
        self._index.execute("insert or replace into pictures values (?,?,?,?,?,?,?,?,?,?)", row)

    def star(self, keys: Iterable[str], on: bool) -> None:
        """Starred pictures are never pruned. Raises OSError when the disk is full."""
        self._index.executemany("update pictures set starred=? where key=?", [(on, key) for key in keys])
        starred = [key for (key,) in self._index.execute("select key from pictures where starred order by key")]
        draft = (self._folder / STARS).with_suffix(".tmp")
        draft.write_text(json.dumps(starred), encoding="utf-8")
        os.replace(draft, self._folder / STARS)

    def delete(self, keys: Iterable[str]) -> int:
        """Delete pictures, starred or not; how many there were."""
        return sum(self._delete(key, file) for key in keys for (file,) in self._files(key))

    def _files(self, key: str) -> list[Any]:
        return self._index.execute("select file from pictures where key=?", (key,)).fetchall()

    def _delete(self, key: str, file: str) -> bool:
        try:
            (self._folder / file).unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s could not be deleted (%s)", file, error)
            return False
        self._index.execute("delete from pictures where key=?", (key,))
        return True

    def prune(self) -> int:
        """Delete the oldest pictures without a star until the rest fits; how many."""
        total = self.total_bytes
        gone = 0
        oldest = "select key, file, bytes from pictures where starred=0 order by created, key"
        for key, file, size in self._index.execute(oldest).fetchall() if total > self._max else ():
            if total <= self._max:
                break
            if self._delete(key, file):
                total -= size
                gone += 1
        return gone

    # Reading ---------------------------------------------------------------------------------------------------------

    @property
    def total_bytes(self) -> int:
        """Of all pictures together."""
        return int(self._index.execute("select coalesce(sum(bytes), 0) from pictures").fetchone()[0])

    def search(self, text: str = "", starred: bool = False, offset: int = 0, limit: int = 100) -> list[Entry]:
        """The newest pictures whose prompt, negative, model or seed hold every word of `text`; skips `offset`."""
        where, words = _condition(text, starred)
        query = f"select {_COLUMNS} from pictures where {where} order by created desc, key desc limit ? offset ?"
        return [_entry(row) for row in self._index.execute(query, (*words, limit, offset))]

    def count(self, text: str = "", starred: bool = False) -> int:
        """How many pictures `search` would find in all."""
        where, words = _condition(text, starred)
        return int(self._index.execute(f"select count(*) from pictures where {where}", words).fetchone()[0])

    def get(self, key: str) -> Entry | None:
        row = self._index.execute(f"select {_COLUMNS} from pictures where key=?", (key,)).fetchone()
        return _entry(row) if row is not None else None

    def path(self, entry: Entry) -> Path:
        """Where the picture is."""
        return self._folder / entry.file

    def thumbnail(self, key: str) -> bytes | None:
        """The encoded small picture; None when there is none yet: `set_thumbnail` adds one."""
        row = self._index.execute("select thumbnail from pictures where key=?", (key,)).fetchone()
        return row[0] if row is not None else None

    def set_thumbnail(self, key: str, picture: Picture) -> bytes:
        """Make and keep the small picture of an entry that was taken in from its file."""
        small = self._codec.small(picture)
        self._index.execute("update pictures set thumbnail=? where key=?", (small, key))
        return small


def _condition(text: str, starred: bool) -> tuple[str, list[str]]:
    words = text.casefold().split()[:32]
    return " and ".join(["1"] + ["instr(words, ?)"] * len(words) + ["starred"] * starred), words


def _entry(row: tuple[Any, ...]) -> Entry:
    key, file, created, starred, width, height, details = row
    return Entry(key, file, created, bool(starred), width, height, details)


def _words(found: Found) -> str:
    """What is searched, in one folded text."""
    values = found.values
    parts = [values.get("prompt", ""), values.get("negative", ""), found.model, str(values.get("seed", ""))]
    return "\n".join(parts).casefold()


def kept_of(entry: Entry, picture: Picture) -> Kept:
    """An entry as a result of the strip."""
    try:
        details = json.loads(entry.details)
    except ValueError:
        details = {}
    job, _, index = entry.key.rpartition(":")
    values = {**entry.found.values, "width": picture.width, "height": picture.height}
    partial = isinstance(details, dict) and details.get("partial") is True
    number = int(index) if index.isascii() and index.isdigit() and len(index) < 6 else 0
    return Kept(job or entry.key, number, Found(values).recipe(), partial, picture)
