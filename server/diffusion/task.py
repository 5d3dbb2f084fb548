# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes into the engine and what comes out: plain frozen data, no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from krita_sd.wire.errors import bad_request
from krita_sd.wire.limits import MAX_SEED
from krita_sd.wire.messages import PREVIEW_LEVELS
from krita_sd.wire.recipe import SAMPLERS, TILINGS

MAX_STEPS = 10_000  # of the plan: strength 0.01 with a minimum of steps makes total far larger than what runs

LOOKED_AT = ("ip_adapter", "redux", "own")
"""Kinds of control models whose picture is looked at as a whole and may have any size."""

Pixels = NDArray[np.uint8]
Phase = Literal["encoding", "sampling", "decoding"]
Command = Literal["cancel", "finish"]


class Cancelled(Exception):
    """The job was cancelled; raised out of `generate` and `load_model` and never wrapped."""


@dataclass(frozen=True)
class ControlLayer:
    """A control layer of a task. model: a loaded `ControlModel` or `ReferenceModel`. image: uint8 (height, width, 3)
    RGB of the render size, for reference pictures of any. weight 0..2, acting in the share start..end of the steps
    that run, 0..1. type: as in the recipe."""

    model: Any
    image: Pixels = field(repr=False, compare=False)
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    type: str = ""


@dataclass(frozen=True)
class Task:
    """One picture to make. Sizes are render sizes in pixels; everything is a real value, 0 and "" included.

    width, height: multiples of the VAE's factor (8). image: uint8 (height, width, 3) RGB or None. mask: uint8
    (height, width), how much each pixel may change, 0..255 (soft: differential), needs an image. total_steps and
    start_step are the plan of the schedule; steps start_step..total_steps-1 run, none when they are equal.
    guidance <= 1 runs without the negative prompt. inversions: textual inversions by the names that stand for them in
    both prompts. vae: file of another autoencoder. clip_skip counts as in A1111: 0 and 1 are the last layer of the text
    encoder, 2 the one before it. begin: where sampling starts at start_step 0: "image" is the noised image, "noise" is
    noise alone, "auto" is noise with a mask and the image without. variation: 0 is the noise of `seed`, 1 that of
    `variation_seed`, 0..1 between them. wrap: "x", "y" or "xy": the picture goes on beyond its edges at the opposite
    ones. pieces: side in pixels of the overlapping pieces in which the picture is denoised; 0: as a whole.
    """

    prompt: str = ""
    negative: str = ""
    seed: int = 0
    total_steps: int = 20
    start_step: int = 0
    guidance: float = 7.0
    sampler: str = "DPM++ 2M"
    width: int = 512
    height: int = 512
    image: Pixels | None = field(default=None, repr=False, compare=False)
    mask: Pixels | None = field(default=None, repr=False, compare=False)
    loras: tuple[tuple[Path, float], ...] = ()
    inversions: tuple[tuple[str, Path], ...] = ()
    vae: Path | None = None
    clip_skip: int = 0
    preview: str = "rgb"
    begin: Literal["auto", "image", "noise"] = "auto"
    controls: tuple[ControlLayer, ...] = ()
    variation: float = 0.0
    variation_seed: int = 0
    wrap: str = ""
    pieces: int = 0

    def check(self, multiple: int = 8) -> None:
        """Raise WireError(bad_request) when a field is out of range or two fields do not fit together."""
        if self.width < multiple or self.height < multiple or self.width % multiple or self.height % multiple:
            raise bad_request(f"The render size {self.width}x{self.height} is not a multiple of {multiple} pixels.")
        if not 0 <= self.seed <= MAX_SEED:
            raise bad_request("The seed must be between 0 and 2^63-1.")
        if not 1 <= self.total_steps <= MAX_STEPS or not 0 <= self.start_step <= self.total_steps:
            raise bad_request(f"The step plan {self.start_step} of {self.total_steps} is not possible.")
        if self.sampler not in SAMPLERS:
            raise bad_request(f"There is no sampler named {self.sampler!r}.", "Known: " + ", ".join(SAMPLERS) + ".")
        if self.preview not in PREVIEW_LEVELS:
            raise bad_request(f"There is no preview level named {self.preview!r}.")
        if not 0.0 <= self.guidance <= 100.0:  # also refuses NaN
            raise bad_request("Guidance must be between 0 and 100.")
        if not 0 <= self.clip_skip <= 12:
            raise bad_request("Clip skip must be between 0 and 12.")
        if self.image is not None and (
            self.image.dtype != np.uint8 or self.image.shape != (self.height, self.width, 3)
        ):
            raise bad_request("The picture to start from does not have the render size.")
        if self.mask is not None and (self.mask.dtype != np.uint8 or self.mask.shape != (self.height, self.width)):
            raise bad_request("The mask does not have the render size.")
        for layer in self.controls:
            shape = layer.image.shape if layer.model.kind in LOOKED_AT else (self.height, self.width, 3)
            if layer.image.dtype != np.uint8 or layer.image.ndim != 3 or layer.image.shape != shape:
                raise bad_request("The picture of a control layer does not have the render size.")
        if not 0.0 <= self.variation <= 1.0 or not 0 <= self.variation_seed <= MAX_SEED:
            raise bad_request("A variation must be between 0 and 1, and its seed between 0 and 2^63-1.")
        if self.wrap not in TILINGS:
            raise bad_request(f"There is no tiling named {self.wrap!r}.")
        if self.pieces < 0 or self.pieces % multiple:
            raise bad_request(f"The size of a piece, {self.pieces}, is not a multiple of {multiple} pixels.")
        if self.mask is not None and self.image is None:
            raise bad_request("A mask needs a picture to change.")
        if self.image is None and self.start_step > 0:
            raise bad_request("Starting in the middle of the schedule needs a picture to start from.")


@dataclass(frozen=True)
class Step:
    """One executed step: k of total counts executed steps, 1..total. `preview()` computes the picture when called.

    `preview` returns uint8 (h', w', 3) RGB of the current estimate of the final picture, smaller than the render size
    except at level "full"; None at level "off".
    """

    k: int
    total: int
    executed: int
    preview: Callable[[], Pixels | None]


@dataclass(frozen=True)
class Output:
    """A finished picture: uint8 (height, width, 3) RGB, steps run, whether stopped early, milliseconds per phase."""

    image: Pixels = field(repr=False)
    steps_run: int = 0
    partial: bool = False
    ms: dict[str, float] = field(default_factory=dict)
