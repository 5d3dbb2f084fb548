# SPDX-License-Identifier: GPL-3.0-or-later
"""One picture made larger: enlarged to exactly the wanted size, then refined in pieces at a low strength.

More than twice the size is reached in several passes, each of which enlarges by at most about two and is refined
before the next, because a model invents detail of its own size, not of four times that. Strength 0 enlarges only, in
one go and without the model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from krita_sd.geometry import Extent, RenderPlan
from krita_sd.wire.recipe import Recipe, steps_plan
from krita_sd.wire.values import or_default
from server.library.upscalers import SIDES, piece_side, refined_side

from . import pixels
from .device import is_out_of_memory, release
from .passes import Pass, UnitRun
from .prepare import Prepared
from .reports import Control, Emit

Array = NDArray[np.uint8]

STEP = 2.1
"""The most by which one pass enlarges: 1024 -> 2048 -> 3000 are two passes, 1500 -> 3000 is one."""


def sizes(source: Extent, target: Extent) -> list[Extent]:
    """The extents of the passes: even steps in scale, the last exactly the target."""
    scale = max(target.width / source.width, target.height / source.height)
    count = max(1, math.ceil(math.log(scale) / math.log(STEP) - 1e-9)) if scale > 1 else 1
    out = []
    for number in range(1, count):
        share = number / count
        width = round(source.width * (target.width / source.width) ** share)
        out.append(Extent(width, round(source.height * (target.height / source.height) ** share)))
    return [*out, target]


class UpscaleRun(UnitRun):
    """`source`: uint8 (height, width, 3); `alpha`: of it, or None where it is opaque; `upscaler`: loaded, or None.
    `free`: bytes that can be taken on the device now, 0 where nobody knows."""

    def __init__(
        self,
        order: dict[str, Any],
        recipe: Recipe,
        model: Any,
        source: Array,
        alpha: Array | None,
        upscaler: Any | None,
        free: Callable[[], int],
        control: Control,
        emit: Emit,
        ms: dict[str, float],
    ) -> None:
        self._target = Extent(int(recipe.target_width), int(recipe.target_height))  # type: ignore[arg-type]
        prepared = Prepared(recipe, RenderPlan(self._target, 1.0, self._target), recipe.strength)
        super().__init__(order, prepared, recipe, model, (), control, emit, ms)
        self._source = source
        self._upscaler = upscaler
        self._free = free
        self.composite = None if alpha is None else pixels.resize_grey(alpha, self._target)

    @property
    def largest(self) -> Extent:
        """What the model sees at once; the rest goes by in pieces."""
        return Extent(min(self._side, self._target.width), min(self._side, self._target.height))

    @property
    def _side(self) -> int:
        return refined_side(self.model.native)

    def image(self) -> Array:
        if self.recipe.strength <= 0.0:
            return self._enlarged(self._source, self._target)
        steps, minimum = int(or_default(self.recipe.steps, 20)), int(or_default(self.recipe.min_steps, 1))
        total, start = steps_plan(steps, self.recipe.strength, minimum)
        extents = sizes(Extent(self._source.shape[1], self._source.shape[0]), self._target)
        self.reports.all_steps = (total - start) * len(extents)
        image = self._source
        for number, extent in enumerate(extents):
            image = self._enlarged(image, extent)
            if self.partial:
                continue  # stopped and kept: the rest is only enlarged
            plan = RenderPlan(extent, 1.0, extent.rounded_up(self.model.native.multiple))
            run = Pass(plan, total, start, number * (total - start), total - start, self._side)
            image = pixels.from_render(self.engine(run, pixels.to_render(image, plan), None, "image"), plan)
        return image

    def _enlarged(self, image: Array, extent: Extent) -> Array:
        started = time.monotonic()
        out = self._in_pieces(image, extent)
        self.ms["enlarging"] = self.ms.get("enlarging", 0.0) + (time.monotonic() - started) * 1000.0
        return out

    def _in_pieces(self, image: Array, extent: Extent) -> Array:
        """By pieces as large as memory has room for; by smaller ones when it runs out all the same."""
        from server.diffusion.upscale import enlarge

        upscaler, poll, told = self._upscaler, self.control.poll, self.reports.before
        if upscaler is None:
            return enlarge(image, extent.width, extent.height, None, poll)
        fits = piece_side(self._free(), upscaler.scale, upscaler.own, upscaler.dtype.itemsize)
        side = min(fits, upscaler.side)
        while True:
            try:
                return enlarge(image, extent.width, extent.height, upscaler, poll, told, side)
            except Exception as error:  # every device has its own type for it; all else goes on
                if not is_out_of_memory(error) or side == SIDES[-1]:
                    raise
            # Outside the handler: its traceback holds what must be freed first.
            side = upscaler.side = SIDES[SIDES.index(side) + 1]
            release(upscaler.device.type)
            self.reports.tell("Memory ran out; enlarging in smaller pieces.")
