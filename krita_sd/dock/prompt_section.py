# SPDX-License-Identifier: GPL-3.0-or-later
"""What all workspaces share: style, model, and what is asked of it."""

from __future__ import annotations

from typing import Any

from krita_sd.dock import buttons
from krita_sd.dock.chooser import Chooser
from krita_sd.dock.control_list import ControlList
from krita_sd.dock.lora_list import LoraList
from krita_sd.dock.prompt_edit import PromptEdit
from krita_sd.dock.sentence import Sentence
from krita_sd.dock.tips import escaped
from krita_sd.qt import QtWidgets, Signal, tr
from krita_sd.settings import Settings
from krita_sd.view import View


class PromptSection(QtWidgets.QWidget):
    """`actions` offers: generate, cancel, change, rescan, prompting, styling. `page_wanted` names a page."""

    page_wanted = Signal(str)

    def __init__(self, actions: Any) -> None:
        super().__init__()
        self.setObjectName("krita_sd_prompt_area")
        self._actions = actions
        self._settings: Settings | None = None
        column = QtWidgets.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addLayout(self._choices())
        self.prompt = PromptEdit(
            "krita_sd_prompt", tr("Prompt"), tr("What do you want to see?"), 4, actions.prompting.offer
        )
        self.prompt.setToolTip(tr("Shift+Enter generates. Ctrl+Up and Ctrl+Down weigh the word or the selection."))
        self.negative = PromptEdit(
            "krita_sd_negative", tr("Negative prompt"), tr("What should not be there"), 1, actions.prompting.offer
        )
        for field, setting in ((self.prompt, "prompt"), (self.negative, "negative")):
            field.textChanged.connect(lambda field=field, name=setting: self._typed(name, field.toPlainText()))
            field.generate.connect(actions.generate)
            field.cancel.connect(actions.cancel)
            field.completion.style_chosen.connect(actions.styling.choose)
        column.addWidget(self.prompt, 2)
        column.addLayout(self._reading_row())
        column.addWidget(self.negative, 0)
        self.loras = LoraList(actions.styling)
        column.addWidget(self.loras)
        self.controls = ControlList(actions.controlling)
        column.addWidget(self.controls)
        row = QtWidgets.QHBoxLayout()
        row.addWidget(self.loras.add, 1)
        row.addWidget(self.controls.add)
        row.addStretch(0)  # without LoRAs the button does not move to the right
        column.addLayout(row)

    def _choices(self) -> Any:
        grid = QtWidgets.QGridLayout()
        grid.setSpacing(4)
        tip = tr("Style: a preset of prompt, sampling, model and LoRAs")
        self.style_box = Chooser("style", tr("Style"), tip, self._actions.styling.choose, strict=False)
        self.edit_style = buttons.tool(
            "edit_style", "\u270e", tr("Make a style of what is set, or change it"), "edit-rename"
        )
        self.edit_style.clicked.connect(lambda _checked=False: self.page_wanted.emit("style"))
        self.model = Chooser("model", tr("Model"), tr("Model"), lambda id: self._actions.change(model=id))
        self.rescan = buttons.tool("rescan", "\u21bb", tr("Look for models again"), "reload-preset")
        self.rescan.clicked.connect(lambda _checked=False: self._actions.rescan())
        grid.addWidget(self.style_box, 0, 0)
        grid.addWidget(self.edit_style, 0, 1)
        grid.addWidget(self.model, 1, 0)
        grid.addWidget(self.rescan, 1, 1)
        grid.setColumnStretch(0, 1)
        return grid

    def _reading_row(self) -> Any:
        row = QtWidgets.QHBoxLayout()
        row.setSpacing(4)
        self.reading = Sentence("krita_sd_reading", tr("How the prompt is read"), lines=3)
        small = self.reading.font()
        small.setPointSizeF(max(6.0, small.pointSizeF() * 0.9))
        self.reading.setFont(small)
        self.history = buttons.tool(
            "prompts", "\u2630", tr("Prompts that were used, and favourites"), "document-history"
        )
        self.history.clicked.connect(lambda _checked=False: self.page_wanted.emit("prompts"))
        row.addWidget(self.reading, 1)
        row.addWidget(self.history)
        return row

    def _typed(self, name: str, text: str) -> None:
        if self._settings is not None and getattr(self._settings, name) != text:
            self._actions.change(**{name: text})

    def show_view(self, view: View, settings: Settings) -> None:
        """Draw; fields that already show the right thing are not touched."""
        self._settings = settings
        self.style_box.render_choices(view.styles, settings.style)
        self.model.render_choices(view.models, view.model)
        self.prompt.show_text(settings.prompt)
        self.negative.show_text(settings.negative)
        ignored = view.negative_ignored and settings.workspace != "live"  # Live has a guidance of its own
        self.negative.dim(tr("Ignored at guidance 1 or less") if ignored else "")
        self.reading.say(view.reading)
        self.reading.setToolTip(escaped(view.reading_tip or view.reading))
        self.reading.warn(view.reading_warns)
        self.loras.show_view(view, settings)
        self.controls.show_view(view, settings)
