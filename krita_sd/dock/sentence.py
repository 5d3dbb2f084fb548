# SPDX-License-Identifier: GPL-3.0-or-later
"""Labels for plain sentences: prompts and messages are shown as they are, never as markup."""

from __future__ import annotations

from typing import Any

from krita_sd.qt import Qt, QtGui, QtWidgets

_LINES = 6
_ON_DARK, _ON_LIGHT = "#e89050", "#a04000"


class Sentence(QtWidgets.QLabel):
    """`wrap`: over up to six lines; otherwise one line, with "…" where it is too long. The tooltip has the whole text.

    A wrapping one must not be inside a scroll area: its height depends on the width, the width on whether there is a
    scroll bar, and that on the height; Qt would go round in that circle for ever.
    """

    def __init__(self, name: str, accessible: str, wrap: bool) -> None:
        super().__init__()
        self.setObjectName(name)
        self.setAccessibleName(accessible)
        self._warns = False
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setWordWrap(wrap)
        if wrap:
            self.setMaximumHeight(self.fontMetrics().lineSpacing() * _LINES)
        else:
            policy = QtWidgets.QSizePolicy.Policy
            self.setSizePolicy(policy.Ignored, policy.Fixed)

    def paintEvent(self, event: Any) -> None:  # noqa: N802 (Qt's name)
        room = self.contentsRect()
        if self.wordWrap() or self.fontMetrics().boundingRect(self.text()).width() <= room.width():
            super().paintEvent(event)
            return
        cut = self.fontMetrics().elidedText(self.text(), Qt.TextElideMode.ElideRight, room.width())
        painter = QtGui.QPainter(self)
        painter.setPen(self.palette().color(self.foregroundRole()))
        painter.drawText(room, self.alignment() | Qt.TextFlag.TextSingleLine, cut)

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
            self.setAccessibleDescription(text)
            escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            self.setToolTip(f"<qt>{escaped}</qt>" if text else "")
