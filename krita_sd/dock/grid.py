# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of the compare grid: two axes, what they amount to, and what can be made of the pictures."""

from __future__ import annotations

import dataclasses
from typing import Any

from krita_sd.dock import buttons
from krita_sd.dock.sentence import Sentence
from krita_sd.qt import QtWidgets, tr
from krita_sd.settings import Settings
from krita_sd.view import View

_KINDS = {
    "none": ("Nothing", ""),
    "steps": ("Steps", "10, 20, 30 or 10-30 (+10)"),
    "guidance": ("Guidance", "1.1, 3, 7, 14"),
    "strength": ("Strength", "30%, 50%, 70%"),
    "sampler": ("Sampler", "Euler a, DPM++ 2M Karras"),
    "seed": ("Seed", "x4, or 1, 2, 3"),
    "model": ("Model", "Names, separated by commas"),
    "lora": ("LoRA weight", "name: 0.2, 0.6, 1"),
    "replace": ("Prompt replacement", "red, blue, green"),
}


class GridPage(QtWidgets.QWidget):
    """`actions.comparing` offers: wish, change, describe, progress, start, sheet, layers."""

    def __init__(self, actions: Any) -> None:
        super().__init__()
        self.setObjectName("krita_sd_grid_area")
        self._comparing = actions.comparing
        column = QtWidgets.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        self.kinds: dict[str, Any] = {}
        self.texts: dict[str, Any] = {}
        for side, title in (("x", tr("Columns")), ("y", tr("Rows"))):
            column.addWidget(QtWidgets.QLabel(title))
            column.addLayout(self._axis(side, title))
        self.note = Sentence("krita_sd_grid_note", tr("Size of the grid"), lines=6)
        column.addWidget(self.note)
        tip = tr("Every cell is an ordinary picture: with its recipe alone it comes out the same")
        self.start = buttons.push("grid_start", tr("Compare"), tip, lambda: self._comparing.start())
        column.addWidget(self.start)
        self.progress = Sentence("krita_sd_grid_progress", tr("Progress of the grid"), lines=2)
        column.addWidget(self.progress)
        row = QtWidgets.QHBoxLayout()
        tip = tr("All pictures with labels, as a document of its own")
        self.sheet = buttons.push("grid_sheet", tr("Contact sheet"), tip, lambda: self._comparing.sheet())
        tip = tr("All pictures as layers of a group, one undo step")
        self.layers = buttons.push("grid_layers", tr("Layer group"), tip, lambda: self._comparing.layers())
        row.addWidget(self.sheet)
        row.addWidget(self.layers)
        column.addLayout(row)
        column.addStretch(1)

    def _axis(self, side: str, title: str) -> Any:
        row = QtWidgets.QHBoxLayout()
        kind = QtWidgets.QComboBox()
        kind.setObjectName(f"krita_sd_grid_{side}")
        kind.setAccessibleName(title)
        for name, (text, _) in _KINDS.items():
            kind.addItem(tr(text), name)
        kind.activated.connect(lambda _row: self._typed())
        field = QtWidgets.QLineEdit()
        field.setObjectName(f"krita_sd_grid_{side}_values")
        field.setAccessibleName(f"{title}: {tr('values')}")
        field.textEdited.connect(lambda _text: self._typed())
        self.kinds[side], self.texts[side] = kind, field
        row.addWidget(kind)
        row.addWidget(field, 1)
        return row

    def _typed(self) -> None:
        changes = {f"{side}_kind": self.kinds[side].currentData() for side in "xy"}
        changes |= {f"{side}_text": self.texts[side].text() for side in "xy"}
        self._comparing.change(dataclasses.replace(self._comparing.wish, **changes))

    def show_view(self, view: View, settings: Settings) -> None:
        """Draw."""
        wish = self._comparing.wish
        for side in "xy":
            kind = getattr(wish, f"{side}_kind")
            row = self.kinds[side].findData(kind)
            if row != self.kinds[side].currentIndex():
                self.kinds[side].setCurrentIndex(row)
            field = self.texts[side]
            field.setPlaceholderText(tr(_KINDS[kind][1]))
            field.setEnabled(kind != "none")
            if field.text() != getattr(wish, f"{side}_text"):
                field.setText(getattr(wish, f"{side}_text"))
        text, possible = self._comparing.describe()
        self.note.say(text)
        self.start.setEnabled(possible)
        done, count = self._comparing.progress()
        self.progress.say(tr("{done} of {count} pictures are there", done=done, count=count) if count else "")
        self.sheet.setEnabled(done > 0)
        self.layers.setEnabled(done > 0)
