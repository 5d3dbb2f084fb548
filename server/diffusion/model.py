# SPDX-License-Identifier: GPL-3.0-or-later
"""What every family's loaded model offers to the rest of the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from krita_sd.geometry import NativeRange
from server.diffusion.sampling import Feature
from server.diffusion.task import Pixels, Task

if TYPE_CHECKING:
    from server.diffusion.features.preview import Previewer

Value = TypeVar("Value")
Hole = NDArray[np.bool_]


class Recent(Generic[Value]):
    """The last few values that were computed, by key; counts how often it had to compute."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self.computed = 0

    def get(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        """The value of `key`, computed when it is not among the kept ones."""
        if key not in self._values:
            value = compute()
            self.computed += 1
            self._values[key] = value
            if len(self._values) > self._size:
                self._values.popitem(last=False)
        self._values.move_to_end(key)
        return self._values[key]

    def clear(self) -> None:
        self._values.clear()


class LoadedModel(ABC):
    """A model in memory. One job at a time; nothing of a job stays on it, apart from caches keyed by their inputs.

    family: row of the families table. native: sizes it was trained for. defaults: what to use when a recipe leaves it
    open: any of steps, guidance, sampler, min_steps. factor: pixels per latent cell. schedule_config: the model's
    original scheduler config. inpainting: has mask channels. latent_scale: what encoded latents are multiplied with.
    """

    family: str
    native: NativeRange
    defaults: dict[str, Any]
    device: torch.device
    dtype: torch.dtype
    factor: int
    schedule_config: Mapping[str, Any]
    inpainting: bool
    latent_channels: int
    latent_scale: float
    previewer: Previewer

    @property
    @abstractmethod
    def denoiser(self) -> Any:
        """The module that predicts (UNet or transformer)."""

    @property
    @abstractmethod
    def autoencoder(self) -> Any:
        """The module between pixels and latents."""

    @property
    @abstractmethod
    def tiny_decoder(self) -> Any | None:
        """A small decoder of the same latents for previews, or None."""

    @abstractmethod
    def condition(self, task: Task) -> torch.Tensor:
        """What the denoiser is conditioned on: (2, n, d) negative and positive with guidance, (1, n, d) without."""

    @abstractmethod
    def predict(
        self, inputs: torch.Tensor, timestep: torch.Tensor, condition: torch.Tensor, guidance: float
    ) -> torch.Tensor:
        """The guided prediction float32 (1, 4, h, w) for scaled inputs float32 (1, channels, h, w)."""

    @abstractmethod
    def encode_pixels(self, pixels: Pixels, hole: Hole | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of the unscaled latents of RGB pixels, float32 (1, 4, h/f, w/f) on the device.

        Where `hole` (bool, height x width) is set, the exact middle of the range stands in for the pixels.
        """

    @abstractmethod
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels float (1, 3, h, w), -1..1 and beyond, of scaled latents float32 (1, 4, h/f, w/f)."""

    @abstractmethod
    def weight_features(self, task: Task) -> list[Feature]:
        """Features that change weights for the time of a job, in the order in which they are entered."""

    @abstractmethod
    def unload(self) -> None:
        """Free the memory; the model cannot be used afterwards."""


def sample_latents(
    model: LoadedModel, pixels: Pixels, generator: torch.Generator, hole: Hole | None = None
) -> torch.Tensor:
    """Scaled latents of RGB pixels, drawn from the autoencoder's distribution with the image's own generator."""
    mean, deviation = model.encode_pixels(pixels, hole)
    return model.latent_scale * (mean + deviation * draw_noise(mean.shape, generator, mean.device))


def draw_noise(shape: torch.Size, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """Standard normal float32 noise drawn on the CPU: the same for every device and precision."""
    return torch.randn(shape, generator=generator, dtype=torch.float32).to(device)


def bytes_to_device(array: Pixels, device: torch.device) -> torch.Tensor:
    """A uint8 array as a tensor of the same shape; a copy only where torch cannot take the array as it lies."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device)


def pixels_to_tensor(pixels: Pixels, device: torch.device) -> torch.Tensor:
    """RGB bytes (h, w, 3) to float32 (1, 3, h, w), -1..1; converted on the device.

    The memory stays channels-last, as in the diffusers pipelines: convolutions round differently in another order.
    """
    tensor = bytes_to_device(pixels, device)
    return 2.0 * (tensor[None].permute(0, 3, 1, 2).to(torch.float32) / 255.0) - 1.0


def tensor_to_pixels(tensor: torch.Tensor) -> Pixels:
    """Float (1, 3, h, w), -1..1, to RGB bytes (h, w, 3); converted on the device, so only bytes are copied."""
    unit = (tensor[0].to(torch.float32) * 0.5 + 0.5).clamp(0.0, 1.0)
    return (unit * 255.0).round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
