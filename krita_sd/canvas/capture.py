# SPDX-License-Identifier: GPL-3.0-or-later
"""Turns a part of a document and its selection into buffers the server understands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..geometry import Bounds, Extent

VISIBLE = "visible"
ACTIVE_LAYER = "active layer"


@dataclass(frozen=True)
class Scene:
    """What the dock and the planner need to know about a document. Costs well under a millisecond to find out.

    selection: bounds of the selected pixels inside the canvas; None when nothing is selected there.
    selection_empty: a selection exists, but no pixel of the canvas is in it (all of it lies off-canvas).
    colour_model, depth, profile: Krita's names, such as "RGBA", "U8", "sRGB-elle-V2-srgbtrc.icc".
    resolution: pixels per inch.
    """

    doc_id: str
    name: str
    extent: Extent
    selection: Bounds | None
    selection_empty: bool
    colour_model: str
    depth: str
    profile: str
    resolution: float
    active_layer: str


def describe(doc: Any) -> Scene:
    """The scene of an open document."""
    raise NotImplementedError


class Capture:
    """Reads `bounds` of `doc`, at most 512 rows per turn of the event loop.

    doc: an open document. bounds: in document pixels, may reach over the canvas (transparent there).
    source: VISIBLE (the composite without our previews) or ACTIVE_LAYER. with_mask: also read the selection.
    """

    def __init__(self, doc: Any, bounds: Bounds, source: str = VISIBLE, with_mask: bool = False) -> None:
        raise NotImplementedError

    def start(self, done: Callable[[bytes, bytes | None], None], failed: Callable[[str], None]) -> None:
        """Begin. Exactly one of the two is called later, from the event loop, unless `cancel` comes first.

        done(picture, mask): bgra8 straight alpha sRGB, rows top-down without padding; grey8 (0..255) or None when
        with_mask is False or nothing is selected. failed(sentence): for the painter.
        """
        raise NotImplementedError

    def cancel(self) -> None:
        """Stop reading; neither callback comes any more."""
        raise NotImplementedError
