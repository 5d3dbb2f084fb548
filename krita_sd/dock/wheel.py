# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps the mouse wheel from changing values while the docker is scrolled."""

from __future__ import annotations

from typing import Any

from krita_sd.qt import QtCore


class WheelGuard(QtCore.QObject):
    """Event filter: a field without the keyboard leaves the wheel to what scrolls."""

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802
        if event.type() == QtCore.QEvent.Type.Wheel and not watched.hasFocus():
            event.ignore()
            return True
        return False
