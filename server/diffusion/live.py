# SPDX-License-Identifier: GPL-3.0-or-later
"""Live: one picture after another of a canvas that changes under the pen, with everything that stays kept.

    session = LiveSession(model)
    frame = session.render(wish, canvas, superseded=...)     None: a newer request has made it worthless

Kept between frames: condition per prompt, tables per schedule, noise per seed (no flicker), latents per canvas state,
masks per selection, and the last picture. `counts` says what was computed: nothing of it on an unchanged wish.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import Any

import torch

from krita_sd.geometry import Extent
from krita_sd.wire.errors import Code, WireError
from server.diffusion.checks import nan_output
from server.diffusion.features.masks import MaskedChange, cell_sums
from server.diffusion.features.reference import References
from server.diffusion.features.wrap import Wrapped
from server.diffusion.few_step import FewStep, few_step_name
from server.diffusion.live_canvas import DeviceCanvas, content_of, resized
from server.diffusion.live_encode import patched_encoder
from server.diffusion.live_format import live_autoencoder
from server.diffusion.live_graph import CopyBack, Steps, Traced
from server.diffusion.live_guides import Guides, references
from server.diffusion.live_shown import Part, Shown
from server.diffusion.live_window import Window, edit_window, selection_window, whole_window
from server.diffusion.live_wish import LiveFrame, Selection, Wish
from server.diffusion.model import Condition, LoadedModel, Recent, bytes_to_device, draw_noise
from server.diffusion.schedules import is_flow
from server.diffusion.task import Task

_KEPT = 4

_TOLD = ("embeds", "pooled", "mask", "ids")
"""Fields of a condition that are tensors."""

Superseded = Callable[[float], bool]
"""Asked between steps with the share of the frame that is done: whether to give it up."""


class LiveSession:
    """Live on one loaded model. Not thread-safe. Raises WireError(model_unsupported) for models that cannot."""

    def __init__(self, model: LoadedModel) -> None:
        if is_flow(model.schedule_config):
            raise WireError(
                Code.MODEL_UNSUPPORTED,
                "Live does not work with this kind of model yet.",
                "Choose a Stable Diffusion 1.5, 2 or XL model.",
            )
        if model.inpainting:
            raise WireError(
                Code.MODEL_UNSUPPORTED,
                "Live does not work with inpainting models.",
                "Choose the ordinary model of the same kind; selections work with it too.",
            )
        self._model = model
        tiny = model.tiny_decoder
        self._tiny = live_autoencoder(tiny) if tiny is not None and hasattr(tiny, "encoder") else None
        self._patched = patched_encoder(self._tiny)
        self.counts: Counter[str] = Counter()
        self._conditions: Recent[Condition] = Recent(_KEPT)
        self._tables: Recent[FewStep] = Recent(_KEPT)
        self._noise: Recent[tuple[torch.Tensor, torch.Tensor]] = Recent(_KEPT)
        self._steps: Recent[Steps] = Recent(_KEPT)
        self._traces: Recent[Traced] = Recent(_KEPT)
        self._masks: Recent[torch.Tensor] = Recent(_KEPT)
        self._latents: tuple[object, torch.Tensor] | None = None
        self._shown = Shown(model.device)
        self._made: object = None
        self._changed: set[int] = set()
        self._running: tuple[Steps, Traced] | None = None
        self._copy_back = CopyBack(model.device)
        self._guides: Recent[Guides] = Recent(_KEPT)
        self._references: References | None = None
        self._weights: tuple[object, ExitStack] | None = None
        self._weighted = 0

    # Weights -----------------------------------------------------------------------------------------------------

    def park(self) -> None:
        """Put the model back as it was, before something else uses it; the next frame changes it again."""
        if self._weights is not None:
            self._weights[1].close()
            self._weights = self._references = None

    def _prepare_weights(self, wish: Wish, table: FewStep) -> None:
        """Everything that changes the model itself stays in it for as long as frames ask for the same."""
        task = wish.task
        shown = tuple(one for one in wish.controls if one.is_reference)
        nets = tuple(one.model.module for one in wish.controls if task.wrap and not one.is_reference)
        key = (task.loras, task.vae, task.wrap, tuple(map(id, nets)), shown, id(table) if shown else 0)
        if self._weights is not None and self._weights[0] == key:
            return
        self.park()
        undo = ExitStack()
        with undo:
            for feature in self._model.weight_features(task):
                undo.enter_context(feature)
            if task.wrap:
                undo.enter_context(Wrapped(self._model, [*nets, *([self._tiny] if self._tiny else [])], task.wrap))
            found = references(self._model, table, shown)
            if found is not None:
                undo.enter_context(found)
            self._weights, self._references = (key, undo.pop_all()), found
        self.counts["weights"] += 1
        # A trace may keep something that was computed from them; a captured graph reads them where they are.
        self._weighted = self.counts["weights"] if self._model.device.type == "cpu" else 0

    def advance(self) -> bool:
        """Something useful while nobody waits (a graph to capture, a trace); False when there is nothing left."""
        if self._weights is None or self._running is None:
            return False
        with torch.inference_mode():
            steps, traced = self._running
            return traced.advance() or steps.advance()

    # Frames ------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def render(
        self, wish: Wish, canvas: DeviceCanvas, superseded: Superseded = lambda done: False, fit: bool = False
    ) -> LiveFrame | None:
        """The next frame, or None when `superseded` gave it up. Raises WireError(nan_output, bad_request).

        fit: it may be smaller than the canvas, or a part of it; otherwise it has the canvas's extent.
        """
        clock = _Clock()
        self._changed |= canvas.changed
        canvas.changed.clear()
        if wish.task.start_step >= wish.task.total_steps:
            return self._as_it_is(wish, canvas, clock, fit)
        table = self._table(wish.task)
        self._prepare_weights(wish, table)
        condition = self._condition(wish.task)
        window = self._window(wish, canvas)
        clock("prepare")
        original = self._read(wish.task, canvas, window)
        clock("encode")
        latents = self._denoise(wish, window, condition, table, original, superseded)
        if latents is None:
            return None
        clock("sample")
        decoded = self._decode(wish.task, latents)
        clock("decode")
        part = self._put(wish, canvas, window, decoded, fit)
        data, good = self._copy_back(part.pixels, torch.isfinite(decoded).all())
        clock("pack")
        if not good:
            self._shown.clear()
            raise nan_output("drawing")
        self._changed.clear()
        self._made = self._key(wish, canvas)
        self.counts["frames"] += 1
        return _frame(data, part, table.steps, clock)

    def _as_it_is(self, wish: Wish, canvas: DeviceCanvas, clock: _Clock, fit: bool) -> LiveFrame:
        """Strength 0: the canvas itself; a trip through the autoencoder would change it."""
        chosen = wish.selection
        part = self._shown.as_it_is(canvas.pixels, fit, chosen, chosen.composite if chosen is not None else None)
        data, _ = self._copy_back(part.pixels, torch.ones((), dtype=torch.bool, device=part.pixels.device))
        clock("pack")
        self.counts["frames"] += 1
        return _frame(data, part, 0, clock)

    def _key(self, wish: Wish, canvas: DeviceCanvas) -> object:
        """What the last picture must have in common with the next for a window of it to be replaced."""
        return (wish, canvas.extent)

    def _condition(self, task: Task) -> Condition:
        def compute() -> Condition:
            self.counts["conditions"] += 1
            return self._model.condition(task)

        pair = task.guidance > 1.0
        key = (task.prompt, task.negative if pair else "", pair, task.clip_skip, task.loras, task.inversions)
        return self._conditions.get(key, compute)

    def _table(self, task: Task) -> FewStep:
        def compute() -> FewStep:
            self.counts["schedules"] += 1
            config = self._model.schedule_config
            return FewStep(kind, config, task.total_steps, task.start_step, self._model.device)

        kind = few_step_name(task.sampler)
        return self._tables.get((kind, task.total_steps, task.start_step), compute)

    def _window(self, wish: Wish, canvas: DeviceCanvas) -> Window:
        native = self._model.native
        if wish.task.wrap:
            return whole_window(canvas.extent, native, wrap=True)
        if wish.selection is not None:
            chosen = wish.selection
            return selection_window(chosen.box, canvas.extent, native, chosen.feather, chosen.grow)
        if self._shown.exists and self._made == self._key(wish, canvas):
            found = edit_window(canvas.box_of(self._changed), canvas.extent, native, wish.strength)
            if found is not None:
                return found
        return whole_window(canvas.extent, native)

    # Pixels and latents ------------------------------------------------------------------------------------------

    def _tiny_for(self, task: Task) -> Any:
        """The tiny autoencoder, unless the painter chose a VAE, which must be seen."""
        return self._tiny if task.vae is None else None

    def _read(self, task: Task, canvas: DeviceCanvas, window: Window) -> torch.Tensor:
        """Scaled latents of the window; encoded only when its pixels may have changed."""
        key = (canvas, canvas.serial, window, task.vae, task.wrap)
        if self._latents is not None and self._latents[0] == key:
            return self._latents[1]
        pixels = canvas.read(window.source, window.plan)
        self.counts["encodes"] += 1
        tiny = self._tiny_for(task)
        if tiny is not None:
            weight = next(tiny.parameters())
            order = torch.channels_last if weight.is_contiguous(memory_format=torch.channels_last) else None
            pixels = pixels.to(weight.dtype)
            pixels = pixels.contiguous(memory_format=order) if order is not None else pixels
            patched = self._patched if not task.wrap else None  # its pieces know no opposite edge
            found = tiny.encode(pixels, return_dict=False)[0] if patched is None else patched(pixels)
            latents = found.to(torch.float32).contiguous()
        else:
            spread = self._model.autoencoder.encode(pixels.to(self._model.autoencoder.dtype), return_dict=False)[0]
            latents = self._model.scaled(spread.mean.to(torch.float32)).contiguous()
        self._latents = (key, latents)
        return latents

    def _decode(self, task: Task, latents: torch.Tensor) -> torch.Tensor:
        self.counts["decodes"] += 1
        tiny = self._tiny_for(task)
        if tiny is None:
            return self._model.decode(latents)
        decoded: torch.Tensor = tiny.decode(latents.to(next(tiny.parameters()).dtype), return_dict=False)[0]
        return decoded

    def _fixed_noise(
        self, task: Task, window: Window, like: torch.Tensor, draws: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The first noise and that of the steps, drawn on the CPU from the seed; the same for every frame.

        A window on a large canvas has the noise of its place, so that it does not swim when the window moves.
        """
        place = (0, 0) if window.whole else (window.source.x, window.source.y)

        def compute() -> tuple[torch.Tensor, torch.Tensor]:
            self.counts["noises"] += 1
            seed = (task.seed + 7919 * place[0] + 104729 * place[1]) % 2**63
            generator = torch.Generator("cpu").manual_seed(seed)
            first = draw_noise(like.shape, generator, like.device)
            others = draw_noise(torch.Size((max(1, draws), *like.shape[1:])), generator, like.device)
            return first, others

        return self._noise.get((task.seed, place, like.shape, draws), compute)

    def _denoise(
        self,
        wish: Wish,
        window: Window,
        condition: Condition,
        table: FewStep,
        original: torch.Tensor,
        superseded: Superseded,
    ) -> torch.Tensor | None:
        task = wish.task
        noise, draws = self._fixed_noise(task, window, original, table.draws)
        kept = None
        if wish.selection is not None:
            sums = self._selected(wish.selection, window)
            kept = MaskedChange(table, sums, self._model.factor, original, noise)  # type: ignore[arg-type]

        guides = self._guides_for(wish, table, window)
        traced, told = self._traced(condition, task.guidance, original, table)

        def make() -> Steps:
            def step(index: int, latents: torch.Tensor) -> torch.Tensor:
                inputs, timestep = table.model_input(index, latents), table.timestep(index)
                if guides is None:
                    prediction = traced(inputs, timestep, *told)
                else:
                    added = guides.added(index, inputs, timestep, condition)
                    prediction = self._model.predict(inputs, timestep, condition, task.guidance, added)
                return table.step(index, prediction, latents, draws)

            # What control layers keep may be let go of: a captured graph would read what is no longer there.
            return Steps(step, table.start, table.total, original, capture=guides is None and not moves)

        # Nor may weights be moved (lower rungs of the memory ladder): the hooks that do it are on the denoiser.
        moves = bool(self._model.denoiser._forward_pre_hooks)
        same = (id(condition), id(table), id(noise), id(traced), id(guides), task.guidance, task.wrap, moves)
        steps = self._steps.get((same, original.shape), make)
        self._running = (steps, traced) if guides is None else None
        with guides or nullcontext():
            return self._run(steps, table, original, noise, kept, superseded)

    def _run(
        self,
        steps: Steps,
        table: FewStep,
        original: torch.Tensor,
        noise: torch.Tensor,
        kept: MaskedChange | None,
        superseded: Superseded,
    ) -> torch.Tensor | None:
        latents = table.noised(table.start, original, noise)
        for index in range(table.start, table.total):
            if superseded((index - table.start) / table.steps):
                self.counts["superseded"] += 1
                return None
            latents = steps(index, latents)
            self.counts["steps"] += 1
            if kept is not None:
                latents, _ = kept.after_step(index, latents, latents)
        return latents

    def _guides_for(self, wish: Wish, table: FewStep, window: Window) -> Guides | None:
        if not wish.controls:
            return None
        key = (wish.controls, id(table), id(self._references), window)
        return self._guides.get(key, lambda: Guides(self._model, table, wish.controls, self._references, window))

    def _traced(
        self, condition: Condition, guidance: float, like: torch.Tensor, table: FewStep
    ) -> tuple[Traced, tuple[torch.Tensor, ...]]:
        """The model's prediction of (inputs, timestep, what it is told), and what it is told: another prompt needs no
        other trace."""
        names = [name for name in _TOLD if getattr(condition, name) is not None]
        told = tuple(getattr(condition, name) for name in names)

        def predict(inputs: torch.Tensor, timestep: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
            now = replace(condition, **dict(zip(names, tensors)))
            return self._model.predict(inputs, timestep, now, guidance)

        # What stays of a condition in a trace: whatever is no tensor of its own.
        rest = id(condition) if condition.negative is not None or condition.references else 0
        shapes = tuple((name, tensor.shape) for name, tensor in zip(names, told))
        key = (like.shape, guidance, shapes, rest, self._weighted)
        return self._traces.get(key, lambda: Traced(predict, (like, table.timestep(table.start), *told))), told

    def _selected(self, selection: Selection, window: Window) -> torch.Tensor:
        def compute() -> torch.Tensor:
            source, plan = window.source, window.plan
            part = selection.denoise[source.y : source.bottom, source.x : source.right]
            small = resized(bytes_to_device(part, self._model.device)[None, None], content_of(plan))[0, 0]
            full = torch.zeros(plan.extent.height, plan.extent.width, dtype=torch.uint8, device=small.device)
            full[: small.shape[0], : small.shape[1]] = small
            return cell_sums(full, self._model.factor)

        return self._masks.get((selection, window), compute)

    def _put(self, wish: Wish, canvas: DeviceCanvas, window: Window, decoded: torch.Tensor, fit: bool) -> Part:
        chosen = wish.selection
        if chosen is None:
            return self._shown.put(canvas.extent, window, decoded, fit)
        return self._shown.put_selected(canvas.extent, window, decoded, fit, chosen, chosen.composite)


def _frame(data: bytes, part: Part, steps: int, clock: _Clock) -> LiveFrame:
    height, width = part.pixels.shape[:2]
    return LiveFrame(data, Extent(width, height), part.box, part.opaque, steps, clock.ms)


class _Clock:
    """Milliseconds between calls, by name. On a graphics card they are those of the host."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}
        self._last = time.perf_counter()

    def __call__(self, name: str) -> None:
        now = time.perf_counter()
        self.ms[name] = self.ms.get(name, 0.0) + (now - self._last) * 1000.0
        self._last = now
