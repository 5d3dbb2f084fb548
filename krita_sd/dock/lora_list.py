# SPDX-License-Identifier: GPL-3.0-or-later
"""LoRAs with their weights, and a field that adds one by any part of its name."""

from __future__ import annotations

from typing import Any

from krita_sd.dock import buttons
from krita_sd.dock.sentence import Sentence
from krita_sd.dock.tips import escaped
from krita_sd.qt import Qt, QtWidgets, tr
from krita_sd.settings import Settings
from krita_sd.view import View
from krita_sd.view_lists import LoraItem
from krita_sd.wire.limits import MAX_LORA_WEIGHT


class LoraList(QtWidgets.QWidget):
    """`styling` offers add_lora, weigh_lora and drop_lora. `add` is placed by the owner; it is hidden while the server
    has no LoRA."""

    def __init__(self, styling: Any) -> None:
        super().__init__()
        self._styling = styling
        self._choices: tuple[Any, ...] = ()
        self._rows: list[_Row] = []
        self.setObjectName("krita_sd_lora_area")
        self._column = QtWidgets.QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(2)
        self.add = QtWidgets.QComboBox()
        self.add.setObjectName("krita_sd_lora_add")
        self.add.setAccessibleName(tr("Add a LoRA"))
        self.add.setToolTip(tr("Add a LoRA: choose it, or type a part of its name. In the prompt: <lora:name:0.8>"))
        self.add.setEditable(True)
        self.add.setInsertPolicy(QtWidgets.QComboBox.InsertPolicy.NoInsert)
        self.add.lineEdit().setPlaceholderText(tr("Add a LoRA ..."))
        self.add.setSizeAdjustPolicy(QtWidgets.QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        completer = self.add.completer()
        completer.setCompletionMode(QtWidgets.QCompleter.CompletionMode.PopupCompletion)
        completer.setFilterMode(Qt.MatchFlag.MatchContains)
        self.add.activated.connect(self._added)

    def show_view(self, view: View, settings: Settings) -> None:
        """Draw; a weight that is being typed is left alone."""
        if view.lora_choices != self._choices:
            self._choices = view.lora_choices
            self.add.clear()
            for row, choice in enumerate(self._choices):
                self.add.addItem(choice.text, choice.id)
                self.add.setItemData(row, escaped(choice.problem or choice.tip), Qt.ItemDataRole.ToolTipRole)
                if choice.problem:
                    self.add.model().item(row).setEnabled(False)
            self._clear()
        for number, item in enumerate(view.loras):
            if number == len(self._rows):
                row = _Row(number, self._styling)
                self._rows.append(row)
                self._column.insertWidget(number, row)
            self._rows[number].show_item(item)
        for row in self._rows[len(view.loras) :]:
            row.hide()
        self.setVisible(bool(view.loras))
        self.add.setVisible(bool(self._choices))

    def _added(self, row: int) -> None:
        id = self.add.itemData(row)
        self._clear()
        if id:
            self._styling.add_lora(id)

    def _clear(self) -> None:
        self.add.setCurrentIndex(-1)
        self.add.clearEditText()


class _Row(QtWidgets.QWidget):
    """One LoRA."""

    def __init__(self, number: int, styling: Any) -> None:
        super().__init__()
        self._item: LoraItem | None = None
        self.setObjectName(f"krita_sd_lora_area_{number}")
        line = QtWidgets.QHBoxLayout(self)
        line.setContentsMargins(0, 0, 0, 0)
        line.setSpacing(4)
        self.name = Sentence(f"krita_sd_lora_name_{number}", tr("LoRA"))
        self.weight = QtWidgets.QDoubleSpinBox()
        self.weight.setObjectName(f"krita_sd_lora_weight_{number}")
        self.weight.setAccessibleName(tr("Weight of the LoRA"))
        self.weight.setRange(-MAX_LORA_WEIGHT, MAX_LORA_WEIGHT)
        self.weight.setSingleStep(0.05)
        self.weight.setKeyboardTracking(False)
        self.weight.valueChanged.connect(lambda value: self._item and styling.weigh_lora(self._item.id, value))
        self.drop = buttons.tool(f"lora_drop_{number}", "\u00d7", tr("Take this LoRA away"))
        self.drop.clicked.connect(lambda _checked=False: self._item and styling.drop_lora(self._item.id))
        line.addWidget(self.name, 1)
        line.addWidget(self.weight)
        line.addWidget(self.drop)

    def show_item(self, item: LoraItem) -> None:
        self._item = None  # nothing is sent while drawing
        self.name.say(item.text)
        self.name.warn(bool(item.problem))
        if item.problem:
            self.name.setToolTip(escaped(item.problem))
        if abs(self.weight.value() - item.weight) > 1e-6:
            self.weight.setValue(item.weight)
        self._item = item
        self.show()
