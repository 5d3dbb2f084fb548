# SPDX-License-Identifier: GPL-3.0-or-later
"""A copy of the region that the server has, and which of its tiles changed. Pure; lives in the link thread.

Coordinates are pixels of the region, bytes are bgra8. Comparing is done on `bytes` and `bytearray`, which is a memcmp;
a `memoryview` would be compared item by item.
"""

from __future__ import annotations

from collections.abc import Iterable

from krita_sd.geometry import Bounds
from krita_sd.wire.live import TILE, columns

_PIXEL = 4


class Mirror:
    """The pixels of a region of width x height as they were last read, in strips of `TILE` rows."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._columns = columns(width)
        self._row = width * _PIXEL
        self._strips = [bytearray(self._row * min(TILE, height - y)) for y in range(0, height, TILE)]
        self._unread = set(range(self._columns * len(self._strips)))
        self._dirty: set[int] = set()

    @property
    def complete(self) -> bool:
        """Whether every tile has been read at least once."""
        return not self._unread

    @property
    def dirty(self) -> frozenset[int]:
        """Indices of tiles that changed since `take`."""
        return frozenset(self._dirty)

    def write(self, box: Bounds, data: bytes) -> set[int]:
        """Take what was read of `box` (inside the region). Returns the indices of the tiles that changed, unread ones
        among them. Raises ValueError when `data` does not fill `box`."""
        if len(data) != box.width * box.height * _PIXEL or not Bounds(0, 0, self.width, self.height).contains(box):
            raise ValueError("the pixels do not fit the region")
        changed: set[int] = set()
        for number in range(box.y // TILE, columns(box.bottom)):
            top, bottom = (
                max(box.y, number * TILE),
                min(box.bottom, number * TILE + len(self._strips[number]) // self._row),
            )
            part = data[(top - box.y) * box.width * _PIXEL : (bottom - box.y) * box.width * _PIXEL]
            changed |= self._write_strip(number, box, top - number * TILE, part)
        self._dirty |= changed
        return changed

    def _write_strip(self, number: int, box: Bounds, first: int, part: bytes) -> set[int]:
        """`part`: rows of `box` that belong to this strip, the first of them its row `first`."""
        strip, row, wide = self._strips[number], self._row, box.width * _PIXEL
        rows = len(part) // wide
        left = box.x * _PIXEL
        unread = self._newly_read(number, box, first, rows)
        if wide == row and strip[first * row : first * row + len(part)] == part:
            return unread
        changed = unread
        for column in range(box.x // TILE, columns(box.right)):
            index = number * self._columns + column
            if index not in changed:
                begin, end = max(box.x, column * TILE) * _PIXEL, min(box.right, (column + 1) * TILE) * _PIXEL
                for y in range(rows):
                    at = (first + y) * row
                    if strip[at + begin : at + end] != part[y * wide + begin - left : y * wide + end - left]:
                        changed.add(index)
                        break
        if changed:
            for y in range(rows):
                at = (first + y) * row + left
                strip[at : at + wide] = part[y * wide : (y + 1) * wide]
        return changed

    def _newly_read(self, number: int, box: Bounds, first: int, rows: int) -> set[int]:
        """Tiles that `box` covers wholly and that nothing had covered before."""
        if not self._unread or first or rows * self._row < len(self._strips[number]):
            return set()
        here = range(columns(box.x), self._columns if box.right == self.width else box.right // TILE)
        fresh = {number * self._columns + column for column in here} & self._unread
        self._unread -= fresh
        return fresh

    def suspects(self, rows: Iterable[tuple[int, bytes]]) -> set[int]:
        """Tiles in which one of the sampled `rows` (y, all its pixels) differs from the copy; nothing is written."""
        found: set[int] = set()
        for y, data in rows:
            number, at = y // TILE, y % TILE * self._row
            known = self._strips[number][at : at + self._row]
            if known != data:
                cut = TILE * _PIXEL
                found |= {
                    number * self._columns + column
                    for column in range(self._columns)
                    if known[column * cut : (column + 1) * cut] != data[column * cut : (column + 1) * cut]
                }
        return found

    def mark_all(self) -> None:
        """The server has lost the canvas: every tile must travel again."""
        self._dirty = set(range(self._columns * len(self._strips)))

    def take(self) -> dict[int, bytes]:
        """The tiles that changed since the last call, TILE x TILE x 4 bytes each, filled up with zeros at the edges."""
        out = {index: self._cut(index) for index in sorted(self._dirty)}
        self._dirty.clear()
        return out

    def _cut(self, index: int) -> bytes:
        number, column = divmod(index, self._columns)
        strip, row, full = self._strips[number], self._row, TILE * _PIXEL
        begin = column * full
        end = min(begin + full, row)
        rows = [bytes(strip[at + begin : at + end]) for at in range(0, len(strip), row)]
        if end - begin < full:
            rows = [line.ljust(full, b"\0") for line in rows]
        return b"".join(rows).ljust(full * TILE, b"\0")

    def box_of(self, tiles: Iterable[int]) -> Bounds:
        """The smallest rectangle of the region that contains `tiles`; empty for none."""
        whole, box = Bounds(0, 0, self.width, self.height), Bounds(0, 0, 0, 0)
        for index in tiles:
            number, column = divmod(index, self._columns)
            box = box.union(Bounds(column * TILE, number * TILE, TILE, TILE).intersect(whole))
        return box
