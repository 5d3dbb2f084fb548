# SPDX-License-Identifier: GPL-3.0-or-later
"""What Live shows: its frames over the canvas or as a layer, the painter's fresh strokes seen through them, Apply."""

from __future__ import annotations

import functools
import time
from typing import Any

from krita_sd.actions.core import Core
from krita_sd.actions.live_report import Report
from krita_sd.actions.part import Part
from krita_sd.canvas import colour, host, insert, live_show
from krita_sd.geometry import Bounds
from krita_sd.guarded import guarded
from krita_sd.live.desk import LiveReady
from krita_sd.live.develop import whole
from krita_sd.live.fresh import Fresh
from krita_sd.live.machine import Aim
from krita_sd.live.timing import Timeline
from krita_sd.qt import QtCore, Signal
from krita_sd.text import tr
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.frames import Picture

_NOWHERE = Bounds(0, 0, 0, 0)


class Showing(Part, QtCore.QObject):
    """frame: what is shown now. fresh: what was painted and is in no shown frame yet; `dress` after every change."""

    frame_changed = Signal(object)  # a QImage, or None
    _whole = Signal(object)  # a function for the GUI thread

    def __init__(self, core: Core, timeline: Timeline, report: Report) -> None:
        QtCore.QObject.__init__(self)
        Part.__init__(self, core)
        self.frame: LiveReady | None = None
        self.fresh = Fresh()
        self._timeline = timeline
        self._report = report
        self._ready: LiveReady | None = None
        self._show: live_show.LiveShow | None = None
        self._bounds = _NOWHERE
        self._whole.connect(self._in_gui, QtCore.Qt.ConnectionType.QueuedConnection)

    def open(self, doc: Any, aim: Aim, name: str) -> None:
        """Another session: nothing is shown yet. name: of the layer, if frames are to be one."""
        everything = aim.bounds == Bounds(0, 0, doc.width(), doc.height())
        self._show = live_show.LiveShow(doc, aim.bounds, self.core.settings.live.place, name, not everything)
        self._bounds = aim.bounds
        self.fresh.clear()

    def close(self) -> None:
        """Take the picture away."""
        self.frame = self._ready = None
        if self._show is not None:
            self._show.close()
            self._show = None

    def clear(self) -> None:
        """Live is off: the docker's picture goes too."""
        self.frame = None
        self.frame_changed.emit(None)

    def take(self) -> LiveReady | None:
        """The newest frame: what was announced before it is gone."""
        self._ready = self.core.link.live.take() or self._ready
        return self._ready

    def present(self, generation: int) -> None:
        """Show the frame that was taken last."""
        ready = self._ready
        if ready is None or self._show is None:
            return
        self.frame = ready
        model = sum(seconds for name, seconds in ready.parts.items() if name not in ("queued", "total"))
        known = {"arrived": ready.arrived, "queue": ready.parts.get("queued", 0.0), "model": model}
        self._timeline.note(generation, **known, down=len(ready.picture.data))
        self.fresh.shown(generation)
        self.dress()
        painted = functools.partial(self._painted, generation)
        self._show.show(ready.image, _pixels(ready), ready.box, painted)
        self._report.shown(ready)
        self.frame_changed.emit(ready.image)

    def _painted(self, generation: int) -> None:
        self._timeline.end(generation, time.monotonic())

    def dress(self) -> None:
        """Opacity, and where the painter's fresh strokes are seen through the picture."""
        if self._show is None:
            return
        settings = self.core.settings.live
        thin = self.fresh.box if settings.see_through else _NOWHERE
        self._show.set_look(settings.opacity, Bounds(self._bounds.x + thin.x, self._bounds.y + thin.y, *thin.extent))

    def apply(self, doc: Any, name: str, into_active: bool) -> None:
        """Make the shown frame a layer on top, one undo step; or a part of the active layer, two steps."""
        frame, bounds = self.frame, self._bounds
        if frame is None or doc is None:
            raise WireError(Code.BAD_REQUEST, tr("Live shows no picture yet."), tr("Wait for one, then apply it."))
        way = "into" if into_active else "top"
        problem = insert.problem_with(way, doc)
        if problem:
            raise WireError(Code.BAD_REQUEST, problem)

        def insert_it(picture: Picture) -> None:
            if host.is_open(doc):
                problem = live_show.apply(doc, bounds, picture.data, name, way, lambda: self.say(""))
                self.say(problem, bool(problem))

        def work() -> None:
            # Enlarging takes longer than the GUI thread may wait.
            picture = whole(frame.picture, frame.extent, frame.box)
            self._whole.emit(functools.partial(insert_it, picture))

        self.core.link.run(work)

    @guarded
    def _in_gui(self, work: Any) -> None:
        work()


def _pixels(ready: LiveReady) -> bytes:
    """bgra8 of a frame; a distant server sends it encoded."""
    return ready.picture.data if ready.picture.format == "bgra8" else colour.image_bytes(ready.image)
