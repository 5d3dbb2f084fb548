# SPDX-License-Identifier: GPL-3.0-or-later
"""Notices that a document changed, as cheaply as each moment allows; Krita itself has no signal for it.

    pen down     glimpses: the rectangle around the pen's recent path, and now and then sampled rows of the region
    settled      pen up and document idle after a stroke, an undo, a fill, a layer operation: read everything once
    quiet        a few sampled rows, slowly, for scripts and filters that leave no trace elsewhere

What tells of a change is the model behind the History docker, pen events, and, where that docker is missing, faster
sampling. Nothing here compares pixels: that happens in the link thread.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..geometry import Bounds
from ..qt import QtCore, Signal
from ..wire.live import TILE
from . import colour, host, watch
from .overlay import image_to_canvas

log = logging.getLogger(__name__)

GLIMPSE = 33
"""Milliseconds between two looks at the pen's path."""

SHARE = 10
"""Looking may take one part in so many of the GUI thread's time."""

ROWS_EVERY = 5
"""One glimpse in so many also samples rows: for mirrored brushes and tools that paint far from the pen."""

STEP = 16
"""Every so many pixels a row is sampled."""

SAFETY = 1000  # milliseconds between two looks for changes that nothing announces
SAFETY_WITHOUT_HISTORY = 250
RETRY = 12  # milliseconds between two looks whether the document has settled
LINGER = 0.3  # seconds for which a place is looked at again: Krita composites a little after the pen
BAND = 512
"""Most rows read in one call."""

_MARGIN = 12  # pixels around the brush: spacing, soft edges, smoothing that lags behind


def _quietly(method: Callable[..., None]) -> Callable[..., None]:
    """A slot that logs what goes wrong and stops looking: Krita would answer with a dialog, many times per second."""

    @functools.wraps(method)
    def run(self: Lookout, *arguments: Any) -> None:
        try:
            method(self, *arguments)
        except Exception:  # the last line of defence before Krita's dialog
            log.exception("%s", method.__name__)
            self.stop()

    return run


@dataclass(frozen=True)
class Glimpse:
    """Pixels read in one turn: `patches` (rectangle of the region, bgra8) and `rows` (y in the region, bgra8).

    event: when the oldest pen event since the last glimpse came; 0.0 without one. began, ended: of the reading.
    near: where the pen has been lately, of the region. All times are of the monotonic clock.
    """

    patches: tuple[tuple[Bounds, bytes], ...]
    rows: tuple[tuple[int, bytes], ...]
    event: float
    began: float
    ended: float
    near: Bounds


class Lookout(QtCore.QObject):
    """Watches `bounds` (inside the canvas) of `doc` from `start` to `stop`.

    quick: whether glimpses make sense: not when our own layer is part of what is visible, or only a layer is the input.
    """

    glimpsed = Signal(object)  # Glimpse
    pen_moved = Signal(object)  # Bounds of the region that the pen has just crossed
    settled = Signal()  # the document may have changed anywhere and is idle
    undone = Signal()  # its current undo step went back
    strokes = Signal(object)  # Bounds in document pixels, also outside of the region

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._doc: Any = None
        self._bounds = Bounds(0, 0, 0, 0)
        self._quick = False
        self._plain = True
        self._recent: list[tuple[float, Bounds]] = []
        self._event = 0.0
        self._tick = 0
        self._history: Any = None
        self._model: Any = None
        self._row = 0
        self.waiting = False
        """Set by the owner while what was glimpsed is still being compared: the next glimpse waits."""
        self._glimpses = _timer(self, self._glimpse)
        self._settling = _timer(self, self._settle, single=True)
        self._safety = _timer(self, self._sample)

    def start(self, doc: Any, bounds: Bounds, quick: bool) -> None:
        """Begin; whatever was watched before is left."""
        self.stop()
        self._doc, self._bounds, self._quick = doc, bounds, quick
        self._plain = colour.is_plain(doc.colorModel(), doc.colorDepth(), doc.colorProfile())
        pen = watch.pen()
        pen.take_trail()
        pen.pen_down_changed.connect(self._pen_changed)
        self._find_history()
        if quick:
            self._safety.start(SAFETY if self._model is not None else SAFETY_WITHOUT_HISTORY)
        if pen.pen_down:
            self._pen_changed(True)

    def stop(self) -> None:
        """Look no more. The document may be closed by now."""
        if self._doc is None:
            return
        for timer in (self._glimpses, self._settling, self._safety):
            timer.stop()
        watch.pen().pen_down_changed.disconnect(self._pen_changed)
        if self._model is not None:
            try:
                self._model.modelReset.disconnect(self._history_changed)
            except (RuntimeError, TypeError):
                pass  # the model went with its window
        self._doc = self._model = self._history = None
        self._recent, self._event, self.waiting = [], 0.0, False

    def look_again(self) -> None:
        """Something may have changed: `settled` follows when the document is idle."""
        if self._doc is not None and not self._settling.isActive():
            self._settling.start(0)

    # What announces changes --------------------------------------------------------------------------------------

    def _find_history(self) -> None:
        self._history = host.undo_model()
        self._model = self._history.model() if self._history is not None else None
        if self._model is not None:
            self._model.modelReset.connect(self._history_changed)
            self._row = self._history.currentIndex().row()

    @_quietly
    def _history_changed(self) -> None:
        # The current row is set after the signal.
        QtCore.QTimer.singleShot(0, self._read_history)

    @_quietly
    def _read_history(self) -> None:
        if self._doc is None or self._history is None or not host.is_active(self._doc):
            return
        try:
            row = self._history.currentIndex().row()
        except RuntimeError:  # the window of that docker was closed
            self._history = None
            if self._quick:
                self._safety.start(SAFETY_WITHOUT_HISTORY)
            self.look_again()
            return
        back, self._row = row < self._row, row
        if back:
            self.undone.emit()
        self.look_again()

    @_quietly
    def _pen_changed(self, down: bool) -> None:
        if down:
            self._tick = 0
            if not self._glimpses.isActive():
                self._glimpses.start(GLIMPSE)
        else:
            self._cross(watch.pen().take_trail())
            self.look_again()

    # Pen down ----------------------------------------------------------------------------------------------------

    @_quietly
    def _glimpse(self) -> None:
        if not self._present():
            return
        trail = watch.pen().take_trail()
        self._cross(trail)
        # A pen that rests may count as lifted while its stroke goes on, and Krita may be behind a pen that is up.
        if not watch.pen().pen_down and host.is_idle(self._doc):
            self._glimpses.stop()
            return
        if self.waiting or not self._quick:
            return
        self._tick += 1
        now = time.monotonic()
        self._recent = [(when, box) for when, box in self._recent if now - when < LINGER]
        near = Bounds(0, 0, 0, 0)
        for _, box in self._recent:
            near = near.union(box)
        rows = self._tick % ROWS_EVERY == 0
        if not near.is_empty or rows:
            self._read(near, rows)

    def _cross(self, trail: list[watch.PenPoint]) -> None:
        """Where the pen went, as rectangles of the region."""
        if not trail:
            return
        canvas = trail[-1].canvas
        there = image_to_canvas(self._doc, canvas) if host.is_active(self._doc) else None
        back, known = there.inverted() if there is not None else (None, False)
        if back is None or not known:
            return
        points = [back.map(QtCore.QPointF(point.x, point.y)) for point in trail if point.canvas is canvas]
        left, top = min(point.x() for point in points), min(point.y() for point in points)
        right, bottom = max(point.x() for point in points), max(point.y() for point in points)
        path = Bounds(int(left), int(top), int(right - left) + 1, int(bottom - top) + 1)
        reach = path.pad(_MARGIN + round(self._brush() / 2))
        self.strokes.emit(reach)
        inside = reach.intersect(self._bounds).relative_to(self._bounds)
        if inside.is_empty:
            return
        self._event = self._event or trail[0].time
        self._recent.append((trail[-1].time, inside))
        self.pen_moved.emit(inside)

    def _brush(self) -> float:
        view = host.krita().activeWindow().activeView()
        return float(view.brushSize()) if hasattr(view, "brushSize") else 64.0

    # Pen up ------------------------------------------------------------------------------------------------------

    @_quietly
    def _settle(self) -> None:
        if not self._present():
            return
        if watch.pen().pen_down:
            if not self._glimpses.isActive():
                self._glimpses.start(GLIMPSE)
            return  # its release comes back here
        if not host.is_idle(self._doc):
            self._settling.start(RETRY)
            return
        self.settled.emit()

    def point_at(self, box: Bounds) -> None:
        """A sample differed there (rectangle of the region): the next glimpse includes it."""
        if self._glimpses.isActive():
            self._recent.append((time.monotonic(), box))
        else:
            self.look_again()

    def give_event_back(self, event: float) -> None:
        """What was read did not contain that pen event yet: Krita composites a little later."""
        if event and self._doc is not None:
            self._event = min(event, self._event or event)

    def take_event(self) -> float:
        """When the oldest pen event that no glimpse has answered came; 0.0 without one. Asking forgets it."""
        event, self._event = self._event, 0.0
        return event

    @_quietly
    def _sample(self) -> None:
        if self._present() and not watch.pen().pen_down and not self.waiting and not self._settling.isActive():
            self._read(Bounds(0, 0, 0, 0), True)

    # Reading -----------------------------------------------------------------------------------------------------

    def _present(self) -> bool:
        return self._doc is not None and (host.is_active(self._doc) or host.is_open(self._doc))

    def _read(self, near: Bounds, sample: bool) -> None:
        whole = Bounds(0, 0, self._bounds.width, self._bounds.height)
        began = time.monotonic()
        patches = []
        box = _on_tiles(near).intersect(whole)
        for y in range(box.y, box.bottom, BAND):
            band = Bounds(box.x, y, box.width, min(BAND, box.bottom - y))
            patches.append((band, self._pixels(band)))
            if y + BAND < box.bottom and time.monotonic() - began > 0.008:
                break  # the rest is read when the pen is up
        rows = []
        if sample:
            for y in range(0, whole.height, STEP):
                rows.append((y, self._pixels(Bounds(0, y, whole.width, 1))))
        ended = time.monotonic()
        # A slow machine looks less often.
        wanted = max(GLIMPSE, round((ended - began) * 1000 * SHARE))
        if self._glimpses.isActive() and self._glimpses.interval() != wanted and not sample:
            self._glimpses.setInterval(wanted)
        self.glimpsed.emit(Glimpse(tuple(patches), tuple(rows), self.take_event(), began, ended, near))

    def _pixels(self, box: Bounds) -> bytes:
        x, y = self._bounds.x + box.x, self._bounds.y + box.y
        if self._plain:
            return bytes(self._doc.pixelData(x, y, box.width, box.height))
        return colour.image_bytes(self._doc.projection(x, y, box.width, box.height))


def _on_tiles(box: Bounds) -> Bounds:
    """Grown to whole tiles: nothing smaller travels."""
    if box.is_empty:
        return box
    x, y = box.x // TILE * TILE, box.y // TILE * TILE
    return Bounds(x, y, -(-box.right // TILE) * TILE - x, -(-box.bottom // TILE) * TILE - y)


def _timer(parent: Any, slot: Any, single: bool = False) -> Any:
    timer = QtCore.QTimer(parent)
    timer.setSingleShot(single)
    timer.setTimerType(QtCore.Qt.TimerType.PreciseTimer)
    timer.timeout.connect(slot)
    return timer
