# SPDX-License-Identifier: GPL-3.0-or-later
"""What Live tells of itself: its line in the docker, and the recording of what it shows."""

from __future__ import annotations

import time
from pathlib import Path

from krita_sd.actions.core import Core
from krita_sd.live.desk import LiveReady
from krita_sd.live.develop import whole_image
from krita_sd.live.machine import Machine, Phase
from krita_sd.live.record import Recorder, default_folder
from krita_sd.live.timing import Timeline
from krita_sd.live.view import LiveView, status
from krita_sd.text import tr

TELL_SECONDS = 1.0
"""How often the numbers in the status line change: every change draws the docker anew."""


class Report:
    """`view` is what the workspace draws."""

    def __init__(self, core: Core, machine: Machine, timeline: Timeline) -> None:
        self._core = core
        self._machine = machine
        self._timeline = timeline
        self._recorder: Recorder | None = None
        self._ended: Recorder | None = None  # the one before, which may still be writing
        self._numbers: tuple[float, float] = (0.0, 0.0)
        self._counted = 0.0
        self.view = LiveView()

    def record(self) -> None:
        """Begin to write every shown frame into a folder, or stop."""
        if self._recorder is None:
            chosen = self._core.settings.live.record_folder
            self._recorder = Recorder(Path(chosen) if chosen else default_folder(Path.home()))
            return
        recorder, self._recorder = self._recorder, None
        self._ended = recorder
        # The disk may be slow: not in the GUI thread.
        self._core.link.run(recorder.close)

    def shown(self, frame: LiveReady) -> None:
        """A frame is shown."""
        if self._recorder is not None:
            self._recorder.add(lambda: whole_image(frame.picture, frame.extent, frame.box))

    def close(self) -> None:
        """Krita quits."""
        if self._recorder is not None:
            self._recorder.close()

    def draw(self, can_apply: bool) -> None:
        """Derive the view; the docker is drawn anew only if it changed."""
        if time.monotonic() - self._counted > TELL_SECONDS:
            self._counted = time.monotonic()
            self._numbers = self._timeline.summary()
        told, text = self._recorder or self._ended, ""
        if told is not None:
            text = told.problem or tr("{0} pictures in {1}").format(told.written, told.folder)
        made = LiveView(
            on=self._machine.wanted,
            status=status(self._machine, *self._numbers, self._timeline.waiting(time.monotonic())),
            is_error=self._machine.phase is Phase.FAILED,
            can_apply=can_apply,
            recording=self._recorder is not None,
            record_text=text,
        )
        if made != self.view:
            self.view = made
            self._core.redraw()
