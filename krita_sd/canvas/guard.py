# SPDX-License-Identifier: GPL-3.0-or-later
"""Removes previews that were saved with a document in the middle of a job, when that document is opened."""

from __future__ import annotations

import logging
from typing import Any

from ..qt import QtCore
from . import host, previews, watch

log = logging.getLogger(__name__)

_RETRY = 100  # milliseconds


class Guard(QtCore.QObject):
    """Looks at every document that gets a view. Made once, by the extension, after the first window exists."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._waiting: list[Any] = []
        self._timer = QtCore.QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._look)
        notifier = host.krita().notifier()
        notifier.setActive(True)
        notifier.viewCreated.connect(self._view_created)

    def _view_created(self, view: Any) -> None:
        doc = view.document()
        if doc is not None:
            self._waiting.append(doc)
            self._timer.start(0)

    def _look(self) -> None:
        waiting, self._waiting = self._waiting, []
        for doc in waiting:
            if host.is_open(doc) and not previews.is_live(doc) and not _purge(doc):
                self._waiting.append(doc)
        if self._waiting:
            self._timer.start(_RETRY)


def _purge(doc: Any) -> bool:
    """Take leftover previews out of `doc`; False when it is busy and must be asked again."""
    left = [node for node in map(doc.nodeByUniqueID, previews.noted(doc)) if node is not None]
    if not left:
        return True
    if not watch.may_touch(doc):
        return False
    for node in left:
        log.info("removing the preview that was saved with %s", doc.fileName())
        box = node.bounds()
        # Empty and hidden first: then Undo of the removal brings nothing back.
        node.setVisible(False)
        node.setPixelData(bytes(box.width() * box.height() * 4), box.x(), box.y(), box.width(), box.height())
        node.remove()
    previews.forget(doc)
    return True
