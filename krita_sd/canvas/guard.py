# SPDX-License-Identifier: GPL-3.0-or-later
"""Removes previews that were saved with a document in the middle of a job, when that document is opened."""

from __future__ import annotations

import logging
import time
from typing import Any

from ..qt import QtCore
from . import host, previews, watch

log = logging.getLogger(__name__)

_RETRY = 100  # milliseconds
_PATIENCE = 5.0  # seconds after a view came in which its document may still be loading


class Guard(QtCore.QObject):
    """Looks at every document that gets a view. Made once, by the extension, after the first window exists."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._until = 0.0
        self._timer = QtCore.QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._look)
        notifier = host.krita().notifier()
        notifier.setActive(True)
        notifier.viewCreated.connect(self._view_created)

    def _view_created(self, _view: Any) -> None:
        # The view does not know its document yet, and Krita does not list it.
        self._until = time.monotonic() + _PATIENCE
        self._timer.start(0)

    def _look(self) -> None:
        done = [_purge(doc) for doc in host.open_documents()]
        if not all(done) or time.monotonic() < self._until:
            self._timer.start(_RETRY)


def _purge(doc: Any) -> bool:
    """Take leftover previews out of `doc`; False when it is busy and must be asked again."""
    if previews.is_live(doc):  # a second view of a document in which a job runs
        return True
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
