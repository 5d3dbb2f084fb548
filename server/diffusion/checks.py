# SPDX-License-Identifier: GPL-3.0-or-later
"""Finite checks and the temporary float32 that a retry runs in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from krita_sd.wire.errors import Code, WireError


def is_finite(tensor: torch.Tensor) -> bool:
    """True when no value is NaN or infinite. Waits for the device: once per stage, not per step."""
    return bool(torch.isfinite(tensor).all())


def nan_output(stage: str) -> WireError:
    """The error of a stage that gave NaN or infinity, also in float32."""
    return WireError(
        Code.NAN_OUTPUT,
        f"The model produced invalid numbers while {stage}.",
        "The model file may be damaged or its settings (guidance, LoRA weights) too extreme; try others.",
    )


@contextmanager
def in_float32(module: Any) -> Iterator[bool]:
    """Run a module in float32 and put its own precision back; yields False when it already was in float32.

    Widening and narrowing again is exact, so the weights afterwards are the weights before.
    """
    before = module.dtype
    if before == torch.float32:
        yield False
        return
    casting = _casting_hooks(module)
    try:
        for hook in casting:
            hook.compute_dtype = torch.float32
        _convert(module, torch.float32)
        yield True
    finally:
        for hook in casting:
            hook.compute_dtype = before
        _convert(module, before)


def _casting_hooks(module: Any) -> list[Any]:
    """Of weights stored in 8 bits: they would widen every layer to the module's own precision only."""
    registries = (getattr(child, "_diffusers_hook", None) for child in module.modules())
    found = (registry.get_hook("layerwise_casting") for registry in registries if registry is not None)
    return [hook for hook in found if hook is not None]


def _convert(module: Any, dtype: torch.dtype) -> None:
    # Parameters made in inference mode could not be written to by a later LoRA or training tool.
    with torch.inference_mode(False), torch.no_grad():
        module.to(dtype)
