# SPDX-License-Identifier: GPL-3.0-or-later
"""One paint layer of ours: 8-bit sRGB in a document of any depth, written band by band, only where it changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .. import versions
from ..geometry import Bounds
from . import colour
from .active import active_node, keep_active

BAND = 512
"""Most rows written per turn of the event loop."""

_BAND_BYTES = 1 << 20  # most bytes: on a busy machine the first write into new tiles takes 10 ms per MiB

_STRIP = 64  # rows: how finely unchanged parts of a band are left out


class Layer:
    """A locked paint layer that holds pictures of exactly `bounds`.

    `insert` is one undo step ("Add Layer"); nothing else here is one. scratch: the document that the layer is born in,
    not this layer's to drop; None: where it costs no undo step.
    """

    def __init__(self, doc: Any, bounds: Bounds, name: str, scratch: Any = None) -> None:
        self._doc = doc
        self._bounds = bounds
        self._birthplace = scratch
        self._scratch: Any = None
        self._node = self._create(name)
        self._node.setLocked(True)
        self.id = self._node.uniqueId()
        self.inserted = False
        # What each band holds (None: transparent). Per band: a write may be given up half-way for a newer picture.
        self._held: dict[int, bytes | None] = {}
        self._band = max(1, min(BAND, _BAND_BYTES // (bounds.width * 4)))

    def _create(self, name: str) -> Any:
        doc = self._doc
        if self._birthplace is not None:
            return self._birthplace.createNode(name, "paintlayer")
        if colour.is_plain(doc.colorModel(), doc.colorDepth(), doc.colorProfile()):
            return doc.createNode(name, "paintlayer")
        # Converting a node of a deep document is an undo step of its own, one that is born in 8 bit needs none.
        self._scratch = birthplace()
        return self._scratch.createNode(name, "paintlayer")

    @property
    def attached(self) -> bool:
        """Whether the layer is in the document now: Undo takes it out, Redo brings it back."""
        return self.inserted and self._doc.nodeByUniqueID(self.id) is not None

    @property
    def node(self) -> Any:
        """Krita's node. `==` compares it with others."""
        return self._node

    def insert(self, above: Any = None) -> None:
        """Put the layer on top, or directly above the node `above`; the painter's active layer stays active. Pen up
        and document idle, please."""
        doc, active = self._doc, active_node(self._doc)
        parent = above.parentNode() if above is not None else None
        root = parent or doc.rootNode()
        if root is None:
            return  # closed while it was asked
        with keep_active(doc, active):
            root.addChildNode(self._node, above if parent is not None else None)
        self.inserted = True
        if self._scratch is not None:
            colour.drop(self._scratch)
            self._scratch = None
        fresh = doc.nodeByUniqueID(self.id)
        if fresh is not None:
            self._node = fresh

    def write(self, picture: bytes | None) -> Iterator[None]:
        """Write bgra8 `picture` (None: transparent) where it differs from what the layer holds.

        One band per step of the iterator. The composite does not follow before `refreshProjection`.
        """
        b = self._bounds
        row = b.width * 4
        for y in range(0, b.height, self._band):
            rows = min(self._band, b.height - y)
            first, last = _changed(_part(self._held.get(y), y, rows, row), _part(picture, y, rows, row), row)
            self._held[y] = picture
            if first < last:
                data = _part(picture, y + first, last - first, row)
                if versions.refused(self._node.setPixelData(data, b.x, b.y + y + first, b.width, last - first)):
                    raise ValueError("Krita refused the pixels")
                yield

    @property
    def moved(self) -> tuple[int, int]:
        """How far Krita has moved the layer since it was made: cropping or enlarging the canvas moves all layers."""
        at = self._node.position()
        return at.x(), at.y()

    def follow(self, bounds: Bounds) -> None:
        """The same pictures belong to `bounds` from now on; what the layer holds is not known any more."""
        self._bounds = bounds
        self._held.clear()

    def empty(self) -> None:
        """Make the layer transparent at once, in one turn: what Krita does next must not see it."""
        for _ in self.write(None):
            pass

    def release(self) -> None:
        """Forget a layer that was never inserted."""
        if self._scratch is not None:
            colour.drop(self._scratch)
            self._scratch = None


def birthplace() -> Any:
    """A scratch document for nodes that are put together before they come into a document of any depth.

    Krita counts every node that is added to another one as an undo step of the document in which the upper one was
    made, even before either is part of the picture. `colour.drop` it once they are in their document.
    """
    return colour.scratch_document(1, 1, "RGBA", "U8", colour.SRGB)


def _part(picture: bytes | None, y: int, rows: int, row: int) -> bytes:
    return bytes(rows * row) if picture is None else picture[y * row : (y + rows) * row]


def _changed(old: bytes, new: bytes, row: int) -> tuple[int, int]:
    """First and last + 1 row, in steps of strips, that differ; (0, 0) when nothing does."""
    if old == new:
        return 0, 0
    strip = _STRIP * row
    first = next(i for i in range(0, len(new), strip) if old[i : i + strip] != new[i : i + strip])
    last = next(i for i in range(len(new), 0, -strip) if old[max(0, i - strip) : i] != new[max(0, i - strip) : i])
    return first // row, last // row
