# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers as subprocesses of this machine: started, fed, watched and replaced.

One process runs one unit at a time. A process that dies takes nothing with it but its unit: the pool reports `died`,
starts another and goes on. Pictures travel through the pipes; each process has a reading and a writing thread here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from . import Unit, WorkerEvent
from .channel import read_message, write_message

log = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
STOP_SECONDS = 10.0
"""A unit that has not reacted to a cancel after this long is ended with its process."""
EXIT_SECONDS = 3.0
MAX_RAPID_DEATHS = 3
"""Deaths before becoming ready, in a row, after which a worker is started again only for the next unit."""


class LocalPool:
    """One worker process. (More devices: one `_Process` per device; the front needs no change.)"""

    def __init__(self, device: str, log_file: IO[bytes] | int, arguments: Sequence[str] = ()) -> None:
        self._command = [sys.executable, "-m", "server.worker", "--device", device, *arguments]
        self._log_file = log_file
        self._process: _Process | None = None
        self._unit = 0
        self._begun = False
        self._deaths = 0
        self._closing = False
        self._device: dict[str, Any] = {"kind": "starting", "name": ""}
        self._deadline: asyncio.TimerHandle | None = None
        self._on_event: Callable[[WorkerEvent], None] = lambda event: None

    def start(self, on_event: Callable[[WorkerEvent], None]) -> None:
        self._on_event = on_event
        self._spawn()

    def idle(self) -> bool:
        return not self._closing and self._unit == 0

    def free_memory(self) -> None:
        """Unload models as soon as the running unit is over; answered by the event `memory`."""
        if self._process is not None:
            self._process.send({"do": "free"})

    def live(self, order: dict[str, Any], payload: bytes = b"") -> None:
        if self._process is None and order["do"] == "live_patch":
            self._spawn()
        if self._process is not None:
            self._process.send(order, payload)

    def run(self, unit: Unit) -> None:
        if self._process is None:
            self._spawn()
        self._unit = unit.number
        self._begun = False
        if self._process is None:
            # Starting failed; reported from the loop so that the caller's state is settled first.
            asyncio.get_running_loop().call_soon(self._receive, None, None)
            return
        for digest, picture in unit.pictures.items():
            self._process.send({"do": "picture", "hash": digest, **picture.describe()}, picture.data)
        self._process.send({"do": "run", "unit": unit.number, "job": unit.job, **unit.body})

    def stop(self, unit: int, how: str) -> None:
        if unit != self._unit or self._process is None or unit == 0:
            return
        self._process.send({"do": how, "unit": unit})
        if how == "cancel" and self._deadline is None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(STOP_SECONDS, self._kill_stuck, unit)

    def credit(self, unit: int) -> None:
        if unit == self._unit and self._process is not None and unit:
            self._process.send({"do": "credit", "unit": unit})

    def device(self) -> dict[str, Any]:
        return self._device

    @property
    def pid(self) -> int | None:
        return self._process.popen.pid if self._process is not None else None

    async def close(self) -> None:
        self._closing = True
        if self._process is not None:
            await asyncio.to_thread(self._process.end)
            self._process = None

    def _spawn(self) -> None:
        try:
            self._process = _Process(self._command, self._log_file, asyncio.get_running_loop(), self._receive)
        except OSError as error:
            log.error("cannot start a worker: %s", error)
            self._process = None

    def _kill_stuck(self, unit: int) -> None:
        self._deadline = None
        if unit == self._unit and self._process is not None:
            log.warning("the worker did not react to a cancel; ending it")
            self._process.popen.kill()

    def _settle(self) -> None:
        self._unit = 0
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _receive(self, process: _Process | None, message: tuple[dict[str, Any], bytes] | None) -> None:
        if process is not self._process or self._closing:
            return
        if message is None:
            self._died()
            return
        data, payload = message
        kind, unit = str(data.pop("event")), int(data.pop("unit", 0))
        if kind == "ready":
            self._deaths = 0
            self._device = data["device"]
        elif kind in ("live", "live_state"):
            self._on_event(WorkerEvent(kind, 0, data, payload))
            return
        elif unit != self._unit and kind != "memory":
            return
        if "free" in data:
            self._device = {**self._device, "free": data.pop("free")}
        self._begun = True
        if kind in ("image", "failed", "cancelled"):
            self._settle()
        self._on_event(WorkerEvent(kind, unit, data, payload))

    def _died(self) -> None:
        code = self._process.popen.poll() if self._process is not None else None
        log.error("a worker ended with exit status %s", code)
        unit, begun = self._unit, self._begun
        self._process = None
        self._settle()
        self._deaths += 1
        if self._deaths <= MAX_RAPID_DEATHS:
            self._spawn()
        self._on_event(WorkerEvent("died", unit, {"exit": code, "begun": begun}))


class _Process:
    """One worker process with its two threads. `deliver(self, None)` is the last delivery."""

    def __init__(
        self,
        command: list[str],
        log_file: IO[bytes] | int,
        loop: asyncio.AbstractEventLoop,
        deliver: Callable[[_Process, tuple[dict[str, Any], bytes] | None], None],
    ) -> None:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        self.popen = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log_file
        )
        self._loop = loop
        self._deliver = deliver
        self._outgoing: queue.SimpleQueue[tuple[dict[str, Any], bytes] | None] = queue.SimpleQueue()
        for target in (self._read, self._write):
            threading.Thread(target=target, name=f"worker-{target.__name__}", daemon=True).start()

    def send(self, message: dict[str, Any], payload: bytes = b"") -> None:
        self._outgoing.put((message, payload))

    def end(self) -> None:
        """Close the pipe, which a worker takes as the order to leave; kill it when it does not. Blocks."""
        self._outgoing.put(None)
        deadline = time.monotonic() + EXIT_SECONDS
        while self.popen.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()

    def _write(self) -> None:
        stream = cast(BinaryIO, self.popen.stdin)
        try:
            while (item := self._outgoing.get()) is not None:
                write_message(stream, *item)
            stream.close()
        except (OSError, ValueError):
            pass  # the process is gone; the reading thread reports it

    def _read(self) -> None:
        stream = cast(BinaryIO, self.popen.stdout)
        message: tuple[dict[str, Any], bytes] | None = ({}, b"")
        while message is not None:
            try:
                message = read_message(stream)
            except (OSError, ValueError):
                message = None
            if message is None:
                self.popen.wait()
                self._outgoing.put(None)
            try:
                self._loop.call_soon_threadsafe(self._deliver, self, message)
            except RuntimeError:
                return  # the loop is closed: the server is leaving
