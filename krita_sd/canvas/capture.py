# SPDX-License-Identifier: GPL-3.0-or-later
"""Turns a part of a document and its selection into buffers the server understands."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..geometry import Bounds, Extent
from ..qt import QtCore, tr
from . import colour, host, previews
from .active import active_node

log = logging.getLogger(__name__)

VISIBLE = "visible"
ACTIVE_LAYER = "active layer"
BAND = 512
"""Most rows read per turn of the event loop."""

_BAND_BYTES = 4 << 20  # most bytes of a band

_FAR = -(1 << 20)  # a coordinate where nobody paints: selected there means selected everywhere


@dataclass(frozen=True)
class Scene:
    """What the dock and the planner need to know about a document. Costs well under a millisecond to find out.

    selection: bounds of the selected pixels inside the canvas; None when nothing is selected there.
    selection_empty: a selection exists, but no pixel of the canvas is in it (all of it lies off-canvas).
    colour_model, depth, profile: Krita's names, such as "RGBA", "U8", "sRGB-elle-V2-srgbtrc.icc".
    resolution: pixels per inch.
    """

    doc_id: str
    name: str
    extent: Extent
    selection: Bounds | None
    selection_empty: bool
    colour_model: str
    depth: str
    profile: str
    resolution: float
    active_layer: str


def describe(doc: Any) -> Scene:
    """The scene of an open document. It may be closed afterwards (`active_node`): `doc_id` is empty then."""
    node = active_node(doc)
    extent = Extent(doc.width(), doc.height())
    selection = Selection.of(doc)
    bounds = selection.bounds(extent) if selection is not None else None
    outside = bounds is not None and bounds.is_empty
    return Scene(
        doc_id=host.document_id(doc),
        name=str(doc.name() or doc.fileName()),
        extent=extent,
        selection=None if outside else bounds,
        selection_empty=outside,
        colour_model=doc.colorModel(),
        depth=doc.colorDepth(),
        profile=doc.colorProfile(),
        resolution=float(doc.resolution()),
        active_layer=str(node.name()) if node is not None else "",
    )


class Selection:
    """The painter's selection, whether global or a local selection mask of the active layer: 0..255 per pixel."""

    def __init__(self, source: Any, box: tuple[int, int, int, int]) -> None:
        self._source = source
        self._box = box

    @staticmethod
    def of(doc: Any) -> Selection | None:
        """As Krita's own tools see it: the active layer's local selection goes before the global one."""
        source = _local_selection(doc) or doc.selection()
        if source is None:
            return None
        box = (source.x(), source.y(), source.width(), source.height())
        # For some milliseconds after a selection was drawn it exists, but is still empty.
        if (box[2] == 0 or box[3] == 0) and not _everywhere(source):
            return None
        return Selection(source, box)

    def bounds(self, extent: Extent) -> Bounds:
        """Of the selected pixels inside the canvas; empty when all of them lie outside."""
        canvas = Bounds.of(extent)
        # An inverted selection reaches to infinity and its box says nothing.
        return canvas if _everywhere(self._source) else Bounds(*self._box).intersect(canvas)

    def snapshot(self) -> Selection:
        """Unaffected by what the painter selects next, while bands are being read."""
        return Selection(self._source.duplicate(), self._box)

    def pixels(self, x: int, y: int, width: int, height: int) -> bytes:
        """grey8 of a rectangle anywhere."""
        return bytes(self._source.pixelData(x, y, width, height))


def _everywhere(source: Any) -> bool:
    return bytes(source.pixelData(_FAR, _FAR, 1, 1)) == b"\xff"


def _local_selection(doc: Any) -> Any | None:
    node = active_node(doc)
    if node is None or node.parentNode() is None:
        return None
    owner = node if node.type() != "selectionmask" else node.parentNode()
    if owner == doc.rootNode():
        return None  # the global selection's own node
    for child in owner.childNodes():
        if child.type() == "selectionmask" and child.visible():
            return child.selection()
    return None


def _paint_node(doc: Any) -> Any | None:
    """The layer the painter works on: the active one, or the owner of an active mask; never a preview of ours."""
    node = active_node(doc)
    while node is not None and node.type().endswith("mask"):
        node = node.parentNode()
    if node is not None and previews.is_preview(doc, node):
        others = [n for n in doc.topLevelNodes() if not n.type().endswith("mask") and not previews.is_preview(doc, n)]
        return others[-1] if others else None
    return node


class Capture:
    """Reads `bounds` of `doc`, at most 512 rows per turn of the event loop.

    doc: an open document. bounds: in document pixels, may reach over the canvas (transparent there).
    source: VISIBLE (the composite without our previews) or ACTIVE_LAYER. with_mask: also read the selection.
    without: layers (QUuid) that count as invisible in the composite. node: the layer (QUuid) to read instead of all
    that, visible or not.
    """

    def __init__(
        self,
        doc: Any,
        bounds: Bounds,
        source: str = VISIBLE,
        with_mask: bool = False,
        without: Sequence[Any] = (),
        node: Any = None,
    ) -> None:
        self._doc = doc
        self._bounds = bounds
        self._source = source
        self._without = without
        self._node = node
        self._with_mask = with_mask
        self._cancelled = False
        self._in_turn = False
        self._work: Iterator[None] | None = None
        self._inner = bounds
        self._undo: list[Callable[[], None]] = []
        self._picture: list[bytes] = []
        self._mask: list[bytes] | None = None
        self._whole: tuple[bytes, bytes | None] = b"", None

    def start(self, done: Callable[[bytes, bytes | None], None], failed: Callable[[str], None]) -> None:
        """Begin. Exactly one of the two is called later, from the event loop, unless `cancel` comes first.

        done(picture, mask): bgra8 straight alpha sRGB, rows top-down without padding; grey8 (0..255) or None when
        with_mask is False or nothing is selected. failed(sentence): for the painter.
        """
        self._done, self._failed = done, failed
        self._work = self._steps()
        QtCore.QTimer.singleShot(0, self._turn)

    def cancel(self) -> None:
        """Stop reading; neither callback comes any more."""
        self._cancelled = True
        # Krita lets the event loop turn in some calls: what such a call works on must not be closed under it.
        if not self._in_turn:
            self._clean_up()

    def _turn(self) -> None:
        if self._cancelled or self._work is None:
            return
        problem, self._in_turn = "", True
        try:
            if not host.is_open(self._doc):
                problem = tr("The document was closed before it could be read.")
            else:
                next(self._work)
                if not self._cancelled:
                    QtCore.QTimer.singleShot(0, self._turn)
                    return
        except StopIteration:
            pass
        except (ValueError, RuntimeError, TypeError) as error:
            log.exception("capture failed")
            problem = tr("The picture could not be read from the document: ") + str(error)
        finally:
            self._in_turn = False
        self._work = None
        self._clean_up()
        if self._cancelled:
            return
        if problem:
            self._failed(problem)
        else:
            self._done(*self._whole)

    def _clean_up(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _bands(self) -> Iterator[tuple[int, int]]:
        """First row (document pixels) and number of rows of each band on the canvas."""
        band = max(1, min(BAND, _BAND_BYTES // (self._inner.width * 4)))
        for y in range(self._inner.y, self._inner.bottom, band):
            yield y, min(band, self._inner.bottom - y)

    def _framed(self, parts: list[bytes], size: int) -> bytes:
        """The rows read from the canvas, surrounded by zeros where the area reaches over it.

        Krita itself answers with the colour of the background there.
        """
        data, b, inner = b"".join(parts), self._bounds, self._inner
        if inner == b:
            return data
        left, right = bytes((inner.x - b.x) * size), bytes((b.right - inner.right) * size)
        row = inner.width * size
        rows = (left + data[at : at + row] + right for at in range(0, len(data), row)) if row else ()
        above, below = bytes((inner.y - b.y) * b.width * size), bytes((b.bottom - inner.bottom) * b.width * size)
        return above + b"".join(rows) + below

    def _steps(self) -> Iterator[None]:
        """One turn of the event loop between any two yields."""
        self._inner = self._bounds.intersect(Bounds(0, 0, self._doc.width(), self._doc.height()))
        if self._inner.is_empty:
            raise ValueError(tr("the area lies outside the canvas"))
        selection = Selection.of(self._doc) if self._with_mask else None
        if selection is not None:
            selection = selection.snapshot()
            self._mask = []
        if self._source == ACTIVE_LAYER or self._node is not None:
            yield from self._read_layer()
        else:
            yield from self._read_composite()
        if selection is not None and self._mask is not None:
            b = self._inner
            for y, rows in self._bands():
                self._mask.append(_checked(selection.pixels(b.x, y, b.width, rows), b.width * rows))
                yield
        # Not here: putting together a picture of 64 MB takes longer than a brush may wait.
        thread = threading.Thread(target=self._put_together, daemon=True)
        thread.start()
        while thread.is_alive():
            yield

    def _put_together(self) -> None:
        mask = self._framed(self._mask, 1) if self._mask is not None else None
        self._whole = self._framed(self._picture, 4), mask

    def _read_composite(self) -> Iterator[None]:
        doc, b = self._doc, self._inner
        hidden = [*previews.written(doc), *(name for name in self._without if _shows(doc, name))]
        if hidden:
            # Hiding a preview in the painter's document would flicker, and end a running stroke.
            doc = doc.clone()
            self._undo.append(lambda: colour.drop(doc))
            for name in hidden:
                node = doc.nodeByUniqueID(name)
                if node is not None:
                    node.setVisible(False)
            doc.refreshProjection()
            yield
        plain = colour.is_plain(doc.colorModel(), doc.colorDepth(), doc.colorProfile())
        for y, rows in self._bands():
            if plain:
                data = bytes(doc.pixelData(b.x, y, b.width, rows))
            else:
                data = colour.image_bytes(doc.projection(b.x, y, b.width, rows))
            self._picture.append(_checked(data, b.width * rows * 4))
            yield

    def _read_layer(self) -> Iterator[None]:
        b = self._inner
        node = _paint_node(self._doc) if self._node is None else self._doc.nodeByUniqueID(self._node)
        if node is None and self._node is not None:
            raise ValueError(tr("the control layer is gone; unmark it in the docker"))
        if node is None:
            raise ValueError(tr("no layer is active"))
        space = (node.colorModel(), node.colorDepth(), node.colorProfile())
        size = colour.pixel_size(space[0], space[1])
        if size == 0:
            raise ValueError(tr("the colour model of the layer is not known: ") + space[0])
        converter = None
        if not colour.is_plain(*space):
            converter = colour.Converter(b.width, b.height, *space)
            self._undo.append(converter.close)
        for y, rows in self._bands():
            data = bytes(node.projectionPixelData(b.x, y, b.width, rows))
            if not data:  # an empty group has no pixels
                data = bytes(b.width * rows * size)
            _checked(data, b.width * rows * size)
            if converter is None:
                self._picture.append(data)
            else:
                converter.feed(data, y - b.y, rows)
            yield
        if converter is not None:
            converter.finish()
            for y, rows in self._bands():
                self._picture.append(converter.read(y - b.y, rows))
                yield


def _shows(doc: Any, name: Any) -> bool:
    node = doc.nodeByUniqueID(name)
    return node is not None and node.visible()


def _checked(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes instead of {size}")
    return data
