# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine: tensors in, tensors out, callbacks. Knows no sockets and no jobs, writes no file.

    model = load_model(path, "sd1", device="cpu")
    output = generate(model, Task(prompt="a lighthouse", seed=1))

Importing this package imports neither torch nor diffusers; the first use of `load_model` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from server.diffusion.task import MAX_SEED, SAMPLERS, Cancelled, Output, Step, Task

if TYPE_CHECKING:
    from server.diffusion.loading import load_model
    from server.diffusion.model import LoadedModel
    from server.diffusion.picture import generate

__all__ = [
    "MAX_SEED",
    "SAMPLERS",
    "Cancelled",
    "LoadedModel",
    "Output",
    "Step",
    "Task",
    "generate",
    "load_model",
]

_HOMES = {"load_model": "loading", "generate": "picture", "LoadedModel": "model"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
