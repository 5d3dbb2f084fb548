# SPDX-License-Identifier: GPL-3.0-or-later
"""Seamless textures: convolutions that continue at the opposite edge, so that a picture has no edge along an axis.

What stands beside a convolution (attention, norms, the nearest-neighbour enlargement) knows no places or treats them
all alike, so wrapping the padding is enough. Attention in latents with positions would need more: UNets only.
"""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Any

import torch
from torch.nn.functional import conv2d, pad

from server.diffusion.model import LoadedModel
from server.diffusion.sampling import Feature


class Wrapped(Feature):
    """All convolutions of a model, and of what works with it, wrap along `axes` ("x", "y" or "xy") for one job."""

    def __init__(self, model: LoadedModel, others: Iterable[Any], axes: str) -> None:
        self._model = model
        modules = (model.denoiser, model.autoencoder, model.tiny_decoder, *others)
        self._modules = [module for module in modules if module is not None]
        self._axes = axes
        self._changed: list[tuple[Any, str]] = []

    def __enter__(self) -> Wrapped:
        self._before = self._model.encoding
        self._model.encoding = (*self._before, "wrap", self._axes)
        for root in self._modules:
            for module in root.modules():
                if isinstance(module, torch.nn.Conv2d) and not isinstance(module.padding, str):
                    self._replace(module, "_conv_forward", _wrapping_convolution(module, self._axes))
                elif type(module).__name__ == "Downsample2D" and module.use_conv and module.padding == 0:
                    self._replace(module, "forward", _wrapping_reduction(module, self._axes))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for module, name in self._changed:
            del module.__dict__[name]
        self._changed.clear()
        self._model.encoding = self._before

    def _replace(self, module: Any, name: str, method: Any) -> None:
        if name in module.__dict__:
            return  # the same module under two roots
        module.__dict__[name] = method
        self._changed.append((module, name))


def wrap_pad(inputs: torch.Tensor, left: int, right: int, top: int, bottom: int, axes: str) -> torch.Tensor:
    """Padding that continues at the opposite edge along `axes` and is zero along the others."""
    inputs = pad(inputs, (left, right, 0, 0), mode="circular") if "x" in axes else pad(inputs, (left, right, 0, 0))
    return pad(inputs, (0, 0, top, bottom), mode="circular") if "y" in axes else pad(inputs, (0, 0, top, bottom))


def _wrapping_convolution(module: Any, axes: str) -> Any:
    down, across = module.padding

    def forward(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if down or across:
            inputs = wrap_pad(inputs, across, across, down, down, axes)
        return conv2d(inputs, weight, bias, module.stride, 0, module.dilation, module.groups)

    return forward


def _wrapping_reduction(module: Any, axes: str) -> Any:
    # The autoencoder's halving pads by hand, at the right and below only.
    def forward(hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        if module.norm is not None:
            hidden_states = module.norm(hidden_states.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        reduced: torch.Tensor = module.conv(wrap_pad(hidden_states, 0, 1, 0, 1, axes))
        return reduced

    return forward
