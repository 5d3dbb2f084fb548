# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions to the running Krita, each feature-detected: is the document open, is it idle, what can be undone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from krita import Krita

from ..qt import QtWidgets

log = logging.getLogger(__name__)

CANVAS_CLASSES = ("KisQPainterCanvas", "KisOpenGLCanvas2")


def krita() -> Any:
    """The application object of libkis."""
    return Krita.instance()


def open_documents() -> list[Any]:
    """All that Krita lists or shows: what another plugin opened through the API is shown, but not listed."""
    found = [doc for doc in krita().documents() if is_whole(doc)]
    for window in krita().windows():
        for view in window.views():
            doc = view.document()
            if doc is not None and is_whole(doc) and not any(doc == other for other in found):
                found.append(doc)
    return found


def is_whole(doc: Any) -> bool:
    """Whether there is still a document behind what Krita handed out.

    From Krita 5.3 on a view outlives its document for a moment: `activeDocument` and the view then answer an object
    with nothing in it, all of which are equal to one another.
    """
    return doc.rootNode() is not None


def active_document() -> Any | None:
    """The document that the painter looks at; None without one, and while it is being closed."""
    doc = krita().activeDocument()
    return doc if doc is not None and is_whole(doc) else None


def is_open(doc: Any) -> bool:
    """Whether Krita still holds `doc`. Some calls on a closed document end in a segmentation fault: ask first."""
    return doc is not None and is_whole(doc) and any(doc == other for other in open_documents())


def is_active(doc: Any) -> bool:
    """Whether `doc` is the one that undo, tools and shortcuts act on."""
    active = active_document()
    return active is not None and active == doc


def document_id(doc: Any) -> str:
    """A name for `doc` that lasts as long as it is open. Documents have no id of their own; their root layer has."""
    root = doc.rootNode()
    return str(root.uniqueId().toString()) if root is not None else ""


def is_idle(doc: Any) -> bool:
    """Whether no stroke, transformation or update runs in `doc`. Never blocks (0.1 ms).

    False for as long as the transform tool is active, even before a drag.
    """
    if not doc.tryBarrierLock():
        return False
    doc.unlock()
    return True


def walk(node: Any) -> Iterator[Any]:
    """All layers and masks below `node`, depth first."""
    for child in node.childNodes():
        yield child
        yield from walk(child)


@dataclass(frozen=True)
class UndoList:
    """What the History docker shows for the active document: the texts of all steps, and which one is current."""

    current: int
    steps: tuple[str, ...]


def undo_model() -> Any | None:
    """The model and selection behind the History docker, which follow the active document; None without the docker."""
    for docker in krita().dockers():
        if docker.objectName() == "History":
            return docker.findChild(QtWidgets.QAbstractItemView)
    return None


def undo_list() -> UndoList | None:
    """The undo steps of the active document, oldest first; None when Krita was built without the History docker."""
    view = undo_model()
    if view is None or view.model() is None:
        return None
    model = view.model()
    steps = tuple(str(model.index(row, 0).data() or "") for row in range(model.rowCount()))
    return UndoList(view.currentIndex().row(), steps)


def trigger(name: str) -> bool:
    """Trigger Krita's action `name` as its menu entry would; False when there is none or it is greyed out."""
    action = krita().action(name)
    if action is None or not action.isEnabled():
        return False
    action.trigger()
    return True


# Widgets that were searched for once: Qt would wrap all of Krita's in Python every time, which takes 10 to 350 ms.
# Held as (where, what); a wrapper of a widget that we hold stays the same object.
_areas: list[tuple[Any, Any]] = []
_canvases: list[tuple[Any, Any]] = []


def _known(table: list[tuple[Any, Any]], where: Any) -> Any | None:
    """What was found in `where` and still exists; what does not is forgotten."""
    found = None
    for entry in list(table):
        try:
            entry[0].objectName()
            entry[1].objectName()
        except RuntimeError:  # deleted by Qt
            table.remove(entry)
            continue
        if entry[0] is where:
            found = entry[1]
    return found


def _canvas_in(sub: Any) -> Any | None:
    canvas = _known(_canvases, sub)
    if canvas is not None and sub.isAncestorOf(canvas):
        return canvas
    for child in sub.findChildren(QtWidgets.QWidget):
        if child.metaObject().className() in CANVAS_CLASSES:
            _canvases.append((sub, child))
            return child
    return None


def _area_of(window: Any) -> Any | None:
    """The widget that holds the views of a window of Krita's."""
    main = window.qwindow() if window is not None else None
    if main is None:
        return None
    area = _known(_areas, main)
    if area is None:
        # It is in the middle of the window; searching all of it blocks the GUI thread for a tenth of a second.
        area = (main.centralWidget() or main).findChild(QtWidgets.QMdiArea)
        if area is not None:
            _areas.append((main, area))
    return area


def canvas_widgets() -> list[Any]:
    """The canvas widget of every view of every window."""
    areas = (_area_of(window) for window in krita().windows())
    found = (_canvas_in(sub) for area in areas if area is not None for sub in area.subWindowList())
    return [canvas for canvas in found if canvas is not None]


def active_canvas_widget() -> Any | None:
    """The canvas widget of the active view of the active window."""
    area = _area_of(krita().activeWindow())
    sub = area.currentSubWindow() if area is not None else None
    return _canvas_in(sub) if sub is not None else None
