# SPDX-License-Identifier: GPL-3.0-or-later
"""What a list says while there is nothing in it."""

from __future__ import annotations

from typing import Any

from krita_sd.dock.sentence import Sentence
from krita_sd.qt import Qt, QtCore

_MARGIN = 8


class Empty(Sentence):
    """A sentence in the middle of `view` while its model has no rows. Clicks go through it."""

    def __init__(self, view: Any, text: str) -> None:
        super().__init__(f"{view.objectName()}_empty", text, lines=4)
        self.setParent(view.viewport())
        self.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setEnabled(False)
        self._view = view
        view.viewport().installEventFilter(self)
        self.say(text)

    @property
    def speaks(self) -> bool:
        """Whether the list has no rows. Asked when it is painted: what changes a list paints it anew."""
        return bool(self._view.model().rowCount() == 0)

    def paintEvent(self, event: Any) -> None:  # noqa: N802 (Qt's name)
        if self.speaks:
            super().paintEvent(event)

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802 (Qt's name)
        if event.type() == QtCore.QEvent.Type.Resize:
            self.setGeometry(watched.rect().adjusted(_MARGIN, 0, -_MARGIN, 0))
        return False
