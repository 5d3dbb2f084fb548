# SPDX-License-Identifier: GPL-3.0-or-later
"""Other ways of applying than on top: above the active layer, into it, or as a layer with a transparency mask."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from krita import Document, Selection

from ..geometry import Bounds
from ..qt import QtCore, Signal
from ..text import tr
from . import host, watch
from .active import active_node, keep_active
from .colour import SRGB, drop
from .layer import Layer, birthplace
from .overlay import Overlay

WAYS = ("top", "above", "into", "mask")
"""top: a new layer on top. above: directly above the active layer. into: that, then merged down (two undo steps).
mask: on top, opaque, with the picture's transparency as a mask that can be painted on (Krita 5.2 and later)."""

RETRY = 40  # milliseconds between two looks at a busy document
_BAND = 1 << 20  # bytes that are split into colour and transparency at a time


def can_mask() -> bool:
    """Whether this Krita lets a plugin make transparency masks with content."""
    return hasattr(Document, "createTransparencyMask")


def problem_with(way: str, doc: Any) -> str:
    """Why this way cannot be gone in `doc` now, as a sentence; "" when it can."""
    if way == "mask" and not can_mask():
        return tr("Transparency masks need Krita 5.2 or later. Apply as a plain layer instead.")
    if way != "into":
        return ""
    node = active_node(doc)
    if node is None or node.type() != "paintlayer":
        return tr("The active layer is no paint layer. Choose one, or apply as a new layer.")
    if node.locked() or not node.visible():
        return tr(
            "The layer {name} is {state}. Change that, or choose another.",
            name=node.name(),
            state=tr("locked") if node.locked() else tr("hidden"),
        )
    return ""


class Insertion(QtCore.QObject):
    """One result on its way into a document. All in turns of the event loop, when the pen is up; bands at most.

    doc, above: the document, and the painter's active node at the click (None: on top).
    picture: bgra8 of `bounds`; name: of the new layer.
    """

    applied = Signal(object)  # the node that holds the picture now
    parked = Signal()  # the document was closed meanwhile

    def __init__(
        self, doc: Any, above: Any, bounds: Bounds, picture: bytes, name: str, way: str, parent: Any = None
    ) -> None:
        super().__init__(parent)
        self._doc = doc
        self._above = above if way in ("above", "into") else None
        self._bounds = bounds
        self._picture = picture
        self._name = name
        self._way = way
        self._steps = self._run()
        self._patience = watch.Patience(doc)
        self._overlay = Overlay(doc)
        self._overlay.show_picture(picture, bounds)
        self._timer = QtCore.QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._turn)

    def start(self) -> None:
        self._timer.start(0)

    def _turn(self) -> None:
        if not host.is_open(self._doc):
            self._overlay.close()
            self.parked.emit()
            return
        delay = next(self._steps, -1)
        if delay >= 0:
            self._timer.start(delay)

    def _wait(self) -> Iterator[int]:
        while self._patience.busy():
            yield RETRY

    def _run(self) -> Iterator[int]:
        picture, alpha = self._picture, b""
        if self._way == "mask":
            apart: list[bytes] = []
            thread = threading.Thread(target=lambda: apart.extend(_apart(picture)), daemon=True)
            thread.start()
            while thread.is_alive():
                yield 1
            picture, alpha = apart
        yield from self._wait()
        scratch = birthplace() if self._way == "mask" else None
        layer = Layer(self._doc, self._bounds, self._name, scratch)
        if scratch is not None:
            self._add_mask(scratch, layer.node, alpha)
        above = self._above
        if above is not None and self._doc.nodeByUniqueID(above.uniqueId()) is None:
            # Deleted meanwhile, or merged with the result before this one: that layer is the active one now.
            active = active_node(self._doc)
            above = active if active is not None and active.type() == "paintlayer" else None
        layer.insert(above)
        if scratch is not None:
            drop(scratch)
        yield 0
        for _ in layer.write(picture):
            yield 0
            yield from self._wait()
        yield from self._wait()
        node = layer.node
        node.setLocked(False)
        self._doc.refreshProjection()
        if self._way == "into" and above is not None:
            yield 0
            yield from self._wait()
            node = self._merge(node, above)
        self._overlay.close()
        self.applied.emit(node)

    def _add_mask(self, scratch: Any, node: Any, alpha: bytes) -> None:
        b = self._bounds
        mask = scratch.createTransparencyMask("Transparency")
        selection = Selection()
        selection.setPixelData(QtCore.QByteArray(alpha), b.x, b.y, b.width, b.height)
        mask.setSelection(selection)
        # Both were made elsewhere: they come in, and go, with one undo step.
        node.addChildNode(mask, None)

    def _merge(self, node: Any, below: Any) -> Any:
        parent, name = below.parentNode(), below.name()
        place = [child.uniqueId() for child in parent.childNodes()].index(below.uniqueId())
        # What it returns is None in Krita 5.1: the merged layer is where the lower one was.
        node.mergeDown()
        children = parent.childNodes()
        merged = children[place] if place < len(children) else node
        with keep_active(self._doc, merged):
            merged.setName(name)
        return merged


def _apart(picture: bytes) -> tuple[bytes, bytes]:
    """(the picture made opaque, its transparency as grey8). Not in the GUI thread; never long with Python's lock."""
    colours, alphas = [], []
    for start in range(0, len(picture), _BAND):
        part = bytearray(picture[start : start + _BAND])
        alphas.append(bytes(part[3::4]))
        part[3::4] = b"\xff" * (len(part) // 4)
        colours.append(bytes(part))
    return b"".join(colours), b"".join(alphas)


def open_as_document(picture: bytes, width: int, height: int, name: str) -> Any:
    """A new document with bgra8 `picture` as its layer `name`, shown: for results whose document was closed."""
    doc = host.krita().createDocument(width, height, name, "RGBA", "U8", SRGB, 72.0)
    node = doc.topLevelNodes()[0]
    node.setName(name)
    node.setPixelData(picture, 0, 0, width, height)
    doc.refreshProjection()
    host.krita().activeWindow().addView(doc)
    return doc
