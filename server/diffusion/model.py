# SPDX-License-Identifier: GPL-3.0-or-later
"""What every family's loaded model offers to the rest of the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from krita_sd.geometry import NativeRange
from server.diffusion.sampling import Feature
from server.diffusion.schedules import Schedule, Spacing
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


@dataclass(frozen=True)
class Condition:
    """What the denoiser is told besides the picture; made once per job.

    embeds: (n, tokens, width); n = 2, negative first, where guidance runs both as one batch, otherwise 1. pooled:
    (n, width). mask: (n, tokens), which tokens are real. ids: numbers beside the words, such as SDXL's sizes (n, 6).
    negative: the other prompt where guidance runs it as a call of its own. references: latents of pictures to look
    at, scaled like all latents, each (1, channels, h, w).
    """

    embeds: torch.Tensor
    pooled: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    ids: torch.Tensor | None = None
    negative: Condition | None = None
    references: tuple[torch.Tensor, ...] = ()

    @property
    def is_pair(self) -> bool:
        """Whether negative and positive share a batch."""
        return len(self.embeds) == 2


class LoadedModel(ABC):
    """A model in memory. One job at a time; nothing of a job stays on it, apart from caches keyed by their inputs.

    family: row of the families table. native: sizes it was trained for. defaults: what to use when a recipe leaves it
    open: any of steps, guidance, sampler, min_steps. factor: pixels per latent cell; multiple: what sides of a picture
    must be multiples of. schedule_config: the model's original scheduler config. inpainting: has mask channels.
    Latents are (1, channels, h, w) everywhere in the engine; a family that packs them does so inside `predict`.
    """

    family: str
    native: NativeRange
    defaults: dict[str, Any]
    device: torch.device
    dtype: torch.dtype
    factor: int
    multiple: int
    schedule_config: Mapping[str, Any]
    inpainting: bool
    latent_channels: int
    previewer: Previewer
    encoding: tuple[Any, ...] = ()
    """What of the running job changes how pictures are encoded; part of the key under which they are kept."""
    wraps_itself: bool = True
    """Whether its denoiser knows the picture's edges by the padding of its convolutions alone, so that wrapping those
    makes it seamless. Transformers number their tokens: they are shown the picture from another place at every step."""
    looks_itself: bool = False
    """Whether it was trained to look at reference pictures without an adapter."""

    @property
    @abstractmethod
    def denoiser(self) -> Any:
        """The module that predicts (UNet or transformer)."""

    @property
    @abstractmethod
    def autoencoder(self) -> Any:
        """The module between pixels and latents."""

    @property
    def autoencoder_factor(self) -> int:
        """Pixels per cell of what the autoencoder itself gives; cells of the engine's latents may be larger."""
        return self.factor

    @property
    @abstractmethod
    def tiny_decoder(self) -> Any | None:
        """A small decoder of the same latents for previews, or None."""

    @abstractmethod
    def condition(self, task: Task) -> Condition:
        """What the denoiser is told: both prompts with guidance, the positive alone without."""

    @abstractmethod
    def predict(
        self,
        inputs: torch.Tensor,
        timestep: torch.Tensor,
        condition: Condition,
        guidance: float,
        added: Mapping[str, Any] | None = None,
    ) -> torch.Tensor:
        """The guided prediction float32 (1, channels, h, w) for scaled inputs float32 (1, channels and more, h, w).

        Sign, timestep and guidance are the family's: what comes out is what the model's scheduler expects. `added`
        goes to the denoiser as keyword arguments (residuals of a ControlNet), with the batch that it is run with.
        """

    @abstractmethod
    def encode_pixels(self, pixels: Pixels, hole: Hole | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mean and deviation of the unscaled latents of RGB pixels, float32 (1, channels, h/f, w/f) on the device.

        Where `hole` (bool, height x width) is set, the exact middle of the range stands in for the pixels. No
        deviation: the family uses the mean and draws nothing.
        """

    @abstractmethod
    def scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """The autoencoder's latents as the denoiser knows them: shifted and scaled to about one."""

    @abstractmethod
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels float (1, 3, h, w), -1..1 and beyond, of scaled latents float32 (1, channels, h/f, w/f)."""

    @abstractmethod
    def weight_features(self, task: Task) -> list[Feature]:
        """Features that change weights for the time of a job, in the order in which they are entered."""

    @abstractmethod
    def unload(self) -> None:
        """Free the memory; the model cannot be used afterwards."""

    def sees_canvas(self, task: Task) -> bool:
        """Whether the picture that a task starts from is also looked at as a reference."""
        return False

    def reference_pixels(self, picture: Pixels) -> Pixels:
        """A reference picture in the size at which the model looks at it; sides multiples of `multiple`."""
        return picture

    def spacing(self, width: int, height: int) -> Spacing | None:
        """The noise levels that the family chooses for pictures of this size; None: its scheduler's own."""
        return None

    def schedule(self, sampler: str, total: int, start: int, width: int, height: int) -> Schedule:
        """A fresh schedule of steps start..total-1. Raises WireError(bad_request) for a sampler it cannot run with."""
        return Schedule(sampler, self.schedule_config, total, start, self.device, self.spacing(width, height))

    def mask_channels(self, pixels: Pixels, selected: Pixels, generator: torch.Generator) -> torch.Tensor:
        """What an inpainting model sees beside the latents: mask uint8 (h, w) and the picture without what it covers.

        Here as in SD1 to SDXL: one channel of mask, then the masked picture's latents.
        """
        known = sample_latents(self, pixels, generator, hole=selected > 0)
        mask = bytes_to_device(selected, self.device).to(torch.int32)
        cells = mask.reshape(mask.shape[0] // self.factor, self.factor, mask.shape[1] // self.factor, self.factor)
        return torch.cat([(cells.amax(dim=(1, 3)) > 0)[None, None].to(torch.float32), known], dim=1)


def sample_latents(
    model: LoadedModel, pixels: Pixels, generator: torch.Generator, hole: Hole | None = None
) -> torch.Tensor:
    """Scaled latents of RGB pixels, drawn from the autoencoder's distribution with the image's own generator."""
    mean, deviation = model.encode_pixels(pixels, hole)
    if deviation is None:
        return model.scaled(mean)
    return model.scaled(mean + deviation * draw_noise(mean.shape, generator, mean.device))


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
