# SPDX-License-Identifier: GPL-3.0-or-later
"""The strip of results with what can be done with the shown one; nothing at all before the first job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from krita_sd.dock import buttons
from krita_sd.dock.empty import Empty
from krita_sd.dock.results import ResultStrip
from krita_sd.qt import QAction, Qt, QtWidgets, tr
from krita_sd.settings import Settings
from krita_sd.view import View

_WAYS = {
    "top": ("Apply on top", "A new layer on top, one undo step"),
    "above": ("Apply above the active layer", "A new layer directly above the active one, one undo step"),
    "into": ("Apply into the active layer", "Added and merged down: two undo steps"),
    "mask": ("Apply as layer with transparency mask", "One undo step; needs Krita 5.2 or later"),
}

_FILTER = "PNG (*.png);;WebP (*.webp);;JPEG (*.jpg)"


class ResultsSection(QtWidgets.QWidget):
    """`actions` offers: apply, apply_in, discard, discard_others, pick, choose_results, star, toggle_shown, cancel,
    thumbnail, use_as_input, vary, same_seed, copy, restore_result, save_result, change."""

    def __init__(self, actions: Any) -> None:
        super().__init__()
        self.setObjectName("krita_sd_results_area")
        self._actions = actions
        self._folder = str(Path.home())
        self._wanted = False
        column = QtWidgets.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        self.strip = ResultStrip(actions.thumbnail)
        self.strip.picked.connect(actions.pick)
        self.strip.chosen.connect(actions.choose_results)
        self.strip.apply.connect(actions.apply)
        self.strip.discard.connect(actions.discard)
        self.strip.toggle.connect(actions.toggle_shown)
        self.strip.cancel.connect(actions.cancel)
        self.strip.star.connect(actions.star)
        self.strip.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.strip.customContextMenuRequested.connect(self._menu_at)
        Empty(self.strip, tr("Results appear here."))
        column.addWidget(self.strip)
        row = QtWidgets.QHBoxLayout()
        self.apply = buttons.push("apply", tr("Apply"), "", actions.apply)
        self.ways = buttons.tool("apply_ways", "▾", tr("Other ways to apply"))
        self.ways.setPopupMode(QtWidgets.QToolButton.ToolButtonPopupMode.InstantPopup)
        self.ways.setMenu(self._ways_menu())
        self.discard = buttons.push(
            "discard", tr("Discard"), tr("Drop the selected results (Delete); the history keeps them"), actions.discard
        )
        self.more = buttons.tool("result_more", "⋯", tr("Use as input, vary, copy, save and more"))
        self.more.setPopupMode(QtWidgets.QToolButton.ToolButtonPopupMode.InstantPopup)
        self.more.setMenu(self._menu())
        row.addWidget(self.apply, 1)
        row.addWidget(self.ways)
        row.addWidget(self.discard, 1)
        row.addWidget(self.more)
        column.addLayout(row)

    def _ways_menu(self) -> Any:
        menu = QtWidgets.QMenu(self)
        menu.setToolTipsVisible(True)
        self.way_actions = {}
        for way, (text, tip) in _WAYS.items():
            action = _add(menu, text, tip, lambda way=way: self._actions.apply_in(way))
            action.setCheckable(True)
            self.way_actions[way] = action
        return menu

    def _menu(self) -> Any:
        menu = QtWidgets.QMenu(self)
        menu.setToolTipsVisible(True)
        act = self._actions
        _add(menu, "Use as input", "The picture goes round again with another prompt or strength", act.use_as_input)
        _add(menu, "Vary", "The same picture with a little other noise", act.vary)
        _add(menu, "Same seed", "The next pictures begin with the seed of this one", act.same_seed)
        _add(menu, "Take over the recipe", "Set the docker as it was for this picture", act.restore_result)
        menu.addSeparator()
        _add(menu, "Star", "Kept in the history for ever (S)", act.star)
        others = "Drop all results but the selected ones; the history keeps them"
        _add(menu, "Discard the others", others, act.discard_others)
        _add(menu, "Copy prompt", "", lambda: act.copy("prompt"))
        _add(menu, "Copy seed", "", lambda: act.copy("seed"))
        _add(menu, "Copy recipe", "As text that other programs read", lambda: act.copy("recipe"))
        menu.addSeparator()
        _add(menu, "Save as...", "PNG, WebP or JPEG", self.ask_where_to_save)
        self.with_metadata = _add(menu, "Save with recipe", "Prompt, seed and settings inside the saved file", None)
        self.with_metadata.setCheckable(True)
        self.with_metadata.triggered.connect(lambda on: act.change(save_metadata=on))
        return menu

    def _menu_at(self, point: Any) -> None:
        self.more.menu().popup(self.strip.mapToGlobal(point))

    def ask_where_to_save(self) -> None:
        """Not modal: the painter may go on painting while the window is open."""
        dialog = QtWidgets.QFileDialog(self, tr("Save the picture"), self._folder, _FILTER)
        dialog.setObjectName("krita_sd_save")
        dialog.setAcceptMode(QtWidgets.QFileDialog.AcceptMode.AcceptSave)
        dialog.setDefaultSuffix("png")
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.setModal(False)
        dialog.fileSelected.connect(self._actions.save_result)
        dialog.show()

    def show_view(self, view: View, settings: Settings) -> None:
        """Draw."""
        self.strip.render_items(view.results, view.selected)
        self.apply.setEnabled(view.can_apply)
        self.discard.setEnabled(view.can_discard)
        for widget in (self.ways, self.more):
            widget.setEnabled(view.can_discard)
        buttons.set_tip(self.apply, f"{tr(_WAYS[settings.apply_way][1])} (Enter)", "apply")
        for way, action in self.way_actions.items():
            action.setChecked(way == settings.apply_way)
        self.way_actions["mask"].setEnabled(view.can_mask)
        self.with_metadata.setChecked(settings.save_metadata)
        self._folder = settings.save_folder or str(Path.home())
        # From the first job on: with each that comes and goes the buttons would move under the pen.
        self._wanted = self._wanted or bool(view.results) or view.can_cancel
        self.setVisible(self._wanted)


def _add(menu: Any, text: str, tip: str, pressed: Any) -> Any:
    action = QAction(tr(text), menu)
    action.setToolTip(tr(tip))
    if pressed is not None:
        action.triggered.connect(lambda _checked=False: pressed())
    menu.addAction(action)
    return action
