# SPDX-License-Identifier: GPL-3.0-or-later
"""Prompts that were used: search, favourites, put one back into the fields."""

from __future__ import annotations

from typing import Any

from krita_sd.dock import buttons
from krita_sd.dock.empty import Empty
from krita_sd.dock.tips import escaped
from krita_sd.prompt_history import Used
from krita_sd.qt import Qt, QtWidgets, Signal, tr
from krita_sd.settings import Settings
from krita_sd.view import View

_ROLE = Qt.ItemDataRole.UserRole
_SHOWN = 200


class PromptsPage(QtWidgets.QWidget):
    """`actions.prompting` offers history, use, star and forget. `done`: the painter has chosen one."""

    done = Signal()

    def __init__(self, actions: Any) -> None:
        super().__init__()
        self._prompting = actions.prompting
        self._listed: tuple[Any, ...] = ()
        self.setObjectName("krita_sd_prompts_area")
        column = QtWidgets.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        row = QtWidgets.QHBoxLayout()
        self.search = QtWidgets.QLineEdit()
        self.search.setObjectName("krita_sd_prompts_search")
        self.search.setAccessibleName(tr("Search prompts"))
        self.search.setPlaceholderText(tr("Search prompts ..."))
        self.search.setClearButtonEnabled(True)
        self.search.textChanged.connect(lambda _text: self._fill())
        self.only = buttons.tool("prompts_only", "\u2605", tr("Favourites only"))
        self.only.setCheckable(True)
        self.only.clicked.connect(lambda _checked=False: self._fill())
        row.addWidget(self.search, 1)
        row.addWidget(self.only)
        column.addLayout(row)
        self.list = QtWidgets.QListWidget()
        self.list.setObjectName("krita_sd_prompts_list")
        self.list.setAccessibleName(tr("Prompts that were used"))
        self.list.setWordWrap(False)
        self.list.itemActivated.connect(lambda _item: self._use())
        self.list.currentItemChanged.connect(lambda _new, _old: self._enable())
        Empty(self.list, tr("No prompts. Those that you use from now on are kept here."))
        column.addWidget(self.list, 1)
        line = QtWidgets.QHBoxLayout()
        self.use = buttons.push("prompts_use", tr("Use"), tr("Put it into the prompt fields (Enter)"), self._use)
        self.star = buttons.push("prompts_star", tr("Favourite"), tr("Star it, or take the star away"), self._star)
        self.drop = buttons.push("prompts_drop", tr("Forget"), tr("Take it out of the history"), self._drop)
        for button in (self.use, self.star, self.drop):
            line.addWidget(button)
        column.addLayout(line)
        self._enable()

    def show_view(self, view: View, settings: Settings) -> None:
        """Draw the history as it is now."""
        self._fill()

    def _fill(self) -> None:
        found = tuple(self._prompting.history.search(self.search.text(), self.only.isChecked())[:_SHOWN])
        if found == self._listed:
            return
        self._listed = found
        chosen = self._entry()
        self.list.clear()
        for entry in found:
            words = " ".join(entry.prompt.split())
            item = QtWidgets.QListWidgetItem(("\u2605 " if entry.favourite else "") + words[:200])
            item.setData(_ROLE, entry)
            tip = entry.prompt + (f"\n\n{tr('Negative prompt')}: {entry.negative}" if entry.negative.strip() else "")
            item.setToolTip(escaped(tip[:2000]))
            self.list.addItem(item)
            if chosen is not None and entry.key == chosen.key:
                self.list.setCurrentItem(item)
        if self.list.currentRow() < 0 and found:
            self.list.setCurrentRow(0)
        self._enable()

    def _entry(self) -> Used | None:
        item = self.list.currentItem()
        return item.data(_ROLE) if item is not None else None

    def _enable(self) -> None:
        entry = self._entry()
        for button in (self.use, self.star, self.drop):
            button.setEnabled(entry is not None)

    def _use(self) -> None:
        entry = self._entry()
        if entry is not None:
            self._prompting.use(entry)
            self.done.emit()

    def _star(self) -> None:
        entry = self._entry()
        if entry is not None:
            self._prompting.star(entry, not entry.favourite)
            self._fill()

    def _drop(self) -> None:
        entry = self._entry()
        if entry is not None:
            self._prompting.forget(entry)
            self._fill()
