# SPDX-License-Identifier: GPL-3.0-or-later
"""The painter's active layer, which stays active whatever comes in or goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..qt import QtCore
from . import host

# (document, node) of what is to be active again in a moment, the newest last. Krita's wrappers are unhashable.
_kept: list[tuple[Any, Any]] = []


def active_node(doc: Any) -> Any | None:
    """The layer that the painter works on; not one of ours that is the active one for a moment, as it just came in.

    From Krita 5.3 on this lets the event loop turn: afterwards `doc` may be closed, and whatever a timer does is done.
    """
    node = _kept_in(doc)
    if node is not None:
        return node
    node = doc.activeNode()
    # Once more: a layer of ours may have come in meanwhile.
    return _kept_in(doc) or node


def _kept_in(doc: Any) -> Any | None:
    return next((node for kept, node in reversed(_kept) if kept == doc), None)


@contextmanager
def keep_active(doc: Any, node: Any | None) -> Iterator[None]:
    """Make `node` the active one again after the node operations inside.

    Krita 5.1 and 5.2 activate a new node one turn later, so that restoring it at once would be overruled.
    """
    if node is None:
        yield
        return
    entry = (doc, node)
    _kept.append(entry)

    def restore() -> None:
        try:
            if host.is_open(doc) and doc.nodeByUniqueID(node.uniqueId()) is not None:
                doc.setActiveNode(node)
        finally:
            # Not before: setActiveNode lets the event loop turn too.
            _kept[:] = [other for other in _kept if other is not entry]

    try:
        yield
    finally:
        QtCore.QTimer.singleShot(0, restore)
