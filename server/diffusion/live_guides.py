# SPDX-License-Identifier: GPL-3.0-or-later
"""Control layers and reference pictures in Live: their pictures are of the canvas, and follow the window of a frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch

from krita_sd.wire.errors import Code, WireError
from server.diffusion.features.control import Controls
from server.diffusion.features.reference import References
from server.diffusion.few_step import FewStep
from server.diffusion.live_canvas import fitted
from server.diffusion.live_window import Window
from server.diffusion.model import Condition, LoadedModel, bytes_to_device
from server.diffusion.task import ControlLayer, Pixels

_REFERENCE = "ip_adapter"


@dataclass(frozen=True)
class LiveControl:
    """A control layer of a wish. image: uint8 (height, width, 3) RGB of the canvas's extent, for a reference of any.

    key: equal for equal control models and pictures. The rest is as in `ControlLayer`.
    """

    key: object
    model: Any = field(repr=False, compare=False)
    image: Pixels = field(repr=False, compare=False)
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    type: str = ""

    @property
    def is_reference(self) -> bool:
        return str(self.model.kind) == _REFERENCE

    def layer(self, image: Pixels | None = None) -> ControlLayer:
        """The engine's layer, with another picture unless None."""
        return ControlLayer(
            self.model, self.image if image is None else image, self.weight, self.start, self.end, self.type
        )


def references(model: LoadedModel, table: FewStep, controls: Sequence[LiveControl]) -> References | None:
    """The reference pictures among `controls`, which stay in the model for many frames; None without one."""
    layers = [one.layer() for one in controls if one.is_reference]
    return References(model, table, layers) if layers else None  # type: ignore[arg-type]  # it asks for total and start


class Guides:
    """What the control layers add in one window. A context manager for the time of a frame.

    Raises WireError(model_unsupported) for control models that do not fit the model, or that Live cannot use.
    """

    def __init__(
        self,
        model: LoadedModel,
        table: FewStep,
        controls: Sequence[LiveControl],
        references: References | None,
        window: Window,
    ) -> None:
        self._references = references
        maps = [one for one in controls if not one.is_reference]
        for one in maps:
            if one.model.kind in ("own", "redux"):
                raise WireError(
                    Code.MODEL_UNSUPPORTED,
                    "Live cannot show this model reference pictures.",
                    "Take the reference layers out of the list, or choose a Stable Diffusion model.",
                )
        layers = [one.layer(_seen(one.image, window)) for one in maps]
        self._controls = Controls(model, table, layers) if layers else None  # type: ignore[arg-type]
        self._undo = ExitStack()

    def __enter__(self) -> Guides:
        if self._controls is not None:
            self._undo.enter_context(self._controls)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()

    def added(
        self, index: int, inputs: torch.Tensor, timestep: torch.Tensor, condition: Condition
    ) -> Mapping[str, Any]:
        """What the denoiser is told at step `index` beside the words."""
        out: dict[str, Any] = {}
        for guide in (self._controls, self._references):
            if guide is not None:
                guide.before_model(index, inputs)
                out |= guide.added(timestep, condition)
        return out


def _seen(image: Pixels, window: Window) -> Pixels:
    """The part of a picture of the canvas that lies in the window, as large as the window is rendered."""
    source = window.source
    part = bytes_to_device(image[source.y : source.bottom, source.x : source.right], torch.device("cpu"))
    seen: Pixels = fitted(part.permute(2, 0, 1)[None], window.plan)[0].permute(1, 2, 0).contiguous().numpy()
    return seen
