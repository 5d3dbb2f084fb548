# SPDX-License-Identifier: GPL-3.0-or-later
"""Where models are looked for: the own folder and those that the painter shares with other programs."""

from __future__ import annotations

from typing import Any

from krita_sd.dock import buttons
from krita_sd.dock.sentence import Sentence
from krita_sd.dock.table import table
from krita_sd.dock.tips import escaped
from krita_sd.download_text import FolderLine
from krita_sd.qt import Qt, QtWidgets, Signal, tr
from krita_sd.settings import Settings
from krita_sd.view import View

_ROLE = Qt.ItemDataRole.UserRole


class FoldersPage(QtWidgets.QWidget):
    """`actions` offers: rescan, collection.{folders, is_elsewhere, add_folder, drop_folder, open_folder}."""

    page_wanted = Signal(str)

    def __init__(self, actions: Any) -> None:
        super().__init__()
        self._collection = actions.collection
        self._shown: Any = None
        self._chooser: Any = None
        self.setObjectName("krita_sd_folders_area")
        column = QtWidgets.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        self.title = Sentence("krita_sd_folders_title", tr("What this page shows"), lines=3)
        column.addWidget(self.title)
        headers = [tr("Folder"), tr("What was found")]
        self.tree = table("folders_list", tr("Folders with models"), headers, 90)
        self.tree.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.tree.currentItemChanged.connect(lambda _new, _old: self._tell())
        column.addWidget(self.tree, 1)
        self.about = Sentence("krita_sd_folders_about", tr("About the chosen folder"), lines=4)
        column.addWidget(self.about)
        row = QtWidgets.QHBoxLayout()
        tip = tr("A folder with models, or the folder of another program: its layout is recognised. Enter adds it.")
        self.path = QtWidgets.QLineEdit()
        self.path.setObjectName("krita_sd_folders_path")
        self.path.setAccessibleName(tr("Folder to add"))
        self.path.setPlaceholderText(tr("Folder to add ..."))
        self.path.setToolTip(tip)
        self.path.returnPressed.connect(self._add)
        self.browse = buttons.push("folders_browse", tr("Browse ..."), tr("Choose a folder"), self._browse)
        self.add = buttons.push("folders_add", tr("Add"), tip, self._add)
        self.path.setMinimumWidth(60)
        row.addWidget(self.path, 1)
        row.addWidget(self.browse)
        column.addLayout(row)
        tip = tr("Look there no more; nothing in the folder is touched")
        self.drop = buttons.push("folders_drop", tr("Take out"), tip, self._drop)
        self.open = buttons.push("folders_open", tr("Open"), tr("Show it in the file manager"), self._open)
        self.again = buttons.push("folders_rescan", tr("Look again"), tr("Scan the folders again"), actions.rescan)
        back = tr("Back to the models")
        self.back = buttons.push("folders_back", tr("Models"), back, lambda: self.page_wanted.emit("models"))
        for buttons_of_row in ((self.add, self.drop, self.open), (self.again, self.back)):
            row = QtWidgets.QHBoxLayout()
            for button in buttons_of_row:
                row.addWidget(button)
            column.addLayout(row)

    def show_view(self, view: View, settings: Settings) -> None:
        """Draw."""
        folders = self._collection.folders()
        elsewhere = bool(self._collection.is_elsewhere)
        for widget in (self.path, self.browse, self.add, self.tree):
            widget.setEnabled(not elsewhere)
        if elsewhere:
            self.title.say(tr("The folders are chosen where the server runs: python -m server --models FOLDER"))
        else:
            self.title.say(tr("Models are looked for in these folders and below them."))
        if folders != self._shown:
            self._shown = folders
            self._fill(folders)
        self._tell()

    def _fill(self, folders: tuple[FolderLine, ...]) -> None:
        chosen = self._line()
        self.tree.clear()
        for line in folders:
            item = QtWidgets.QTreeWidgetItem([line.path, line.problem or line.text])
            item.setData(0, _ROLE, line)
            item.setToolTip(0, escaped(line.path))
            item.setToolTip(1, escaped(line.problem or line.text))
            self.tree.addTopLevelItem(item)
            if chosen is not None and chosen.path == line.path:
                self.tree.setCurrentItem(item)
        if self.tree.currentItem() is None and folders:
            self.tree.setCurrentItem(self.tree.topLevelItem(0))
        self.tree.resizeColumnToContents(0)
        self.tree.setColumnWidth(0, min(self.tree.columnWidth(0), max(120, self.tree.width() // 2)))

    def _line(self) -> FolderLine | None:
        item = self.tree.currentItem()
        return item.data(0, _ROLE) if item is not None else None

    def _tell(self) -> None:
        line = self._line()
        self.drop.setEnabled(line is not None and not line.is_own)
        self.open.setEnabled(line is not None)
        if line is None:
            self.about.say("")
        elif line.is_own and not line.report.get("models"):
            self.about.say(tr("Downloads go here. It is made by the first one."))
        else:
            self.about.say(line.problem or (tr("Downloads go here. ") if line.is_own else "") + line.text)

    def _add(self) -> None:
        self._collection.add_folder(self.path.text())
        self.path.clear()

    def _browse(self) -> None:
        """Not modal: the painter may go on while the window is open."""
        if self._chooser is None:
            self._chooser = QtWidgets.QFileDialog(self.window(), tr("Folder with models"))
            self._chooser.setFileMode(QtWidgets.QFileDialog.FileMode.Directory)
            self._chooser.setOption(QtWidgets.QFileDialog.Option.ShowDirsOnly, True)
            self._chooser.setModal(False)
            self._chooser.fileSelected.connect(self._collection.add_folder)
        self._chooser.show()
        self._chooser.raise_()

    def _drop(self) -> None:
        line = self._line()
        if line is not None:
            self._collection.drop_folder(line.path)

    def _open(self) -> None:
        line = self._line()
        if line is not None:
            self._collection.open_folder(line.path)
