# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection of models: folders that the painter chooses, and downloads that they ask for."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from krita_sd.actions.core import Core
from krita_sd.actions.part import Part
from krita_sd.download_text import FolderLine
from krita_sd.guarded import guarded
from krita_sd.qt import QtCore, QtGui, tr
from krita_sd.wire import client
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.places import (
    MAX_FOLDERS,
    default_models_dir,
    folder_id,
    folders_file,
    folders_text,
    read_folders,
    state_dir,
)
from krita_sd.wire.queries import Download, Downloads


class Collection(Part):
    """`offers` and `free` (bytes) are what the server tells of downloads; `rescan` makes it look at its folders."""

    def __init__(self, core: Core, rescan: Callable[[], None]) -> None:
        super().__init__(core)
        self.offers: tuple[dict[str, Any], ...] = ()
        self.free = 0
        self._rescan = rescan
        self._chosen: tuple[Path, ...] = ()
        self._reports: dict[str, dict[str, Any]] = {}
        self._listed = False

    def started(self) -> None:
        self.core.link.run(self._read)

    def received(self, event: Any) -> None:
        if isinstance(event, client.Connected):
            told = event.welcome.features.get("model_folders")
            self._take_reports(told if isinstance(told, list) else [])
            self.offers = ()
            if self._listed:
                self.list_downloads()  # the page was opened before this connection
        elif isinstance(event, client.ModelsListed) and event.folders:
            self._take_reports(event.folders)
        elif isinstance(event, client.Answered) and isinstance(event.message, Downloads):
            self._take_offers(event.message)

    def _take_reports(self, told: Any) -> None:
        self._reports = {str(report.get("id")): report for report in told if isinstance(report, dict)}

    # Folders ---------------------------------------------------------------------------------------------------------

    @property
    def is_elsewhere(self) -> bool:
        """Whether the server is on another machine, whose folders are chosen there."""
        return bool(self.core.settings.server_uri)

    def folders(self) -> tuple[FolderLine, ...]:
        """The models folder of this machine, which downloads go to, then the chosen ones; () for another machine."""
        if self.is_elsewhere:
            return ()
        own = default_models_dir()
        paths = [own, *(path for path in self._chosen if path != own)]
        return tuple(FolderLine(str(path), path == own, self._reports.get(folder_id(path), {})) for path in paths)

    @guarded
    def add_folder(self, text: str) -> None:
        """Look for models there too. Krita's own or another program's folder: its layout is recognised."""
        text = text.strip().strip("\"'")
        if not text:
            return
        path = Path(os.path.expanduser(text))
        if not path.is_absolute():
            raise WireError(Code.BAD_REQUEST, tr("A folder needs its whole path."), tr("Choose it with Browse."))
        if path in (default_models_dir(), *self._chosen):
            raise WireError(Code.BAD_REQUEST, tr("This folder is in the list already."))
        if len(self._chosen) >= MAX_FOLDERS:
            raise WireError(Code.BAD_REQUEST, tr("There are too many folders."), tr("Take one out of the list first."))
        self.core.link.run(functools.partial(self._write, (*self._chosen, path), path))

    @guarded
    def drop_folder(self, text: str) -> None:
        """Look there no more; nothing in it is touched."""
        left = tuple(path for path in self._chosen if str(path) != text)
        self.core.link.run(functools.partial(self._write, left, None))

    @guarded
    def open_folder(self, text: str) -> None:
        """Show it in the system's file manager."""
        QtGui.QDesktopServices.openUrl(QtCore.QUrl.fromLocalFile(text))

    def _read(self) -> None:
        self._show(read_folders(state_dir()))

    def _write(self, folders: tuple[Path, ...], new: Path | None) -> None:
        """In the link's thread: a folder may be on a disk that sleeps."""
        if new is not None and not new.is_dir():
            text = tr("The folder {path} does not exist.", path=str(new))
            self.core.later(functools.partial(self.say, text, True))
            return
        file = folders_file(state_dir())
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            draft = file.with_name(f"{file.name}.{os.getpid()}.tmp")
            draft.write_text(folders_text(folders), encoding="utf-8", errors="surrogateescape")
            draft.replace(file)
        except OSError as error:
            text = tr("The choice of folders was not saved ({why}).", why=error.strerror or type(error).__name__)
            self.core.later(functools.partial(self.say, text, True))
            return
        self._show(folders)
        self.core.later(self._rescan)

    def _show(self, folders: tuple[Path, ...]) -> None:
        def show() -> None:
            self._chosen = folders
            self.core.redraw()

        self.core.later(show)

    # Downloads -------------------------------------------------------------------------------------------------------

    @property
    def can_download(self) -> bool:
        return self.core.features.get("downloads") is True

    @guarded
    def list_downloads(self) -> None:
        """Ask the server what it offers; it asks nobody for that."""
        self._listed = True
        self.core.start()
        if self.can_download:
            self.core.link.ask(Download("list"))

    @guarded
    def do(self, what: str, id: str) -> None:
        """ "ask" for the size, "start", "stop" or "discard" the download `id`."""
        if not self.core.table.connected:
            raise WireError(
                Code.INTERRUPTED, tr("There is no connection to a server."), tr("Wait until it is connected.")
            )
        self.core.link.ask(Download(what, id))

    def _take_offers(self, told: Downloads) -> None:
        before = {str(offer.get("id")): offer.get("problem") for offer in self.offers}
        self.offers, self.free = told.offers, told.free
        for offer in told.offers:
            problem = offer.get("problem")
            if isinstance(problem, str) and problem and before.get(str(offer.get("id")), problem) != problem:
                self.say(f"{offer.get('title')}: {problem}", True)
