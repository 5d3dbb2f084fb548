# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts previews and results into a document as one layer and one undo step, and takes them out without a trace."""

from __future__ import annotations

from typing import Any

from ..geometry import Bounds
from ..qt import QtCore, Signal


class Placement(QtCore.QObject):
    """One preview layer in one document, from the start of a job to Apply or Discard.

    doc: the document at the time of submission; the placement stays bound to it.
    bounds: where pictures go, in document pixels; every picture has exactly its width and height.
    name: of the layer while it shows previews.
    All methods return at once; the work happens in the event loop when the pen is up and the document is idle.
    """

    applied = Signal()  # the picture is a layer of the document now; the placement is finished
    discarded = Signal()  # no layer of ours is in the document any more; the placement is finished
    parked = Signal()  # the document was closed: whoever holds the picture keeps it (open_as_document offers a way)

    def __init__(self, doc: Any, bounds: Bounds, name: str, parent: Any = None) -> None:
        super().__init__(parent)
        raise NotImplementedError

    @property
    def is_parked(self) -> bool:
        """The document is closed; apply and discard do nothing but emit `parked`."""
        raise NotImplementedError

    @property
    def is_finished(self) -> bool:
        """Applied, discarded or parked: further calls do nothing."""
        raise NotImplementedError

    def show_preview(self, picture: bytes, width: int, height: int) -> None:
        """Show bgra8 `picture` (bounds' size) when there is time; a newer one replaces one not yet shown."""
        raise NotImplementedError

    def hide_preview(self) -> None:
        """Hide the layer without giving it up (the results strip toggles it); the next show_preview shows it."""
        raise NotImplementedError

    def apply(self, picture: bytes, name: str) -> None:
        """Turn the preview layer into the result: bgra8 `picture` (bounds' size) in an unlocked layer `name`."""
        raise NotImplementedError

    def discard(self) -> None:
        """Take the preview away; Undo then acts on the painter's own last step."""
        raise NotImplementedError


def open_as_document(picture: bytes, width: int, height: int, name: str) -> Any:
    """A new document with bgra8 `picture` as its layer `name`, shown: for results whose document was closed."""
    raise NotImplementedError
