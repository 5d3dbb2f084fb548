# SPDX-License-Identifier: GPL-3.0-or-later
"""Colours for what a prompt's syntax means, as extra selections: undo and layout of the text are untouched."""

from __future__ import annotations

from typing import Any

from krita_sd import prompt_text
from krita_sd.qt import QtGui, QtWidgets

_HUES = {"up": 130, "down": 215, "tag": 280, "file": 35, "choice": 35, "break": 280, "unclosed": 0}
"""Hue of each kind in degrees; saturation and lightness follow the theme."""


class Marks:
    """Colours one text field."""

    def __init__(self, field: Any) -> None:
        self._field = field
        self._shown: tuple[str, int] | None = None

    def refresh(self) -> None:
        """Colour the present text; cheap when nothing has changed."""
        text = self._field.toPlainText()
        base = self._field.palette().color(QtGui.QPalette.ColorRole.Base).lightness()
        if (text, base) == self._shown:
            return
        self._shown = text, base
        self._field.setExtraSelections([self._selection(span, base < 128) for span in prompt_text.spans(text)])

    def _selection(self, span: prompt_text.Span, dark: bool) -> Any:
        selection = QtWidgets.QTextEdit.ExtraSelection()
        cursor = self._field.textCursor()
        cursor.setPosition(utf16(self._field.toPlainText(), span.start))
        cursor.setPosition(utf16(self._field.toPlainText(), span.end), QtGui.QTextCursor.MoveMode.KeepAnchor)
        selection.cursor = cursor
        selection.format = _format(span, dark, self._field.palette())
        return selection


def utf16(text: str, index: int) -> int:
    """Qt counts in units of 16 bits, Python in characters: they differ after an emoji."""
    return index if text.isascii() else len(text[:index].encode("utf-16-le")) // 2


def index_of(text: str, units: int) -> int:
    """The inverse of `utf16`."""
    if text.isascii():
        return units
    return len(text.encode("utf-16-le")[: 2 * units].decode("utf-16-le", "ignore"))


def _format(span: prompt_text.Span, dark: bool, palette: Any) -> Any:
    style = QtGui.QTextCharFormat()
    if span.kind == "comment":
        colour = palette.color(QtGui.QPalette.ColorRole.Text)
        colour.setAlpha(120)
        style.setForeground(colour)
        style.setFontItalic(True)
        return style
    kind = span.kind
    strong = 1.0
    if kind == "weight":
        kind = "up" if span.weight >= 1.0 else "down"
        strong = min(1.0, 0.4 + abs(span.weight - 1.0))
    colour = QtGui.QColor.fromHslF(_HUES[kind] / 360, 0.7 * strong, 0.68 if dark else 0.3)
    style.setForeground(colour)
    if kind == "unclosed":
        style.setUnderlineStyle(QtGui.QTextCharFormat.UnderlineStyle.WaveUnderline)
        style.setUnderlineColor(colour)
    return style
