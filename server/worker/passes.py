# SPDX-License-Identifier: GPL-3.0-or-later
"""One picture of txt2img, img2img or inpaint: one pass through the engine, or two for a large target."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from krita_sd.geometry import REFINE_STRENGTH, Extent, RenderPlan
from krita_sd.wire.recipe import Recipe, steps_plan
from krita_sd.wire.values import or_default

from . import pixels
from .prepare import Prepared, inversions_of, loras_of
from .reports import Control, Emit, Reports

Array = NDArray[np.uint8]


@dataclass(frozen=True)
class Pass:
    """One run of the engine: its plan and its share of the steps of the whole unit."""

    plan: RenderPlan
    total_steps: int
    start_step: int
    done_before: int
    steps: int
    pieces: int = 0


class UnitRun:
    """The passes of one image. `composite`: what of it is shown, or None; `partial`: it was stopped and kept."""

    def __init__(
        self,
        order: dict[str, Any],
        prepared: Prepared,
        recipe: Recipe,
        model: Any,
        controls: tuple[Any, ...],
        control: Control,
        emit: Emit,
        ms: dict[str, float],
    ) -> None:
        self.order = order
        self.prepared = prepared
        self.recipe = recipe
        self.model = model
        self.controls = controls
        self.control = control
        self.ms = ms
        self.steps_run = 0
        self.partial = False
        self.composite = prepared.composite
        self.reports = Reports(order["previews"], control, emit, prepared.composite)

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
        prepared, wrap = self.prepared, self.recipe.tile
        steps, minimum = int(or_default(self.recipe.steps, 20)), int(or_default(self.recipe.min_steps, 1))
        total, start = steps_plan(steps, prepared.strength, minimum)
        if start >= total and prepared.image is not None:
            return prepared.image  # strength 0: the picture itself, exactly
        plan = prepared.plan
        second = self._second(plan, steps, minimum)
        self.reports.all_steps = total - start + (second.steps if second else 0)
        first = Pass(plan, total, start, 0, total - start)
        image = self.engine(first, prepared.render, prepared.denoise_render, "auto")
        if second is not None and not self.partial:
            base = pixels.from_render(image, plan, None, wrap)
            if prepared.image is not None and prepared.composite is not None:
                base = _composited(prepared.image, base, prepared.composite)
            mask = None if prepared.denoise is None else pixels.to_render(prepared.denoise, second.plan, wrap)
            image = self.engine(second, pixels.to_render(base, second.plan, wrap), mask, "image")
            plan = second.plan
        return pixels.from_render(image, plan, None, wrap)

    def _second(self, plan: RenderPlan, steps: int, minimum: int) -> Pass | None:
        if plan.second is None:
            return None
        total, start = steps_plan(steps, min(REFINE_STRENGTH, self.prepared.strength), minimum)
        done = steps_plan(steps, self.prepared.strength, minimum)
        return Pass(RenderPlan(plan.target, 1.0, plan.second), total, start, done[0] - done[1], total - start)

    def engine(self, run: Pass, image: Array | None, mask: Array | None, begin: str) -> Array:
        """One pass: the render, uint8 of the plan's extent."""
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
            inversions=inversions_of(self.order["model"]),
            vae=Path(self.order["model"]["vae"]) if self.order["model"].get("vae") else None,
            clip_skip=int(or_default(recipe.clip_skip, 0)),
            preview=self.reports.level,
            begin=begin,  # type: ignore[arg-type]
            controls=tuple(layer.rendered(run.plan, recipe.tile) for layer in self.controls),
            variation=recipe.variation,
            variation_seed=recipe.variation_seed,
            wrap=recipe.tile,
            pieces=run.pieces,
        )
        output = generate(
            self.model,
            task,
            on_phase=self.reports.phase,
            on_step=lambda step: self.reports.step(run.done_before + step.k, run.plan, step, recipe.tile),
            control=self.control.poll,
        )
        self.steps_run += output.steps_run
        self.partial = self.partial or output.partial
        for phase, value in output.ms.items():
            self.ms[phase] = self.ms.get(phase, 0.0) + value
        return output.image


def _composited(original: Array, painted: Array, alpha: Array) -> Array:
    share = alpha[..., None].astype(np.uint16)
    mixed = painted.astype(np.uint16) * share + original.astype(np.uint16) * (255 - share)
    return ((mixed + 127) // 255).astype(np.uint8)
