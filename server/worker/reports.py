# SPDX-License-Identifier: GPL-3.0-or-later
"""What a unit tells while it runs: phases as states, executed steps as progress, estimates as previews.

A preview is computed only when the last one has left (a credit), at most ten times a second, unless the client asked
for every one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from krita_sd.geometry import Extent, RenderPlan

from . import pixels

Array = NDArray[np.uint8]
Emit = Callable[..., None]

PREVIEW_SECONDS = 0.1


class Control:
    """Stop orders and preview credit of one unit; written by the reading thread, polled by the running one."""

    def __init__(self) -> None:
        self._credit = threading.Semaphore(1)
        self.wish: Literal["cancel", "finish"] | None = None

    def order(self, do: str) -> None:
        """`cancel` wins over `finish`; `credit` allows one more preview."""
        if do == "credit":
            self._credit.release()
        elif do == "cancel":
            self.wish = "cancel"
        elif do == "finish" and self.wish is None:
            self.wish = "finish"

    def poll(self) -> Literal["cancel", "finish"] | None:
        return self.wish

    def cancelled(self) -> bool:
        return self.wish == "cancel"

    def take_credit(self) -> bool:
        return self._credit.acquire(blocking=False)


class Reports:
    """Reports of one unit, whose passes through the engine are one run to the painter. `all_steps`: of all passes.

    `composite`: alpha of previews at the target extent, or None.
    """

    def __init__(self, previews: dict[str, Any], control: Control, emit: Emit, composite: Array | None = None) -> None:
        self._previews = previews
        self._control = control
        self._emit = emit
        self._composite = composite
        self.all_steps = 0
        self._executed = 0
        self._phase = "encoding"
        self._next_preview = 0.0

    @property
    def level(self) -> str:
        """The wanted preview level."""
        return str(self._previews["level"])

    def phase(self, phase: str) -> None:
        """A pass has entered a phase."""
        # What lies between two passes is part of "sampling" to the painter: a job's phases never go back.
        between = self._executed < self.all_steps and self._control.poll() is None
        if (phase == "decoding" and between) or (phase == "encoding" and self._executed):
            return
        if phase != self._phase:
            self._phase = phase
            total = self.all_steps if phase == "sampling" else 0
            self._emit("state", state=phase, step=self._executed, total=total)

    def before(self, share: float) -> None:
        """`share`, 0..1, of what comes before the first step is done; what lies between two passes is not told."""
        if not self._executed:
            self._emit("step", state="encoding", step=int(100 * share), total=100)

    def tell(self, text: str) -> None:
        """A sentence to the painter; the phase stays."""
        total = self.all_steps if self._phase == "sampling" else 0
        self._emit("state", state=self._phase, step=self._executed, total=total, text=text)

    def step(self, executed: int, plan: RenderPlan, step: Any, wrap: str = "") -> None:
        """`executed` steps of the whole unit are done; `step` is the engine's last, of a pass with this plan."""
        self._executed = executed
        self._emit("step", state="sampling", step=executed, total=self.all_steps)
        if self._wanted():
            preview = step.preview()
            if preview is not None:
                self._send(plan, preview, executed, wrap)

    def _wanted(self) -> bool:
        if self._previews["level"] == "off" or self._control.poll() is not None:
            return False
        if self._previews["reliable"]:
            return True
        now = time.monotonic()
        if now < self._next_preview or not self._control.take_credit():
            return False
        self._next_preview = now + PREVIEW_SECONDS
        return True

    def _send(self, plan: RenderPlan, preview: Array, executed: int, wrap: str) -> None:
        available = Extent(preview.shape[1], preview.shape[0])
        size = pixels.preview_size(plan, available, self._previews["max_pixels"])
        rgb = pixels.from_render(preview, plan, size, wrap)
        alpha = None if self._composite is None else pixels.resize_grey(self._composite, size)
        picture = pixels.picture_of(rgb, alpha)
        self._emit("preview", picture.data, step=executed, total=self.all_steps, **picture.describe())
