# SPDX-License-Identifier: GPL-3.0-or-later
"""The strip of results: left/right choose, Enter applies, Delete discards, Space shows or hides on the canvas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from krita_sd.qt import Qt, QtCore, QtGui, QtWidgets, Signal, tr
from krita_sd.view import ResultItem

_KEY = Qt.ItemDataRole.UserRole
_APPLIED = Qt.ItemDataRole.UserRole + 1
_ICON = 64


class ResultStrip(QtWidgets.QListWidget):
    """One row of thumbnails; emits what the painter wants and is redrawn by `render`."""

    picked = Signal(str)
    apply = Signal()
    discard = Signal()
    toggle = Signal()
    cancel = Signal()

    def __init__(self, thumbnail: Callable[[str], Any]) -> None:
        """`thumbnail(key)` gives the QImage of a result, or None."""
        super().__init__()
        self._thumbnail = thumbnail
        self._shown: tuple[ResultItem, ...] = ()
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
        self.setSelectionMode(QtWidgets.QAbstractItemView.SelectionMode.SingleSelection)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        bar = self.style().pixelMetric(QtWidgets.QStyle.PixelMetric.PM_ScrollBarExtent)
        self.setFixedHeight(_ICON + 12 + bar)
        self.currentItemChanged.connect(self._changed)
        self.itemClicked.connect(lambda item: self.picked.emit(item.data(_KEY)))
        self.itemDoubleClicked.connect(lambda _item: self.apply.emit())

    def render_items(self, items: tuple[ResultItem, ...], selected: str | None) -> None:
        """Show these results; the thumbnails that stay are not made again."""
        blocker = QtCore.QSignalBlocker(self)
        keys = [item.key for item in items]
        for row in reversed(range(self.count())):
            if self.item(row).data(_KEY) not in keys:
                self.takeItem(row)
        for row, item in enumerate(items):
            if row >= self.count() or self.item(row).data(_KEY) != item.key:
                self.insertItem(row, self._make(item))
            widget = self.item(row)
            if widget.toolTip() != item.tip:
                widget.setToolTip(_plain_tip(item.tip))
            if bool(widget.data(_APPLIED)) != item.applied:
                self._draw(widget, item)
            widget.setData(Qt.ItemDataRole.AccessibleTextRole, item.tip)
        row = keys.index(selected) if selected in keys else -1
        if row != self.currentRow():
            self.setCurrentRow(row)
            if row >= 0:
                self.scrollToItem(self.item(row))
        del blocker

    def _make(self, item: ResultItem) -> Any:
        widget = QtWidgets.QListWidgetItem()
        widget.setData(_KEY, item.key)
        widget.setSizeHint(QtCore.QSize(_ICON + 6, _ICON + 6))
        self._draw(widget, item)
        return widget

    def _draw(self, widget: Any, item: ResultItem) -> None:
        widget.setData(_APPLIED, item.applied)
        image = self._thumbnail(item.key)
        if image is None:
            return
        pixmap = QtGui.QPixmap(_ICON, _ICON)
        pixmap.fill(Qt.GlobalColor.transparent)
        small = image.scaled(_ICON, _ICON, Qt.AspectRatioMode.KeepAspectRatio)
        painter = QtGui.QPainter(pixmap)
        painter.drawImage((_ICON - small.width()) // 2, (_ICON - small.height()) // 2, small)
        if item.applied:
            painter.fillRect(0, _ICON - 18, 18, 18, QtGui.QColor(30, 110, 50))
            painter.setPen(QtGui.QColor(255, 255, 255))
            painter.drawText(QtCore.QRect(0, _ICON - 18, 18, 18), Qt.AlignmentFlag.AlignCenter, "\u2713")
        painter.end()
        widget.setIcon(QtGui.QIcon(pixmap))

    def _changed(self, item: Any, _before: Any) -> None:
        if item is not None:
            self.picked.emit(item.data(_KEY))

    def event(self, event: Any) -> bool:
        if event.type() == QtCore.QEvent.Type.ShortcutOverride and event.key() in _KEYS:
            event.accept()
            return True
        return bool(super().event(event))

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802
        signal = _KEYS.get(event.key())
        if signal is None:
            super().keyPressEvent(event)
        else:
            getattr(self, signal).emit()


_KEYS = {
    Qt.Key.Key_Return: "apply",
    Qt.Key.Key_Enter: "apply",
    Qt.Key.Key_Delete: "discard",
    Qt.Key.Key_Backspace: "discard",
    Qt.Key.Key_Space: "toggle",
    Qt.Key.Key_Escape: "cancel",
}


def _plain_tip(text: str) -> str:
    """A tooltip cannot be told to be plain text: what could be markup is escaped, so that it shows as typed."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "<qt>" + escaped.replace("\n", "<br>") + "</qt>"
