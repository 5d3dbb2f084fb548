# SPDX-License-Identifier: GPL-3.0-or-later
"""Upscalers of other kinds than ESRGAN's (SwinIR, HAT, DAT, ...), by the optional package spandrel.

It is given tensors that were read from a safetensors file, never a path: its own reader also opens pickles.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from krita_sd.wire.errors import Code, WireError
from server.diffusion.task import Cancelled
from server.diffusion.weights import IsCancelled, Progress, TensorFiles, incomplete
from server.library.upscalers import bare, lacks_extra, network_of

_STANDING_IN = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
_NOT_HERE = ("rotate", "normalize", "InterpolationMode")

MOST_NUMBERED = 4
"""A layer's number in a tensor's name is at most so many times the count of tensors (activations have numbers too). A
made-up number would have the package build as many layers."""


@dataclass(frozen=True)
class Found:
    """What a file turned out to hold. run: float (1, 3, h, w) of 0..1 -> (1, 3, h scale, w scale) of any h and w.
    multiple: sides and places of pieces are best multiples of it; half: it may run in float16."""

    module: Any
    run: Callable[[torch.Tensor], torch.Tensor]
    scale: int
    multiple: int
    half: bool


def package() -> Any:
    """The module `spandrel`. Raises ImportError when it is not installed.

    It imports three names of torchvision for two networks, one that fills holes and one for faces, which are refused
    here. Stand-ins take their place during the import: torchvision has to match torch to the build, and where it is
    installed transformers reads pictures by other code.
    """
    if "spandrel" not in sys.modules:
        with _without_torchvision():
            import spandrel  # noqa: F401
    return sys.modules["spandrel"]


@contextmanager
def _without_torchvision() -> Iterator[None]:
    before = {name: sys.modules.get(name) for name in _STANDING_IN}
    for name in _STANDING_IN:
        sys.modules[name] = ModuleType(name)
    for name in _NOT_HERE:
        setattr(sys.modules[_STANDING_IN[-1]], name, None)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def load(files: TensorFiles, name: str, progress: Progress | None, cancelled: IsCancelled | None) -> Found:
    """The network in the open file called `name`, on the CPU in float32.

    Raises WireError(model_unsupported, model_corrupt), Cancelled.
    """
    names = bare(dict.fromkeys(files.names()))
    try:
        spandrel = package()
    except ImportError as error:
        network = network_of(files.shapes())
        raise lacks_extra(name, network.title if network else "strange") from error
    state: dict[str, torch.Tensor] = {}
    if any(int(number) > MOST_NUMBERED * len(names) for key in names for number in re.findall(r"\d+", key)):
        raise incomplete(name, "network")
    for count, (plain, stored) in enumerate(names.items()):
        if cancelled is not None and cancelled():
            raise Cancelled
        state[plain] = files.read(stored)
        if progress is not None:
            progress((count + 1) / len(names))
    try:
        with warnings.catch_warnings():  # of how the package is written, which no painter can change
            warnings.simplefilter("ignore")
            found = spandrel.ModelLoader().load_from_state_dict(state)
    except spandrel.UnsupportedModelError as error:
        raise _refused(name, "is not an upscaler of a kind that is known here") from error
    except Exception as error:  # it looks for tensors by name and trusts their shapes: anything can come of it
        raise incomplete(name, "network") from error
    if not isinstance(found, spandrel.ImageModelDescriptor) or found.purpose not in ("SR", "Restoration"):
        raise _refused(name, "is a network for holes or faces, which does not work on whole pictures")
    if (found.input_channels, found.output_channels) != (3, 3):
        channels = found.input_channels
        raise _refused(name, f"works on pictures of {channels} channels, not on colour pictures")
    found.model.eval().requires_grad_(False)
    multiple = found.size_requirements.multiple_of
    return Found(found.model, _run_of(found), found.scale, multiple, found.supports_half)


def _run_of(found: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    def run(image: torch.Tensor) -> torch.Tensor:
        device = image.device
        # Some draw noise of their own: it is the same for every piece and every time.
        with torch.random.fork_rng([device] if device.type in ("cuda", "xpu") else [], device_type=_seeded(device)):
            torch.manual_seed(0)
            out: torch.Tensor = found(image)
            return out

    return run


def _seeded(device: torch.device) -> str:
    return device.type if device.type in ("cuda", "xpu") else "cuda"


def _refused(name: str, why: str) -> WireError:
    return WireError(Code.MODEL_UNSUPPORTED, f"The file {name} {why}.", "Use another upscaler, or choose none.")
