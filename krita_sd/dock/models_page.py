# SPDX-License-Identifier: GPL-3.0-or-later
"""Every model that the server found: kind, family, size, and what is wrong with it."""

from __future__ import annotations

import functools
from typing import Any

from krita_sd.dock import buttons
from krita_sd.dock.sentence import Sentence
from krita_sd.dock.table import table
from krita_sd.dock.tips import escaped
from krita_sd.qt import Qt, QtWidgets, Signal, tr
from krita_sd.settings import Settings
from krita_sd.view import View
from krita_sd.view_lists import size_text

_ID = Qt.ItemDataRole.UserRole
KINDS = {
    "checkpoint": "Model",
    "lora": "LoRA",
    "vae": "VAE",
    "controlnet": "ControlNet",
    "t2i_adapter": "T2I-Adapter",
    "ip_adapter": "IP-Adapter",
    "redux": "Redux",
    "preprocessor": "Control maps",
    "upscaler": "Upscaler",
    "embedding": "Embedding",
}


class ModelsPage(QtWidgets.QWidget):
    """`actions` offers: models, rescan, change, styling.add_lora, collection.folders."""

    page_wanted = Signal(str)

    def __init__(self, actions: Any) -> None:
        super().__init__()
        self._actions = actions
        self._shown: Any = None
        self.setObjectName("krita_sd_models_area")
        column = QtWidgets.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        self.search = QtWidgets.QLineEdit()
        self.search.setObjectName("krita_sd_models_search")
        self.search.setAccessibleName(tr("Search models"))
        self.search.setPlaceholderText(tr("Search models ..."))
        self.search.setClearButtonEnabled(True)
        self.search.textChanged.connect(lambda _text: self._fill())
        column.addWidget(self.search)
        headers = [tr("Name"), tr("Kind"), tr("Family"), tr("Size")]
        self.tree = table("models_list", tr("Models that were found"), headers, 120)
        header = self.tree.header()
        header.setStretchLastSection(False)
        header.setMinimumSectionSize(30)
        # The name gives way: family and size are short, and say which of two is which.
        header.setSectionResizeMode(header.ResizeMode.ResizeToContents)
        header.setSectionResizeMode(0, header.ResizeMode.Stretch)
        self.tree.currentItemChanged.connect(lambda _new, _old: self._tell())
        self.tree.itemActivated.connect(lambda _item, _column: self._use())
        column.addWidget(self.tree, 1)
        self.about = Sentence("krita_sd_models_about", tr("About the chosen model"), lines=6)
        column.addWidget(self.about)
        row = QtWidgets.QHBoxLayout()
        self.use = buttons.push("models_use", tr("Use"), tr("Choose this model (Enter)"), self._use)
        self.again = buttons.push("models_rescan", tr("Look again"), tr("Scan the folders again"), actions.rescan)
        row.addWidget(self.use)
        row.addWidget(self.again)
        column.addLayout(row)
        row = QtWidgets.QHBoxLayout()
        for page, text, tip in (
            ("folders", tr("Folders ..."), tr("Where models are looked for; share those of other programs")),
            ("downloads", tr("Download ..."), tr("Fetch models from the Hugging Face hub")),
        ):
            button = buttons.push(f"models_{page}", text, tip, functools.partial(self.page_wanted.emit, page))
            row.addWidget(button)
        column.addLayout(row)

    def show_view(self, view: View, settings: Settings) -> None:
        """Draw."""
        self._fill()

    def _fill(self) -> None:
        words = self.search.text().lower().split()
        models = self._actions.models
        if (models, words) == self._shown:
            return
        self._shown = models, words
        self.tree.clear()
        for entry in models:
            name, kind = str(entry.get("name") or entry.get("id")), str(entry.get("kind") or "checkpoint")
            family, size = str(entry.get("family") or ""), entry.get("bytes")
            cells = [name, tr(KINDS.get(kind, kind)), family, size_text(size) if isinstance(size, int) else ""]
            if not all(word in " ".join(cells).lower() for word in words):
                continue
            item = QtWidgets.QTreeWidgetItem(cells)
            item.setData(0, _ID, entry)
            problem = "" if entry.get("usable", True) else str(entry.get("problem") or tr("It cannot be used."))
            for column in range(4):
                item.setToolTip(column, escaped(problem or name))
                if problem:
                    item.setForeground(column, self.palette().brush(self.palette().ColorRole.PlaceholderText))
            self.tree.addTopLevelItem(item)
        self._tell()

    def _entry(self) -> Any:
        item = self.tree.currentItem()
        return item.data(0, _ID) if item is not None else None

    def _tell(self) -> None:
        entry = self._entry()
        usable = entry is not None and entry.get("usable", True)
        self.use.setEnabled(bool(usable and entry.get("kind", "checkpoint") in ("checkpoint", "lora")))
        if entry is None:
            self.about.say(tr("Models of every kind are named here, also those that cannot be used, with the reason."))
        else:
            self.about.say(str(entry.get("problem") or entry.get("name")))

    def _use(self) -> None:
        entry = self._entry()
        if entry is None or not self.use.isEnabled():
            return
        if entry.get("kind", "checkpoint") == "lora":
            self._actions.styling.add_lora(str(entry.get("id")))
        else:
            self._actions.change(model=str(entry.get("id")))
