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
    estimate of the final latents is found: "returned" by the step, "kept" by the solver, "derived" here. arguments: of
    every step. warms_up: its first step calls the model twice.
    """

    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    draws: bool = False
    order: int = 1
    estimate: str = "returned"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    warms_up: bool = False


def _dpm(kind: str, algorithm: str, karras: bool) -> Solver:
    """DPM-Solver++ of second order (Lu et al., 2022)."""
    settings = {"algorithm_type": algorithm, "solver_order": 2, "final_sigmas_type": "zero"}
    draws = algorithm.startswith("sde")
    return Solver(f"DPMSolver{kind}Scheduler", {**settings, "use_karras_sigmas": karras}, draws, estimate="kept")


_SDE = "sde-dpmsolver++"
_PLAIN = {"use_karras_sigmas": False}
DIFFUSION: dict[str, Solver] = {
    "Euler a": Solver("EulerAncestralDiscreteScheduler", draws=True),
    "Euler": Solver("EulerDiscreteScheduler", _PLAIN),
    "DPM++ 2M": _dpm("Multistep", "dpmsolver++", False),
    "DPM++ 2M Karras": _dpm("Multistep", "dpmsolver++", True),
    "DPM++ SDE": _dpm("Singlestep", _SDE, False),
    "DPM++ SDE Karras": _dpm("Singlestep", _SDE, True),
    "DPM++ 2M SDE": _dpm("Multistep", _SDE, False),
    "DPM++ 2M SDE Karras": _dpm("Multistep", _SDE, True),
    "UniPC": Solver("UniPCMultistepScheduler", estimate="kept"),
    "Heun": Solver("HeunDiscreteScheduler", _PLAIN, order=2),
    "DPM2 a": Solver("KDPM2AncestralDiscreteScheduler", _PLAIN, draws=True, order=2),
    "DDIM": Solver("DDIMScheduler"),
    "PLMS": Solver("PNDMScheduler", {"skip_prk_steps": True}, estimate="derived", warms_up=True),
    "DEIS": Solver("DEISMultistepScheduler", _PLAIN, estimate="derived"),
    "DDPM": Solver("DDPMScheduler", draws=True),
    "LCM": Solver("LCMScheduler", draws=True),
    "TCD": Solver("TCDScheduler", draws=True, estimate="derived", arguments={"eta": 0.3}),
    "Euler trailing": Solver("EulerDiscreteScheduler", {**_PLAIN, "timestep_spacing": "trailing"}),
}
"""Samplers of the models that were trained on 1000 noise levels (SD1, SD2, SDXL)."""

FLOW: dict[str, Solver] = {
    "Euler": Solver("FlowMatchEulerDiscreteScheduler", estimate="derived"),
    "Heun": Solver("FlowMatchHeunDiscreteScheduler", order=2, estimate="derived"),
    "LCM": Solver("FlowMatchLCMScheduler", draws=True, estimate="derived"),
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
        extra: dict[str, Any] = {}
        if "original_inference_steps" in self._scheduler.config:
            # LCM and TCD pick their steps from so many; a longer plan needs a longer list to pick from.
            if total > self._scheduler.config.original_inference_steps:
                extra["original_inference_steps"] = total
        if self._flow:
            self._set_flow_levels(config, total, spacing)
        else:
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
        if self._solver.warms_up and index == self.start:
            return self.steps == 1
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
        out = self._scheduler.step(
            prediction, self._timesteps[index], latents, return_dict=False, **extra, **self._solver.arguments
        )
        if self._solver.estimate == "returned":
            return out[0], out[1]
        if self._solver.estimate == "kept":
            return out[0], self._scheduler.model_outputs[-1]
        return out[0], self._estimate(index, prediction, latents)

    def _estimate(self, index: int, prediction: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """The final latents as the model sees them at call `index`: latents are a * final + b * noise."""
        a, b = self._mix[index - self.start]
        if self._flow:
            return latents - b * prediction
        kind = self._scheduler.config.prediction_type
        if kind == "v_prediction":
            return a * latents - b * prediction
        return prediction if kind == "sample" else (latents - b * prediction) / a

    def _set_flow_levels(self, config: Mapping[str, Any], total: int, spacing: Spacing | None) -> None:
        """Noise levels of the family for every solver alike; Heun's class knows no levels but its own."""
        arguments = dict(spacing(total)) if spacing is not None else {}
        # A last level to stretch to (Qwen-Image's) makes no sense of a single one: diffusers divides 0 by 0.
        single = {"shift_terminal": None} if total == 1 else {}
        levels = diffusers.FlowMatchEulerDiscreteScheduler.from_config(config, **single)
        if "sigma_min" in arguments:
            levels.sigma_min = arguments.pop("sigma_min")
        levels.set_timesteps(None if "sigmas" in arguments else total, device="cpu", **arguments)
        scheduler = self._scheduler
        if self._solver.order == 2:
            scheduler.set_timesteps(total, device="cpu")
            sigmas, times = levels.sigmas, levels.timesteps
            scheduler.sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
            scheduler.timesteps = torch.cat([times[:1], times[1:].repeat_interleave(2)])
        else:
            scheduler.register_to_config(shift_terminal=None)
            scheduler.set_timesteps(total, device="cpu", sigmas=[1.0] * total, mu=1.0)
            scheduler.sigmas, scheduler.timesteps = levels.sigmas, levels.timesteps

    def _begin(self, index: int) -> None:
        if self._can_begin and index < self.total:
            self._scheduler.set_begin_index(index)

    def _mixture(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self._flow:
            sigma = self._scheduler.sigmas[index]
            return 1.0 - sigma, sigma
        self._begin(index)
        one, zero, when = torch.ones(1), torch.zeros(1), self._timesteps[index : index + 1]
        a = self._scheduler.add_noise(one, zero, when)
        b = self._scheduler.add_noise(zero, one, when)
        return a[0], b[0]
