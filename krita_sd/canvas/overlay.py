# SPDX-License-Identifier: GPL-3.0-or-later
"""Shows pictures and rectangles over the canvas without touching the image; clicks go through."""

from __future__ import annotations

from typing import Any

from ..geometry import Bounds


class Frame:
    """The rectangle that will be used as context, drawn over the active view of `doc`."""

    def __init__(self, doc: Any) -> None:
        raise NotImplementedError

    def show(self, bounds: Bounds) -> None:
        """Draw `bounds` (document pixels); follows zoom, pan, rotation and mirror."""
        raise NotImplementedError

    def hide(self) -> None:
        """Take it away."""
        raise NotImplementedError
