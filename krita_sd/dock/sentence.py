# SPDX-License-Identifier: GPL-3.0-or-later
"""A label for one plain sentence that wraps, without making the whole docker scroll."""

from __future__ import annotations

from typing import Any

from krita_sd.qt import Qt, QtCore, QtWidgets


class Sentence(QtWidgets.QLabel):
    """Plain text, never markup: prompts and messages are shown as they are.

    A label with height-for-width makes a scroll area use preferred instead of minimum heights; this one tells its
    height for the width it has.
    """

    def __init__(self, name: str, accessible: str, wrap: bool = True) -> None:
        super().__init__()
        self.setObjectName(name)
        self.setAccessibleName(accessible)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setWordWrap(wrap)
        policy = QtWidgets.QSizePolicy.Policy
        self.setSizePolicy(policy.Ignored if wrap else policy.Preferred, policy.Fixed)

    def hasHeightForWidth(self) -> bool:  # noqa: N802
        return False

    def sizeHint(self) -> Any:  # noqa: N802
        hint = super().sizeHint()
        if not self.wordWrap():
            return hint
        return QtCore.QSize(hint.width(), max(super().heightForWidth(max(self.width(), 40)), 0))

    def minimumSizeHint(self) -> Any:  # noqa: N802
        return QtCore.QSize(20, self.sizeHint().height()) if self.wordWrap() else super().minimumSizeHint()

    def resizeEvent(self, event: Any) -> None:  # noqa: N802
        super().resizeEvent(event)
        if event.oldSize().width() != event.size().width():
            self.updateGeometry()
