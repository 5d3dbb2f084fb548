# SPDX-License-Identifier: GPL-3.0-or-later
"""Which layers are previews of ours: never captured, never left in a saved document."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .. import versions
from ..qt import QtCore
from . import host

ANNOTATION = "krita_sd/previews.json"
"""Names of the preview layers in a document, kept in the document itself: it may be saved in the middle of a job."""


@dataclass
class _Entry:
    doc: Any
    node_id: Any  # QUuid
    written: bool = False


# Krita's wrappers are unhashable and differ per call, so a list with == is the table.
_entries: list[_Entry] = []


def _find(doc: Any, node_id: Any) -> _Entry | None:
    for entry in _entries:
        if entry.node_id == node_id and entry.doc == doc:
            return entry
    return None


def add(doc: Any, node_id: Any) -> None:
    """The layer is about to show previews."""
    _entries.append(_Entry(doc, node_id))
    _note(doc)


def mark_written(doc: Any, node_id: Any) -> None:
    """The layer holds pixels now, so the composite does too."""
    entry = _find(doc, node_id)
    if entry is not None:
        entry.written = True


def remove(doc: Any, node_id: Any) -> None:
    """The layer is the painter's now, or gone."""
    entry = _find(doc, node_id)
    if entry is not None:
        _entries.remove(entry)
        if host.is_open(doc):
            _note(doc)


def written(doc: Any) -> list[Any]:
    """Ids of the layers of `doc` that hold preview pixels."""
    return [entry.node_id for entry in _entries if entry.written and entry.doc == doc]


def is_preview(doc: Any, node: Any) -> bool:
    """Whether `node` of `doc` is a preview of a running job."""
    return _find(doc, node.uniqueId()) is not None


def is_live(doc: Any) -> bool:
    """Whether a job of this Krita has a preview in `doc`."""
    return any(entry.doc == doc for entry in _entries)


def _note(doc: Any) -> None:
    if not host.is_whole(doc):
        return  # closed while a layer was made for it
    names = [entry.node_id.toString() for entry in _entries if entry.doc == doc]
    if names:
        data = QtCore.QByteArray(json.dumps(names).encode())
        doc.setAnnotation(ANNOTATION, "Layers that show an unfinished picture", data)
    else:
        versions.remove_annotation(doc, ANNOTATION, QtCore.QByteArray(b"[]"))


def noted(doc: Any) -> list[Any]:
    """Ids of preview layers that were saved with `doc`; `doc` must be open."""
    data = bytes(doc.annotation(ANNOTATION))
    try:
        names = json.loads(data) if data else []
    except ValueError:
        return []
    if not isinstance(names, list):
        return []
    return [QtCore.QUuid(name) for name in names if isinstance(name, str)]


def forget(doc: Any) -> None:
    """Write into `doc` that it holds no previews besides those of running jobs."""
    _note(doc)
