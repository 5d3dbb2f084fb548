# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes a style of what the docker shows, changes one, and says where its file is."""

from __future__ import annotations

from typing import Any

from krita_sd.dock import buttons
from krita_sd.dock.sentence import Sentence
from krita_sd.qt import QtWidgets, Signal, tr
from krita_sd.settings import Settings
from krita_sd.styles import PLACE, Style
from krita_sd.view import View


class StylePage(QtWidgets.QWidget):
    """`actions.styling` offers current, save, delete, reload. `done`: back to the workspace."""

    done = Signal()

    def __init__(self, actions: Any) -> None:
        super().__init__()
        self._styling = actions.styling
        self._edited: str | None = None
        self.setObjectName("krita_sd_style_area")
        column = QtWidgets.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        self.name = QtWidgets.QLineEdit()
        self.prompt = QtWidgets.QPlainTextEdit()
        self.negative = QtWidgets.QPlainTextEdit()
        tip = tr("{prompt} stands for what you type. Without it your words come first.")
        for name, title, field, about in (
            ("style_name", tr("Name"), self.name, ""),
            ("style_prompt", tr("Prompt of the style"), self.prompt, tip),
            ("style_negative", tr("Negative prompt of the style"), self.negative, tip),
        ):
            label = QtWidgets.QLabel(title)
            label.setBuddy(field)
            field.setObjectName(f"krita_sd_{name}")
            field.setAccessibleName(title)
            field.setToolTip(about)
            column.addWidget(label)
            column.addWidget(field)
        for field in (self.prompt, self.negative):
            field.setTabChangesFocus(True)
            field.setMaximumHeight(field.fontMetrics().lineSpacing() * 5)
        self.prompt.setPlaceholderText(PLACE)
        self.facts = Sentence("krita_sd_style_facts", tr("What the style keeps"), lines=4)
        column.addWidget(self.facts)
        row = QtWidgets.QHBoxLayout()
        self.save = buttons.push("style_save", tr("Save"), tr("Change this style"), lambda: self._save(False))
        tip = tr(
            "Keep it as a new style, with model, LoRAs, sampler, steps, guidance, VAE, clip skip and tiling as set"
        )
        self.save_new = buttons.push("style_save_new", tr("Save as new"), tip, lambda: self._save(True))
        self.delete = buttons.push("style_delete", tr("Delete"), tr("Remove this style and its file"), self._delete)
        for button in (self.save, self.save_new, self.delete):
            row.addWidget(button)
        column.addLayout(row)
        self.place = Sentence("krita_sd_style_place", tr("Folder of the styles"))
        self.reload = buttons.push("style_reload", tr("Read the folder again"), "", self._styling.reload)
        column.addWidget(self.place)
        column.addWidget(self.reload)
        column.addStretch(1)

    def show_view(self, view: View, settings: Settings) -> None:
        """Draw; fields are filled when another style is shown, then they belong to the painter."""
        style: Style = self._styling.current()
        if self._edited != style.id:
            self._edited = style.id
            self.name.setText(style.name if style.id else "")
            self.prompt.setPlainText(style.prompt)
            self.negative.setPlainText(style.negative)
        facts = [tr("{steps} steps", steps=style.steps)] if style.steps is not None else []
        facts += [tr("guidance {guidance:g}", guidance=style.guidance)] if style.guidance is not None else []
        facts += [text for text in (style.sampler, style.model, style.vae) if text]
        facts += [f"{lora.id} {lora.weight:g}" for lora in style.loras]
        self.facts.say(tr("Keeps: ") + (", ".join(facts) or tr("the model's defaults")))
        self.save.setEnabled(style.is_own)
        self.delete.setEnabled(style.is_own)
        self.place.say(tr("Files: ") + str(self._styling.core.styles.folder))

    def hideEvent(self, event: Any) -> None:  # noqa: N802
        self._edited = None
        super().hideEvent(event)

    def _save(self, as_new: bool) -> None:
        style: Style = self._styling.current()
        wanted = style.replace(
            name=self.name.text().strip(), prompt=self.prompt.toPlainText(), negative=self.negative.toPlainText()
        )
        self._styling.save(wanted.replace(id="", families=()) if as_new else wanted)
        if wanted.name:
            self.done.emit()

    def _delete(self) -> None:
        self._styling.delete(self._styling.current().id)
        self.done.emit()
