# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of completions under the cursor of a text field. It never takes the keyboard: the field stays in charge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from krita_sd.dock.prompt_marks import index_of, utf16
from krita_sd.prompt_text import Typed, typed_at
from krita_sd.qt import Qt, QtCore, QtGui, QtWidgets, Signal, tr
from krita_sd.vocabulary import Candidate

_ROLE = Qt.ItemDataRole.UserRole
_ROWS = 10


class Completion(QtCore.QObject):
    """Tab takes the first line, or the one that Down and Up have gone to; Enter takes a line only after them, because a
    prompt has lines of its own.

    `offer(typed)` gives the candidates. `style_chosen` tells that a style was picked instead of a word."""

    style_chosen = Signal(str)

    def __init__(self, field: Any, offer: Callable[[Typed], list[Candidate]]) -> None:
        super().__init__(field)
        self._field = field
        self._offer = offer
        self._typed: Typed | None = None
        self._list: Any = None
        self._walked = False

    @property
    def is_open(self) -> bool:
        return self._list is not None and self._list.isVisible()

    def update(self, forced: bool = False) -> None:
        """After the painter typed: show what fits, or nothing."""
        text = self._field.toPlainText()
        cursor = self._field.textCursor()
        self._typed = typed = None if cursor.hasSelection() else typed_at(text, index_of(text, cursor.position()))
        found: list[Candidate] = []
        if typed is not None:
            found = self._offer(typed)
            if not found and typed.kind == "word" and " " in typed.prefix:
                word = typed.prefix.rpartition(" ")[2]
                self._typed = Typed(typed.start + len(typed.prefix) - len(word), word, "word")
                found = self._offer(self._typed)
        if found:
            self._show(found)
        else:
            self.close()

    def close(self) -> None:
        """Take the list away."""
        if self._list is not None:
            self._list.hide()

    def key(self, key: Any) -> bool:
        """Whether the list has used this key."""
        if not self.is_open:
            return False
        if key in (Qt.Key.Key_Down, Qt.Key.Key_Up):
            step = 1 if key == Qt.Key.Key_Down else -1
            self._list.setCurrentRow((self._list.currentRow() + step * self._walked) % self._list.count())
            self._walked = True
        elif key == Qt.Key.Key_Tab or (key in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and self._walked):
            self.accept()
        elif key == Qt.Key.Key_Escape:
            self.close()
        else:
            if key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
                self.close()
            return False
        return True

    def accept(self) -> None:
        """Put the chosen line into the text, as one step of the field's own undo."""
        item = self._list.currentItem() if self.is_open else None
        typed, self._typed = self._typed, None
        self.close()
        if item is None or typed is None:
            return
        candidate: Candidate = item.data(_ROLE)
        text = self._field.toPlainText()
        cursor = self._field.textCursor()
        end = cursor.position()
        cursor.setPosition(utf16(text, typed.start))
        cursor.setPosition(end, QtGui.QTextCursor.MoveMode.KeepAnchor)
        cursor.insertText(candidate.insert)
        self.close()  # the new text is no wish for more
        if candidate.kind == "style":
            self.style_chosen.emit(candidate.id)

    def _show(self, found: list[Candidate]) -> None:
        if self._list is None:
            self._list = self._make()
        self._list.clear()
        for candidate in found:
            item = QtWidgets.QListWidgetItem(f"{candidate.text}   {tr(candidate.note)}".rstrip())
            item.setData(_ROLE, candidate)
            self._list.addItem(item)
        self._list.setCurrentRow(0)
        self._walked = False
        row = self._list.sizeHintForRow(0)
        frame = 2 * self._list.frameWidth()
        width = min(max(self._list.sizeHintForColumn(0) + frame + 24, 120), max(self._field.width(), 160))
        size = QtCore.QSize(width, row * min(len(found), _ROWS) + frame)
        cursor = self._field.cursorRect()
        corner = self._field.viewport().mapToGlobal(cursor.bottomLeft())
        screen = QtGui.QGuiApplication.screenAt(corner)
        if screen is not None:
            free = screen.availableGeometry()
            corner.setX(max(free.left(), min(corner.x(), free.right() - size.width())))
            if corner.y() + size.height() > free.bottom():
                corner.setY(self._field.viewport().mapToGlobal(cursor.topLeft()).y() - size.height())
        self._list.setGeometry(QtCore.QRect(corner, size))
        self._list.show()

    def _make(self) -> Any:
        # A tool tip window: above everything, without the focus, and closed with its parent.
        box = QtWidgets.QListWidget(self._field)
        box.setWindowFlags(Qt.WindowType.ToolTip)
        box.setAttribute(Qt.WidgetAttribute.WA_ShowWithoutActivating)
        box.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        box.setObjectName(f"{self._field.objectName()}_completion")
        box.setAccessibleName(tr("Completions"))
        box.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        box.itemClicked.connect(self._clicked)
        return box

    def _clicked(self, item: Any) -> None:
        self._list.setCurrentItem(item)
        self.accept()
