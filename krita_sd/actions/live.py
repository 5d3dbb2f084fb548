# SPDX-License-Identifier: GPL-3.0-or-later
"""Live: watches the document, asks, shows. What to do next is `krita_sd.live.machine`'s; here it is carried out."""

from __future__ import annotations

import dataclasses
import functools
import time
import uuid
from typing import Any

from krita_sd import control_pictures, plan
from krita_sd.actions.controlling import Controlling
from krita_sd.actions.core import Core
from krita_sd.actions.live_around import Around
from krita_sd.actions.live_report import Report
from krita_sd.actions.live_showing import Showing
from krita_sd.actions.part import Part
from krita_sd.actions.reading import Reading
from krita_sd.canvas import capture, host, live_watch, watch
from krita_sd.controls import ControlLayer
from krita_sd.geometry import Bounds
from krita_sd.guarded import guarded
from krita_sd.live import machine as m
from krita_sd.live.desk import LiveReady, LiveWaiting
from krita_sd.live.develop import develop
from krita_sd.live.feed import Look, Sent, Suspect, Unchanged, Wish
from krita_sd.live.timing import Timeline, Trip
from krita_sd.live.view import LiveView
from krita_sd.qt import QtCore, Signal
from krita_sd.text import tr
from krita_sd.wire import client
from krita_sd.wire.errors import Code
from krita_sd.wire.frames import Picture

POLL_MS = 250
"""How often Live looks at what is in its way: selection, other documents, a running job."""


class Live(Part, QtCore.QObject):
    """`frame_changed` carries the newest picture to dockers (a QImage, or None)."""

    _arrived = Signal(object)

    def __init__(self, core: Core, controlling: Controlling) -> None:
        QtCore.QObject.__init__(self)
        Part.__init__(self, core)
        self.timeline = Timeline()
        self.docker_visible = False
        self._machine = m.Machine(lambda: uuid.uuid4().hex)
        self._report = Report(core, self._machine, self.timeline)
        self._showing = Showing(core, self.timeline, self._report)
        self.frame_changed = self._showing.frame_changed
        self._around = Around(core, controlling)
        self._doc: Any = None
        self._mask: Picture | None = None
        self._masked: Bounds | None = None  # of the selection that the mask is of
        self._used: tuple[Any, ...] = ()
        self._reader: Reading | None = None
        self._always = False
        self._whole = 0  # generation of the last look at all of the region
        self._drawn: Any = None
        self._busy: Any = None
        self._controls: tuple[Picture, ...] = ()
        self._drawn_controls: tuple[ControlLayer, ...] = ()
        self._lookout = live_watch.Lookout(self)
        self._lookout.glimpsed.connect(self._glimpsed)
        self._lookout.pen_moved.connect(self._pen_moved)
        self._lookout.settled.connect(self._settled)
        self._lookout.undone.connect(self._undone)
        self._lookout.strokes.connect(self._strokes)
        self._poll = QtCore.QTimer(self, interval=POLL_MS)
        self._poll.timeout.connect(self.look)
        # A way of its own into the GUI thread: a frame must not make the docker draw itself anew.
        self._arrived.connect(self._receive, QtCore.Qt.ConnectionType.QueuedConnection)
        core.link.live.listen(self._arrived.emit, develop, control_pictures.prepared)
        core.changed.connect(self._settings_changed)

    # What the painter does -------------------------------------------------------------------------------------------

    @guarded
    def toggle(self) -> None:
        """Turn Live on for the active document, or off."""
        self.switch(not self._machine.wanted)

    @guarded
    def switch(self, on: bool) -> None:
        """On: for the active document, from here on, until off."""
        if on:
            self._doc = self.core.begin()
            self._around.begin(self._doc)
            self._poll.start()
        self._feed(m.Surroundings(None))  # what was seen of another document counts no more
        self._feed(m.Switched(on))
        if on:
            self.look()
        else:
            self._poll.stop()
            self._doc = None
            self._showing.clear()
        self._redraw()

    @guarded
    def change(self, **changes: Any) -> None:
        """Change Live's own settings."""
        self.core.change(live=dataclasses.replace(self.core.settings.live, **changes))

    @guarded
    def apply(self, into_active: bool = False) -> None:
        """Make the shown frame a layer on top, one undo step; or a part of the active layer, two steps."""
        self._showing.apply(self._doc, self._layer_name(), into_active)

    @guarded
    def record(self) -> None:
        """Begin to write every shown frame into a folder, or stop."""
        self._report.record()
        self._redraw()

    @property
    def frame(self) -> LiveReady | None:
        """What is shown now."""
        return self._showing.frame

    @property
    def view(self) -> LiveView:
        """What the workspace draws."""
        return self._report.view

    def docker_seen(self, visible: bool) -> None:
        """The docker with Live's picture came into view, or went."""
        self.docker_visible = visible

    # What happens ----------------------------------------------------------------------------------------------------

    @guarded
    def look(self) -> None:
        """What Live is about, what is in its way, what it asks for."""
        if not self._machine.wanted:
            return
        if self._doc is None or not host.is_open(self._doc):
            self._doc = None
            self.switch(False)
            return
        self._around.docker_visible = self.docker_visible
        seen = self._around.look(self._doc)
        aim = m.Aim(seen.document, seen.plan.bounds) if seen.plan is not None else None
        if self._machine.live and aim != self._machine.aim:
            # First, so that no session is asked for a picture of another extent than its canvas.
            self._feed(m.Surroundings(None, seen.obstacle))
        if seen.plan is not None:
            self._wish(seen.plan)
        self._feed(m.Surroundings(aim, seen.obstacle))
        self._redraw()

    def received(self, event: Any) -> None:
        unknown = isinstance(event, client.Refused) and event.error.code is Code.UNSUPPORTED
        if unknown and self._machine.phase is m.Phase.STARTING:
            text = tr("This server cannot do Live. Update it, or use the one of this machine.")
            self._feed(m.Said(self._machine.live, "failed", text))
        elif isinstance(event, client.Connected):
            self.look()

    def fed(self, event: Any) -> None:
        # Whether a job runs or shows something, not how far it is.
        busy = (self.core.table.current is not None, tuple(self.core.table.stage))
        if self._machine.wanted and busy != self._busy:
            self._busy = busy
            self.look()

    def stopped(self) -> None:
        self._poll.stop()
        self._feed(m.Switched(False))
        self._report.close()

    @guarded
    def _settings_changed(self) -> None:
        now = (self.core.settings, self.core.models)
        if self._machine.wanted and now != self._drawn:
            self._drawn = now
            if self._machine.live and self._used != self._way():
                self._feed(m.Surroundings(None))  # begin anew, in another way
            self.look()
            self._showing.dress()

    @guarded
    def _receive(self, event: Any) -> None:
        match event:
            case LiveWaiting():
                ready = self._showing.take()
                if ready is not None:
                    self.timeline.answered(ready.generation)
                    self._feed(m.FrameCame(ready.live, ready.generation))
            case Sent():
                self._lookout.waiting = self._reader is not None
                self.timeline.note(event.generation, sent=event.at, tiles=event.tiles, bytes=event.bytes)
            case Unchanged():
                self._unchanged(event)
            case Suspect(live, box):
                if live == self._machine.live:
                    self._lookout.point_at(box)
            case m.Wanted() | m.Said():
                self._feed(event)
                self._redraw()

    def _unchanged(self, event: Unchanged) -> None:
        trip = self.timeline.forget(event.generation)
        if event.live == self._machine.live:
            self._lookout.waiting = self._reader is not None
            settled = self._reader is None and not watch.pen().pen_down
            self._showing.fresh.unchanged(event.generation, settled)
            if not settled and trip is not None:
                self._lookout.give_event_back(trip.event)
            self._showing.dress()
            if settled and event.generation == self._whole and host.is_idle(self._doc):
                self._feed(m.Same(event.live, event.generation))

    # What follows ----------------------------------------------------------------------------------------------------

    def _feed(self, event: Any) -> None:
        for effect in self._machine.feed(event):
            match effect:
                case m.Open():
                    self._open(effect)
                case m.Close(live):
                    self._close(live)
                case m.Ask(live, generation, whole):
                    now = time.monotonic()
                    self.timeline.begin(Trip(generation, began=now, read=now))
                    self.core.link.live.ask(live, generation, self._machine.wish, whole)
                case m.LookAgain():
                    self._read_all()
                case m.Show(_, generation):
                    first = self.frame is None
                    self._showing.present(generation)
                    if first:
                        self._redraw()

    def _open(self, effect: m.Open) -> None:
        settings, bounds = self.core.settings.live, effect.aim.bounds
        self.core.link.live.open(effect.live, bounds.width, bounds.height, self._machine.wish)
        self._showing.open(self._doc, effect.aim, self._layer_name())
        # Only then the composite, which is all that can be read in the middle of a stroke, is the input.
        quick = settings.place != "layer" and self.core.settings.source == capture.VISIBLE and not self._around.hidden
        self._used = self._way()
        self._lookout.start(self._doc, bounds, quick)
        self._always = True
        if quick:
            self._read_all()
        else:
            self._lookout.look_again()

    def _way(self) -> tuple[Any, ...]:
        """What a running session cannot change."""
        return self.core.settings.live.place, self.core.settings.source, self._around.hidden

    def _close(self, live: str) -> None:
        self.core.link.live.close(live)
        self._lookout.stop()
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None
        self._mask = self._masked = None
        self._controls = self._drawn_controls = ()
        self.timeline.clear()
        self._showing.close()

    # Reading ---------------------------------------------------------------------------------------------------------

    def _wish(self, made: plan.Plan) -> None:
        """Tell the machine what is wanted now. A selection's pixels come with the next reading, where they are new."""
        masked = made.kind == "inpaint"
        selection = self._around.selection if masked else None
        stale = (selection, self._around.controls) != (self._masked, self._drawn_controls)
        if self._machine.live and stale:
            if self._reader is None:
                self._lookout.look_again()
            return
        self._feed(m.Wished(self._wish_of(made)))

    def _wish_of(self, made: plan.Plan) -> Wish:
        # A layer takes pixels only at its own size.
        fit = self.core.settings.live.place != "layer"
        return Wish(made.recipe, self._mask if made.kind == "inpaint" else None, self._controls, fit)

    @guarded
    def _settled(self) -> None:
        self.look()
        self._feed(m.Changed())

    @guarded
    def _undone(self) -> None:
        self._feed(m.Undone())

    def _read_all(self) -> None:
        """Read the region in bands; begin anew if a reading is under way."""
        aim = self._machine.aim
        if aim is None:
            return
        if self._reader is not None:
            self._reader.cancel()
        made = self._around.plan
        masked = made is not None and made.kind == "inpaint"
        around = self._around
        self._masked, self._drawn_controls = (around.selection if masked else None), around.controls
        self._lookout.waiting = True
        live = self._machine.live
        self._reader = Reading(
            self._doc,
            aim.bounds,
            "inpaint" if masked else "img2img",
            self.core.settings.source,
            around.controls,
            around.hidden,
            functools.partial(self._was_read, live, time.monotonic(), masked),
            functools.partial(self._unread, live),
        )

    @guarded
    def _was_read(
        self,
        live: str,
        began: float,
        masked: bool,
        picture: bytes | None,
        mask: bytes | None,
        controls: list[tuple[ControlLayer, bytes]],
    ) -> None:
        self._reader = None
        self._lookout.waiting = False
        aim, made = self._machine.aim, self._around.plan
        if live != self._machine.live or aim is None or made is None or picture is None:
            return
        size = aim.bounds.extent
        if masked and mask is None:
            return  # the selection went away meanwhile; the next look notices
        if mask is not None and (self._mask is None or self._mask.data != mask):
            self._mask = Picture("grey8", *size, mask)
        self._controls = tuple(Picture("bgra8", *size, data) for _, data in controls)
        if made.bounds == aim.bounds and len(self._controls) == len(made.recipe.controls):
            self._feed(m.Wished(self._wish_of(made)))
        generation = self._whole = self._machine.number()
        now = time.monotonic()
        self.timeline.begin(Trip(generation, self._lookout.take_event(), began, now))
        self._showing.fresh.read(generation, Bounds(0, 0, 0, 0))
        patch = (Bounds(0, 0, *size), picture)
        always, self._always = self._always, False
        self.core.link.live.look(Look(live, generation, (patch,), always=always))

    @guarded
    def _unread(self, live: str, text: str) -> None:
        self._reader = None
        self._lookout.waiting = False
        self._feed(m.Said(live, "failed", text))
        self._redraw()

    @guarded
    def _glimpsed(self, glimpse: live_watch.Glimpse) -> None:
        if not self._machine.live:
            return
        generation = self._machine.number()
        self.timeline.begin(Trip(generation, glimpse.event, glimpse.began, glimpse.ended))
        self._showing.fresh.read(generation, glimpse.near)
        self._lookout.waiting = True
        self.core.link.live.look(Look(self._machine.live, generation, glimpse.patches, glimpse.rows))

    @guarded
    def _pen_moved(self, box: Bounds) -> None:
        self._showing.fresh.painted(box)
        self._showing.dress()

    @guarded
    def _strokes(self, box: Bounds) -> None:
        if self._around.painted(box):
            self.look()

    def _layer_name(self) -> str:
        made = self._around.plan
        return plan.layer_name(made.recipe) if made is not None else "Krita SD Live"

    def _redraw(self) -> None:
        self._report.draw(self.frame is not None)
