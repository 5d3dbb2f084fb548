# SPDX-License-Identifier: GPL-3.0-or-later
"""The serving process: state folder, worker, listener, signals and the watch over its owner, in the right order."""

from __future__ import annotations

import asyncio
import logging
import logging.handlers
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from krita_sd import tls
from krita_sd.wire import PROTOCOL
from krita_sd.wire.version import VERSION
from server.library import Library
from server.pool.local import LocalPool

from .hub import Hub
from .listener import Listener, encryption
from .owner import process_exists
from .state import StateFolder

log = logging.getLogger(__name__)

OWNER_POLL_SECONDS = 1.0
OWNER_GRACE_SECONDS = 4.0
"""After the owner is gone: time for a last acknowledgement, well within the promised ten seconds."""

MAX_WORKER_LOG = 4 * 1024**2


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    state: Path
    models: tuple[Path, ...]
    host: str = "127.0.0.1"
    port: int = 0
    token_file: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    leave_free: float = 0.0
    owner: int | None = None
    keep: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None


async def serve(options: Options, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM, SIGINT or the owner's end. `announce` gets the address once connections are accepted.

    Raises WireError with one sentence when the server cannot start.
    """
    folder = StateFolder(options.state)
    folder.open()
    try:
        _log_to(folder.path / "server.log")
        token = folder.token(options.token_file)
        stop = _stop_event()
        with _worker_log(folder.path / "worker.log") as worker_log:
            pool = LocalPool(
                options.device, worker_log, ("--dtype", options.dtype, "--leave-free", str(options.leave_free))
            )
            hub = Hub(folder, Library(options.models, state=folder.path), pool)
            listener = Listener(hub, token)
            context, mark = encryption(options.tls_cert, options.tls_key) if options.tls_cert else (None, "")
            # Listening fails first and fast: a taken port must not cost the load of a journal.
            port = await listener.open(options.host, options.port, context)
            hub.load()
            hub.start()
            folder.publish(
                {
                    "pid": os.getpid(),
                    "host": options.host,
                    "port": port,
                    "instance": hub.instance,
                    "version": VERSION,
                    "protocol": PROTOCOL,
                    "fingerprint": mark,
                }
            )
            host = f"[{options.host}]" if ":" in options.host else options.host
            announce(f"wss://{host}:{port}/v1#{tls.MARK}{mark}" if mark else f"ws://{host}:{port}/v1")
            log.info("listening on port %d, process %d", port, os.getpid())
            watch = asyncio.create_task(_watch_owner(options, stop))
            try:
                await stop.wait()
            finally:
                log.info("leaving")
                watch.cancel()
                await asyncio.gather(listener.close(), hub.close(), return_exceptions=True)
    finally:
        folder.close()


def _stop_event() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    names = ("SIGTERM", "SIGINT", "SIGHUP") if sys.platform != "win32" else ("SIGTERM", "SIGINT", "SIGBREAK")
    for name in names:
        number = getattr(signal, name)
        try:
            loop.add_signal_handler(number, stop.set)
        except NotImplementedError:  # Windows' event loop
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    return stop


async def _watch_owner(options: Options, stop: asyncio.Event) -> None:
    if options.owner is None or options.keep:
        return
    exists = process_exists(options.owner)
    while exists():
        await asyncio.sleep(OWNER_POLL_SECONDS)
    log.info("the owner, process %d, is gone", options.owner)
    await asyncio.sleep(OWNER_GRACE_SECONDS)
    stop.set()


def _log_to(file: Path) -> None:
    handler = logging.handlers.RotatingFileHandler(file, maxBytes=2 * 1024**2, backupCount=2, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    # Handshakes of port scanners would fill the log with tracebacks.
    logging.getLogger("websockets.server").setLevel(logging.CRITICAL)


def _worker_log(file: Path):  # type: ignore[no-untyped-def]
    too_long = file.exists() and file.stat().st_size > MAX_WORKER_LOG
    return open(file, "wb" if too_long else "ab")
