# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts previews and results into a document as one layer and one undo step, and takes them out without a trace."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from enum import Enum
from typing import Any

from ..geometry import Bounds
from ..qt import QtCore, Signal
from . import aside, host, previews, watch
from .active import active_node, keep_active
from .layer import Layer
from .overlay import Overlay

log = logging.getLogger(__name__)

SHARE = 10
"""Previews may take one part in so many of the GUI thread's time."""

RETRY = 40  # milliseconds between two looks at a busy document
HEARTBEAT = 400  # milliseconds between two looks whether the document is still open


class _Goal(Enum):
    PREVIEW = "preview"
    APPLY = "apply"
    DISCARD = "discard"
    FINISHED = "finished"


class Placement(QtCore.QObject):
    """One preview layer in one document, from the start of a job to Apply or Discard.

    doc: the document at the time of submission; the placement stays bound to it.
    bounds: where pictures go, in document pixels; every picture has exactly its width and height.
    name: of the layer while it shows previews.
    All methods return at once; the work happens in the event loop when the pen is up and the document is idle.
    """

    applied = Signal()  # the picture is a layer of the document now; the placement is finished
    discarded = Signal()  # no layer of ours is in the document any more; the placement is finished
    moved = Signal(object)  # the painter has cropped or enlarged the canvas: the Bounds where the picture belongs now
    parked = Signal()  # the document was closed: whoever holds the picture keeps it (insert.open_as_document is a way)

    def __init__(self, doc: Any, bounds: Bounds, name: str, parent: Any = None) -> None:
        super().__init__(parent)
        self._doc = doc
        self._bounds = bounds
        self._name = name
        self._goal = _Goal.PREVIEW
        self._parked = False
        self._layer: Layer | None = None
        self._overlay = Overlay(doc)
        self._origin = bounds  # while the layer has not been moved
        self._away = False  # the layer was emptied for something that Krita does with all layers
        self._flattened = False  # and was gone afterwards
        self._newest: bytes | None = None  # not yet begun to be written
        self._writing: Iterator[None] | None = None
        self._stale = False  # the layer changed since the composite was last refreshed
        self._cost = 0.0  # seconds spent on the preview in hand
        self._begun = 0.0
        self._not_before = 0.0
        self._patience = watch.Patience(doc)
        self._before: host.UndoList | None = None
        self._mark: host.UndoList | None = None  # the undo list right after our layer came in
        self._mark_due = False
        self._ending: Iterator[int] | None = None
        self._in_turn = False
        self._missed = False  # a turn came while another one was in one of Krita's calls
        self._picture = b""
        self._timer = QtCore.QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.timeout.connect(self._turn)
        watch.pen().pen_up.connect(self._wake)
        watch.pen().pen_down_changed.connect(self._pen_changed)
        aside.aside().called.connect(self._step_aside)
        self._wake()

    # --- what actions call ----------------------------------------------------------------------------------------

    @property
    def is_parked(self) -> bool:
        """The document is closed; apply and discard do nothing but emit `parked`."""
        return self._parked

    @property
    def node(self) -> Any:
        """Krita's layer; None before there is one."""
        return self._layer.node if self._layer is not None else None

    @property
    def is_finished(self) -> bool:
        """Applied, discarded or parked: further calls do nothing."""
        return self._goal is _Goal.FINISHED

    def show_preview(self, picture: bytes, width: int, height: int) -> None:
        """Show bgra8 `picture` (bounds' size) when there is time; a newer one replaces one not yet shown."""
        if self._goal is not _Goal.PREVIEW:
            return
        if (width, height) != self._bounds.extent or len(picture) != width * height * 4:
            log.warning("preview of %dx%d for %s ignored", width, height, self._bounds)
            return
        self._newest = picture
        self._wake()

    def apply(self, picture: bytes, name: str) -> None:
        """Turn the preview layer into the result: bgra8 `picture` (bounds' size) in an unlocked layer `name`.

        Raises ValueError when the picture is not of bounds' size.
        """
        if len(picture) != self._bounds.width * self._bounds.height * 4:
            raise ValueError("the picture does not fit the place it was made for")
        self._picture = picture
        self._end(_Goal.APPLY, self._apply_steps(name))

    def discard(self) -> None:
        """Take the preview away; Undo then acts on the painter's own last step."""
        self._end(_Goal.DISCARD, self._discard_steps())

    # --- turns of the event loop ----------------------------------------------------------------------------------

    def _end(self, goal: _Goal, steps: Iterator[int]) -> None:
        if self._parked:
            self.parked.emit()
        if self._goal is not _Goal.PREVIEW:
            return
        self._goal = goal
        self._ending = steps
        self._newest = self._writing = None
        self._wake()

    def _wake(self) -> None:
        if self._goal is not _Goal.FINISHED:
            self._timer.start(0)

    def _pen_changed(self, down: bool) -> None:
        if down and self._goal is not _Goal.FINISHED:
            self._wake()

    def _turn(self) -> None:
        """One piece of work. Krita lets the event loop turn in calls that wait for a busy document (addChildNode,
        refreshProjection): what comes up meanwhile, such as Apply, waits until the call is over."""
        if self._in_turn:
            self._missed = True
            return
        self._in_turn = True
        try:
            delay = self._take_turn()
        finally:
            missed, self._in_turn, self._missed = self._missed, False, False
        if delay >= 0 and self._goal is not _Goal.FINISHED:
            self._timer.start(0 if missed else delay)

    def _take_turn(self) -> int:
        """Milliseconds until the next turn; negative: there is none."""
        if self._goal is _Goal.FINISHED:
            return -1
        if not host.is_open(self._doc):
            self._park()
            return -1
        if self._mark_due:
            self._take_mark()
        if self._ending is None:
            return self._preview_turn()
        return next(self._ending, -1)

    def _park(self) -> None:
        self._parked = True
        self._finish()
        self.parked.emit()

    def _finish(self) -> None:
        self._goal = _Goal.FINISHED
        self._timer.stop()
        self._overlay.close()
        self._newest = self._writing = self._ending = None
        watch.pen().pen_up.disconnect(self._wake)
        watch.pen().pen_down_changed.disconnect(self._pen_changed)
        aside.aside().called.disconnect(self._step_aside)
        if self._layer is not None:
            previews.remove(self._doc, self._layer.id)
            self._layer.release()

    # --- previews -------------------------------------------------------------------------------------------------

    def _preview_turn(self) -> int:
        """One thing at most; milliseconds until the next turn."""
        if self._layer is None:
            # One after the other: only what came in last can be taken out again without a step in the undo list.
            if watch.may_touch(self._doc) and not previews.is_live(self._doc):
                self._insert()
                return 0
            self._show_over_canvas()
            return RETRY
        if self._away and not self._come_back():
            self._show_over_canvas()
            return RETRY
        if not self._layer.attached:  # the painter pressed Undo: not our turn to bring it back
            if self._flattened:
                self._show_over_canvas()
            else:
                self._overlay.hide()
            return HEARTBEAT
        if self._flattened:  # and Undo brought the layer back, with whatever it held
            self._flattened = False
            self._layer.follow(self._bounds)
            self._newest = self._newest or self._picture
        self._follow()
        if watch.pen().pen_down:
            self._show_over_canvas()
            return RETRY
        if self._writing is None and self._newest is not None:
            wait = self._not_before - time.monotonic()
            if wait > 0:
                return max(1, min(HEARTBEAT, round(wait * 1000)))
            self._begin_write()
        if self._writing is not None:
            self._write_band()
            return 0
        if self._stale or not self._layer.node.visible():
            if not watch.may_touch(self._doc):
                self._show_over_canvas()
                return RETRY
            self._refresh()
            return 0 if self._newest is not None else HEARTBEAT
        self._overlay.hide()
        return HEARTBEAT

    def _step_aside(self) -> None:
        """Krita is about to save, flatten or reshape: at once, because it begins when this returns."""
        if self._goal is not _Goal.PREVIEW or self._layer is None or not host.is_open(self._doc):
            return
        if self._away or not self._layer.attached or watch.pen().pen_down or not host.is_active(self._doc):
            return
        self._away = True
        self._writing = None
        self._layer.empty()
        self._doc.refreshProjection()
        self._stale = True  # so that the picture is shown over the canvas meanwhile
        self._wake()

    def _come_back(self) -> bool:
        """Whether it is over; then the picture returns into the layer, if that is still there."""
        assert self._layer is not None
        if aside.aside().is_wanted or not watch.may_touch(self._doc):
            return False
        self._away = False
        self._flattened = not self._layer.attached
        if self._newest is None and self._picture:
            self._newest = self._picture
        self._not_before = 0.0
        return True

    def _follow(self) -> None:
        """Cropping or enlarging the canvas moves all layers, and with them the place of the picture."""
        assert self._layer is not None
        x, y = self._layer.moved
        bounds = Bounds(self._origin.x + x, self._origin.y + y, self._origin.width, self._origin.height)
        if bounds == self._bounds:
            return
        self._bounds = bounds
        self._layer.follow(bounds)
        if self._newest is None and self._picture:
            self._newest = self._picture
        self._writing = None
        self.moved.emit(bounds)

    def _begin_write(self) -> None:
        assert self._layer is not None and self._newest is not None
        self._picture, self._newest = self._newest, None
        self._writing = self._layer.write(self._picture)
        self._begun, self._cost = time.monotonic(), 0.0

    def _write_band(self) -> None:
        assert self._layer is not None and self._writing is not None
        start = time.monotonic()
        if not self._stale:
            previews.mark_written(self._doc, self._layer.id)
        try:
            next(self._writing)
            self._stale = True
        except StopIteration:
            self._writing = None
        self._cost += time.monotonic() - start

    def _refresh(self) -> None:
        assert self._layer is not None
        start = time.monotonic()
        if not self._layer.node.visible():
            self._layer.node.setVisible(True)
        self._doc.refreshProjection()
        self._stale = False
        self._overlay.hide()
        self._cost += time.monotonic() - start
        self._not_before = self._begun + SHARE * self._cost

    def _show_over_canvas(self) -> None:
        """The newest preview as a widget: nothing may touch the image now."""
        picture = self._newest if self._newest is not None else self._picture if self._stale else None
        if picture is not None:
            self._overlay.show_picture(picture, self._bounds)

    def _insert(self) -> None:
        self._before = host.undo_list() if host.is_active(self._doc) else None
        self._layer = Layer(self._doc, self._bounds, self._name)
        previews.add(self._doc, self._layer.id)
        self._layer.insert()
        self._mark_due = self._before is not None

    def _take_mark(self) -> None:
        """Remember the undo list with our step on top; Krita adds the step a little after the layer."""
        if not host.is_active(self._doc):
            self._mark_due = False
            return
        now = host.undo_list()
        if now is None or self._before is None or not host.is_idle(self._doc):
            return
        if now == self._before:
            return
        self._mark_due = False
        older = now.steps[:-1]
        kept = self._before.steps[: self._before.current + 1]
        # A full undo list loses its oldest step when ours comes in.
        if now.current == len(now.steps) - 1 and (older == kept or older[1:] == kept[2:]):
            self._mark = now

    # --- the end --------------------------------------------------------------------------------------------------

    def _busy(self) -> bool:
        """Whether the document must be left alone a little longer."""
        return self._patience.busy(self._away and aside.aside().is_wanted)

    def _apply_steps(self, name: str) -> Iterator[int]:
        while self._busy():
            self._overlay.show_picture(self._picture, self._bounds)
            yield RETRY
        if self._layer is not None and self._layer.attached:
            self._follow()
        else:
            if self._layer is not None:
                previews.remove(self._doc, self._layer.id)
            self._insert()
            yield 0
        layer = self._layer
        assert layer is not None
        for _ in layer.write(self._picture):
            yield 0
            while self._busy():
                yield RETRY
        while self._busy():
            yield RETRY
        node = layer.node
        node.setName(name)
        node.setLocked(False)
        node.setVisible(True)
        self._doc.refreshProjection()
        self._finish()
        self.applied.emit()

    def _discard_steps(self) -> Iterator[int]:
        self._overlay.hide()
        layer = self._layer
        if layer is None:
            self._finish()
            self.discarded.emit()
            return
        while self._busy():
            yield RETRY
        # Neither hiding nor emptying is an undo step: whatever brings the layer back later brings back nothing.
        layer.node.setVisible(False)
        for _ in layer.write(None):
            yield 0
            while self._busy():
                yield RETRY
        while self._busy():
            yield RETRY
        active = active_node(self._doc)
        if layer.attached and self._is_last_step() and host.trigger("edit_undo"):
            deadline = time.monotonic() + 1.0
            while layer.attached and time.monotonic() < deadline:
                yield RETRY
        with keep_active(self._doc, active if active != layer.node else None):
            if layer.attached:
                layer.node.remove()
        self._doc.refreshProjection()
        self._finish()
        self.discarded.emit()

    def _is_last_step(self) -> bool:
        """Whether Undo would take exactly our layer out: the painter did nothing since it came in."""
        return self._mark is not None and host.is_active(self._doc) and host.undo_list() == self._mark
