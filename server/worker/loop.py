# SPDX-License-Identifier: GPL-3.0-or-later
"""The loop of a worker process: orders come in on one thread, units run on the main one, events go out.

A stop order may arrive at any time; it is noted by unit number and polled by whatever runs. The end of the pipe ends
the process at once, also in the middle of a step: the front is gone and nobody wants the result.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import queue
import sys
import threading
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.frames import Picture
from server.pool.channel import read_message, write_message

from .device import choose_device, free_memory, is_out_of_memory, keep_buffers
from .job import Control, Execution
from .live import LiveDesk
from .models import ModelCache
from .precision import read_dtype

log = logging.getLogger(__name__)

AHEAD = {
    "diffusers": ("UNet2DConditionModel", "AutoencoderKL", "AutoencoderTiny", "DPMSolverMultistepScheduler"),
    "transformers": ("CLIPTextModel", "CLIPTokenizer"),
}
UNUSED = ("peft",)
"""What these packages import where it is installed, for a quarter of a second; LoRAs are added by our own code."""

KEPT_PICTURES = 16
"""Input pictures kept for the next unit of the same job."""


class WorkLoop:
    """Reads `incoming`, writes `outgoing`; `run` returns only when the pipe is closed while idle."""

    def __init__(
        self, incoming: BinaryIO, outgoing: BinaryIO, device: str, dtype: str = "auto", reserve: int = 0
    ) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._lock = threading.Lock()
        self._orders: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._live = LiveDesk(self._wake_for_live)
        self._live_token = threading.Event()
        self._pictures: dict[str, Picture] = {}
        self._controls: dict[int, Control] = {}
        self._wanted_device = self._device = device
        self._wanted_dtype = dtype
        self._reserve = reserve

    def run(self) -> None:
        threading.Thread(target=self._read, name="orders", daemon=True).start()
        for package in UNUSED:
            sys.modules.setdefault(package, None)  # type: ignore[arg-type]  # Python's mark of "not there"
        with without_collections():
            models = self._start()
            _import_ahead()
        execution, device = Execution(models), models.device
        while (order := self._orders.get()) is not None:
            if order["do"] == "live":
                self._live_token.clear()
                self._live.run(models, execution.parts, self._emit, _unexpected)
                if self._live.waiting():
                    self._wake_for_live()
            elif order["do"] == "free":
                self._live.forget_models()
                execution.free()
                self._emit("memory", free=free_memory(device))
            else:
                self._live.park()
                self._run_unit(execution, order)
            while self._orders.empty() and self._live.advance():
                pass

    def _start(self) -> ModelCache:
        """Choose device and precision, and report ready."""
        device, info = choose_device(self._wanted_device)
        self._device = device
        if device == "cpu":
            keep_buffers()
        dtype = read_dtype(self._wanted_dtype, device)
        info |= {"free": free_memory(device), "dtype": str(dtype).removeprefix("torch."), "leave": self._reserve}
        self._emit("ready", device=info)
        return ModelCache(device, reserve=self._reserve, dtype=dtype)

    def _wake_for_live(self) -> None:
        # One token at most: it takes its turn behind units that wait, so that neither starves the other.
        if not self._live_token.is_set():
            self._live_token.set()
            self._orders.put({"do": "live"})

    def _run_unit(self, execution: Execution, order: dict[str, Any]) -> None:
        unit = int(order["unit"])
        control = self._controls[unit]

        def emit(event: str, payload: bytes = b"", **data: Any) -> None:
            self._emit(event, payload, unit=unit, **data)

        try:
            pictures = {digest: self._pictures[digest] for digest in order["blobs"]}
            data, payload = execution.run(order, pictures, control, emit)
            emit("image", payload, free=free_memory(self._device), **data)
        except WireError as error:
            if error.code is Code.CANCELLED:
                emit("cancelled")
            else:
                log.warning("unit %d failed: %s", unit, error)
                emit("failed", error=error.to_json())
        except Exception as error:  # the boundary of the process: any bug must become one failed job and a log entry
            emit("failed", error=_unexpected(error).to_json())
        finally:
            del self._controls[unit]

    def _read(self) -> None:
        while (message := read_message(self._incoming)) is not None:
            order, payload = message
            do = order["do"]
            if do == "picture":
                picture = Picture(order["format"], order["width"], order["height"], payload)
                self._pictures.pop(order["hash"], None)  # so that it becomes the newest
                self._pictures[order["hash"]] = picture
                while len(self._pictures) > KEPT_PICTURES:
                    self._pictures.pop(next(iter(self._pictures)))
            elif do.startswith("live"):
                self._live.order(order, payload)
            elif do == "free":
                self._orders.put(order)
            elif do == "run":
                self._controls[int(order["unit"])] = Control()
                if order["first"]:
                    self._emit("state", unit=int(order["unit"]), state="loading")
                self._orders.put(order)
            elif (control := self._controls.get(int(order["unit"]))) is not None:
                control.order(do)
        # Not sys.exit: a step that runs on the main thread would go on for its whole duration.
        os._exit(0)

    def _emit(self, event: str, payload: bytes = b"", **data: Any) -> None:
        with self._lock:
            try:
                write_message(self._outgoing, {"event": event, **data}, payload)
            except OSError:
                os._exit(0)


@contextmanager
def without_collections() -> Iterator[None]:
    """For the imports: of the millions of objects that they make none is garbage, but the collector would look through
    all of them again and again, for a quarter of the time until the first picture; nor does it later."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _import_ahead() -> None:
    """The slow imports, while nobody waits; an order that comes meanwhile has said "loading" already."""
    importlib.import_module("server.diffusion.loading")
    # These packages import their parts on first use, which would be the first picture.
    for package, names in AHEAD.items():
        module = importlib.import_module(package)
        for name in names:
            getattr(module, name, None)


def _unexpected(error: Exception) -> WireError:
    ref = uuid.uuid4().hex[:8]
    log.error("ref %s\n%s", ref, traceback.format_exc())
    name = type(error).__name__
    if is_out_of_memory(error):
        return WireError(
            Code.OUT_OF_MEMORY,
            "There was not enough memory for this picture.",
            "Close other programs, or choose a smaller region.",
            retryable=True,
            ref=ref,
        )
    return WireError(
        Code.INTERNAL,
        f"The server met an unexpected problem ({name}).",
        f"The server's log has the details under {ref}.",
        ref=ref,
    )
