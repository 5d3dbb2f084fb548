# SPDX-License-Identifier: GPL-3.0-or-later
"""Control layers of a recipe: their models in memory, and their pictures as the models were trained to see them.

Lines are white on black for a model, but dark on light for a painter; both are taken, and told apart by which there is
more of. What is transparent is background.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from krita_sd.geometry import RenderPlan
from krita_sd.wire.errors import bad_request
from krita_sd.wire.frames import Picture
from krita_sd.wire.recipe import REFERENCES, Control, Recipe

from . import pixels
from .models import file_stamp

Array = NDArray[np.uint8]

KEPT = 4
"""Control models and upscalers that stay loaded."""

LINES = ("scribble", "line_art", "soft_edge", "canny")
_ON_PAPER = ("tile", "blur", "stencil")


class PartCache:
    """Control models and upscalers by path, least recently used first; a file that was replaced is read again."""

    def __init__(self, device: str, dtype: Any = None) -> None:
        self._device = device
        self._dtype = dtype
        self._held: OrderedDict[str, tuple[Any, Any]] = OrderedDict()
        self.loads = 0

    def get(self, path: Path, load: Callable[..., Any], cancelled: Callable[[], bool]) -> Any:
        """What `load(path, device=, dtype=, cancelled=)` gives. Raises WireError(model_*) or the engine's Cancelled."""
        stamp = file_stamp(path)
        held = self._held.get(str(path))
        if held is not None and held[0] == stamp and stamp:
            self._held.move_to_end(str(path))
            return held[1]
        self._drop(str(path))
        while len(self._held) >= KEPT:
            self._drop(next(iter(self._held)))
        part = load(path, device=self._device, dtype=self._dtype, cancelled=cancelled)
        self.loads += 1
        self._held[str(path)] = (stamp, part)
        return part

    def holds(self, part: Any) -> bool:
        """Whether what `get` once gave is still loaded; it counts as used then."""
        key = next((key for key, held in self._held.items() if held[1] is part), None)
        if key is not None:
            self._held.move_to_end(key)
        return key is not None

    def free(self) -> None:
        """Unload everything."""
        for key in list(self._held):
            self._drop(key)

    def _drop(self, key: str) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            held[1].unload()


@dataclass(frozen=True)
class Layer:
    """A control layer ready to be rendered: its wish, its loaded model, its map at the target extent."""

    wish: Control
    model: Any
    map: Array

    def rendered(self, plan: RenderPlan, wrap: str = "") -> Any:
        """The engine's layer for a pass with this plan."""
        from server.diffusion.task import ControlLayer

        image = self.map if self.wish.type in REFERENCES else pixels.to_render(self.map, plan, wrap)
        return ControlLayer(self.model, image, self.wish.weight, self.wish.start, self.wish.end, self.wish.type)


def control_layers(
    recipe: Recipe,
    settings: dict[str, Any],
    pictures: dict[str, Picture],
    parts: PartCache,
    cancelled: Callable[[], bool],
) -> tuple[Layer, ...]:
    """The recipe's control layers. Raises WireError(model_*, bad_request, unsupported)."""
    if not recipe.controls:
        return ()
    from server.diffusion.control_loading import load_control
    from server.diffusion.features.looks import OwnEyes
    from server.diffusion.redux_loading import load_redux
    from server.diffusion.reference_loading import load_reference

    out = []
    for wish, found in zip(recipe.controls, settings["controls"]):
        picture = pictures[wish.image]
        if wish.type in REFERENCES:
            if found["kind"] == "own":
                model: Any = OwnEyes(found["name"])
            else:
                load = load_redux if found["kind"] == "redux" else load_reference
                model = parts.get(Path(found["path"]), load, cancelled)
            out.append(Layer(wish, model, pixels.rgb_of(picture)))
            continue
        if (picture.format, picture.width, picture.height) != ("bgra8", recipe.width, recipe.height):
            raise bad_request(
                f"A control layer is {picture.width} x {picture.height} pixels of {picture.format}, "
                f"but {recipe.width} x {recipe.height} of bgra8 are needed."
            )
        model = parts.get(Path(found["path"]), load_control, cancelled)
        out.append(Layer(wish, model, map_of(picture, wish.type)))
    return tuple(out)


def map_of(picture: Picture, type: str) -> Array:
    """uint8 (height, width, 3) RGB: the control picture over the background of its type, lines white on black."""
    if type in _ON_PAPER:
        return pixels.rgb_of(picture)
    bgra = np.frombuffer(picture.data, np.uint8).reshape(picture.height, picture.width, 4)
    rgb, alpha = bgra[..., 2::-1].astype(np.uint16), bgra[..., 3:].astype(np.uint16)
    weight = float(alpha.sum(dtype=np.int64))
    mean = float((rgb * alpha).sum(dtype=np.int64)) / (3.0 * weight) if weight else 0.0
    opaque = int(alpha.min(initial=255)) == 255
    # On a layer with holes what is painted are the lines; on a full one most of it is background.
    dark_lines = type in LINES and weight > 0 and (mean > 127.0 if opaque else mean <= 127.0)
    if dark_lines:
        rgb = 255 - rgb
    return ((rgb * alpha + 127) // 255).astype(np.uint8)
