# SPDX-License-Identifier: GPL-3.0-or-later
"""The history as a list for a view: pages are asked for as it is scrolled, thumbnails as they come into sight."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from krita_sd import plan
from krita_sd.history.store import Entry
from krita_sd.qt import Qt, QtCore, QtGui

PAGE = 60
THUMBNAILS = 240
"""Small pictures in memory: 36 KiB each."""

_Role = Qt.ItemDataRole


class HistoryModel(QtCore.QAbstractListModel):
    """`ask(number, text, starred, offset, limit)` is answered by `page`, `ask_small(entry)` by `thumbnail_came`."""

    def __init__(
        self, ask: Callable[[int, str, bool, int, int], None], ask_small: Callable[[Entry], None], parent: Any = None
    ) -> None:
        super().__init__(parent)
        self._ask = ask
        self._ask_small = ask_small
        self._entries: list[Entry] = []
        self._small: OrderedDict[str, Any] = OrderedDict()
        self._asked: set[str] = set()
        self._number = 0  # of the search whose answers count
        self._waiting = False
        self._filter = ("", False)
        self._begun = False
        self._shown = 0  # the search whose first page is here
        self.total = 0

    # What the view calls ---------------------------------------------------------------------------------------------

    def search(self, text: str, starred: bool) -> None:
        """Show what matches; answers to an older search are ignored."""
        if self._begun and (text, starred) == self._filter:
            return
        self._filter = (text, starred)
        self._restart()

    def _restart(self) -> None:
        self._begun = True
        self._number += 1
        self._waiting = True
        self._ask(self._number, *self._filter, 0, PAGE)

    def entry(self, index: Any) -> Entry | None:
        return self._entries[index.row()] if index.isValid() and index.row() < len(self._entries) else None

    def rowCount(self, parent: Any = None) -> int:  # noqa: N802
        return 0 if parent is not None and parent.isValid() else len(self._entries)

    def data(self, index: Any, role: int = _Role.DisplayRole) -> Any:
        entry = self.entry(index)
        if entry is None:
            return None
        if role == _Role.DecorationRole:
            return self._decoration(entry)
        if role in (_Role.ToolTipRole, _Role.AccessibleTextRole):
            text = plan.describe(entry.found.recipe())
            return plain_tip(text) if role == _Role.ToolTipRole else text
        if role == _Role.DisplayRole:
            return "\u2605" if entry.starred else ""
        return None

    def _decoration(self, entry: Entry) -> Any:
        image = self._small.get(entry.key)
        if image is None:
            if entry.key not in self._asked:
                self._asked.add(entry.key)
                self._ask_small(entry)
            return None
        self._small.move_to_end(entry.key)
        return QtGui.QIcon(QtGui.QPixmap.fromImage(image))  # an icon is drawn in the view's icon size

    def canFetchMore(self, parent: Any) -> bool:  # noqa: N802
        return not self._waiting and len(self._entries) < self.total

    def fetchMore(self, parent: Any) -> None:  # noqa: N802
        if self.canFetchMore(parent):
            self._waiting = True
            self._ask(self._number, *self._filter, len(self._entries), PAGE)

    # Answers and news ------------------------------------------------------------------------------------------------

    def page(self, number: int, found: list[Entry], total: int) -> None:
        """Entries after those that are here; the first ones of a new search replace all."""
        if number != self._number:
            return
        self.total = total
        if number != self._shown:
            self._shown = number
            self.beginResetModel()
            self._entries = list(found)
            self.endResetModel()
        else:
            here = {entry.key for entry in self._entries}
            new = [entry for entry in found if entry.key not in here]
            newest = self._entries[0].created if self._entries else float("-inf")
            ahead = sum(entry.created > newest for entry in new)
            # What is selected stays selected, and in its place, while pictures come in.
            self._insert(0, new[:ahead])
            self._insert(len(self._entries), new[ahead:])
        self._waiting = False

    def _insert(self, row: int, entries: list[Entry]) -> None:
        if entries:
            self.beginInsertRows(QtCore.QModelIndex(), row, row + len(entries) - 1)
            self._entries[row:row] = entries
            self.endInsertRows()

    def thumbnail_came(self, key: str, image: Any) -> None:
        self._asked.discard(key)
        if image is None:
            return
        self._small[key] = image
        while len(self._small) > THUMBNAILS:
            self._small.popitem(last=False)
        self._changed([key])

    def added(self) -> None:
        """A picture was recorded: look at the newest again, if anybody has looked."""
        if self._begun and not self._waiting:
            self._waiting = True
            self._ask(self._number, *self._filter, 0, PAGE)

    def starred(self, keys: Iterable[str], on: bool) -> None:
        wanted = set(keys)
        self._entries = [
            dataclasses.replace(entry, starred=on) if entry.key in wanted else entry for entry in self._entries
        ]
        self._changed(wanted)

    def removed(self, keys: Iterable[str]) -> None:
        wanted = set(keys)
        for row in reversed(range(len(self._entries))):
            if self._entries[row].key in wanted:
                self.beginRemoveRows(QtCore.QModelIndex(), row, row)
                del self._entries[row]
                self.endRemoveRows()
                self.total = max(0, self.total - 1)

    def _changed(self, keys: Iterable[str]) -> None:
        wanted = set(keys)
        for row, entry in enumerate(self._entries):
            if entry.key in wanted:
                self.dataChanged.emit(self.index(row, 0), self.index(row, 0))


def plain_tip(text: str) -> str:
    """A tooltip cannot be told to be plain text: what could be markup is escaped, so that it shows as typed."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "<qt>" + escaped.replace("\n", "<br>") + "</qt>"
