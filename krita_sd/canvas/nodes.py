# SPDX-License-Identifier: GPL-3.0-or-later
"""Layers by Krita's own ids, which survive renaming, moving and saving."""

from __future__ import annotations

from typing import Any

from ..qt import QtCore
from . import previews, watch
from .active import active_node


def id_of(node: Any) -> str:
    """The id of a layer, as text."""
    return str(node.uniqueId().toString())


def find(doc: Any, id: str) -> Any | None:
    """The layer with that id; None when it is gone. `doc` must be open."""
    uuid = QtCore.QUuid(id)
    return None if uuid.isNull() else doc.nodeByUniqueID(uuid)


def names(doc: Any, ids: list[str]) -> dict[str, str]:
    """Id to name of those layers that still exist."""
    found = {id: find(doc, id) for id in ids}
    return {id: str(node.name()) for id, node in found.items() if node is not None}


def shown(doc: Any, ids: list[str]) -> set[str]:
    """Those that are visible."""
    found = {id: find(doc, id) for id in ids}
    return {id for id, node in found.items() if node is not None and node.visible()}


def uuids(ids: list[str]) -> list[Any]:
    """As Krita takes them."""
    return [QtCore.QUuid(id) for id in ids]


def active(doc: Any) -> Any | None:
    """The layer the painter works on, or the owner of an active mask; None when that is a preview of ours."""
    node = active_node(doc)
    while node is not None and node.type().endswith("mask"):
        node = node.parentNode()
    return None if node is None or previews.is_preview(doc, node) else node


def show(doc: Any, id: str, on: bool) -> bool:
    """Show or hide a layer; False while the painter's hand is on the canvas."""
    node = find(doc, id)
    if node is None or not watch.may_touch(doc):
        return False
    node.setVisible(on)
    doc.refreshProjection()
    return True
