# SPDX-License-Identifier: GPL-3.0-or-later
"""The page of the history: search, stars, and everything that can be done again with an old picture."""

from __future__ import annotations

from typing import Any

from krita_sd.dock import buttons
from krita_sd.dock.empty import Empty
from krita_sd.dock.results import highlighted, is_select_all
from krita_sd.qt import QAction, Qt, QtCore, QtWidgets, tr
from krita_sd.settings import Settings
from krita_sd.view import View

SEARCH_MS = 200
"""Pause in typing after which is searched."""

_ICON = 72


class HistoryPage(QtWidgets.QWidget):
    """`actions.history` offers: model, show, star, delete, copy, restore; `actions` apply and use_as_input."""

    def __init__(self, actions: Any) -> None:
        super().__init__()
        self.setObjectName("krita_sd_history_area")
        self._actions = actions
        column = QtWidgets.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        self.field = QtWidgets.QLineEdit()
        self.field.setObjectName("krita_sd_history_search")
        self.field.setAccessibleName(tr("Search the history"))
        self.field.setPlaceholderText(tr("Words of the prompt, a model or a seed"))
        self.field.setClearButtonEnabled(True)
        self.starred = buttons.tool("history_starred", "★", tr("Only starred pictures"))
        self.starred.setCheckable(True)
        self.starred.toggled.connect(lambda _on: self._search())
        self._timer = QtCore.QTimer(self, interval=SEARCH_MS, singleShot=True)
        self._timer.timeout.connect(self._search)
        self.field.textChanged.connect(lambda _text: self._timer.start())
        row = QtWidgets.QHBoxLayout()
        row.addWidget(self.field, 1)
        row.addWidget(self.starred)
        column.addLayout(row)
        self.list = _List(self)
        self.list.setModel(actions.history.model)
        self.list.customContextMenuRequested.connect(self._menu_at)
        self.list.doubleClicked.connect(lambda _index: self._show())
        Empty(self.list, tr("No pictures. Those that you make from now on are kept here."))
        column.addWidget(self.list, 1)
        column.addLayout(self._buttons())
        self.list.selectionModel().selectionChanged.connect(lambda *_: self._enable())
        # Another search takes the selection away without a word of the selection model.
        self._kept: set[str] = set()
        self.list.model().modelAboutToBeReset.connect(self._remember)
        self.list.model().modelReset.connect(self._recall)
        self._enable()

    def _buttons(self) -> Any:
        row = QtWidgets.QHBoxLayout()
        tip = tr("Onto the canvas of the active document, to look at it (Enter)")
        self.show_button = buttons.push("history_show", tr("Show"), tip, self._show)
        self.apply = buttons.push("history_apply", tr("Apply"), tr("As a layer of the active document"), self._apply)
        self.star = buttons.tool("history_star", "★", tr("Star or unstar; starred pictures are kept for ever (S)"))
        self.star.clicked.connect(lambda _checked=False: self._star())
        self.more = buttons.tool("history_more", "⋯", tr("Use as input, copy, delete"))
        self.more.setPopupMode(QtWidgets.QToolButton.ToolButtonPopupMode.InstantPopup)
        self.more.setMenu(self._menu())
        row.addWidget(self.show_button, 1)
        row.addWidget(self.apply, 1)
        row.addWidget(self.star)
        row.addWidget(self.more)
        return row

    def _menu(self) -> Any:
        menu = QtWidgets.QMenu(self)
        history = self._actions.history
        wanted = {
            "Use as input": self._use,
            "Take over the recipe": lambda: self._with_one(history.restore),
            "Copy prompt": lambda: self._with_one(lambda entry: history.copy(entry, "prompt")),
            "Copy seed": lambda: self._with_one(lambda entry: history.copy(entry, "seed")),
            "Copy recipe": lambda: self._with_one(lambda entry: history.copy(entry, "recipe")),
            "Delete from the disk": self._delete,
        }
        for text, pressed in wanted.items():
            action = QAction(tr(text), menu)
            action.triggered.connect(lambda _checked=False, pressed=pressed: pressed())
            menu.addAction(action)
        return menu

    def _menu_at(self, point: Any) -> None:
        if self.entries():
            self.more.menu().popup(self.list.viewport().mapToGlobal(point))

    def entries(self) -> list[Any]:
        """What is selected, in the order of the list."""
        rows = sorted(index.row() for index in self.list.selectionModel().selectedIndexes())
        model = self._actions.history.model
        found = (model.entry(model.index(row, 0)) for row in rows)
        return [entry for entry in found if entry is not None]

    def _remember(self) -> None:
        self._kept = {entry.key for entry in self.entries()}

    def _recall(self) -> None:
        """What was selected stays so where the new search has found it too."""
        model, selection = self.list.model(), self.list.selectionModel()
        for row in range(model.rowCount() if self._kept else 0):
            if model.entry(model.index(row, 0)).key in self._kept:
                selection.select(model.index(row, 0), selection.SelectionFlag.Select)
        self._enable()

    def _with_one(self, work: Any) -> None:
        for entry in self.entries()[:1]:
            work(entry)

    def _show(self) -> None:
        self._with_one(self._actions.history.show)

    def _apply(self) -> None:
        self._with_one(lambda entry: self._actions.history.show(entry, self._actions.apply))

    def _use(self) -> None:
        self._with_one(lambda entry: self._actions.history.show(entry, self._actions.use_as_input))

    def _star(self) -> None:
        found = self.entries()
        if found:
            on = not all(entry.starred for entry in found)
            self._actions.history.star([entry.key for entry in found], on)

    def _delete(self) -> None:
        keys = [entry.key for entry in self.entries()]
        if keys:
            self._actions.history.delete(keys)

    def _search(self) -> None:
        self._timer.stop()
        self._actions.history.model.search(self.field.text(), self.starred.isChecked())

    def _enable(self) -> None:
        some = bool(self.list.selectionModel().selectedIndexes())
        for widget in (self.show_button, self.apply, self.star, self.more):
            widget.setEnabled(some)

    def show_view(self, view: View, settings: Settings) -> None:
        """Called while the page shows; the list itself follows its model."""
        self._search()


class _List(QtWidgets.QListView):
    """Thumbnails in rows; keys as in the strip of results."""

    def __init__(self, page: HistoryPage) -> None:
        super().__init__()
        self._page = page
        self.setObjectName("krita_sd_history")
        self.setAccessibleName(tr("History"))
        self.setViewMode(QtWidgets.QListView.ViewMode.IconMode)
        self.setResizeMode(QtWidgets.QListView.ResizeMode.Adjust)
        self.setMovement(QtWidgets.QListView.Movement.Static)
        self.setUniformItemSizes(True)
        self.setIconSize(QtCore.QSize(_ICON, _ICON))
        self.setGridSize(_CELL)
        self.setItemDelegate(_Cell(self))
        self.setSelectionMode(QtWidgets.QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.setVerticalScrollMode(QtWidgets.QAbstractItemView.ScrollMode.ScrollPerPixel)

    def event(self, event: Any) -> bool:
        if event.type() == QtCore.QEvent.Type.ShortcutOverride and (event.key() in _KEYS or is_select_all(event)):
            event.accept()
            return True
        return bool(super().event(event))

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802
        name = _KEYS.get(event.key())
        if name is None:
            super().keyPressEvent(event)
        else:
            getattr(self._page, name)()


_CELL = QtCore.QSize(_ICON + 8, _ICON + 22)


class _Cell(QtWidgets.QStyledItemDelegate):
    """Every cell has the same size, also before its thumbnail has come."""

    def sizeHint(self, option: Any, index: Any) -> Any:  # noqa: N802
        return _CELL

    def paint(self, painter: Any, option: Any, index: Any) -> None:
        super().paint(painter, highlighted(painter, option), index)


_KEYS = {
    Qt.Key.Key_Return: "_show",
    Qt.Key.Key_Enter: "_show",
    Qt.Key.Key_S: "_star",
    Qt.Key.Key_Delete: "_delete",
}
