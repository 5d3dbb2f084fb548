# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of the queue: what runs, what waits and in which order, and where the next job will go."""

from __future__ import annotations

from typing import Any

from krita_sd.dock import buttons
from krita_sd.dock.empty import Empty
from krita_sd.qt import Qt, QtCore, QtWidgets, tr
from krita_sd.settings import Settings
from krita_sd.view import View

_JOB = Qt.ItemDataRole.UserRole
_PLACES = {
    "back": "New jobs wait at the end",
    "front": "New jobs go first",
    "replace": "New jobs replace those that wait",
}


_DROP = (Qt.Key.Key_Delete, Qt.Key.Key_Backspace)
_MOVE = (Qt.Key.Key_Up, Qt.Key.Key_Down)


def _is_own(event: Any) -> bool:
    control = bool(event.modifiers() & Qt.KeyboardModifier.ControlModifier)
    return event.key() in _DROP or (control and event.key() in _MOVE)


class QueuePage(QtWidgets.QWidget):
    """`actions.queue` offers: items, move_up, move_down, cancel, cancel_waiting; `actions` change."""

    def __init__(self, actions: Any) -> None:
        super().__init__()
        self.setObjectName("krita_sd_queue_area")
        self._actions = actions
        column = QtWidgets.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        self.list = _List(self)
        self.list.setObjectName("krita_sd_queue")
        self.list.setAccessibleName(tr("Queue"))
        self.list.setWordWrap(False)
        self.list.currentRowChanged.connect(lambda _row: self._enable())
        Empty(self.list, tr("Nothing is running or waiting."))
        column.addWidget(self.list, 1)
        row = QtWidgets.QHBoxLayout()
        self.up = self._tool("queue_up", "↑", tr("Earlier (Ctrl+Up)"), lambda: self._on(actions.queue.move_up))
        self.down = self._tool("queue_down", "↓", tr("Later (Ctrl+Down)"), lambda: self._on(actions.queue.move_down))
        tip = tr("Cancel the selected job (Delete)")
        self.cancel = buttons.push("queue_cancel", tr("Cancel job"), tip, lambda: self._on(actions.queue.cancel))
        tip = tr("Cancel all but the running job")
        self.clear = buttons.push("queue_clear", tr("Cancel waiting"), tip, lambda: actions.queue.cancel_waiting())
        for widget in (self.up, self.down):
            row.addWidget(widget)
        row.addWidget(self.cancel)
        row.addWidget(self.clear)
        column.addLayout(row)
        self.place = QtWidgets.QComboBox()
        self.place.setObjectName("krita_sd_queue_place")
        self.place.setAccessibleName(tr("Place of new jobs"))
        for name, text in _PLACES.items():
            self.place.addItem(tr(text), name)
        self.place.activated.connect(lambda _row: actions.change(place=self.place.currentData()))
        column.addWidget(self.place)
        self._items: list[Any] = []

    def _tool(self, name: str, text: str, tip: str, pressed: Any) -> Any:
        button = buttons.tool(name, text, tip)
        button.clicked.connect(lambda _checked=False: pressed())
        return button

    def _selected(self) -> Any | None:
        item = self.list.currentItem()
        return item.data(_JOB) if item is not None else None

    def _on(self, work: Any) -> None:
        job = self._selected()
        if job is not None:
            work(job)

    def _enable(self) -> None:
        job = self._selected()
        item = next((item for item in self._items if item.job == job), None)
        for widget in (self.up, self.down):
            widget.setEnabled(item is not None and item.can_move)
        self.cancel.setEnabled(item is not None)
        self.clear.setEnabled(any(item.can_move for item in self._items))

    def pressed(self, event: Any) -> bool:
        """A key in the list; False when it is the list's own."""
        queue = self._actions.queue
        if not _is_own(event):
            return False
        if event.key() in _DROP:
            self._on(queue.cancel)
        else:
            self._on(queue.move_up if event.key() == Qt.Key.Key_Up else queue.move_down)
        return True

    def show_view(self, view: View, settings: Settings) -> None:
        """Draw; the selected job stays selected wherever it goes."""
        items = self._actions.queue.items()
        row = self.place.findData(settings.place)
        if row != self.place.currentIndex():
            self.place.setCurrentIndex(row)
        if items != self._items:
            selected = self._selected()
            self._items = items
            blocker = QtCore.QSignalBlocker(self.list)
            while self.list.count() > len(items):
                self.list.takeItem(self.list.count() - 1)
            for number, item in enumerate(items):
                if number >= self.list.count():
                    self.list.addItem(QtWidgets.QListWidgetItem())
                widget = self.list.item(number)
                widget.setText(f"{item.state}: {item.text}")
                widget.setData(_JOB, item.job)
            jobs = [item.job for item in items]
            self.list.setCurrentRow(jobs.index(selected) if selected in jobs else -1)
            del blocker
        self._enable()


class _List(QtWidgets.QListWidget):
    def __init__(self, page: QueuePage) -> None:
        super().__init__()
        self._page = page

    def event(self, event: Any) -> bool:
        # Krita's own Delete would clear the painter's layer.
        if event.type() == QtCore.QEvent.Type.ShortcutOverride and _is_own(event):
            event.accept()
            return True
        return bool(super().event(event))

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802
        if not self._page.pressed(event):
            super().keyPressEvent(event)
