# SPDX-License-Identifier: GPL-3.0-or-later
"""One picture from one task: encode, sample, decode, each timed, checked and stoppable."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

from server.diffusion.checks import in_float32, is_finite, nan_output
from server.diffusion.features.control import Controls
from server.diffusion.features.control_flow import FLOW_NETS, FlowControls
from server.diffusion.features.looks import Looks, looked_at
from server.diffusion.features.masks import MaskChannels, MaskedChange, cell_sums
from server.diffusion.features.redux import ReduxWords
from server.diffusion.features.reference import References
from server.diffusion.features.wrap import Wrapped
from server.diffusion.model import (
    Condition,
    LoadedModel,
    bytes_to_device,
    draw_noise,
    sample_latents,
    tensor_to_pixels,
)
from server.diffusion.noise import slerp
from server.diffusion.pieces import Guide, PiecewiseAutoencoder, Predictor
from server.diffusion.sampling import Control, Denoised, Feature, denoise, no_control
from server.diffusion.schedules import Schedule
from server.diffusion.task import LOOKED_AT, Cancelled, Output, Phase, Pixels, Step, Task

OnPhase = Callable[[Phase], None]
OnStep = Callable[[Step], None]


@torch.inference_mode()
def generate(
    model: LoadedModel,
    task: Task,
    on_phase: OnPhase | None = None,
    on_step: OnStep | None = None,
    control: Control | None = None,
) -> Output:
    """Make the picture of `task`.

    `on_phase` hears "encoding", "sampling" and "decoding" as they begin, `on_step` every executed step. `control` is
    asked at every step and before the decode: "cancel" raises Cancelled, "finish" decodes the newest estimate and
    gives `partial=True`. Raises WireError(bad_request, nan_output). Same model, task and machine: same bytes.
    """
    task.check(model.multiple)
    return _Job(model, task, on_phase, on_step, control or no_control).run()


class _InvalidStep(Exception):
    """The first prediction holds invalid numbers; no need to run the other steps."""


class _Job:
    """The state of one call of `generate`."""

    def __init__(
        self, model: LoadedModel, task: Task, on_phase: OnPhase | None, on_step: OnStep | None, control: Control
    ) -> None:
        self.model = model
        self.task = task
        self.on_phase = on_phase
        self.on_step = on_step
        self.control = control
        self.ms: dict[str, float] = {}
        self.reported = 0

    def run(self) -> Output:
        if self.task.image is not None and self.task.start_step == self.task.total_steps:
            # Strength 0: a trip through the autoencoder would change what the painter asked to keep.
            self._stop_if_cancelled()
            return Output(self.task.image.copy(), 0, False, self.ms)
        with ExitStack() as undo:
            for feature in self._model_features():
                undo.enter_context(feature)
            with self._phase("encoding"):
                self._stop_if_cancelled()
                condition = self.model.condition(self.task)
                if self.task.image is not None and self._needs_latents():
                    self._stop_if_cancelled()
                    self.model.encode_pixels(self.task.image)  # kept by the model: sampling finds it there
                for pixels in looked_at(self.model, self.task):
                    self._stop_if_cancelled()
                    self.model.encode_pixels(pixels)
            with self._phase("sampling"):
                result = self._sample_checked(condition)
            self._stop_if_cancelled()
            with self._phase("decoding"):
                pixels = self._decode_checked(result.latents)
        return Output(pixels, result.steps_run, result.partial, self.ms)

    def _model_features(self) -> list[Feature]:
        """Features that change the model itself for the time of the job."""
        model, task = self.model, self.task
        features = model.weight_features(task)
        if task.wrap:
            nets = [layer.model.module for layer in task.controls if layer.model.kind not in LOOKED_AT]
            features.append(Wrapped(model, nets, task.wrap))
        if task.pieces and max(task.width, task.height) > task.pieces:
            features.append(PiecewiseAutoencoder(model, task.pieces))
        return features

    def _sample_checked(self, condition: Condition) -> Denoised:
        result = self._try_sample(condition)
        if result is None:
            with in_float32(self.model.denoiser) as widened:
                result = self._try_sample(condition) if widened else None
        if result is None:
            raise nan_output("sampling")
        return result

    def _try_sample(self, condition: Condition) -> Denoised | None:
        """The result, or None when it holds invalid numbers."""
        try:
            result = self._sample(condition)
        except _InvalidStep:
            return None
        return result if is_finite(result.latents) else None

    def _sample(self, condition: Condition) -> Denoised:
        """Draw noise and run the loop. The order of draws is that of the diffusers pipelines: picture, noise, masked
        picture, then the sampler's own.
        """
        model, task = self.model, self.task
        generator = torch.Generator("cpu").manual_seed(task.seed)
        schedule = model.schedule(task.sampler, task.total_steps, task.start_step, task.width, task.height)
        shape = torch.Size((1, model.latent_channels, task.height // model.factor, task.width // model.factor))
        original = None
        if task.image is not None and self._needs_latents():
            original = sample_latents(model, task.image, generator)
            if task.mask is not None:
                # Like the pipelines, which leave img2img latents channels-last: kernels round by memory order.
                original = original.contiguous()
        noise = draw_noise(shape, generator, model.device)
        if task.variation > 0.0:
            other = torch.Generator("cpu").manual_seed(task.variation_seed)
            noise = slerp(noise, draw_noise(shape, other, model.device), task.variation)
        if original is None or self._from_noise():
            latents = noise * schedule.pure_noise_scale
        else:
            latents = schedule.noised(schedule.start, original, noise)
        features = self._mask_features(schedule, original, noise, generator)
        guides = self._guides(schedule)
        features[:0] = guides  # before mask channels are appended to what the model sees
        predictor = Predictor(model, task, condition, guides, self.control)
        checked = False

        def predict(inputs: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            nonlocal checked
            prediction = predictor(inputs, timestep)
            if not checked and not is_finite(prediction):
                raise _InvalidStep  # most overflows show at once; the others at the end, without a wait per step
            checked = True
            return prediction

        with ExitStack() as undo:
            for feature in features:
                undo.enter_context(feature)
            return denoise(schedule, latents, predict, generator, features, self.control, self._report)

    def _guides(self, schedule: Schedule) -> list[Guide]:
        """Control layers by what they do to the model."""
        task = self.task
        adapters = [layer for layer in task.controls if layer.model.kind == "ip_adapter"]
        maps = [layer for layer in task.controls if layer.model.kind not in LOOKED_AT]
        guides: list[Guide] = []
        unets = [layer for layer in maps if layer.model.kind not in FLOW_NETS]
        flows = [layer for layer in maps if layer.model.kind in FLOW_NETS]
        if unets:
            guides.append(Controls(self.model, schedule, unets))
        if adapters:
            guides.append(References(self.model, schedule, adapters))
        redux = [layer for layer in task.controls if layer.model.kind == "redux"]
        if redux:
            guides.append(ReduxWords(self.model, schedule, redux))
        if looked_at(self.model, task):
            guides.append(Looks(self.model, schedule, task))
        if flows:
            guides.append(FlowControls(self.model, schedule, flows, task.guidance))
        return guides

    def _from_noise(self) -> bool:
        """Whether sampling starts from noise alone."""
        task = self.task
        if task.image is None:
            return True
        pure = task.mask is not None if task.begin == "auto" else task.begin == "noise"
        return pure and task.start_step == 0

    def _needs_latents(self) -> bool:
        """Whether the picture's own latents are used: as the start, or to put back what may not change yet."""
        if not self._from_noise():
            return True
        mask = self.task.mask
        if mask is None:
            return False
        return not self.model.inpainting or bool(((mask > 0) & (mask < 255)).any())

    def _mask_features(
        self, schedule: Schedule, original: torch.Tensor | None, noise: torch.Tensor, generator: torch.Generator
    ) -> list[Feature]:
        model, task = self.model, self.task
        features: list[Feature] = []
        if model.inpainting:
            features.append(self._mask_channels(generator))
        if task.mask is not None and original is not None:
            sums = cell_sums(bytes_to_device(task.mask, model.device), model.factor)
            features.append(MaskedChange(schedule, sums, model.factor, original, noise, not model.inpainting))
        return features

    def _mask_channels(self, generator: torch.Generator) -> MaskChannels:
        """Mask and masked picture for an inpainting model. Without a mask all of the picture is unknown to it."""
        model, task = self.model, self.task
        if task.image is None or task.mask is None:
            pixels = np.zeros((task.height, task.width, 3), np.uint8)
            selected = np.full((task.height, task.width), 255, np.uint8)
        else:
            pixels, selected = task.image, task.mask
        return MaskChannels(model.mask_channels(pixels, selected, generator))

    def _report(self, k: int, estimate: torch.Tensor) -> None:
        # A retry in float32 runs the same steps again; progress never goes back.
        if self.on_step is None or k <= self.reported:
            return
        self.reported = k
        level = self.task.preview

        def preview() -> Pixels | None:
            return self.model.previewer.render(estimate, level)

        self.on_step(Step(k, self.task.total_steps - self.task.start_step, k, preview))

    def _decode_checked(self, latents: torch.Tensor) -> Pixels:
        image = self.model.decode(latents)
        if not is_finite(image):
            with in_float32(self.model.autoencoder) as widened:
                if widened:
                    image = self.model.decode(latents)
            if not is_finite(image):
                raise nan_output("decoding")
        return tensor_to_pixels(image)

    def _stop_if_cancelled(self) -> None:
        if self.control() == "cancel":
            raise Cancelled

    @contextmanager
    def _phase(self, name: Phase) -> Iterator[None]:
        if self.on_phase is not None:
            self.on_phase(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.ms[name] = (time.perf_counter() - start) * 1000.0
