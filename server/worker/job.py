# SPDX-License-Identifier: GPL-3.0-or-later
"""One unit from order to picture: what it needs is loaded and prepared, the run of its kind makes the picture, which
is packed; a job that runs out of memory is tried again with less at a time.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from krita_sd.geometry import Extent
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.frames import Picture
from krita_sd.wire.recipe import Recipe

from . import pixels
from .controls import Layer, PartCache, control_layers
from .device import is_out_of_memory
from .models import ModelCache
from .passes import UnitRun
from .prepare import Prepared, prepare, region_picture, resolve
from .reports import Control, Emit
from .upscale import UpscaleRun

Array = NDArray[np.uint8]

__all__ = ["Control", "Execution"]


class Execution:
    """Runs units one after another; keeps the prepared inputs of the last job for its next image."""

    def __init__(self, models: ModelCache) -> None:
        self._models = models
        self.parts = PartCache(models.device, models.dtype)
        self._last: tuple[str, Prepared, tuple[Layer, ...]] | None = None

    def free(self) -> None:
        """Unload every model; what was prepared holds some of them."""
        self._last = None
        self.parts.free()
        self._models.free()

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
        recipe = Recipe.from_json(order["recipe"])
        if recipe.kind == "preprocess":
            return self._preprocess(order, recipe, pictures, control, emit)
        ms: dict[str, float] = {}
        path = Path(order["model"]["path"])
        if recipe.kind == "upscale":
            make, recipe = self._upscaling(order, recipe, pictures, control, emit, ms)
        else:
            make, recipe = self._painting(order, recipe, pictures, control, emit, ms)
        before = self._computed(path)
        unit, image = self._image(path, make, emit)
        started = time.monotonic()
        picture = pixels.picture_of(image, unit.composite)
        data: dict[str, Any] = {
            "picture": {"id": picture.hash, **picture.describe()},
            "recipe": recipe.to_json(),
            "steps_run": unit.steps_run,
            "partial": unit.partial,
        }
        ms["packing"] = _since(started)
        data["ms"] = {phase: round(value, 3) for phase, value in ms.items()}
        data["computed"] = {name: count - before[name] for name, count in self._computed(path).items()}
        return data, picture.data

    def _computed(self, path: Path) -> dict[str, int]:
        """How many prompts, canvases and control maps were computed so far, by the model and what helps it."""
        layers = self._last[2] if self._last is not None else ()
        kept = [getattr(model, "maps", None) for model in {id(layer.model): layer.model for layer in layers}.values()]
        model = self._models.loaded(path)
        return {
            "prompts": model.embeddings.computed if model is not None else 0,
            "canvases": model.canvases.computed if model is not None else 0,
            "maps": sum(maps.computed for maps in kept if maps is not None),
        }

    def _painting(
        self,
        order: dict[str, Any],
        recipe: Recipe,
        pictures: dict[str, Picture],
        control: Control,
        emit: Emit,
        ms: dict[str, float],
    ) -> tuple[Callable[[], UnitRun], Recipe]:
        """How to make the picture of txt2img, img2img or inpaint, and the recipe with every value known."""
        model = self._load(order, control, emit, ms)
        emit("state", state="encoding")
        started = time.monotonic()
        prepared, layers = self._prepare(order, recipe, pictures, model, control)
        ms["preparing"] = _since(started)
        known = prepared.recipe.replace(seed=recipe.seed, variation_seed=recipe.variation_seed)
        return lambda: UnitRun(order, prepared, known, model, layers, control, emit, ms), known

    def _upscaling(
        self,
        order: dict[str, Any],
        recipe: Recipe,
        pictures: dict[str, Picture],
        control: Control,
        emit: Emit,
        ms: dict[str, float],
    ) -> tuple[Callable[[], UnitRun], Recipe]:
        from server.diffusion.upscale import load_upscaler

        model = None
        if recipe.strength > 0.0:
            model = self._load(order, control, emit, ms)
            recipe = resolve(recipe, model.defaults)
        recipe = recipe.replace(model=order["model"]["id"])
        upscaler = None
        if order["model"]["upscaler"]:
            load = functools.partial(load_upscaler, progress=_loading(emit))
            upscaler = self.parts.get(Path(order["model"]["upscaler"]), load, control.cancelled)
        emit("state", state="encoding")
        picture = region_picture(pictures, recipe.image, "bgra8", Extent(recipe.width, recipe.height), "picture")
        source, alpha = pixels.straight_of(picture)
        free = self._models.free_bytes
        return lambda: UpscaleRun(order, recipe, model, source, alpha, upscaler, free, control, emit, ms), recipe

    def _preprocess(
        self, order: dict[str, Any], recipe: Recipe, pictures: dict[str, Picture], control: Control, emit: Emit
    ) -> tuple[dict[str, Any], bytes]:
        """A control map of a picture, by a trained model where there is one for its type."""
        from server.diffusion.preprocess import control_map

        model, path = None, order["model"].get("preprocessor", "")
        if path:
            from server.diffusion.preprocess.learned import load_preprocessor

            emit("state", state="loading")
            model = self.parts.get(Path(path), load_preprocessor, control.cancelled)
        emit("state", state="encoding")
        started = time.monotonic()
        picture = region_picture(pictures, recipe.image, "bgra8", Extent(recipe.width, recipe.height), "picture")
        made = pixels.picture_of(control_map(pixels.rgb_of(picture), recipe.map, model))
        data = {"picture": {"id": made.hash, **made.describe()}, "recipe": recipe.to_json()}
        return {**data, "steps_run": 0, "partial": False, "ms": {"encoding": round(_since(started), 3)}}, made.data

    def _load(self, order: dict[str, Any], control: Control, emit: Emit, ms: dict[str, float]) -> Any:
        path = Path(order["model"]["path"])
        if not order["first"] and not self._models.peek(path):
            emit("state", state="loading")
        started = time.monotonic()

        def ran_out(text: str) -> None:
            emit("state", state="loading", text=text)

        named = order["model"]
        model = self._models.get(path, named["family"], control.cancelled, _loading(emit), named.get("parts"), ran_out)
        ms["loading"] = _since(started)
        self._check(control)
        return model

    def _image(self, path: Path, make: Callable[[], UnitRun], emit: Emit) -> tuple[UnitRun, Array]:
        """The finished picture; once more per rung of the memory ladder when memory runs out."""
        while True:
            unit = make()
            if unit.model is None:
                return unit, unit.image()
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
        self, order: dict[str, Any], recipe: Recipe, pictures: dict[str, Picture], model: Any, control: Control
    ) -> tuple[Prepared, tuple[Layer, ...]]:
        if self._last is None or self._last[0] != order["job"]:
            self._last = None
            settings = order["model"]
            layers = control_layers(recipe, settings, pictures, self.parts, control.cancelled)
            self._last = (order["job"], prepare(recipe, pictures, model, settings), layers)
        return self._last[1:]

    @staticmethod
    def _check(control: Control) -> None:
        if control.cancelled():
            raise WireError(Code.CANCELLED, "Cancelled.")


def _loading(emit: Emit) -> Callable[[float], None]:
    """Tells how far a load is, 0..1, as whole percents."""
    told = -1

    def progress(share: float) -> None:
        nonlocal told
        if int(share * 100) > told:
            told = int(share * 100)
            emit("step", state="loading", step=told, total=100)

    return progress


def _since(started: float) -> float:
    return (time.monotonic() - started) * 1000.0
