# SPDX-License-Identifier: GPL-3.0-or-later
"""What all connections share: sessions, scheduler, blobs, library, and the welcome that describes them."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from typing import Any

from krita_sd.wire import PROTOCOL, limits
from krita_sd.wire.frames import BYTES_PER_PIXEL
from krita_sd.wire.messages import LANES, PLACES, PREVIEW_LEVELS, Hello, Message, Models, Welcome
from krita_sd.wire.places import default_models_dir
from krita_sd.wire.queries import Downloads
from krita_sd.wire.recipe import FILLS, SAMPLERS
from krita_sd.wire.values import dump
from krita_sd.wire.version import VERSION
from server.library import Library
from server.library.capabilities import families_json
from server.pool import Pool, WorkerEvent

from .blobs import Blobs
from .downloads import DownloadDesk
from .journal import Journal
from .live import LiveFront
from .scheduler import BUILT, Scheduler
from .session import Session
from .state import StateFolder

log = logging.getLogger(__name__)

SESSION_SECONDS = 7 * 24 * 3600.0
"""A session that has not been seen for this long is forgotten with its waiting jobs and results."""

IDLE_SECONDS = 24 * 3600.0
"""The same for a session that waits for nothing."""

TIDY_SECONDS = 3600.0

MAX_WILDCARDS = 1000
"""Names of wildcard files that a welcome tells."""

MODELS_BYTES = limits.MAX_MESSAGE // 2
"""JSON bytes of the models in one message; the rest of a very large collection is left out."""


class Hub:
    """Made once per server; `load` blocks and comes first, `start` begins the work.

    `audience`: connections that are told what concerns everybody (the device, once the worker knows it).
    """

    def __init__(self, folder: StateFolder, library: Library, pool: Pool) -> None:
        self.instance = uuid.uuid4().hex
        self.library = library
        self.pool = pool
        self.blobs = Blobs(folder.pictures)
        self.journal = Journal(folder.journal)
        self.scheduler = Scheduler(pool, library, self.blobs, self.journal, self.session)
        self.live = LiveFront(pool, self.scheduler.resolver, self.blobs)
        target = library.roots[0] if library.roots else default_models_dir()
        self.downloads = DownloadDesk(target, self._tell_downloads, self._downloaded)
        self.audience: set[Callable[[Message], None]] = set()
        self._sessions: dict[str, Session] = {}
        self._models: tuple[dict[str, Any], ...] = ()
        self._wildcards: tuple[str, ...] = ()
        self._scanned = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def load(self) -> None:
        """Take back what the last server left in the state folder."""
        self.blobs.load()
        saved = self.journal.load()
        self.journal.start(asyncio.get_running_loop())
        for id, seq, seen in saved.sessions:
            self._sessions[id] = Session(id, self.journal, self.blobs, seq)
            self._sessions[id].seen = seen
        for row in saved.items:
            if row[0] in self._sessions:
                self._sessions[row[0]].restore(row)
        self.scheduler.restore([row for row in saved.jobs if row[1] in self._sessions])
        self._expire()

    def start(self) -> None:
        """Start worker, scheduler and the scan of the model folders."""
        self.pool.start(self._on_event)
        self._tasks = [asyncio.create_task(work) for work in (self.scheduler.run(), self._first_scan(), self._tidy())]

    def _on_event(self, event: WorkerEvent) -> None:
        if self.live.on_event(event):
            return
        self.scheduler.on_event(event)
        if event.kind in ("ready", "memory"):
            self._tell_models()

    def _tell_models(self) -> None:
        for tell in self.audience:
            tell(self.models_message())

    def _tell_downloads(self, message: Downloads) -> None:
        text = message.to_text()
        for session in self._sessions.values():
            if session.attached:
                session.set_downloads(text)

    async def _downloaded(self) -> None:
        await self.rescan()
        self._tell_models()

    async def close(self) -> None:
        """End tasks and workers; what is unfinished stays in the journal for the next server."""
        await self.downloads.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.pool.close()
        await asyncio.to_thread(self.journal.close)

    async def ready(self) -> None:
        """Until the models are known."""
        await self._scanned.wait()

    async def rescan(self) -> None:
        """Look at the model folders again."""
        await asyncio.to_thread(self._scan)

    def session(self, id: str) -> Session:
        """The session `id`, made when it is new."""
        if id not in self._sessions:
            self._sessions[id] = Session(id, self.journal, self.blobs)
        return self._sessions[id]

    def welcome(self, hello: Hello) -> tuple[Session, Welcome]:
        """The session of a client that said hello, and the answer. What it has already is acknowledged by that."""
        resumed = hello.session in self._sessions
        session = self.session(hello.session)
        self.scheduler.queue.activate(session.id)
        if resumed:
            session.acknowledge(hello.last_seq)
            # A journal that could not be written (disk full) forgets numbers; they must not be given out twice.
            session.seq = max(session.seq, hello.last_seq)
        message = Welcome(
            PROTOCOL,
            VERSION,
            self.instance,
            session.id,
            session.seq,
            resumed,
            self.pool.device(),
            self.models(),
            families=families_json(),
            features={
                "kinds": list(BUILT),
                "fills": list(FILLS),
                "samplers": list(SAMPLERS),
                "previews": list(PREVIEW_LEVELS),
                "lanes": list(LANES),
                "places": list(PLACES),
                "formats": list(BYTES_PER_PIXEL),
                "wildcards": list(self._wildcards),
                "model_folders": self.folders(),
                "downloads": True,
            },
            limits={
                "chunk": limits.CHUNK,
                "max_message": limits.MAX_MESSAGE,
                "max_picture": limits.MAX_PICTURE,
                "max_count": limits.MAX_COUNT,
                "max_prompt": limits.MAX_PROMPT,
            },
            jobs=tuple(job.describe() for job in self.scheduler.queue.of(session.id)),
            acked=session.acked if resumed else 0,
        )
        return session, message

    def models(self) -> tuple[dict[str, Any], ...]:
        """The models as clients see them, as many as fit into one message."""
        return self._models

    def _scan(self) -> None:
        self.library.scan()
        self.scheduler.resolver.rescan()
        self._wildcards = self.scheduler.resolver.wildcards.names[:MAX_WILDCARDS]
        out: list[dict[str, Any]] = []
        size = 0
        for entry in self.library.entries:
            described = entry.to_json()
            size += len(dump(described).encode()) + 1
            if size > MODELS_BYTES:
                log.warning("only %d of %d models fit into one message", len(out), len(self.library.entries))
                break
            out.append(described)
        self._models = tuple(out)

    def folders(self) -> list[dict[str, Any]]:
        """What the last scan found in each folder; ids, no paths."""
        return [report.to_json() for report in self.library.folders]

    def models_message(self) -> Models:
        return Models(self.models(), self.pool.device(), tuple(self.folders()))

    async def _first_scan(self) -> None:
        try:
            await self.rescan()
        finally:
            self._scanned.set()
        self.scheduler.wake()

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY_SECONDS)
            self._expire()

    def _expire(self) -> None:
        now = time.time()
        for id, session in list(self._sessions.items()):
            idle = session.acked == session.seq and not self.scheduler.queue.of(id)
            if not session.attached and now - session.seen > (IDLE_SECONDS if idle else SESSION_SECONDS):
                self.scheduler.forget(id)
                session.acknowledge(session.seq)
                self.journal.do("delete from sessions where session=?", (id,))
                del self._sessions[id]
