# SPDX-License-Identifier: GPL-3.0-or-later
"""A pen that repeats itself: tablet events on the canvas at 60 Hz from a timer inside Krita, and what Live did then."""

from __future__ import annotations

import math
from typing import Any

from tests.krita.driver import Hand
from tests.krita.session import Session

INSIDE = """
import time
from krita_sd import plugin
from krita_sd.canvas import host, overlay, watch
A = plugin.actions()
L = A.live

def _tablet(kind, canvas, point, pressure, down):
    local = QtCore.QPointF(*point)
    place = QtCore.QPointF(canvas.mapToGlobal(QtCore.QPoint(0, 0))) + local
    Q, E = QtCore.Qt, QtCore.QEvent.Type
    left, none = Q.MouseButton.LeftButton, Q.MouseButton.NoButton
    buttons = left if down else none
    if hasattr(QtGui, "QPointingDevice"):
        global _device
        D = QtGui.QInputDevice
        if "_device" not in globals():
            P = QtGui.QPointingDevice
            _device = P("pen", 77, D.DeviceType.Stylus, P.PointerType.Pen,
                        D.Capability.Position | D.Capability.Pressure, 1, 3)
        event = QtGui.QTabletEvent(kind, _device, local, place, pressure, 0, 0, 0.0, 0.0, 0,
                                   Q.KeyboardModifier.NoModifier, left, buttons)
    else:
        T = QtGui.QTabletEvent
        event = T(kind, local, place, T.TabletDevice.Stylus, T.PointerType.Pen, pressure, 0, 0, 0.0, 0.0, 0,
                  Q.KeyboardModifier.NoModifier, 77, left, buttons)
    QtWidgets.QApplication.sendEvent(canvas, event)

class Replay(QtCore.QObject):
    '''Image points, one per 1/60 s; the release `hold` ticks after the last, as Krita compresses moves.'''
    def __init__(self, points, hold=10):
        super().__init__()
        self.points, self.hold, self.times, self.done = points, hold, [], False
        c = canvas_state()
        self.canvas = host.active_canvas_widget()
        self.local = [(c['left'] - c['x'] + x * c['zoom'], c['top'] - c['y'] + y * c['zoom']) for x, y in points]
        self.timer = QtCore.QTimer(self)
        self.timer.setTimerType(QtCore.Qt.TimerType.PreciseTimer)
        self.timer.timeout.connect(self.tick)
        self.at = 0
    def start(self):
        self.timer.start(16)
    def tick(self):
        E = QtCore.QEvent.Type
        at, self.at = self.at, self.at + 1
        if at < len(self.local):
            self.times.append(time.monotonic())
            _tablet(E.TabletPress if at == 0 else E.TabletMove, self.canvas, self.local[at], 0.8, True)
        elif at >= len(self.local) + self.hold:
            self.timer.stop()
            _tablet(E.TabletRelease, self.canvas, self.local[-1], 0.0, False)
            self.done = True

def sheets():
    '''The visible widgets of ours over a canvas.'''
    return [w for c in host.canvas_widgets() for w in c.findChildren(QtWidgets.QWidget, 'krita_sd_overlay')
            if w.isVisible()]

def trips():
    return [[t.generation, t.event, t.began, t.shown, t.tiles, t.bytes, t.down] for t in L.timeline.done]

def shown_pixel(x, y):
    '''What the newest frame shows at a pixel of the document: b, g, r.'''
    b = L._machine.aim.bounds
    c = L.frame.image.pixelColor(x - b.x, y - b.y)
    return [c.blue(), c.green(), c.red()]

def doc_pixel(x, y):
    return list(bytes(K.activeDocument().pixelData(x, y, 1, 1)))[:3]
"""


def wave(x0: float, y0: float, x1: float, steps: int = 60, height: float = 60.0) -> list[list[float]]:
    """A painter's stroke: a wave from left to right, one point per 1/60 s."""
    return [[x0 + (x1 - x0) * i / steps, y0 + height * math.sin(i / 6)] for i in range(steps + 1)]


class Pen(Hand):
    """Hands with a pen, in the session's Krita."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        session.run(INSIDE)

    def document(self, width: int, height: int, name: str = "test") -> None:
        """A new document at a zoom at which all of it is on the screen, with the plain brush."""
        self.session.run(f"new_document({width}, {height}, name={name!r})")
        self.session.wait("idle() and canvas_state() is not None")
        self.session.run("K.action('zoom_to_fit' if K.action('zoom_to_fit') else 'zoom_to_100pct').trigger()")
        self.session.wait("idle()")
        self.brush(24)
        # The first synthetic tablet stroke of a view paints only a dot.
        self.stroke([[20.0, 20.0], [24.0, 24.0], [28.0, 28.0]])
        self.undo()

    def begin(self, points: list[list[float]], hold: int = 10) -> None:
        """Start the pen; it moves by itself."""
        self.session.run(f"R = Replay({points!r}, {hold}); R.start()")

    def lift(self) -> None:
        """Let a pen that was to hold on go up."""
        self.session.run("R.hold = 0")
        self.lifted()

    def lifted(self, timeout: float = 30.0) -> None:
        """Wait until the pen is up and the stroke is in the document."""
        self.session.wait("R.done", timeout, "the pen to be lifted")
        self.session.wait("idle()", timeout)

    def stroke(self, points: list[list[float]]) -> None:
        """A whole stroke."""
        before = self.session.eval("undo_rows()")
        self.begin(points)
        self.lifted()
        self.session.wait(f"undo_rows() != {before!r}", 10, "the stroke's undo step")

    def ink(self) -> str:
        """Of the painter's layer."""
        return str(self.session.eval("digest(K.activeDocument().nodeByName('Background').pixelData(0, 0, 4096, 4096))"))

    def steps(self) -> list[str]:
        """The steps that Undo would take back, oldest first."""
        state = self.session.eval("undo_rows()")
        found: list[str] = state["rows"][1 : state["current"] + 1]
        return found

    def trips(self) -> list[list[Any]]:
        """[generation, pen event, reading began, shown, tiles, bytes up, bytes down] of every shown frame, in order."""
        found: list[list[Any]] = self.session.eval("trips()")
        return found
