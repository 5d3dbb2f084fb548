# SPDX-License-Identifier: GPL-3.0-or-later
"""The prompt fields: plain text, Shift+Enter or Ctrl+Enter generates, Escape cancels."""

from __future__ import annotations

from typing import Any

from krita_sd.qt import Qt, QtCore, QtWidgets, Signal

_ENTER = (Qt.Key.Key_Return, Qt.Key.Key_Enter)


class PromptEdit(QtWidgets.QPlainTextEdit):
    """A text field of `lines` lines. Tab leaves it, so that the docker can be used with the keyboard alone."""

    generate = Signal()
    cancel = Signal()

    def __init__(self, name: str, accessible: str, placeholder: str, lines: int) -> None:
        super().__init__()
        self.setObjectName(name)
        self.setAccessibleName(accessible)
        self.setPlaceholderText(placeholder)
        self.setTabChangesFocus(True)
        margins = self.contentsMargins()
        line = self.fontMetrics().lineSpacing()
        frame = 2 * self.frameWidth() + margins.top() + margins.bottom() + 2 * int(self.document().documentMargin())
        self.setMinimumHeight(line + frame)
        self._height = line * lines + frame
        policy = QtWidgets.QSizePolicy.Policy
        self.setSizePolicy(policy.Expanding, policy.Preferred)

    def sizeHint(self) -> Any:  # noqa: N802
        return QtCore.QSize(120, self._height)

    def minimumSizeHint(self) -> Any:  # noqa: N802
        return QtCore.QSize(60, self.minimumHeight())

    def event(self, event: Any) -> bool:
        # Krita's shortcuts are asked first, unless the field says that the key is its own.
        if event.type() == QtCore.QEvent.Type.ShortcutOverride and self._own(event):
            event.accept()
            return True
        return bool(super().event(event))

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802
        if not self._own(event):
            super().keyPressEvent(event)
        elif event.key() == Qt.Key.Key_Escape:
            self.cancel.emit()
        else:
            self.generate.emit()

    def show_text(self, text: str) -> None:
        """Set the text from outside, keeping undo and cursor when it is the same."""
        if self.toPlainText() != text:
            self.setPlainText(text)

    def _own(self, event: Any) -> bool:
        modified = event.modifiers() & (Qt.KeyboardModifier.ShiftModifier | Qt.KeyboardModifier.ControlModifier)
        return event.key() == Qt.Key.Key_Escape or (event.key() in _ENTER and bool(modified))
