# SPDX-License-Identifier: GPL-3.0-or-later
"""The strip of results: left/right choose, Enter applies, Delete discards, Space shows or hides on the canvas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from krita_sd.history.model import plain_tip
from krita_sd.qt import Qt, QtCore, QtGui, QtWidgets, Signal, tr
from krita_sd.view import ResultItem

_KEY = Qt.ItemDataRole.UserRole
_MARKS = Qt.ItemDataRole.UserRole + 1
_ICON = 64


class ResultStrip(QtWidgets.QListWidget):
    """One row of thumbnails; emits what the painter wants and is redrawn by `render_items`.

    Thumbnails are drawn when they come into sight; Ctrl and Shift select several.
    """

    picked = Signal(str)
    chosen = Signal(tuple)
    apply = Signal()
    discard = Signal()
    toggle = Signal()
    cancel = Signal()
    star = Signal()

    def __init__(self, thumbnail: Callable[[str], Any]) -> None:
        """`thumbnail(key)` gives the QImage of a result, or None."""
        super().__init__()
        self._thumbnail = thumbnail
        self._items: dict[str, ResultItem] = {}
        self.setObjectName("krita_sd_results")
        self.setAccessibleName(tr("Results"))
        self.setViewMode(QtWidgets.QListView.ViewMode.IconMode)
        self.setFlow(QtWidgets.QListView.Flow.LeftToRight)
        self.setWrapping(False)
        self.setMovement(QtWidgets.QListView.Movement.Static)
        self.setUniformItemSizes(True)
        self.setIconSize(QtCore.QSize(_ICON, _ICON))
        self.setSpacing(2)
        self.setHorizontalScrollMode(QtWidgets.QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setSelectionMode(QtWidgets.QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setItemDelegate(_Thumbnail(self._pixmap, self))
        bar = self.style().pixelMetric(QtWidgets.QStyle.PixelMetric.PM_ScrollBarExtent)
        self.setFixedHeight(_ICON + 12 + bar)
        self.currentItemChanged.connect(self._changed)
        self.itemSelectionChanged.connect(self._choose)
        self.itemClicked.connect(lambda item: self.picked.emit(item.data(_KEY)))
        self.itemDoubleClicked.connect(lambda _item: self.apply.emit())

    def render_items(self, items: tuple[ResultItem, ...], selected: str | None) -> None:
        """Show these results; what stays is not made again."""
        blocker = QtCore.QSignalBlocker(self)
        wanted = {item.key: item for item in items}
        if wanted != self._items:
            self._update(items, wanted)
        row = list(wanted).index(selected) if selected in wanted else -1
        if row != self.currentRow():
            # Following the canvas ends a selection of several, whatever keys are held.
            self.setCurrentRow(row, QtCore.QItemSelectionModel.SelectionFlag.ClearAndSelect)
            if row >= 0:
                self.scrollToItem(self.item(row))
        del blocker
        self._choose()

    def _update(self, items: tuple[ResultItem, ...], wanted: dict[str, ResultItem]) -> None:
        before, self._items = self._items, wanted
        for row in reversed(range(self.count())):
            if self.item(row).data(_KEY) not in wanted:
                self.takeItem(row)
        for row, item in enumerate(items):
            if row >= self.count() or self.item(row).data(_KEY) != item.key:
                widget = QtWidgets.QListWidgetItem()
                widget.setData(_KEY, item.key)
                widget.setSizeHint(QtCore.QSize(_ICON + 6, _ICON + 6))
                self.insertItem(row, widget)
            if before.get(item.key) != item:
                widget = self.item(row)
                widget.setToolTip(plain_tip(item.tip))
                widget.setData(Qt.ItemDataRole.AccessibleTextRole, item.tip)
                widget.setData(_MARKS, ("\u2713" if item.applied else "") + ("\u2605" if item.starred else ""))

    def _pixmap(self, key: str) -> Any | None:
        image = self._thumbnail(key)
        return QtGui.QPixmap.fromImage(image) if image is not None else None

    def _changed(self, item: Any, _before: Any) -> None:
        if item is not None:
            self.picked.emit(item.data(_KEY))

    def _choose(self) -> None:
        keys = tuple(item.data(_KEY) for item in sorted(self.selectedItems(), key=self.row))
        if keys != getattr(self, "_told", None):
            self._told = keys
            self.chosen.emit(keys)

    def event(self, event: Any) -> bool:
        if event.type() == QtCore.QEvent.Type.ShortcutOverride and (event.key() in _KEYS or is_select_all(event)):
            event.accept()
            return True
        return bool(super().event(event))

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802
        signal = _KEYS.get(event.key())
        if signal is None:
            super().keyPressEvent(event)
        else:
            getattr(self, signal).emit()


def highlighted(painter: Any, option: Any) -> Any:
    """Fill the cell of a selected picture; what is left to draw in it. Many styles, Krita's among them, highlight and
    frame the text of a picture only, and there is none."""
    flags = QtWidgets.QStyle.StateFlag
    if not option.state & flags.State_Selected:
        return option
    painter.fillRect(option.rect, option.palette.highlight())
    left = QtWidgets.QStyleOptionViewItem(option)
    left.state = left.state & ~flags.State_Selected & ~flags.State_HasFocus
    return left


def is_select_all(event: Any) -> bool:
    """Ctrl+A, which would select the canvas if the list did not say that the key is its own."""
    return bool(event.matches(QtGui.QKeySequence.StandardKey.SelectAll))


_KEYS = {
    Qt.Key.Key_Return: "apply",
    Qt.Key.Key_Enter: "apply",
    Qt.Key.Key_Delete: "discard",
    Qt.Key.Key_Backspace: "discard",
    Qt.Key.Key_Space: "toggle",
    Qt.Key.Key_Escape: "cancel",
    Qt.Key.Key_Asterisk: "star",
    Qt.Key.Key_S: "star",
}


class _Thumbnail(QtWidgets.QStyledItemDelegate):
    """Draws one thumbnail; asked only for those in sight."""

    def __init__(self, pixmap: Callable[[str], Any], parent: Any) -> None:
        super().__init__(parent)
        self._pixmap = pixmap

    def paint(self, painter: Any, option: Any, index: Any) -> None:
        super().paint(painter, highlighted(painter, option), index)
        found = self._pixmap(index.data(_KEY))
        if found is None:
            return
        room = option.rect.adjusted(3, 3, -3, -3)
        size = found.size().scaled(room.size(), Qt.AspectRatioMode.KeepAspectRatio)
        place = QtCore.QRect(QtCore.QPoint(0, 0), size)
        place.moveCenter(room.center())
        painter.setRenderHint(QtGui.QPainter.RenderHint.SmoothPixmapTransform)
        painter.drawPixmap(place, found)
        marks = index.data(_MARKS) or ""
        if marks:
            corner = QtCore.QRect(room.left(), room.bottom() - 17, 16 * len(marks) + 2, 18)
            painter.fillRect(corner, QtGui.QColor(30, 110, 50) if "\u2713" in marks else QtGui.QColor(90, 80, 20))
            painter.setPen(QtGui.QColor(255, 255, 255))
            painter.drawText(corner, Qt.AlignmentFlag.AlignCenter, marks)
