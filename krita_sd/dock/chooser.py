# SPDX-License-Identifier: GPL-3.0-or-later
"""A combo box of `Choice`s: filled only when they change, unusable lines greyed with the reason as tooltip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from krita_sd.dock.tips import escaped
from krita_sd.qt import Qt, QtWidgets

_ID = Qt.ItemDataRole.UserRole


class Chooser(QtWidgets.QComboBox):
    """`chosen(id)` is called when the painter picks a line; never while drawing. `strict`: a line with a problem cannot
    be picked."""

    def __init__(
        self, name: str, accessible: str, tip: str, chosen: Callable[[str], None], strict: bool = True
    ) -> None:
        super().__init__()
        self._lines: tuple[tuple[str, str, str, str], ...] = ()
        self._strict = strict
        self.setObjectName(f"krita_sd_{name}")
        self.setAccessibleName(accessible)
        self.setToolTip(tip)
        self.setSizeAdjustPolicy(QtWidgets.QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(8)
        self.activated.connect(lambda row: chosen(self.itemData(row)))

    def render_choices(self, choices: Sequence[Any], selected: str | None) -> None:
        """Show these lines (anything with id, text, problem and perhaps tip); `selected` None: no line."""
        lines = tuple((item.id, item.text, getattr(item, "tip", ""), item.problem) for item in choices)
        if lines != self._lines:
            self._lines = lines
            self.clear()
            for row, (id, text, tip, problem) in enumerate(lines):
                self.addItem(text, id)
                self.setItemData(row, escaped(problem or tip), Qt.ItemDataRole.ToolTipRole)
                if problem and self._strict:
                    self.model().item(row).setEnabled(False)
                elif problem:
                    self.model().item(row).setForeground(self.palette().brush(self.palette().ColorRole.PlaceholderText))
        row = -1 if selected is None else self.findData(selected)
        if row != self.currentIndex():
            self.setCurrentIndex(row)
