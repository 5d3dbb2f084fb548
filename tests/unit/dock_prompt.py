# SPDX-License-Identifier: GPL-3.0-or-later
"""Weights, colours and completion in the prompt field, by keys: a part of test_dock.py for an interpreter with Qt."""

from __future__ import annotations

from typing import Any


def prompt_keys(panel: Any, actions: Any, press: Any) -> dict[str, Any]:
    """Weights, colours and completion, by keys."""
    from krita_sd.qt import Qt

    field, key = panel.prompt, Qt.Key
    no, control = Qt.KeyboardModifier.NoModifier, Qt.KeyboardModifier.ControlModifier
    out: dict[str, Any] = {}

    def type_new(text: str) -> None:
        field.setPlainText("")
        press.keyClicks(field, text)

    field.setPlainText("\U0001f600 a red house")
    press.keyClick(field, key.Key_Home, no)
    for _ in range(6):
        press.keyClick(field, key.Key_Right, no)
    for _ in range(2):
        press.keyClick(field, key.Key_Up, control)
    out["weighed"] = [field.toPlainText(), field.textCursor().selectedText()]
    out["coloured"] = marked(field)
    press.keyClick(field, key.Key_Z, control)
    out["weight undone"] = field.toPlainText()
    for text, code in (
        ("a, bl", key.Key_Tab),
        ("a blu", key.Key_Return),
        ("x <lo", key.Key_Tab),
        ("__a", key.Key_Tab),
    ):
        type_new(text)
        press.keyClick(field, code, no)
        out.setdefault("completed", []).append(field.toPlainText())
    field.setPlainText("a house by the sea, [fog], <lora:ink:0.5>, __animals__ # note\n(open")
    out["coloured all"] = marked(field)
    out["drawn in its colour"] = drawn_marks(field.toPlainText())
    out["contrast"] = [contrasts(theme) for theme in (("#2b2b2b", "#dcdcdc"), ("#f4f4f4", "#202020"))]
    type_new("bl")
    press.keyClick(field, key.Key_Escape, no)
    closed, actions.calls[:] = field.completion.is_open, []
    press.keyClick(field, key.Key_Escape, no)
    out["escape"] = [closed, actions.take()]
    type_new("blu")
    for code in (key.Key_Down, key.Key_Down, key.Key_Return):
        press.keyClick(field, code, no)
    out["completed"].append(field.toPlainText())
    type_new("bluep")
    actions.calls[:] = []
    press.keyClick(field, key.Key_Tab, no)
    out["style completed"] = [field.toPlainText(), [call for call in actions.take() if call[0] != "change"]]
    return out


def dimmed(panel: Any) -> list[Any]:
    """The negative prompt where it has no effect, and again where it has: (placeholder, description, same colour)."""
    from krita_sd.settings import Settings
    from krita_sd.view import View

    field, out = panel.asking.negative, []
    usual = field.palette().color(field.palette().ColorRole.Text)
    for ignored, workspace in ((True, "generate"), (True, "live"), (False, "generate")):
        panel.asking.show_view(View(negative_ignored=ignored), Settings(workspace=workspace))
        same = field.palette().color(field.palette().ColorRole.Text) == usual
        out.append([field.placeholderText(), field.accessibleDescription(), same])
    return out


def marked(field: Any) -> list[str]:
    """What has a colour of its own, paragraph by paragraph."""
    found, block = [], field.document().begin()
    while block.isValid():
        ranges = sorted(block.layout().formats(), key=lambda entry: int(entry.start))
        text = block.text().encode("utf-16-le")
        found += [text[2 * r.start : 2 * (r.start + r.length)].decode("utf-16-le") for r in ranges]
        block = block.next()
    return found


def drawn_marks(text: str) -> list[bool]:
    """Of a first paragraph over several lines, whether pixels of each mark's colour are there."""
    from krita_sd.dock.prompt_edit import PromptEdit
    from krita_sd.qt import QtGui

    field = PromptEdit("drawn", "drawn", "", 8)
    field.resize(22 * field.fontMetrics().averageCharWidth(), 12 * field.fontMetrics().lineSpacing())
    field.setPlainText(text)
    image = field.grab().toImage()
    pixels = [image.pixelColor(x, y) for x in range(image.width()) for y in range(image.height())]
    ranges = field.document().begin().layout().formats()
    colours = [
        entry.format.foreground().color() for entry in ranges if entry.format.foreground().color().alpha() == 255
    ]
    near = [any(_distance(pixel, colour) < 60 for pixel in pixels) for colour in map(QtGui.QColor, colours)]
    return near


def contrasts(theme: tuple[str, str]) -> dict[str, float]:
    """Ratio of luminances (WCAG, 1 to 21) of every mark and of a warning to the background; theme: (base, text)."""
    from krita_sd.dock.prompt_edit import PromptEdit
    from krita_sd.dock.sentence import Sentence
    from krita_sd.qt import QtGui, QtWidgets

    palette, role = QtGui.QPalette(), QtGui.QPalette.ColorRole
    for name, colour in ((role.Base, theme[0]), (role.Window, theme[0]), (role.Text, theme[1])):
        palette.setColor(name, QtGui.QColor(colour))
    room = QtWidgets.QWidget()
    room.setPalette(palette)
    field, label = PromptEdit("contrast", "contrast", "", 4), Sentence("contrast", "contrast", False)
    for widget in (field, label):
        widget.setParent(room)
    field.setPalette(palette)
    field.setPlainText("(up:1.1) (more:2) [down] (less:0.2) <lora:a:1> __file__ {a|b} BREAK (open")
    label.warn(True)
    ranges = field.document().begin().layout().formats()
    found = {field.toPlainText()[r.start : r.start + r.length]: r.format.foreground().color() for r in ranges}
    found["warning"] = label.palette().color(role.WindowText)
    base = _luminance(QtGui.QColor(theme[0]))
    light = {name: _luminance(colour) for name, colour in found.items()}
    return {name: (max(value, base) + 0.05) / (min(value, base) + 0.05) for name, value in light.items()}


def _luminance(colour: Any) -> float:
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour.getRgbF()[:3]]
    return float(0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2])


def _distance(one: Any, other: Any) -> int:
    pairs = zip(one.getRgb()[:3], other.getRgb()[:3], strict=True)
    return int(sum(abs(a - b) for a, b in pairs))
