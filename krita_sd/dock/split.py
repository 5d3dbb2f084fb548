# SPDX-License-Identifier: GPL-3.0-or-later
"""What is set scrolls; what is pressed stays in sight below it."""

from __future__ import annotations

from typing import Any

from krita_sd.qt import Qt, QtCore, QtGui, QtWidgets

KEPT = 106
"""Pixels of the upper part that the lower one never takes, as the prompt is there: rather it scrolls too."""

_GAP = 4


class Split(QtWidgets.QWidget):
    """`upper` has the room that `lower` leaves, which is as high as it wants to be. Each scrolls where it must.

    Qt's own layouts would take what is missing from both, and the buttons would be the first to go out of sight.
    """

    def __init__(self, upper: Any, lower: Any) -> None:
        super().__init__()
        self.setObjectName("krita_sd_workspace_area")
        self.setMinimumSize(200, 130)
        self._lower = lower
        self.areas = scrolled(upper), scrolled(lower)
        for area in self.areas:
            area.setMinimumSize(0, 0)
            area.setParent(self)
        lower.installEventFilter(self)
        self.areas[0].verticalScrollBar().rangeChanged.connect(lambda _low, _high: self.update())

    def sizeHint(self) -> Any:  # noqa: N802 (Qt's name)
        upper, lower = (area.widget().sizeHint() for area in self.areas)
        return QtCore.QSize(max(upper.width(), lower.width()), upper.height() + _GAP + lower.height())

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802 (Qt's name)
        if event.type() == QtCore.QEvent.Type.LayoutRequest:
            self._arrange()
        return False

    def resizeEvent(self, event: Any) -> None:  # noqa: N802 (Qt's name)
        super().resizeEvent(event)
        self._arrange()

    def _arrange(self) -> None:
        width, height = self.width(), self.height()
        low = min(self._lower.sizeHint().height(), height - KEPT - _GAP)
        upper, lower = self.areas
        upper.setGeometry(0, 0, width, height - low - _GAP)
        lower.setGeometry(0, height - low, width, low)
        self.update()

    def paintEvent(self, event: Any) -> None:  # noqa: N802 (Qt's name)
        """A line says that more is hidden there."""
        upper = self.areas[0]
        if upper.verticalScrollBar().maximum():
            painter = QtGui.QPainter(self)
            painter.setPen(self.palette().color(self.palette().ColorRole.Mid))
            line = upper.height() + _GAP // 2
            painter.drawLine(0, line, self.width(), line)


def bring_up(widget: Any) -> None:
    """Scroll until `widget` is at the top of what shows, or what is below it is all in sight."""
    area = widget.parentWidget()
    while area is not None and not isinstance(area, QtWidgets.QScrollArea):
        area = area.parentWidget()
    if area is not None:
        bar = area.verticalScrollBar()
        bar.setValue(min(bar.maximum(), widget.mapTo(area.widget(), QtCore.QPoint(0, 0)).y()))


def scrolled(widget: Any) -> Any:
    """Without it the height of our widgets would make the whole Krita window taller than a small screen."""
    area = QtWidgets.QScrollArea()
    area.setWidgetResizable(True)
    # A click on a button would put the keyboard here, and the list's next Delete would be Krita's.
    area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    area.setFrameShape(QtWidgets.QFrame.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setMinimumSize(200, 130)
    area.setWidget(widget)
    return area
