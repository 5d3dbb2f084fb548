# SPDX-License-Identifier: GPL-3.0-or-later
"""Samplers by their A1111 names: a fresh diffusers scheduler per job behind one small interface.

Timesteps and sigma tables stay on the CPU, where every scheduler reads its scalars from; only the timestep that the
model sees is a tensor on the device. So no step waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch

from krita_sd.wire.errors import bad_request

Spacing = Callable[[int], Mapping[str, Any]]
"""A family's own noise levels: arguments of a scheduler's set_timesteps (`sigmas`, `mu`) for so many steps."""


@dataclass(frozen=True)
class Solver:
    """A diffusers scheduler class with settings on top of the model's own schedule.

    draws: its steps take noise from the image's generator. order: calls of the model per step. estimate: where the
    estimate of the final latents is found: "returned" by the step, "kept" by the solver, or made here from alphas or
    from the flow's sigma.
    """

    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    draws: bool = False
    order: int = 1
    estimate: str = "returned"


_DPM = {"algorithm_type": "dpmsolver++", "solver_order": 2, "final_sigmas_type": "zero"}
DIFFUSION: dict[str, Solver] = {
    "Euler": Solver("EulerDiscreteScheduler", {"use_karras_sigmas": False}),
    "Euler a": Solver("EulerAncestralDiscreteScheduler", draws=True),
    "DPM++ 2M": Solver("DPMSolverMultistepScheduler", {**_DPM, "use_karras_sigmas": False}, estimate="kept"),
    "DPM++ 2M Karras": Solver("DPMSolverMultistepScheduler", {**_DPM, "use_karras_sigmas": True}, estimate="kept"),
    "UniPC": Solver("UniPCMultistepScheduler", estimate="kept"),
    "DDIM": Solver("DDIMScheduler"),
    "LCM": Solver("LCMScheduler", draws=True),
}
"""Samplers of the models that were trained on 1000 noise levels (SD1, SD2, SDXL)."""

FLOW: dict[str, Solver] = {
    "Euler": Solver("FlowMatchEulerDiscreteScheduler", estimate="flow"),
}
"""Samplers of the models that predict a velocity between picture and noise (SD3, Flux and later)."""


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a scheduler config is of a flow-matching model."""
    return str(config.get("_class_name", "")).startswith("FlowMatch") or bool(config.get("use_flow_sigmas"))


def solvers_of(config: Mapping[str, Any]) -> dict[str, Solver]:
    """The samplers that a model with this scheduler config can be run with."""
    return FLOW if is_flow(config) else DIFFUSION


def solver_of(name: str, config: Mapping[str, Any]) -> Solver:
    """The solver of a sampler. Raises WireError(bad_request) when the model cannot be run with it."""
    table = solvers_of(config)
    if name not in table:
        raise bad_request(f"This model cannot be run with the sampler {name}.", f"Choose {', '.join(table)}.")
    return table[name]


def make_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """A new diffusers scheduler built from the model's original scheduler config (chaining would leak arguments)."""
    solver = solver_of(name, config)
    if not is_flow(config):
        # Old folders miss both, and the classes' defaults are for pixel models; the pipelines correct them too.
        config = {**config, "clip_sample": False, "steps_offset": 1}
    return getattr(diffusers, solver.kind).from_config(config, **solver.settings)


class Schedule:
    """One job's noise schedule: calls start..total-1 of the model in a sampler's own order.

    Solvers of second order call the model twice per step, so `start`, `total` and `index` count calls of the plan. It
    is shortened to the model's noise levels (1000) when it is longer. Latents are float32.
    """

    def __init__(
        self,
        name: str,
        config: Mapping[str, Any],
        total: int,
        start: int,
        device: torch.device | str = "cpu",
        spacing: Spacing | None = None,
    ) -> None:
        self._solver = solver_of(name, config)
        self._flow = is_flow(config)
        self._scheduler = make_scheduler(name, config)
        trained = self._scheduler.config.num_train_timesteps
        if total > trained:
            # A tiny strength with a minimum of steps plans more steps than there are noise levels: run as many, later.
            total, start = trained, trained - min(total - start, trained)
        self.name = name
        extra: dict[str, Any] = dict(spacing(total)) if spacing is not None else {}
        if "original_inference_steps" in self._scheduler.config:
            # LCM and TCD pick their steps from so many; a longer plan needs a longer list to pick from.
            if total > self._scheduler.config.original_inference_steps:
                extra["original_inference_steps"] = total
        self._scheduler.set_timesteps(total, device="cpu", **extra)
        self._timesteps = self._scheduler.timesteps
        self.total = len(self._timesteps)
        self.start = min(start * self._solver.order, self.total)
        self._model_timesteps = self._timesteps.to(device)
        self._can_begin = hasattr(self._scheduler, "set_begin_index")
        # add_noise(x, n) is a*x + b*n for every scheduler: (a, b) per index, read off once with x=1,n=0 and x=0,n=1.
        self._mix = [self._mixture(index) for index in range(self.start, self.total)]
        self._begin(self.start)
        self.pure_noise_scale = 1.0 if self._flow else self._scheduler.init_noise_sigma

    @property
    def steps(self) -> int:
        """How many calls of the model run."""
        return self.total - self.start

    def ends_step(self, index: int) -> bool:
        """Whether call `index` is the last one of a step."""
        return index == self.total - 1 or (index + 1) % self._solver.order == 0

    def noised(self, index: int, original: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """`original` with the noise level that the latents have before call `index`; itself after the last one."""
        if index >= self.total:
            return original
        a, b = self._mix[index - self.start]
        return a * original + b * noise

    def timestep(self, index: int) -> torch.Tensor:
        """The model's timestep of call `index`: a scalar tensor on the device."""
        return self._model_timesteps[index]

    def model_input(self, index: int, latents: torch.Tensor) -> torch.Tensor:
        """Latents scaled to what the model was trained to see."""
        if self._flow:
            return latents
        return self._scheduler.scale_model_input(latents, self._timesteps[index])

    def step(
        self, index: int, prediction: torch.Tensor, latents: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One solver step: (latents for call index + 1, estimate of the final latents)."""
        extra = {"generator": generator} if self._solver.draws else {}
        out = self._scheduler.step(prediction, self._timesteps[index], latents, return_dict=False, **extra)
        if self._solver.estimate == "returned":
            return out[0], out[1]
        if self._solver.estimate == "kept":
            return out[0], self._scheduler.model_outputs[-1]
        return out[0], latents - self._scheduler.sigmas[index] * prediction

    def _begin(self, index: int) -> None:
        if self._can_begin and index < self.total:
            self._scheduler.set_begin_index(index)

    def _mixture(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self._begin(index)
        one, zero, when = torch.ones(1), torch.zeros(1), self._timesteps[index : index + 1]
        if self._flow:
            a, b = self._scheduler.scale_noise(one, when, zero), self._scheduler.scale_noise(zero, when, one)
        else:
            a, b = self._scheduler.add_noise(one, zero, when), self._scheduler.add_noise(zero, one, when)
        return a[0], b[0]
