# SPDX-License-Identifier: GPL-3.0-or-later
"""What all parts of the actions share: settings, job table, link, scene, status line, and the clock of the docker."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from krita_sd import job_events as ev
from krita_sd import plan, view
from krita_sd import settings as store
from krita_sd.actions.part import Part
from krita_sd.canvas import capture, host, watch
from krita_sd.data_folder import claim, data_folder
from krita_sd.geometry import Bounds, Extent
from krita_sd.guarded import guarded
from krita_sd.jobs import JobTable
from krita_sd.link import Link, LinkState
from krita_sd.plan import Plan
from krita_sd.qt import QtCore, Signal
from krita_sd.styles import Style, StyleBook
from krita_sd.text import tr
from krita_sd.wire.errors import bad_request

log = logging.getLogger(__name__)

POLL_MS = 250
"""How often the docker looks at the document: selection and size decide what the button says."""

SAVE_MS = 1000


class Core(QtCore.QObject):
    """`view` and `settings` are what dockers draw after `changed`. `link` is set by the part that connects."""

    changed = Signal()
    _later = Signal(object)
    link: Link

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__()
        self.folder, self._claim = claim(folder or data_folder())
        self.settings = store.load(self.folder / "settings.json")
        self.table = JobTable()
        self.models: tuple[dict[str, Any], ...] = ()
        self.device: dict[str, Any] = {}
        self.features: dict[str, Any] = {}
        self.connection = LinkState("stopped", tr("Not connected."))
        self.view = view.View()
        self.styles = StyleBook(self.folder / "styles")
        self.scene: capture.Scene | None = None
        self.not_read: Callable[[str], list[str]] = lambda document: []  # layers that are no part of its input
        self.wrap = ""
        self.is_transparent = False
        self.parts: list[Part] = []
        self._looking = False
        self.is_started = False
        self._notice: tuple[str, bool] = ("", False)
        self._dockers: list[Any] = []
        self._poll = QtCore.QTimer(self, interval=POLL_MS)
        self._poll.timeout.connect(self.look)
        self._saver = QtCore.QTimer(self, interval=SAVE_MS, singleShot=True)
        self._saver.timeout.connect(self._save_later)
        self._redraw = QtCore.QTimer(self, interval=0, singleShot=True)
        self._redraw.timeout.connect(self._refresh)
        # Queued by Qt: emitted in any thread, obeyed in the GUI's.
        self._later.connect(self._obey, QtCore.Qt.ConnectionType.QueuedConnection)

    def later(self, work: Callable[[], None]) -> None:
        """Do `work` in the GUI's thread; may be called in any."""
        self._later.emit(work)

    @guarded
    def _obey(self, work: Callable[[], None]) -> None:
        work()

    @property
    def style(self) -> Style:
        """The chosen style; one that changes nothing without."""
        return self.styles.get(self.settings.style)

    # Settings --------------------------------------------------------------------------------------------------------

    def change(self, **changes: Any) -> None:
        """Change settings; another server is connected to at once."""
        before = self.settings
        self.settings = self.settings.replace(**changes)
        if self.settings == before:
            return
        if (before.server_uri, before.server_token) != (self.settings.server_uri, self.settings.server_token):
            self.link.reconnect()
        self.save_soon()
        self.redraw()

    def plan(self, extent: Extent, selection: Bounds | None, seed: int, settings: store.Settings | None = None) -> Plan:
        """What a job is asked for: settings, style, LoRAs and wrap-around mode. Raises WireError with a sentence."""
        chosen = settings or self.settings
        entry = view.model_entry(self.models, chosen.model)
        return plan.make(chosen, entry, extent, selection, seed, style=self.style, models=self.models, wrap=self.wrap)

    def settings_of_document(self, kept: Any) -> None:
        """Set what a document has kept; nothing of it is trusted."""
        self.settings = self.settings.with_document(kept)
        self.save_soon()
        self.redraw()

    def change_params(self, **changes: Any) -> None:
        """Change what is remembered per model."""
        self.change(models=self.settings.with_params(**changes).models)

    def save_soon(self) -> None:
        """Write the settings within a second."""
        self._saver.start()

    def _save_later(self) -> None:
        # A home folder on a slow disk must not hold the brush.
        if self.is_started:
            self.link.run(self._save)
        else:
            self._save()

    def _save(self) -> None:
        instance, seq = self.link.position
        store.save(self.folder / "settings.json", self.settings.replace(instance=instance, last_seq=seq))

    # The job table ---------------------------------------------------------------------------------------------------

    def feed(self, event: Any) -> None:
        """One event into the table, its effects onto the canvas (the parts' `effect`), then told to every part."""
        for effect in self.table.feed(event):
            self.perform(effect)
        failed = event if isinstance(event, (ev.StateChanged, ev.JobFailed)) else None
        job = self.table.jobs.get(failed.job) if failed is not None else None
        if job is not None and job.phase is ev.Phase.FAILED and job.error is not None:
            self.say(str(job.error), True)
        for part in self.parts:
            part.fed(event)
        self.redraw()

    def perform(self, effect: ev.Effect) -> None:
        """Carry out one effect of the table."""
        raise NotImplementedError

    # What is shown ---------------------------------------------------------------------------------------------------

    def say(self, text: str, is_error: bool = False) -> None:
        """Show one sentence in the status line; "" returns it to the connection."""
        if (text, is_error) != self._notice:
            self._notice = (text, is_error)
            self.redraw()

    def redraw(self) -> None:
        """Derive the view again in the next turn of the event loop, once however often this was called."""
        self._redraw.start()

    def _refresh(self) -> None:
        text, is_error = self._notice
        if not text:
            text = f"{self.connection.text} {self.connection.hint}".strip()
            is_error = self.connection.kind == "waiting"
        scene = self.scene
        self.view = view.make(
            self.table,
            self.settings,
            self.models,
            status=text,
            status_is_error=is_error,
            extent=scene.extent if scene is not None else None,
            selection=scene.selection if scene is not None else None,
            style=self.style,
            styles=self.styles.styles,
            transparent=self.is_transparent,
        )
        for part in self.parts:
            self.view = dataclasses.replace(self.view, **part.shown())
        for part in self.parts:
            self.view = part.viewed(self.view)
        self.changed.emit()

    # Life ------------------------------------------------------------------------------------------------------------

    @guarded
    def wake(self, docker: Any) -> None:
        """A docker is visible: connect, and look at the document."""
        if docker not in self._dockers:
            self._dockers.append(docker)
        self.start()

    def start(self) -> None:
        """Begin to work, once."""
        if not self.is_started:
            self.is_started = True
            for part in self.parts:
                part.started()
            self.link.start()
            self._poll.start()

    def document(self) -> Any:
        """The active document. Raises WireError with a sentence without one."""
        doc = host.active_document()
        if doc is None:
            raise bad_request(tr("There is no document."), tr("Open or create one first."))
        return doc

    def begin(self) -> Any:
        """What every press of a button that starts something begins with: what was said is over, the link works; the
        active document. Raises WireError without one."""
        self.say("")
        self.start()
        return self.document()

    def stop(self) -> None:
        """Krita quits: save, and end the thread. The server follows by itself."""
        self._poll.stop()
        self._saver.stop()
        if self.is_started:
            self.link.stop()
        for part in self.parts:
            part.stopped()
        self._save()

    def document_changed(self) -> None:
        """Another view is active."""
        watch.pen().rescan_soon()
        self.redraw()
        self.look()

    @guarded
    def look(self) -> None:
        """Look at the active document; called by the clock, also while Krita lets the event loop turn in a look."""
        if not self._looking:
            self._looking = True
            try:
                self._look()
            finally:
                self._looking = False

    def _look(self) -> None:
        self.before_look()
        if not any(docker.isVisible() for docker in self.dockers()):
            for part in self.parts:
                part.hidden()
            return
        doc = host.active_document()
        scene = capture.describe(doc) if doc is not None else None
        if doc is not None and not host.is_whole(doc):
            doc = scene = None  # closed while it was looked at
        if scene != self.scene:
            self.scene = scene
            self.redraw()
        for part in self.parts:
            part.looked(doc, scene)

    def before_look(self) -> None:
        """Documents may have been closed since the last look, also while no docker is visible."""
        raise NotImplementedError

    def dockers(self) -> list[Any]:
        """Dockers whose window still exists: Qt deletes them under Python's wrappers."""
        living = []
        for docker in self._dockers:
            try:
                docker.objectName()
            except RuntimeError:
                continue
            living.append(docker)
        self._dockers = living
        return living
