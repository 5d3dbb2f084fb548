# SPDX-License-Identifier: GPL-3.0-or-later
"""What was painted and is in no shown picture yet: there the picture over the canvas is seen through. Pure."""

from __future__ import annotations

from krita_sd.geometry import Bounds

_NOTHING = Bounds(0, 0, 0, 0)


class Fresh:
    """Rectangles of the region by the generation whose frame will contain them; 0 is what has not been read yet."""

    def __init__(self) -> None:
        self._boxes: dict[int, Bounds] = {}

    def painted(self, box: Bounds) -> None:
        """The pen has just been there."""
        self._boxes[0] = self._boxes.get(0, _NOTHING).union(box)

    def read(self, generation: int, near: Bounds) -> None:
        """What was painted so far, and `near` once more, was read for that generation."""
        box = self._boxes.pop(0, _NOTHING).union(near)
        if not box.is_empty:
            self._boxes[generation] = box

    def unchanged(self, generation: int, settled: bool) -> None:
        """Nothing had changed there. Before the document has `settled`, Krita may only be slower than the pen."""
        box = self._boxes.pop(generation, _NOTHING)
        if settled:
            self._boxes.clear()
        elif not box.is_empty:
            self.painted(box)

    def shown(self, generation: int) -> None:
        """The frame of that generation is on the screen: it contains all that was read before."""
        self._boxes = {number: box for number, box in self._boxes.items() if number == 0 or number > generation}

    def clear(self) -> None:
        """Another session."""
        self._boxes.clear()

    @property
    def box(self) -> Bounds:
        """The smallest rectangle around all of it."""
        around = _NOTHING
        for box in self._boxes.values():
            around = around.union(box)
        return around
