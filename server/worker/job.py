# SPDX-License-Identifier: GPL-3.0-or-later
"""One unit from recipe to picture: defaults, render plan, masks, the passes through the engine, and the way back.

Phases go out as states, executed steps as progress, estimates as previews. A preview is computed only when the last
one has left (a credit), at most ten times a second, unless the client asked for every one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from krita_sd.geometry import REFINE_STRENGTH, Extent, RenderPlan
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.frames import Picture
from krita_sd.wire.recipe import Recipe, steps_plan
from krita_sd.wire.values import or_default

from . import pixels
from .device import is_out_of_memory
from .models import ModelCache
from .prepare import Prepared, loras_of, prepare

Array = NDArray[np.uint8]
Emit = Callable[..., None]

PREVIEW_SECONDS = 0.1


class Control:
    """Stop orders and preview credit of one unit; written by the reading thread, polled by the running one."""

    def __init__(self) -> None:
        self._credit = threading.Semaphore(1)
        self.wish: str | None = None

    def order(self, do: str) -> None:
        """`cancel` wins over `finish`; `credit` allows one more preview."""
        if do == "credit":
            self._credit.release()
        elif do == "cancel" or (do == "finish" and self.wish is None):
            self.wish = do

    def poll(self) -> str | None:
        return self.wish

    def cancelled(self) -> bool:
        return self.wish == "cancel"

    def take_credit(self) -> bool:
        return self._credit.acquire(blocking=False)


@dataclass(frozen=True)
class _Pass:
    """One run of the engine: its plan and its share of the steps of the whole unit."""

    plan: RenderPlan
    total_steps: int
    start_step: int
    done_before: int
    steps: int


class Execution:
    """Runs units one after another; keeps the prepared inputs of the last job for its next image."""

    def __init__(self, models: ModelCache) -> None:
        self._models = models
        self._last: tuple[str, Prepared] | None = None

    def run(
        self, order: dict[str, Any], pictures: dict[str, Picture], control: Control, emit: Emit
    ) -> tuple[dict[str, Any], bytes]:
        """(image event, bgra8 bytes). Raises WireError; code CANCELLED when cancelled."""
        from server.diffusion import Cancelled

        try:
            return self._run(order, pictures, control, emit)
        except Cancelled:
            raise WireError(Code.CANCELLED, "Cancelled.") from None

    def _run(
        self, order: dict[str, Any], pictures: dict[str, Picture], control: Control, emit: Emit
    ) -> tuple[dict[str, Any], bytes]:
        ms: dict[str, float] = {}
        path = Path(order["model"]["path"])
        recipe = Recipe.from_json(order["recipe"])
        if not order["first"] and not self._models.peek(path):
            emit("state", state="loading")
        started = time.monotonic()
        model = self._models.get(path, order["model"]["family"], control.cancelled)
        ms["loading"] = _since(started)
        self._check(control)
        emit("state", state="encoding")
        started = time.monotonic()
        prepared = self._prepare(order["job"], recipe, pictures, model, order["model"])
        ms["preparing"] = _since(started)
        recipe = prepared.recipe.replace(seed=recipe.seed)
        unit, image = self._image(path, lambda: _UnitRun(order, prepared, recipe, model, control, emit, ms), emit)
        started = time.monotonic()
        picture = pixels.picture_of(image, prepared.composite)
        data: dict[str, Any] = {
            "picture": {"id": picture.hash, **picture.describe()},
            "recipe": recipe.to_json(),
            "steps_run": unit.steps_run,
            "partial": unit.partial,
        }
        ms["packing"] = _since(started)
        data["ms"] = {phase: round(value, 3) for phase, value in ms.items()}
        return data, picture.data

    def _image(self, path: Path, make: Callable[[], _UnitRun], emit: Emit) -> tuple[_UnitRun, Array]:
        """The finished picture; once more per rung of the memory ladder when memory runs out."""
        while True:
            unit = make()
            extent = unit.largest
            self._models.place(path, extent.width, extent.height, unit.pair)
            try:
                return unit, unit.image()
            except Exception as error:  # every device has its own type for it; all else goes on
                if not is_out_of_memory(error) or not self._models.can_step_down(path):
                    raise
            # Outside the handler: its traceback holds what must be freed first.
            del unit
            rung = self._models.step_down(path)
            emit("state", state="encoding", text=f"Memory ran out; once more with less at a time ({rung}).")

    def _prepare(
        self, job: str, recipe: Recipe, pictures: dict[str, Picture], model: Any, settings: dict[str, Any]
    ) -> Prepared:
        if self._last is None or self._last[0] != job:
            self._last = None
            self._last = (job, prepare(recipe, pictures, model, settings))
        return self._last[1]

    @staticmethod
    def _check(control: Control) -> None:
        if control.cancelled():
            raise WireError(Code.CANCELLED, "Cancelled.")


class _UnitRun:
    """The passes of one image and what they report."""

    def __init__(
        self,
        order: dict[str, Any],
        prepared: Prepared,
        recipe: Recipe,
        model: Any,
        control: Control,
        emit: Emit,
        ms: dict[str, float],
    ) -> None:
        self.order = order
        self.prepared = prepared
        self.recipe = recipe
        self.model = model
        self.control = control
        self.emit = emit
        self.ms = ms
        self.steps_run = 0
        self.partial = False
        self._all_steps = 0
        self._executed = 0
        self._phase = "encoding"
        self._next_preview = 0.0
        self._previews = order["previews"]

    @property
    def largest(self) -> Extent:
        """The largest extent that the engine will work at."""
        plan = self.prepared.plan
        return plan.second if plan.second is not None else plan.extent

    @property
    def pair(self) -> bool:
        """Whether guidance runs two predictions at once."""
        return float(or_default(self.recipe.guidance, 7.0)) > 1.0

    def image(self) -> Array:
        """The finished picture, uint8 (height, width, 3), at the recipe's extent."""
        prepared = self.prepared
        steps, minimum = int(or_default(self.recipe.steps, 20)), int(or_default(self.recipe.min_steps, 1))
        total, start = steps_plan(steps, prepared.strength, minimum)
        if start >= total and prepared.image is not None:
            return prepared.image  # strength 0: the picture itself, exactly
        plan = prepared.plan
        second = self._second(plan, steps, minimum)
        self._all_steps = total - start + (second.steps if second else 0)
        first = _Pass(plan, total, start, 0, total - start)
        image = self._engine(first, prepared.render, prepared.denoise_render, "auto")
        if second is not None and not self.partial:
            base = pixels.from_render(image, plan)
            if prepared.image is not None and prepared.composite is not None:
                base = _composited(prepared.image, base, prepared.composite)
            mask = None if prepared.denoise is None else pixels.to_render(prepared.denoise, second.plan)
            image = self._engine(second, pixels.to_render(base, second.plan), mask, "image")
            plan = second.plan
        return pixels.from_render(image, plan)

    def _second(self, plan: RenderPlan, steps: int, minimum: int) -> _Pass | None:
        if plan.second is None:
            return None
        total, start = steps_plan(steps, min(REFINE_STRENGTH, self.prepared.strength), minimum)
        done = steps_plan(steps, self.prepared.strength, minimum)
        return _Pass(RenderPlan(plan.target, 1.0, plan.second), total, start, done[0] - done[1], total - start)

    def _engine(self, run: _Pass, image: Array | None, mask: Array | None, begin: str) -> Array:
        from server.diffusion import Task, generate

        recipe = self.recipe
        if begin == "auto" and mask is not None and self.prepared.filled:
            begin = "image"
        task = Task(
            prompt=self.order["words"]["prompt"],
            negative=self.order["words"]["negative"],
            seed=recipe.seed,
            total_steps=run.total_steps,
            start_step=run.start_step,
            guidance=float(or_default(recipe.guidance, 7.0)),
            sampler=str(or_default(recipe.sampler, "DPM++ 2M")),
            width=run.plan.extent.width,
            height=run.plan.extent.height,
            image=image,
            mask=mask,
            loras=loras_of(recipe, self.order["model"]),
            clip_skip=int(or_default(recipe.clip_skip, 0)),
            preview=self._previews["level"],
            begin=begin,  # type: ignore[arg-type]
        )
        output = generate(
            self.model,
            task,
            on_phase=self._on_phase,
            on_step=lambda step: self._on_step(run, step),
            control=self.control.poll,
        )
        self.steps_run += output.steps_run
        self.partial = self.partial or output.partial
        for phase, value in output.ms.items():
            self.ms[phase] = self.ms.get(phase, 0.0) + value
        return output.image

    def _on_phase(self, phase: str) -> None:
        # What lies between two passes is part of "sampling" to the painter: a job's phases never go back.
        between = self._executed < self._all_steps and self.control.poll() is None
        if (phase == "decoding" and between) or (phase == "encoding" and self._executed):
            return
        if phase != self._phase:
            self._phase = phase
            total = self._all_steps if phase == "sampling" else 0
            self.emit("state", state=phase, step=self.steps_run, total=total)

    def _on_step(self, run: _Pass, step: Any) -> None:
        executed = self._executed = run.done_before + step.k
        self.emit("step", state="sampling", step=executed, total=self._all_steps)
        if self._preview_wanted():
            preview = step.preview()
            if preview is not None:
                self._send_preview(run.plan, preview, executed)

    def _preview_wanted(self) -> bool:
        if self._previews["level"] == "off" or self.control.poll() is not None:
            return False
        if self._previews["reliable"]:
            return True
        now = time.monotonic()
        if now < self._next_preview or not self.control.take_credit():
            return False
        self._next_preview = now + PREVIEW_SECONDS
        return True

    def _send_preview(self, plan: RenderPlan, preview: Array, step: int) -> None:
        available = Extent(preview.shape[1], preview.shape[0])
        size = pixels.preview_size(plan, available, self._previews["max_pixels"])
        rgb = pixels.from_render(preview, plan, size)
        composite = self.prepared.composite
        picture = pixels.picture_of(rgb, None if composite is None else pixels.resize_grey(composite, size))
        self.emit("preview", picture.data, step=step, total=self._all_steps, **picture.describe())


def _composited(original: Array, painted: Array, alpha: Array) -> Array:
    share = alpha[..., None].astype(np.uint16)
    mixed = painted.astype(np.uint16) * share + original.astype(np.uint16) * (255 - share)
    return ((mixed + 127) // 255).astype(np.uint8)


def _since(started: float) -> float:
    return (time.monotonic() - started) * 1000.0
