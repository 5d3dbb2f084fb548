# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture or Krita document that is dropped on the docker gives its recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from krita_sd.qt import QtCore, QtWidgets

ENDINGS = (".png", ".webp", ".jpg", ".jpeg", ".kra")

_Event = QtCore.QEvent.Type


class RecipeDrop(QtCore.QObject):
    """Watches `widget` and the fields in it, which would take the file's name for text; `dropped(path)` is called with
    a local file of a kind that can hold a recipe. Made when all fields are there."""

    def __init__(self, widget: Any, dropped: Callable[[str], None]) -> None:
        super().__init__(widget)
        self._dropped = dropped
        widget.setAcceptDrops(True)
        for taker in (widget, *widget.findChildren(QtWidgets.QWidget)):
            if taker.acceptDrops():
                taker.installEventFilter(self)

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802 (Qt's name)
        if event.type() not in (_Event.DragEnter, _Event.DragMove, _Event.Drop):
            return False
        path = _file(event.mimeData())
        if not path:
            return False
        event.acceptProposedAction()
        if event.type() == _Event.Drop:
            self._dropped(path)
        return True


def _file(data: Any) -> str:
    """The first local file among what is dragged; "" for anything else, which Krita or a field may want."""
    for url in data.urls() if data.hasUrls() else ():
        path = str(url.toLocalFile())
        if path.lower().endswith(ENDINGS):
            return path
    return ""
