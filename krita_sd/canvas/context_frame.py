# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job would use, over the canvas before it runs: the edge of its context, and the mask as it will run out."""

from __future__ import annotations

from typing import Any

from ..geometry import Bounds
from ..qt import QtGui
from . import surroundings, watch
from .overlay import Overlay

_TINT = (60, 140, 255, 90)
"""Red, green, blue and alpha of the mask where it is strongest."""


class ContextFrame:
    """At most one frame, over the document it was last shown for."""

    def __init__(self) -> None:
        self._document = ""
        self._overlay: Overlay | None = None
        self._shown: tuple[Any, ...] | None = None

    def show(self, doc: Any, document: str, context: Bounds, mask: tuple[int, int] | None, state: Any = None) -> None:
        """Draw the edge of `context`; inside it the selection, grown and feathered by `mask` pixels. Nothing is read
        again while all that, and `state`, stay the same or the pen is down."""
        if self._overlay is None or document != self._document:
            self.hide()
            self._document, self._overlay = document, Overlay(doc)
        wanted = (context, mask, state)
        if wanted != self._shown and not watch.pen().pen_down:
            self._shown = wanted
            image = None
            if mask is not None:
                image = surroundings.mask_image(doc, context, *mask, QtGui.QColor(*_TINT))
            self._overlay.set_look(1.0, Bounds(0, 0, 0, 0), True)
            self._overlay.show_image(image, context)

    def hide(self) -> None:
        """Take it away."""
        if self._overlay is not None:
            self._overlay.close()
        self._overlay = self._shown = None
