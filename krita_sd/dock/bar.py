# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress bars that carry a sentence."""

from __future__ import annotations

from typing import Any

from krita_sd.dock.tips import escaped
from krita_sd.qt import Qt, QtWidgets

STEPS = 1000
"""Of a bar that is full."""


class Bar(QtWidgets.QProgressBar):
    """Its text ends in "…" where it is too long; Qt would break it into lines that nobody can read."""

    def __init__(self, name: str, accessible: str) -> None:
        super().__init__()
        self.setObjectName(f"krita_sd_{name}")
        self.setAccessibleName(accessible)
        self.setRange(0, STEPS)

    def say(self, text: str) -> None:
        """Show `text`, whole in the tooltip."""
        self.setFormat(text)
        self.setTextVisible(bool(text))
        self.setAccessibleDescription(text)
        self.setToolTip(escaped(text))

    def text(self) -> Any:
        # As it is: Qt knows "%p", but no way to write a "%" in front of a "p".
        return self.fontMetrics().elidedText(self.format(), Qt.TextElideMode.ElideRight, self.width() - 6)
