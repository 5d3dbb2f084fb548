# SPDX-License-Identifier: GPL-3.0-or-later
"""The one denoising loop: every task, family, sampler and feature runs through `denoise`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch

from server.diffusion.schedules import Schedule
from server.diffusion.task import Cancelled, Command

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Control = Callable[[], Command | None]
Report = Callable[[int, torch.Tensor], None]


class Feature:
    """Something that hooks the loop for one job. A context manager, so that whatever it changes is put back."""

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put everything back; called whatever happened."""

    def before_model(self, index: int, inputs: torch.Tensor) -> torch.Tensor:
        """Change what the model sees at call `index`: scaled latents (1, channels, h, w)."""
        return inputs

    def after_step(
        self, index: int, latents: torch.Tensor, estimate: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Change the latents for step index + 1 and the estimate of the final latents."""
        return latents, estimate


@dataclass(frozen=True)
class Denoised:
    """Final latents (or the estimate, when stopped early), steps run, and whether it was stopped early."""

    latents: torch.Tensor
    steps_run: int
    partial: bool


def no_control() -> Command | None:
    """The control of a job that nobody stops."""
    return None


def denoise(
    schedule: Schedule,
    latents: torch.Tensor,
    predict: Predict,
    generator: torch.Generator,
    features: Sequence[Feature] = (),
    control: Control = no_control,
    report: Report | None = None,
) -> Denoised:
    """Run the steps of `schedule` on float32 latents (1, channels, h, w).

    `predict(inputs, timestep)` is the model with guidance applied. `control` is asked before every call of the model:
    "cancel" raises Cancelled there, "finish" returns the newest estimate (after one step at least).
    `report(k, estimate)` is called after the k-th executed step, k from 1.
    """
    estimate: torch.Tensor | None = None
    done = 0
    for index in range(schedule.start, schedule.total):
        command = control()
        if command == "cancel":
            raise Cancelled
        if command == "finish" and estimate is not None:
            return Denoised(estimate, done, partial=True)
        inputs = schedule.model_input(index, latents)
        for feature in features:
            inputs = feature.before_model(index, inputs)
        prediction = predict(inputs, schedule.timestep(index))
        latents, estimate = schedule.step(index, prediction, latents, generator)
        for feature in features:
            latents, estimate = feature.after_step(index, latents, estimate)
        if not schedule.ends_step(index):
            continue
        done += 1
        if report is not None:
            report(done, estimate)
    return Denoised(latents, done, partial=False)
