# SPDX-License-Identifier: GPL-3.0-or-later
"""What survives a killed server: sessions, jobs and unacknowledged items, in one SQLite file written by one thread.

The event loop never waits for the disk: it hands over statements in order, and is called back once they are
committed. Reliable items are sent only after that, so no client ever saw a sequence number the server has forgotten.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

_TABLES = """
create table if not exists sessions (session text primary key, seq integer not null, seen real not null);
create table if not exists jobs (job text primary key, session text not null, place real not null, body text not null,
    started integer not null);
create table if not exists items (session text not null, seq integer not null, text text not null, picture text,
    primary key (session, seq));
"""
VERSION = 1

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Saved:
    """What was found at start: rows of the three tables, in order."""

    sessions: list[Row]
    jobs: list[Row]
    items: list[Row]


class Journal:
    """Write-behind over SQLite. `load` blocks and comes first; then `start`; then `do`; `close` drains."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: queue.SimpleQueue[tuple[str, Row, Callable[[], None] | None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def load(self) -> Saved:
        """Read everything. A damaged file is set aside, not fatal."""
        try:
            return self._read()
        except sqlite3.DatabaseError as error:
            log.error("the journal is damaged (%s); starting a new one", error)
        try:
            self._set_aside()
            return self._read()
        except (sqlite3.DatabaseError, OSError) as error:
            log.error("no journal can be kept here (%s); a restart will forget what is waiting", error)
        self._path = Path(":memory:")
        return self._read()

    def _set_aside(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            file = self._path.with_name(self._path.name + suffix)
            if file.exists():
                file.replace(file.with_name(file.name + ".damaged"))

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to write; committed statements call back on `loop`."""
        self._loop = loop
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    def do(self, statement: str, values: Row, committed: Callable[[], None] | None = None) -> None:
        """Queue one statement."""
        self._queue.put((statement, values, committed))

    def close(self) -> None:
        """Write what is queued and stop. Blocks."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(timeout=5)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None)
        # Survives a killed process; only a power failure may lose the last moments, and never corrupts.
        connection.execute("pragma journal_mode=wal")
        connection.execute("pragma synchronous=normal")
        connection.executescript(_TABLES)
        return connection

    def _read(self) -> Saved:
        connection = self._connect()
        try:
            if connection.execute("pragma user_version").fetchone()[0] not in (0, VERSION):
                for table in ("sessions", "jobs", "items"):
                    connection.execute(f"drop table if exists {table}")
                connection.executescript(_TABLES)
            connection.execute(f"pragma user_version={VERSION}")
            return Saved(
                connection.execute("select session, seq, seen from sessions").fetchall(),
                connection.execute("select job, session, place, body, started from jobs order by place").fetchall(),
                connection.execute("select session, seq, text, picture from items order by session, seq").fetchall(),
            )
        finally:
            connection.close()

    def _write(self) -> None:
        connection = self._connect()
        closing = False
        while not closing:
            batch = [self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get())
            closing = None in batch
            entries = [entry for entry in batch if entry is not None]
            self._commit(connection, entries)
            callbacks = [committed for _, _, committed in entries if committed is not None]
            if callbacks and self._loop is not None:
                try:
                    self._loop.call_soon_threadsafe(_call_all, callbacks)
                except RuntimeError:
                    break  # the loop is closed
        connection.close()

    def _commit(self, connection: sqlite3.Connection, entries: list[Any]) -> None:
        try:
            connection.execute("begin")
            for statement, values, _ in entries:
                connection.execute(statement, values)
            connection.execute("commit")
        except sqlite3.Error as error:
            # A full disk must not stop the painter: what is in memory is still delivered.
            log.error("the journal cannot be written: %s", error)
            if connection.in_transaction:
                connection.execute("rollback")


def _call_all(callbacks: list[Callable[[], None]]) -> None:
    for callback in callbacks:
        callback()
