# SPDX-License-Identifier: GPL-3.0-or-later
"""Removes previews that were saved with a document in the middle of a job, when that document is opened."""

from __future__ import annotations

from typing import Any

from ..qt import QtCore


class Guard(QtCore.QObject):
    """Looks at every document that gets a view. Made once, by the extension, after the first window exists."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        raise NotImplementedError
