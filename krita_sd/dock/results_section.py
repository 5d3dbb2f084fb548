# SPDX-License-Identifier: GPL-3.0-or-later
"""The strip of results with what can be done with the shown one; nothing at all while there are no results."""

from __future__ import annotations

from typing import Any

from krita_sd.dock import buttons
from krita_sd.dock.results import ResultStrip
from krita_sd.qt import QtWidgets, tr
from krita_sd.settings import Settings
from krita_sd.view import View


class ResultsSection(QtWidgets.QWidget):
    """`actions` offers: apply, discard, pick, toggle_shown, cancel, thumbnail."""

    def __init__(self, actions: Any) -> None:
        super().__init__()
        self.setObjectName("krita_sd_results_area")
        column = QtWidgets.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        self.strip = ResultStrip(actions.thumbnail)
        self.strip.picked.connect(actions.pick)
        self.strip.apply.connect(actions.apply)
        self.strip.discard.connect(actions.discard)
        self.strip.toggle.connect(actions.toggle_shown)
        self.strip.cancel.connect(actions.cancel)
        column.addWidget(self.strip)
        row = QtWidgets.QHBoxLayout()
        tip = tr("Make the shown result a layer, one undo step (Enter)")
        self.apply = buttons.push("apply", tr("Apply"), tip, actions.apply)
        self.discard = buttons.push("discard", tr("Discard"), tr("Drop the shown result (Delete)"), actions.discard)
        row.addWidget(self.apply, 1)
        row.addWidget(self.discard, 1)
        column.addLayout(row)

    def show_view(self, view: View, settings: Settings) -> None:
        """Draw."""
        self.strip.render_items(view.results, view.selected)
        self.apply.setEnabled(view.can_apply)
        self.discard.setEnabled(view.can_discard)
        self.setVisible(bool(view.results))
