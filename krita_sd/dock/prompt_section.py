# SPDX-License-Identifier: GPL-3.0-or-later
"""What all workspaces share: the model and what is asked of it."""

from __future__ import annotations

from typing import Any

from krita_sd.dock import buttons
from krita_sd.dock.prompt_edit import PromptEdit
from krita_sd.qt import Qt, QtWidgets, tr
from krita_sd.settings import Settings
from krita_sd.view import View


class PromptSection(QtWidgets.QWidget):
    """`actions` offers: generate, cancel, change, rescan."""

    def __init__(self, actions: Any) -> None:
        super().__init__()
        self.setObjectName("krita_sd_prompt_area")
        self._actions = actions
        self._settings: Settings | None = None
        self._models: list[tuple[str, str, str]] = []
        column = QtWidgets.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addLayout(self._model_row())
        self.prompt = PromptEdit("krita_sd_prompt", tr("Prompt"), tr("What do you want to see?"), 4)
        self.negative = PromptEdit("krita_sd_negative", tr("Negative prompt"), tr("What should not be there"), 1)
        for field, setting in ((self.prompt, "prompt"), (self.negative, "negative")):
            field.textChanged.connect(lambda field=field, name=setting: self._typed(name, field.toPlainText()))
            field.generate.connect(actions.generate)
            field.cancel.connect(actions.cancel)
        column.addWidget(self.prompt, 2)
        column.addWidget(self.negative, 0)

    def _model_row(self) -> Any:
        row = QtWidgets.QHBoxLayout()
        self.model = QtWidgets.QComboBox()
        self.model.setObjectName("krita_sd_model")
        self.model.setAccessibleName(tr("Model"))
        policy = QtWidgets.QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        self.model.setSizeAdjustPolicy(policy)
        self.model.setMinimumContentsLength(8)
        self.model.activated.connect(lambda _row: self._actions.change(model=self.model.currentData()))
        self.rescan = buttons.tool("rescan", "↻", tr("Look for models again"), "reload-preset")
        self.rescan.clicked.connect(lambda _checked=False: self._actions.rescan())
        row.addWidget(self.model, 1)
        row.addWidget(self.rescan)
        return row

    def _typed(self, name: str, text: str) -> None:
        if self._settings is not None and getattr(self._settings, name) != text:
            self._actions.change(**{name: text})

    def show_view(self, view: View, settings: Settings) -> None:
        """Draw; fields that already show the right thing are not touched."""
        self._settings = settings
        self._render_models(view)
        self.prompt.show_text(settings.prompt)
        self.negative.show_text(settings.negative)

    def _render_models(self, view: View) -> None:
        wanted = [(choice.text, choice.id, choice.problem) for choice in view.models]
        if wanted != self._models:
            self._models = wanted
            self.model.clear()
            for row, (text, value, problem) in enumerate(wanted):
                self.model.addItem(text, value)
                if problem:
                    self.model.model().item(row).setEnabled(False)
                    self.model.setItemData(row, problem, Qt.ItemDataRole.ToolTipRole)
        row = self.model.findData(view.model)
        if row >= 0 and row != self.model.currentIndex():
            self.model.setCurrentIndex(row)
