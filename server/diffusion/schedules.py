# SPDX-License-Identifier: GPL-3.0-or-later
"""Samplers by their A1111 names: a fresh diffusers scheduler per job behind one small interface.

Timesteps and sigma tables stay on the CPU, where every scheduler reads its scalars from; only the timestep that the
model sees is a tensor on the device. So no step waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers
import torch

_DPM = {"algorithm_type": "dpmsolver++", "solver_order": 2, "final_sigmas_type": "zero"}
# name -> (diffusers class, settings on top of the model's own schedule)
_TABLE: dict[str, tuple[str, dict[str, Any]]] = {
    "Euler": ("EulerDiscreteScheduler", {"use_karras_sigmas": False}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {**_DPM, "use_karras_sigmas": False}),
    "DPM++ 2M Karras": ("DPMSolverMultistepScheduler", {**_DPM, "use_karras_sigmas": True}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "DDIM": ("DDIMScheduler", {}),
    "LCM": ("LCMScheduler", {}),
}
_DRAWS_NOISE = frozenset({"Euler a", "LCM"})


def make_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """A new diffusers scheduler built from the model's original scheduler config (chaining would leak arguments)."""
    # Old folders miss both, and the classes' defaults are for pixel models; the pipelines correct them in the same way.
    config = {**config, "clip_sample": False, "steps_offset": 1}
    class_name, settings = _TABLE[name]
    return getattr(diffusers, class_name).from_config(config, **settings)


class Schedule:
    """One job's noise schedule: steps start..total-1 of a plan of `total`, in a sampler's own order.

    `index` always counts steps of the whole plan, which is shortened to the model's noise levels (1000) when it is
    longer. Latents are float32.
    """

    def __init__(
        self, name: str, config: Mapping[str, Any], total: int, start: int, device: torch.device | str = "cpu"
    ) -> None:
        self._scheduler = make_scheduler(name, config)
        trained = self._scheduler.config.num_train_timesteps
        if total > trained:
            # A tiny strength with a minimum of steps plans more steps than there are noise levels: run as many, later.
            total, start = trained, trained - min(total - start, trained)
        self.name = name
        self.total = total
        self.start = start
        extra: dict[str, Any] = {}
        if name == "LCM" and total > self._scheduler.config.original_inference_steps:
            # LCM picks its steps from this many; a longer plan needs a longer list to pick from.
            extra["original_inference_steps"] = total
        self._scheduler.set_timesteps(total, device="cpu", **extra)
        self._timesteps = self._scheduler.timesteps
        self._model_timesteps = self._timesteps.to(device)
        self._can_begin = hasattr(self._scheduler, "set_begin_index")
        # add_noise(x, n) is a*x + b*n for every scheduler: (a, b) per index, read off once with x=1,n=0 and x=0,n=1.
        self._mix = [self._mixture(index) for index in range(start, total)]
        self._begin(start)
        self.pure_noise_scale = self._scheduler.init_noise_sigma

    @property
    def steps(self) -> int:
        """How many steps run."""
        return self.total - self.start

    def noised(self, index: int, original: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """`original` with the noise level that the latents have before step `index`; itself after the last step."""
        if index >= self.total:
            return original
        a, b = self._mix[index - self.start]
        return a * original + b * noise

    def timestep(self, index: int) -> torch.Tensor:
        """The model's timestep of step `index`: a scalar tensor on the device."""
        return self._model_timesteps[index]

    def model_input(self, index: int, latents: torch.Tensor) -> torch.Tensor:
        """Latents scaled to what the model was trained to see."""
        return self._scheduler.scale_model_input(latents, self._timesteps[index])

    def step(
        self, index: int, prediction: torch.Tensor, latents: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One solver step: (latents for step index + 1, estimate of the final latents)."""
        extra = {"generator": generator} if self.name in _DRAWS_NOISE else {}
        out = self._scheduler.step(prediction, self._timesteps[index], latents, return_dict=False, **extra)
        # The multistep solvers keep their x0 estimates; the others return theirs.
        estimate = out[1] if len(out) > 1 else self._scheduler.model_outputs[-1]
        return out[0], estimate

    def _begin(self, index: int) -> None:
        if self._can_begin and index < self.total:
            self._scheduler.set_begin_index(index)

    def _mixture(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self._begin(index)
        one, zero, when = torch.ones(1), torch.zeros(1), self._timesteps[index : index + 1]
        a = self._scheduler.add_noise(one, zero, when)
        b = self._scheduler.add_noise(zero, one, when)
        return a[0], b[0]
