# SPDX-License-Identifier: GPL-3.0-or-later
"""Workers behind one small interface; the front does not know whether they are processes here or elsewhere.

`Pool` is what the front needs; `local.LocalPool` implements it with subprocesses of this machine. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from krita_sd.wire.frames import Picture


@dataclass(frozen=True)
class Unit:
    """One image of one job, the smallest thing a worker is given. `number` is never used twice.

    `model`, `loras`: what the worker needs to find the files: paths that came from the library's own scan.
    """

    number: int
    job: str
    body: dict[str, Any]
    pictures: dict[str, Picture] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkerEvent:
    """What a worker reports. kind: ready | state | step | preview | image | failed | cancelled | died |
    memory | live | live_state.

    `unit` is 0 for ready and for a worker that died idle.
    """

    kind: str
    unit: int = 0
    data: dict[str, Any] = field(default_factory=dict)
    payload: bytes = b""


class Pool(Protocol):
    """Runs units. All methods are called from the event loop's thread and return at once; so are the events."""

    def start(self, on_event: Callable[[WorkerEvent], None]) -> None: ...

    def idle(self) -> bool:
        """Whether `run` may be called now."""
        ...

    def run(self, unit: Unit) -> None: ...

    def stop(self, unit: int, how: str) -> None:
        """`how` is "cancel" or "finish"; takes effect within one step. Unknown units are ignored."""
        ...

    def credit(self, unit: int) -> None:
        """The last preview of `unit` has left: the next may be computed."""
        ...

    def live(self, order: dict[str, Any], payload: bytes = b"") -> None:
        """Hand on an order of a live session; answered by events `live` and `live_state`, which name it in `data`."""
        ...

    def free_memory(self) -> None:
        """Unload models as soon as no unit runs; the event `memory` follows."""
        ...

    def device(self) -> dict[str, Any]:
        """{kind, name, ...} of what the workers run on; kind "starting" until known."""
        ...

    async def close(self) -> None:
        """End every worker process; returns within a few seconds."""
        ...
