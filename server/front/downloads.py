# SPDX-License-Identifier: GPL-3.0-or-later
"""Downloads as clients see them: asked for by the id of an offer, one at a time, each in a thread of its own.

A client can name an offer and nothing else: which files those are, and from where, is in `server.library.offers`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.queries import Download, Downloads
from server.library import download
from server.library.download_plan import DownloadPlan, ask
from server.library.hub_http import Hub
from server.library.offers import OFFERS, Offer

log = logging.getLogger(__name__)

TELL_SECONDS = 0.25
_RATE_SECONDS = 8.0
"""Over which time the speed is measured."""

_BUSY = ("asking", "waiting", "running", "checking", "stopping")
_T = TypeVar("_T")


@dataclass
class _Entry:
    """What is known of one offer here."""

    offer: Offer
    phase: str = ""
    plan: DownloadPlan | None = None
    done: int = 0
    rate: float = 0.0
    problem: str = ""
    here: int = 0
    is_installed: bool = False
    running: download.Download | None = None
    task: asyncio.Task[None] | None = None


@dataclass
class _Progress:
    """Written by the download's thread, read by the loop."""

    done: int = 0
    is_checking: bool = False

    def report(self, done: int, is_checking: bool) -> None:
        self.done, self.is_checking = done, is_checking


class DownloadDesk:
    """`tell(message)` is called with the state of all offers whenever it has changed; `finished()` is awaited when a
    model has arrived. `models`: the folder that downloads go to."""

    def __init__(
        self,
        models: Path,
        tell: Callable[[Downloads], None],
        finished: Callable[[], Any],
        offers: Sequence[Offer] = OFFERS,
    ) -> None:
        self._models = models
        self._tell = tell
        self._finished = finished
        self._entries = {offer.id: _Entry(offer) for offer in offers}
        self._one = asyncio.Lock()
        self._free = 0

    async def answer(self, message: Download) -> Downloads:
        """Obey a client's message. Raises WireError(bad_request) for an offer that does not exist."""
        entry = self._entries.get(message.id)
        if entry is None and message.do != "list":
            raise WireError(Code.MODEL_MISSING, "The server does not offer this download.", "Open the list again.")
        if entry is not None:
            await self._obey(entry, message.do)
        await asyncio.to_thread(self._look)
        return self._state()

    async def close(self) -> None:
        """End what runs; what has arrived is kept for the next server."""
        tasks = [entry.task for entry in self._entries.values() if entry.task is not None]
        for entry in self._entries.values():
            if entry.running is not None:
                entry.running.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _obey(self, entry: _Entry, do: str) -> None:
        is_busy = entry.phase in _BUSY
        if do in ("ask", "start") and not is_busy:
            entry.problem, entry.phase = "", "asking"
            entry.task = asyncio.create_task(self._work(entry, do == "start"))
        elif do == "stop" and entry.running is not None:
            entry.phase = "stopping"
            entry.running.cancel()
        elif do == "stop" and entry.task is not None and is_busy:
            entry.task.cancel()
            entry.phase = ""
        elif do == "discard" and not is_busy:
            await asyncio.to_thread(download.discard, self._models, entry.offer.id)
            entry.problem = ""

    # One download ----------------------------------------------------------------------------------------------------

    async def _work(self, entry: _Entry, fetch: bool) -> None:
        try:
            if entry.plan is None or not fetch:
                entry.plan = await _in_thread(lambda: _ask(entry.offer))
            if fetch:
                entry.phase = "waiting"
                await self._push()
                async with self._one:
                    await self._fetch(entry, entry.plan)
        except WireError as error:
            if error.code is not Code.CANCELLED:
                entry.problem = str(error)
            if error.code in (Code.MODEL_CORRUPT, Code.MODEL_MISSING):
                entry.plan = None  # the hub may have another revision by now
        except Exception as error:  # a bug in a download must not look as if it ran for ever
            log.exception("the download of %s failed", entry.offer.id)
            entry.problem = f"The download met an unexpected problem ({type(error).__name__})."
        finally:
            entry.phase, entry.running, entry.rate = "", None, 0.0
        await self._push()

    async def _fetch(self, entry: _Entry, plan: DownloadPlan) -> None:
        at = _Progress(entry.here)
        entry.phase, entry.done = "running", entry.here
        entry.running = running = download.Download(plan, self._models, entry.offer.id, at.report)
        await self._push()
        telling = asyncio.create_task(self._follow(entry, at))
        try:
            path = await _in_thread(lambda: _run(running))
        finally:
            telling.cancel()
        log.info("downloaded %s, %d bytes", path.name, plan.size)
        await self._finished()

    async def _follow(self, entry: _Entry, at: _Progress) -> None:
        """Tell a few times per second how far it is; not from the download's thread, which has more to say."""
        samples: deque[tuple[float, int]] = deque()
        while True:
            await asyncio.sleep(TELL_SECONDS)
            now = time.monotonic()
            samples.append((now, at.done))
            while now - samples[0][0] > _RATE_SECONDS:
                samples.popleft()
            passed = now - samples[0][0]
            rate = (at.done - samples[0][1]) / passed if passed else 0.0
            phase = "checking" if at.is_checking else "running"
            told = entry.phase, entry.done, entry.rate
            if entry.phase != "stopping":
                entry.phase = phase
            entry.done, entry.rate = at.done, max(0.0, rate)
            if told != (entry.phase, entry.done, entry.rate):
                self._tell(self._state())

    # What clients are told -------------------------------------------------------------------------------------------

    async def _push(self) -> None:
        await asyncio.to_thread(self._look)
        self._tell(self._state())

    def _look(self) -> None:
        """At the disk: not on the event loop."""
        for entry in self._entries.values():
            entry.here = download.arrived(self._models, entry.offer.id)
            entry.is_installed = (self._models / entry.offer.id).is_dir()
        self._free = download.free_space(self._models)

    def _state(self) -> Downloads:
        return Downloads(tuple(self._describe(entry) for entry in self._entries.values()), self._free)

    def _describe(self, entry: _Entry) -> dict[str, Any]:
        offer = entry.offer
        idle = "installed" if entry.is_installed else "partial" if entry.here else "offered"
        return {
            "id": offer.id,
            "title": offer.title,
            "kind": offer.kind,
            "family": offer.family,
            "licence": offer.licence,
            "note": offer.note,
            "account": offer.account,
            "source": offer.repo,
            "phase": entry.phase or idle,
            "bytes": entry.plan.size if entry.plan is not None else 0,
            "done": entry.done if entry.running is not None else entry.here,
            "rate": int(entry.rate),
            "problem": entry.problem,
        }


def _ask(offer: Offer) -> DownloadPlan:
    with Hub() as hub:
        return ask(offer, hub)


def _run(running: download.Download) -> Path:
    with Hub() as hub:
        return running.run(hub)


async def _in_thread(work: Callable[[], _T]) -> _T:
    """`work` in a thread that a leaving process does not wait for: a read from the hub may take its time to fail."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # whatever it is, the one who waits must learn of it
            _from_thread(loop, future, None, error)
        else:
            _from_thread(loop, future, result, None)

    threading.Thread(target=run, name="download", daemon=True).start()
    return await future


def _from_thread(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[_T], result: Any, error: BaseException | None
) -> None:
    def settle() -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:
        log.info("a download ended after the server")
