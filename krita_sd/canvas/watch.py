# SPDX-License-Identifier: GPL-3.0-or-later
"""Knows whether the pen is down, which decides whether anything may touch the image."""

from __future__ import annotations

from typing import Any

from ..qt import QtCore, Signal


class PenWatch(QtCore.QObject):
    """Follows mouse and tablet events of every canvas widget without eating any."""

    pen_down_changed = Signal(bool)
    pen_up = Signal()  # the last button or the pen tip was released

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        raise NotImplementedError

    @property
    def pen_down(self) -> bool:
        """Whether a stroke may be in progress."""
        raise NotImplementedError

    def rescan(self) -> None:
        """Follow canvases that appeared since the last call (new views do this by themselves)."""
        raise NotImplementedError


def pen() -> PenWatch:
    """The one watch of this Krita, made on first use: events of a canvas need no second filter."""
    raise NotImplementedError
