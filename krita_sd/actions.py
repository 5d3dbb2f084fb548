# SPDX-License-Identifier: GPL-3.0-or-later
"""What a button or shortcut does: the one place where dock, jobs, canvas and link meet."""

from __future__ import annotations

import functools
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from krita_sd import job_events as ev
from krita_sd import pictures, plan, view
from krita_sd import settings as store
from krita_sd.canvas import capture, host
from krita_sd.data_folder import claim, data_folder
from krita_sd.guarded import guarded
from krita_sd.jobs import JobTable, Result
from krita_sd.link import Draft, Link, LinkState, PreviewWaiting, Target
from krita_sd.qt import QtCore, Signal
from krita_sd.server_process import start_or_find
from krita_sd.shelf import Kept, Shelf
from krita_sd.stage import ContextFrame, Stage, open_as_document
from krita_sd.translate import device_text, job_event
from krita_sd.wire import client
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.frames import Picture
from krita_sd.wire.messages import PreviewWish

log = logging.getLogger(__name__)

POLL_MS = 250
"""How often the docker looks at the document: selection and size decide what the button says."""

SAVE_MS = 1000
PREVIEW_PIXELS = 512 * 512
"""Largest preview asked for; it is scaled to the region here."""

_HOPELESS = (Code.UNAUTHORIZED, Code.VERSION, Code.INTERNAL, Code.UNSUPPORTED, Code.BAD_REQUEST)


@dataclass(frozen=True)
class _ResultWithThumbnail:
    kept: Kept
    thumbnail: Any
    seq: int


class Actions(QtCore.QObject):
    """All that the dockers of this Krita share. `view` and `settings` are what they draw after `changed`."""

    changed = Signal()
    _arrived = Signal(object)

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__()
        self._folder, self._claim = claim(folder or data_folder())
        self.settings = store.load(self._folder / "settings.json")
        self.table = JobTable()
        self.models: tuple[dict[str, Any], ...] = ()
        self.view = view.View()
        self._scene: capture.Scene | None = None
        self._captures: dict[str, capture.Capture] = {}
        self._thumbnails: dict[str, Any] = {}
        self._notice: tuple[str, bool] = ("", False)
        self._connection = LinkState("stopped", "Not connected.")
        self._dockers: list[Any] = []
        self._started = False
        self._device_known = True
        core = client.ClientCore(
            self.settings.session,
            "krita",
            last_seq=self.settings.last_seq,
            instance=self.settings.instance,
        )
        self._link = Link(core, self._locate, self._emit, pictures.scaled)
        self._shelf = Shelf(self._folder / "results", self._link.run)
        self._stage = Stage(self.table, self._pixels, self)
        self._frame = ContextFrame()
        # Queued by Qt: emitted in the link's thread, received in the GUI's.
        self._arrived.connect(self._receive, QtCore.Qt.ConnectionType.QueuedConnection)
        self._poll = QtCore.QTimer(self, interval=POLL_MS)
        self._poll.timeout.connect(self._look)
        self._saver = QtCore.QTimer(self, interval=SAVE_MS, singleShot=True)
        self._saver.timeout.connect(self._save_later)
        self._redraw = QtCore.QTimer(self, interval=0, singleShot=True)
        self._redraw.timeout.connect(self._refresh)
        self._refresh()

    # What the painter does -------------------------------------------------------------------------------------------

    @guarded
    def generate(self) -> None:
        """Start a job for the active document, bound to it and to its rectangle from here on."""
        self.say("")
        self._start()
        doc = host.krita().activeDocument()
        if doc is None:
            raise WireError(Code.BAD_REQUEST, "There is no document.", "Open or create one first.")
        if self._connection.kind == "waiting" and self._connection.code in _HOPELESS:
            # The status line says why; the next press works once that is put right.
            self._link.reconnect()
            return
        scene = capture.describe(doc)
        if scene.selection_empty:
            raise WireError(Code.BAD_REQUEST, "The selection lies outside the canvas.", "Select something on it.")
        if not self.settings.seed_fixed:
            self.change(seed=plan.draw_seed())
        entry = view.model_entry(self.models, self.settings.model)
        made = plan.make(self.settings, entry, scene.extent, scene.selection, self.settings.seed)
        job = uuid.uuid4().hex
        self._stage.remember(scene.doc_id, doc)
        self._feed(ev.Created(job, scene.doc_id, made.bounds, made.recipe, self.settings.count))
        if made.kind == "txt2img":
            self._submit(job, None, None)
            return
        reader = capture.Capture(doc, made.bounds, self.settings.source, made.kind == "inpaint")
        self._captures[job] = reader
        reader.start(lambda picture, mask: self._captured(job, picture, mask), lambda text: self._unread(job, text))

    @guarded
    def cancel(self) -> None:
        """Cancel the current job; it leaves no trace."""
        job = self.table.current
        if job is None:
            return
        self._link.cancel(job.id)
        reader = self._captures.pop(job.id, None)
        if reader is not None:
            reader.cancel()
        self._feed(ev.CancelPressed(job.id))

    @guarded
    def keep(self) -> None:
        """Stop the current job and keep what is there."""
        job = self.table.current
        if job is None or not job.can_keep:
            return
        self._link.finish(job.id)
        self._feed(ev.KeepPressed(job.id))

    @guarded
    def apply(self) -> None:
        """Make the selected result a layer of the document it was made for."""
        result = self.table.current_result
        if result is None or result.applied:
            return
        if self._stage.apply(result, functools.partial(self._open_parked, result.key)):
            self._feed(ev.Applied(result.key))
        else:
            self._open_parked(result.key)

    @guarded
    def discard(self) -> None:
        """Drop the selected result."""
        if self.table.selected is not None:
            self._feed(ev.Discarded(self.table.selected))

    @guarded
    def pick(self, key: str) -> None:
        """Choose a result and show it on the canvas."""
        self._feed(ev.Picked(key))

    @guarded
    def toggle_shown(self) -> None:
        """Take the selected result off the canvas, or put it there."""
        result = self.table.current_result
        if result is None:
            return
        shown = result.job in self.table.stage.values()
        self._feed(ev.Hidden(result.key) if shown else ev.Picked(result.key))

    def next_result(self) -> None:
        self._step(1)

    def previous_result(self) -> None:
        self._step(-1)

    @guarded
    def _step(self, direction: int) -> None:
        key = self.table.neighbour(direction)
        if key is not None:
            self._feed(ev.Picked(key))

    @guarded
    def focus_prompt(self) -> None:
        for docker in self._living_dockers():
            docker.focus_prompt()
            return

    @guarded
    def rescan(self) -> None:
        """Look for models again, and for the server if there is none."""
        self._start()
        if self.table.connected:
            self._link.list_models(rescan=True)
        else:
            self._link.reconnect()

    def change(self, **changes: Any) -> None:
        """Change settings; another server is connected to at once."""
        before = self.settings
        self.settings = self.settings.replace(**changes)
        if self.settings == before:
            return
        if (before.server_uri, before.server_token) != (self.settings.server_uri, self.settings.server_token):
            self._link.reconnect()
        self._saver.start()
        self._redraw.start()

    def change_params(self, **changes: Any) -> None:
        """Change what is remembered per model."""
        self.change(models=self.settings.with_params(**changes).models)

    def thumbnail(self, key: str) -> Any:
        return self._thumbnails.get(key)

    # Life ------------------------------------------------------------------------------------------------------------

    @guarded
    def wake(self, docker: Any) -> None:
        """A docker is visible: connect, and look at the document."""
        if docker not in self._dockers:
            self._dockers.append(docker)
        self._start()

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._link.run(self._restore)
            self._link.start()
            self._poll.start()

    def stop(self) -> None:
        """Krita quits: save, and end the thread. The server follows by itself."""
        self._poll.stop()
        self._frame.hide()
        self._saver.stop()
        if self._started:
            self._link.stop()
        # What was applied is in its document now; the rest is offered again next time.
        self._shelf.settle([result.key for result in self.table.results.values() if result.applied])
        self._save()

    def document_changed(self) -> None:
        """Another view is active."""
        self._redraw.start()
        self._look()

    @guarded
    def _look(self) -> None:
        for key in self._stage.forget_closed():
            self._feed(ev.DocumentClosed(key))
        dockers = self._living_dockers()
        if not any(docker.isVisible() for docker in dockers):
            self._frame.hide()
            return
        doc = host.krita().activeDocument()
        scene = capture.describe(doc) if doc is not None else None
        if scene != self._scene:
            self._scene = scene
            self._redraw.start()
        # Before a job, not over its pictures.
        attention = self.table.current is None and any(docker.has_attention for docker in dockers)
        free = scene is not None and scene.doc_id not in self.table.stage
        if doc is not None and scene is not None and scene.selection is not None and attention and free:
            entry = view.model_entry(self.models, self.settings.model)
            self._frame.show(doc, scene.doc_id, plan.region(self.settings, entry, scene.extent, scene.selection))
        else:
            self._frame.hide()

    def _living_dockers(self) -> list[Any]:
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

    def say(self, text: str, is_error: bool = False) -> None:
        """Show one sentence in the status line; "" returns it to the connection."""
        if (text, is_error) != self._notice:
            self._notice = (text, is_error)
            self._redraw.start()

    def _refresh(self) -> None:
        text, is_error = self._notice
        if not text:
            text = f"{self._connection.text} {self._connection.hint}".strip()
            is_error = self._connection.kind == "waiting"
        scene = self._scene
        self.view = view.make(
            self.table,
            self.settings,
            self.models,
            status=text,
            status_is_error=is_error,
            extent=scene.extent if scene is not None else None,
            selection=scene.selection if scene is not None else None,
        )
        self.changed.emit()

    def _save_later(self) -> None:
        # A home folder on a slow disk must not hold the brush.
        if self._started:
            self._link.run(self._save)
        else:
            self._save()

    def _save(self) -> None:
        instance, seq = self._link.position
        store.save(self._folder / "settings.json", self.settings.replace(instance=instance, last_seq=seq))

    # From canvas to link ---------------------------------------------------------------------------------------------

    @guarded
    def _captured(self, job_id: str, picture: bytes, mask: bytes | None) -> None:
        self._captures.pop(job_id, None)
        job = self.table.jobs[job_id]
        if not job.active:
            return
        if job.recipe.kind == "inpaint" and mask is None:
            self._unread(job_id, "Nothing is selected any more.")
            return
        size = job.bounds.width, job.bounds.height
        self._submit(job_id, Picture("bgra8", *size, picture), Picture("grey8", *size, mask) if mask else None)

    @guarded
    def _unread(self, job_id: str, text: str) -> None:
        self._captures.pop(job_id, None)
        self._feed(ev.JobFailed(job_id, WireError(Code.BAD_REQUEST, text)))

    def _submit(self, job_id: str, image: Picture | None, mask: Picture | None) -> None:
        job = self.table.jobs[job_id]
        wish = PreviewWish(self.settings.previews, PREVIEW_PIXELS)
        self._link.submit(Draft(job_id, job.recipe, image, mask, job.count, previews=wish))
        self._feed(ev.Captured(job_id))

    # From link to canvas ---------------------------------------------------------------------------------------------

    def _locate(self, report: Callable[[LinkState], None], stopping: Any) -> Target:
        """In the link's thread: the server of the settings, or the one of this machine."""
        settings = self.settings
        if settings.server_uri:
            return Target(settings.server_uri, settings.server_token, "The server")
        running = start_or_find(lambda text: report(LinkState("starting", text)), stopping)
        return Target(running.uri, running.token, "The server on this machine")

    def _emit(self, event: Any) -> None:
        """In the link's thread: codecs here, then over to the GUI thread."""
        if isinstance(event, client.ResultReady):
            result = event.result
            kept = Kept(result.job, result.index, result.recipe, result.partial, event.picture)
            event = _ResultWithThumbnail(kept, pictures.thumbnail(event.picture), result.seq)
        self._arrived.emit(event)

    @guarded
    def _receive(self, event: Any) -> None:
        if isinstance(event, PreviewWaiting):
            self._preview(event.job)
        elif isinstance(event, _ResultWithThumbnail):
            self._result(event)
        elif isinstance(event, LinkState):
            self._connection = event
        elif isinstance(event, client.Connected):
            self._server_said(event.welcome.models, event.welcome.device)
            self._saver.start()
        elif isinstance(event, client.ModelsListed):
            self._server_said(event.models, event.device)
        elif isinstance(event, client.Refused) and event.error.job not in self.table.jobs:
            self.say(str(event.error), True)
        elif isinstance(event, client.JobState) and not self._device_known and event.state.state == "encoding":
            self._link.list_models()  # the worker runs now, so the server knows its device
        fed = job_event(event)
        if fed is not None:
            self._feed(fed)
        self._redraw.start()

    def _server_said(self, models: tuple[dict[str, Any], ...], device: dict[str, Any]) -> None:
        self.models = models
        text, self._device_known = device_text(device, self.settings.server_uri or "this machine")
        self._connection = LinkState("connected", text)

    def _preview(self, job: str) -> None:
        # Taken in any case: as long as one waits, the link does not tell of the next.
        ready = self._link.take_preview(job)
        if ready is not None:
            self._feed(ev.PreviewArrived(job, ready.index, ready.step, ready.picture))

    def _result(self, event: _ResultWithThumbnail) -> None:
        """A result of the server, or one that an earlier run of Krita left: `seq` is 0 for that."""
        kept = event.kept
        self._thumbnails[kept.key] = event.thumbnail
        if event.seq:
            self._shelf.put(kept, functools.partial(self._link.stored, event.seq))
        self._feed(ev.ResultArrived(kept.job, kept.index, kept.recipe, kept.partial))
        if kept.key not in self.table.results:
            # Of a job that was cancelled meanwhile.
            self._thumbnails.pop(kept.key)
            self._shelf.drop(kept.key)
        self._saver.start()

    def _restore(self) -> None:
        """In the link's thread: what was neither applied nor discarded when Krita ended comes back."""
        for kept in self._shelf.restore():
            self._arrived.emit(_ResultWithThumbnail(kept, pictures.thumbnail(kept.picture), 0))

    def _feed(self, event: Any) -> None:
        """One event into the table, its effects onto the canvas."""
        for effect in self.table.feed(event):
            if isinstance(effect, ev.Forget):
                self._thumbnails.pop(effect.key, None)
                self._shelf.drop(effect.key)
            else:
                self._stage.perform(effect)
        failed = event if isinstance(event, (ev.StateChanged, ev.JobFailed)) else None
        job = self.table.jobs.get(failed.job) if failed is not None else None
        if job is not None and job.phase is ev.Phase.FAILED and job.error is not None:
            self.say(str(job.error), True)
        self._redraw.start()

    def _pixels(self, result: Result) -> Picture:
        picture = self._shelf.get(result.key)
        if picture is None:
            raise WireError(Code.INTERNAL, "The pixels of this result are gone.", "Generate it again with its seed.")
        return picture

    @guarded
    def _open_parked(self, key: str) -> None:
        """The document of this result is closed: it becomes a document of its own."""
        result = self.table.results.get(key)
        if result is None:
            return
        open_as_document(result, self._pixels(result))
        self._feed(ev.Applied(key))
        self.say("The document of this result is closed; it was opened as a new one.")
