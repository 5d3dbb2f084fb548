# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes previews out of documents just before the painter saves, flattens or reshapes one of them.

Krita tells of a save only afterwards, and of flattening not at all. But every way to these commands can be seen one
moment earlier: their menu opens, their shortcut is delivered, or their button is pressed.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from ..qt import QtCore, QtWidgets, Signal
from . import host

log = logging.getLogger(__name__)

COMMANDS = frozenset(
    (
        "file_save",
        "file_save_as",
        "file_export_file",
        "file_export_advanced",
        "file_export_pdf",
        "create_copy",
        "save_incremental_version",
        "save_incremental_backup",
        "flatten_image",
        "flatten_layer",
        "merge_layer",
        "imagesize",
        "canvassize",
        "resizeimagetolayer",
        "resizeimagetoselection",
        "trim_to_image",
        "rotateimage",
        "rotateImageCW90",
        "rotateImageCCW90",
        "rotateImage180",
        "mirrorImageHorizontal",
        "mirrorImageVertical",
        "shearimage",
        "imagecolorspaceconversion",
        "new_from_visible",
        "copy_merged",
        "edit_copy_merged",
    )
)
"""Krita's actions that read or rewrite all layers at once."""

SECONDS = 0.5
"""How long previews stay away after the command was seen; as long as a menu or dialog is open in any case."""

_Event = QtCore.QEvent.Type


class Aside(QtCore.QObject):
    """`called` comes synchronously, before Krita begins. Made once; `rescan` finds the commands of new windows."""

    called = Signal()

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._until = 0.0
        self._last = -float("inf")
        self._watched: list[Any] = []
        host.krita().notifier().windowCreated.connect(self.rescan)
        self.rescan()

    @property
    def is_wanted(self) -> bool:
        """Whether previews must stay out of the documents."""
        if time.monotonic() < self._until:
            return True
        if self._until and (
            QtWidgets.QApplication.activePopupWidget() is not None
            or QtWidgets.QApplication.activeModalWidget() is not None
        ):
            # Krita reads the document after its dialog, not before.
            self._until = time.monotonic() + SECONDS
            return True
        self._until = 0.0
        return False

    def rescan(self) -> None:
        """Watch actions, menus and buttons that are not watched yet."""
        for window in host.krita().windows():
            main = window.qwindow()
            if main is None:
                continue
            wanted = [action for action in map(host.krita().action, COMMANDS) if action is not None]
            for action in wanted:
                self._watch(action)
            names = {action.objectName() for action in wanted}
            for bar in _bars(main, QtWidgets.QMenuBar):
                for entry in bar.actions():
                    menu = entry.menu()
                    if menu is not None and self._holds(menu, names) and self._add(menu):
                        menu.aboutToShow.connect(self._call)
            for bar in _bars(main, QtWidgets.QToolBar):
                for action in bar.actions():
                    if action.objectName() in names:
                        self._watch(bar.widgetForAction(action))

    def _holds(self, menu: Any, names: set[str]) -> bool:
        below = (entry.menu() for entry in menu.actions() if entry.menu() is not None)
        return any(entry.objectName() in names for entry in menu.actions()) or any(
            self._holds(inner, names) for inner in below
        )

    def _add(self, watched: Any) -> bool:
        if any(watched is old for old in self._watched):
            return False
        self._watched.append(watched)
        return True

    def _watch(self, watched: Any) -> None:
        if watched is not None and self._add(watched):
            watched.installEventFilter(self)

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802 (Qt's name)
        if event.type() in (_Event.Shortcut, _Event.MouseButtonPress):
            self._call()
        return False

    @property
    def seconds(self) -> float:
        """Since the painter last gave one of the commands."""
        return time.monotonic() - self._last

    def _call(self) -> None:
        self._last = time.monotonic()
        self._until = time.monotonic() + SECONDS
        try:
            self.called.emit()
        except Exception:  # what the painter asked Krita for must happen in any case
            log.exception("stepping aside")


_aside: Aside | None = None


def aside() -> Aside:
    """The one of this Krita, made on first use."""
    global _aside
    if _aside is None:
        _aside = Aside()
    return _aside


def _bars(main: Any, kind: Any) -> list[Any]:
    """A window's own bars: a search of all that is in it holds the GUI thread for a tenth of a second."""
    return list(main.findChildren(kind, options=QtCore.Qt.FindChildOption.FindDirectChildrenOnly))
