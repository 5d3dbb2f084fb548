# SPDX-License-Identifier: GPL-3.0-or-later
"""The prompt fields: Shift+Enter generates, Escape cancels, Ctrl+Up and Ctrl+Down weigh words, and words complete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from krita_sd import prompt_text
from krita_sd.dock.prompt_completion import Completion
from krita_sd.dock.prompt_marks import Marks, index_of, utf16
from krita_sd.prompt_text import Typed
from krita_sd.qt import Qt, QtCore, QtGui, QtWidgets, Signal
from krita_sd.vocabulary import Candidate

_ENTER = (Qt.Key.Key_Return, Qt.Key.Key_Enter)
_WEIGHT = {Qt.Key.Key_Up: prompt_text.STEP, Qt.Key.Key_Down: -prompt_text.STEP}
_SILENT = (Qt.Key.Key_Left, Qt.Key.Key_Right, Qt.Key.Key_Home, Qt.Key.Key_End, Qt.Key.Key_PageUp, Qt.Key.Key_PageDown)


class PromptEdit(QtWidgets.QPlainTextEdit):
    """A text field of `lines` lines. Tab leaves it, so that the docker can be used with the keyboard alone.

    `offer(typed)` gives what a half typed word could become."""

    generate = Signal()
    cancel = Signal()

    def __init__(
        self,
        name: str,
        accessible: str,
        placeholder: str,
        lines: int,
        offer: Callable[[Typed], list[Candidate]] = lambda typed: [],
    ) -> None:
        super().__init__()
        self.setObjectName(name)
        self.setAccessibleName(accessible)
        self.setPlaceholderText(placeholder)
        self._placeholder, self._dimmed = placeholder, ""
        self.setTabChangesFocus(True)
        self._marks = Marks(self)
        self.completion = Completion(self, offer)
        margins = self.contentsMargins()
        line = self.fontMetrics().lineSpacing()
        frame = 2 * self.frameWidth() + margins.top() + margins.bottom() + 2 * int(self.document().documentMargin())
        self.setMinimumHeight(line + frame)
        self._height = line * lines + frame
        policy = QtWidgets.QSizePolicy.Policy
        self.setSizePolicy(policy.Expanding, policy.Preferred)
        self.textChanged.connect(self._marks.refresh)

    def dim(self, reason: str) -> None:
        """Show that the text has no effect, and why; "": it has."""
        if reason != self._dimmed:
            self._dimmed = reason
            self.setPlaceholderText(reason or self._placeholder)
            self.setToolTip(reason)
            self.setAccessibleDescription(reason)
            # Without a parent's palette the theme's next colours would not come.
            palette = self.parentWidget().palette() if self.parentWidget() is not None else self.palette()
            if reason:
                palette.setColor(palette.ColorRole.Text, palette.color(palette.ColorRole.PlaceholderText))
            self.setPalette(palette)

    def sizeHint(self) -> Any:  # noqa: N802
        return QtCore.QSize(120, self._height)

    def minimumSizeHint(self) -> Any:  # noqa: N802
        return QtCore.QSize(60, self.minimumHeight())

    def event(self, event: Any) -> bool:
        # Krita's shortcuts are asked first, unless the field says that the key is its own.
        if event.type() == QtCore.QEvent.Type.ShortcutOverride and (self._own(event) or self._for_completion(event)):
            event.accept()
            return True
        if event.type() == QtCore.QEvent.Type.KeyPress and event.key() == Qt.Key.Key_Tab and self.completion.is_open:
            # Qt would move the focus before keyPressEvent is asked.
            self.completion.accept()
            return True
        return bool(super().event(event))

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802
        own = self._own(event)
        if not (own and event.key() in _ENTER) and self.completion.key(event.key()):
            return
        if not own:
            super().keyPressEvent(event)
            if event.text() and event.text().isprintable() or event.key() == Qt.Key.Key_Backspace:
                self.completion.update()
            elif event.key() in _SILENT:
                self.completion.close()
            return
        self.completion.close()
        if event.key() == Qt.Key.Key_Escape:
            self.cancel.emit()
        elif event.key() in _ENTER:
            self.generate.emit()
        else:
            self.change_weight(_WEIGHT[event.key()])

    def focusOutEvent(self, event: Any) -> None:  # noqa: N802
        self.completion.close()
        super().focusOutEvent(event)

    def changeEvent(self, event: Any) -> None:  # noqa: N802
        super().changeEvent(event)
        if event.type() == QtCore.QEvent.Type.PaletteChange:
            self._marks.refresh()

    def change_weight(self, by: float) -> None:
        """The weight of the selection or of the word at the cursor; one step of the field's own undo."""
        text = self.toPlainText()
        cursor = self.textCursor()
        start, end = (index_of(text, place) for place in (cursor.selectionStart(), cursor.selectionEnd()))
        edit = prompt_text.change_weight(text, start, end, by)
        if edit.text != text:
            cursor.beginEditBlock()
            cursor.select(QtGui.QTextCursor.SelectionType.Document)
            cursor.insertText(edit.text)
            cursor.endEditBlock()
        cursor.setPosition(utf16(edit.text, edit.start))
        cursor.setPosition(utf16(edit.text, edit.end), QtGui.QTextCursor.MoveMode.KeepAnchor)
        self.setTextCursor(cursor)

    def show_text(self, text: str) -> None:
        """Set the text from outside, keeping undo and cursor when it is the same."""
        if self.toPlainText() != text:
            self.setPlainText(text)

    def _for_completion(self, event: Any) -> bool:
        return self.completion.is_open and event.key() in (*_ENTER, Qt.Key.Key_Up, Qt.Key.Key_Down, Qt.Key.Key_Tab)

    def _own(self, event: Any) -> bool:
        shift, control = Qt.KeyboardModifier.ShiftModifier, Qt.KeyboardModifier.ControlModifier
        modified = event.modifiers() & (shift | control)
        if event.key() in _WEIGHT:
            return bool(modified == control)
        return event.key() == Qt.Key.Key_Escape or (event.key() in _ENTER and bool(modified))
