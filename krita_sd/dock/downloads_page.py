# SPDX-License-Identifier: GPL-3.0-or-later
"""Models that can be fetched from the hub: the size first, then a bar; stopped and continued at any time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from krita_sd.dock import buttons
from krita_sd.dock.bar import STEPS, Bar
from krita_sd.dock.models_page import KINDS
from krita_sd.dock.sentence import Sentence
from krita_sd.dock.table import table
from krita_sd.dock.tips import escaped
from krita_sd.download_text import BUSY, button_text, progress_text, state_text, wish
from krita_sd.qt import Qt, QtWidgets, Signal, tr
from krita_sd.settings import Settings
from krita_sd.view import View
from krita_sd.view_lists import size_text

_ROLE = Qt.ItemDataRole.UserRole


class DownloadsPage(QtWidgets.QWidget):
    """`actions.collection` offers: offers, free, can_download, list_downloads, do."""

    page_wanted = Signal(str)

    def __init__(self, actions: Any) -> None:
        super().__init__()
        self._collection = actions.collection
        self._shown: Any = None
        self.setObjectName("krita_sd_downloads_area")
        column = QtWidgets.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        self.title = Sentence("krita_sd_downloads_title", tr("What this page shows"), lines=3)
        column.addWidget(self.title)
        headers = [tr("Name"), tr("Kind"), tr("Size"), tr("State")]
        self.tree = table("downloads_list", tr("Models that can be downloaded"), headers, 120)
        self.tree.currentItemChanged.connect(lambda _new, _old: self._tell())
        self.tree.itemActivated.connect(lambda _item, _column: self._go())
        column.addWidget(self.tree, 1)
        self.about = Sentence("krita_sd_downloads_about", tr("What it is good for"), lines=3)
        self.source = Sentence("krita_sd_downloads_source", tr("Licence and source"), lines=3)
        self.problem = Sentence("krita_sd_downloads_problem", tr("Why it failed"), lines=6)
        self.bar = Bar("downloads_bar", tr("Progress of the download"))
        for widget in (self.about, self.source, self.problem, self.bar):
            column.addWidget(widget)
        row = QtWidgets.QHBoxLayout()
        tip = tr("First asks the hub for the size; pressed again, fetches it (Enter)")
        self.go = buttons.push("downloads_go", tr("Ask for the size"), tip, self._go)
        tip = tr("What has arrived is kept")
        self.stop = buttons.push("downloads_stop", tr("Stop"), tip, lambda: self._do("stop"))
        tip = tr("Delete what has arrived of this download")
        self.discard = buttons.push("downloads_discard", tr("Throw away"), tip, lambda: self._do("discard"))
        back = tr("Back to the models")
        self.back = buttons.push("downloads_back", tr("Models"), back, lambda: self.page_wanted.emit("models"))
        column.addWidget(self.go)
        for button in (self.stop, self.discard, self.back):
            row.addWidget(button)
        column.addLayout(row)

    def showEvent(self, event: Any) -> None:  # noqa: N802
        super().showEvent(event)
        self._collection.list_downloads()

    def show_view(self, view: View, settings: Settings) -> None:
        """Draw."""
        if not self._collection.can_download:
            self.title.say(tr("There is no connection to a server that downloads."))
        else:
            free = size_text(self._collection.free) if self._collection.free else "?"
            text = tr(
                "From the Hugging Face hub, only when you press the button. {free} are free on the disk.", free=free
            )
            self.title.say(text)
        offers = tuple(self._collection.offers) if self._collection.can_download else ()
        if offers != self._shown:
            names = tuple(str(offer.get("id")) for offer in offers)
            if self._shown is None or names != tuple(str(offer.get("id")) for offer in self._shown):
                self._make(offers)
            self._shown = offers
            for row, offer in enumerate(offers):
                self._draw(self.tree.topLevelItem(row), offer)
        self._tell()

    def _make(self, offers: tuple[Mapping[str, Any], ...]) -> None:
        self.tree.clear()
        for offer in offers:
            item = QtWidgets.QTreeWidgetItem([""] * 4)
            self.tree.addTopLevelItem(item)
            self._draw(item, offer)
        if offers:
            self.tree.setCurrentItem(self.tree.topLevelItem(0))
            self.tree.resizeColumnToContents(0)
            self.tree.setColumnWidth(0, min(self.tree.columnWidth(0), 200))

    def _draw(self, item: Any, offer: Mapping[str, Any]) -> None:
        kind, size = str(offer.get("kind") or ""), offer.get("bytes")
        cells = (str(offer.get("title")), tr(KINDS.get(kind, kind)), size_text(size) if size else "", state_text(offer))
        item.setData(0, _ROLE, offer)
        for column, text in enumerate(cells):
            if item.text(column) != text:
                item.setText(column, text)
        item.setToolTip(0, escaped(f"{offer.get('title')}\n{offer.get('note')}"))

    def _offer(self) -> Mapping[str, Any]:
        item = self.tree.currentItem()
        return item.data(0, _ROLE) if item is not None else {}

    def _tell(self) -> None:
        offer = self._offer()
        phase = str(offer.get("phase") or "")
        self.go.setText(button_text(offer))
        self.go.setAccessibleName(self.go.text())
        self.go.setEnabled(bool(wish(offer)))
        self.stop.setEnabled(phase in BUSY and phase != "stopping")
        self.discard.setEnabled(phase == "partial")
        self.about.say(str(offer.get("note") or ""))
        account = " " + tr("The hub wants an account that has accepted it.") if offer.get("account") else ""
        text = tr("Licence: {licence}. From {source}.", licence=offer.get("licence"), source=offer.get("source"))
        self.source.say(text + account if offer else "")
        problem = str(offer.get("problem") or "")
        self.problem.say(problem)
        self.problem.warn(bool(problem))
        self.problem.setVisible(bool(problem))
        self.bar.setVisible(phase in BUSY)
        size, done = offer.get("bytes") or 0, offer.get("done") or 0
        self.bar.setRange(0, STEPS if size and phase != "checking" else 0)
        self.bar.setValue(int(STEPS * min(done, size) / size) if size else 0)
        self.bar.say(progress_text(offer))

    def _go(self) -> None:
        what = wish(self._offer())
        if what:
            self._do(what)

    def _do(self, what: str) -> None:
        offer = self._offer()
        if offer:
            self._collection.do(what, str(offer.get("id")))
