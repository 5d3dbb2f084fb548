# SPDX-License-Identifier: GPL-3.0-or-later
"""Labels for plain sentences: prompts and messages are shown as they are, never as markup."""

from __future__ import annotations

from typing import Any

from krita_sd.qt import Qt, QtCore, QtGui, QtWidgets

_ON_DARK, _ON_LIGHT = "#e89050", "#a04000"


class Sentence(QtWidgets.QLabel):
    """As many lines as the text needs at its width, up to `lines`; what does not fit ends in "…". The tooltip has the
    whole text.

    Its height follows the width that it got, and is not Qt's height for a width: in a scroll area that would go round
    in a circle for ever (the width depends on whether there is a scroll bar, and that on the height).
    """

    def __init__(self, name: str, accessible: str, lines: int = 1) -> None:
        super().__init__()
        self.setObjectName(name)
        self.setAccessibleName(accessible)
        self._warns = False
        self._lines = lines
        self._height = self.fontMetrics().lineSpacing() + 1
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setWordWrap(lines > 1)
        policy = QtWidgets.QSizePolicy.Policy
        self.setSizePolicy(policy.Ignored, policy.Fixed)

    def hasHeightForWidth(self) -> bool:  # noqa: N802 (Qt's name)
        return False

    def sizeHint(self) -> Any:  # noqa: N802
        return QtCore.QSize(super().sizeHint().width(), self._height) if self._lines > 1 else super().sizeHint()

    def minimumSizeHint(self) -> Any:  # noqa: N802
        return self.sizeHint()

    def resizeEvent(self, event: Any) -> None:  # noqa: N802
        super().resizeEvent(event)
        self._fit()

    def changeEvent(self, event: Any) -> None:  # noqa: N802
        super().changeEvent(event)
        if event.type() == QtCore.QEvent.Type.FontChange:
            self._fit()

    def _fit(self) -> None:
        """Ask for the height that the text needs at this width. No fixed one: Qt's answer is never below a minimum."""
        if self._lines > 1:
            one = self.fontMetrics().lineSpacing() + 1  # rounded; several lines may need more than it says
            height = min(max(self.heightForWidth(self.width()), one), one * self._lines)
            if height != self._height:
                self._height = height
                self.updateGeometry()

    @property
    def is_cut(self) -> bool:
        """Whether there is more text than room. A path is one word, which Qt would let run out of sight."""
        metrics, room = self.fontMetrics(), self.contentsRect().width()
        if self._lines > 1 and self.heightForWidth(self.width()) > self.height():
            return True
        parts = self.text().split() if self._lines > 1 else [self.text()]
        return any(metrics.horizontalAdvance(part) > room for part in parts)

    def paintEvent(self, event: Any) -> None:  # noqa: N802
        if not self.is_cut:
            super().paintEvent(event)
            return
        painter = QtGui.QPainter(self)
        painter.setPen(self.palette().color(self.foregroundRole()))
        flags = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
        painter.drawText(self.contentsRect(), flags, "\n".join(self._folded(self.contentsRect().width())))

    def _folded(self, room: int) -> list[str]:
        """The text in at most as many lines as are allowed, what is too wide for its line cut."""
        metrics, lines, rest = self.fontMetrics(), [""], self.text().split()
        while rest:
            longer = f"{lines[-1]} {rest[0]}".strip()
            if lines[-1] and metrics.horizontalAdvance(longer) > room:
                if len(lines) == self._lines:
                    break
                lines.append("")
            else:
                lines[-1] = longer
                rest.pop(0)
        lines[-1] = " ".join([lines[-1], *rest])
        return [metrics.elidedText(line, Qt.TextElideMode.ElideRight, room) for line in lines]

    def warn(self, on: bool) -> None:
        """Draw it in a colour that is readable on light and dark themes. No style sheet: it would change the font."""
        if on != self._warns:
            self._warns = on
            palette = self.parentWidget().palette() if self.parentWidget() is not None else self.palette()
            if on:
                dark = palette.color(palette.ColorRole.Window).lightness() < 128
                palette.setColor(palette.ColorRole.WindowText, QtGui.QColor(_ON_DARK if dark else _ON_LIGHT))
            self.setPalette(palette)

    def say(self, text: str) -> None:
        """Show `text`."""
        if self.text() != text:
            self.setText(text)
            self._fit()
            self.setAccessibleDescription(text)
            escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            self.setToolTip(f"<qt>{escaped}</qt>" if text else "")
