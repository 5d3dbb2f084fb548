# SPDX-License-Identifier: GPL-3.0-or-later
"""Knows whether the pen is down, which decides whether anything may touch the image."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from ..qt import Qt, QtCore, QtWidgets, Signal
from . import host

_Event = QtCore.QEvent.Type
_PRESS = (_Event.MouseButtonPress, _Event.MouseButtonDblClick)
_STALE = 1.0  # seconds without an event of the pen after which a forgotten release is looked for
_COMING = 2.0  # seconds in which a view comes up; from Krita 5.3 on in the middle of a call that we hear of
_TRAIL = 1024
"""Pen events that are remembered for whoever follows the stroke."""
_PATIENCE = 3.0  # seconds


@dataclass(frozen=True)
class PenPoint:
    """Where the pen was while it was down: point of `canvas` (a widget), seconds of the monotonic clock."""

    canvas: Any
    x: float
    y: float
    time: float


class PenWatch(QtCore.QObject):
    """Follows mouse and tablet events of every canvas widget without eating any."""

    pen_down_changed = Signal(bool)
    pen_up = Signal()  # the last button or the pen tip was released

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._mouse = False
        self._tablet = False
        self._seen = 0.0
        self._watched: list[Any] = []
        self._until = 0.0
        self._again = QtCore.QTimer(self)
        self._again.setSingleShot(True)
        self._again.timeout.connect(self._rescan_again)
        self._trail: deque[PenPoint] = deque(maxlen=_TRAIL)
        notifier = host.krita().notifier()
        notifier.setActive(True)
        notifier.viewCreated.connect(self.rescan_soon)
        notifier.windowCreated.connect(self.rescan_soon)
        self.rescan()

    @property
    def pen_down(self) -> bool:
        """Whether a stroke may be in progress."""
        self._heal()
        return self._mouse or self._tablet

    def take_trail(self) -> list[PenPoint]:
        """The points of the pen while it was down since the last call, oldest first. For one taker."""
        points = list(self._trail)
        self._trail.clear()
        return points

    def rescan(self) -> None:
        """Follow the canvases that there are now, before Krita's own filter, which takes events of the pen away.

        The filter that was installed last is asked first, and Krita installs its own anew whenever a view comes up.
        """
        self._watched = host.canvas_widgets()
        for canvas in self._watched:
            canvas.installEventFilter(self)

    def rescan_soon(self, *_: Any) -> None:
        """The same, in the turns of the event loop in which a view comes up."""
        self._until = time.monotonic() + _COMING
        QtCore.QTimer.singleShot(0, self._rescan_again)

    def _rescan_again(self) -> None:
        self.rescan()
        if time.monotonic() < self._until and not self._again.isActive():
            self._again.start(100)

    def eventFilter(self, watched: Any, event: Any) -> bool:  # noqa: N802 (Qt's name)
        kind = event.type()
        if kind in _PRESS:
            self._set(mouse=True)
            self._follow(watched, event)
        elif kind == _Event.MouseButtonRelease:
            # buttons() is what is still held after this release.
            self._set(mouse=event.buttons() != Qt.MouseButton.NoButton)
        elif kind == _Event.TabletPress:
            self._set(tablet=True)
            self._follow(watched, event)
        elif kind == _Event.TabletRelease:
            self._set(tablet=False)
        elif kind in (_Event.MouseMove, _Event.TabletMove) and (self._mouse or self._tablet):
            self._follow(watched, event)
        return False

    def _follow(self, canvas: Any, event: Any) -> None:
        self._seen = time.monotonic()
        # Qt 6, then tablet and mouse events of Qt 5.
        point = event.position() if hasattr(event, "position") else None
        point = point or (event.posF() if hasattr(event, "posF") else event.localPos())
        self._trail.append(PenPoint(canvas, point.x(), point.y(), self._seen))

    def _set(self, mouse: bool | None = None, tablet: bool | None = None) -> None:
        before = self._mouse or self._tablet
        self._mouse = self._mouse if mouse is None else mouse
        self._tablet = self._tablet if tablet is None else tablet
        self._seen = time.monotonic()
        after = self._mouse or self._tablet
        if after != before:
            self.pen_down_changed.emit(after)
            if not after:
                self.pen_up.emit()

    def _heal(self) -> None:
        """A release can get lost (a dialog opened under the pen): without it nothing would ever be shown again."""
        if not (self._mouse or self._tablet) or time.monotonic() - self._seen < _STALE:
            return
        held = QtWidgets.QApplication.mouseButtons() != Qt.MouseButton.NoButton
        if self._mouse and not held:
            self._set(mouse=False)
        if self._tablet and not held and time.monotonic() - self._seen > 5 * _STALE:
            # A pen that rests sends nothing, but its stroke keeps the document busy, which is asked besides.
            self._set(tablet=False)


_pen: PenWatch | None = None


def pen() -> PenWatch:
    """The one watch of this Krita, made on first use: events of a canvas need no second filter."""
    global _pen
    if _pen is None:
        _pen = PenWatch()
    return _pen


def may_touch(doc: Any) -> bool:
    """Whether a node operation or `refreshProjection` now would end no stroke of the painter.

    From Krita 5.2 on both end a running stroke and freeze for more than a second.
    """
    return not pen().pen_down and host.is_idle(doc)


class Patience:
    """How long the end of a job waits for an idle document: for ever while the pen is down, else for three seconds.

    The transform tool keeps a document busy for as long as it is active; then the painter's click counts more.
    """

    def __init__(self, doc: Any) -> None:
        self._doc = doc
        self._since: float | None = None  # when it was first found busy with the pen up

    def busy(self, more: bool = False) -> bool:
        """Whether the document must be left alone a little longer. more: so it is for another reason, without limit."""
        hold = more or pen().pen_down
        if hold or host.is_idle(self._doc):
            self._since = None
            return hold
        if self._since is None:
            self._since = time.monotonic()
        return time.monotonic() - self._since < _PATIENCE
