# SPDX-License-Identifier: GPL-3.0-or-later
"""Colours for what a prompt's syntax means, given to the layout of the text: undo knows nothing of them.

Not as extra selections: of those Qt 5 draws only the last one in each line of a wrapped paragraph.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from krita_sd import prompt_text
from krita_sd.qt import QtGui

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
        marks = [(span, _format(span, base < 128, self._field.palette())) for span in prompt_text.spans(text)]
        document = self._field.document()
        block = document.begin()
        while block.isValid():
            block.layout().setFormats(list(_ranges(marks, text, block)))
            document.markContentsDirty(block.position(), block.length())
            block = block.next()


def _ranges(marks: list[tuple[prompt_text.Span, Any]], text: str, block: Any) -> Iterator[Any]:
    """The parts of the marks that lie in one paragraph, as its layout takes them."""
    begin, length = block.position(), block.length()
    for span, style in marks:
        start, end = utf16(text, span.start) - begin, utf16(text, span.end) - begin
        if start < length and end > 0:
            found = QtGui.QTextLayout.FormatRange()
            found.start, found.length, found.format = max(start, 0), min(end, length) - max(start, 0), style
            yield found


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
    colour = QtGui.QColor.fromHslF(_HUES[kind] / 360, 0.7 * strong, 0.68 if dark else 0.28)
    style.setForeground(colour)
    if kind == "unclosed":
        style.setUnderlineStyle(QtGui.QTextCharFormat.UnderlineStyle.WaveUnderline)
        style.setUnderlineColor(colour)
    return style
