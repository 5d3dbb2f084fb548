# SPDX-License-Identifier: GPL-3.0-or-later
"""What a button or shortcut does: the one place where dock, jobs, canvas and link meet, in parts by reason."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from krita_sd import job_events as ev
from krita_sd.actions.again import Again
from krita_sd.actions.collection import Collection
from krita_sd.actions.connection import Connection
from krita_sd.actions.controlling import Controlling
from krita_sd.actions.core import Core
from krita_sd.actions.documents import Documents
from krita_sd.actions.enlarging import Enlarging
from krita_sd.actions.generating import Generating
from krita_sd.actions.grid import Comparing
from krita_sd.actions.history import History
from krita_sd.actions.live import Live
from krita_sd.actions.prompting import Prompting
from krita_sd.actions.queue import Queue
from krita_sd.actions.recipes import COPIES
from krita_sd.actions.results import Results, with_thumbnail
from krita_sd.actions.serving import Serving
from krita_sd.actions.shortcuts import Shortcuts
from krita_sd.actions.styling import Styling
from krita_sd.beyond import SIDES
from krita_sd.guarded import guarded
from krita_sd.live.view import LiveView
from krita_sd.qt import QtCore, Signal
from krita_sd.translate import job_event
from krita_sd.wire import client


class Actions(Core):
    """All that the dockers of this Krita share: the parts, and the names by which buttons and shortcuts call them."""

    _arrived = Signal(object)

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        # Queued by Qt: emitted in the link's thread, received in the GUI's.
        self._arrived.connect(self._receive, QtCore.Qt.ConnectionType.QueuedConnection)
        self.server = Connection(self, self._emit)
        self.results = Results(self, self._arrived.emit)
        self.documents = Documents(self)
        self.controlling = Controlling(self, self.documents, self.results)
        self.generating = Generating(self, self.server, self.results.stage, self.controlling)
        self.enlarging = Enlarging(self, self.server, self.generating)
        self.styling = Styling(self)
        self.prompting = Prompting(self)
        self.live = Live(self, self.controlling)
        self.history = History(self, self.results)
        self.again = Again(self, self.results, self.generating)
        self.queue = Queue(self, self.results, self.generating)
        self.recipes = self.history.recipes
        self.serving = Serving(self)
        self.collection = Collection(self, self.server.rescan)
        self.comparing = Comparing(self, self.results, self.again, self.history)
        self.shortcuts = Shortcuts(self)
        # The history first: what it has not written when Krita quits, the shelf must keep.
        self.parts = [
            self.history,
            self.server,
            self.results,
            self.documents,
            self.controlling,
            self.generating,
            self.enlarging,
            self.styling,
            self.prompting,
            self.serving,
            self.collection,
            self.live,
            self.again,
            self.queue,
            self.comparing,
        ]
        self.toggle_live, self.change_live = self.live.toggle, self.live.change
        self.apply_live, self.record_live = self.live.apply, self.live.record
        self.generate, self.cancel, self.keep = (
            self.again.generate,
            self.generating.cancel,
            self.generating.keep,
        )
        self.apply, self.discard, self.pick = self.results.apply, self.results.discard, self.results.pick
        self.discard_others = self.results.discard_others
        self.toggle_shown, self.thumbnail = self.results.toggle_shown, self.results.thumbnail
        self.apply_in, self.star, self.choose_results = self.results.apply_in, self.results.star, self.results.choose
        self.use_as_input, self.clear_input, self.vary = (
            self.again.use_as_input,
            self.again.clear_input,
            self.again.vary,
        )
        self.same_seed, self.copy, self.save_result = self.recipes.same_seed, self.recipes.copy, self.recipes.save
        self.restore_result, self.restore_layer = self.recipes.restore_result, self.recipes.restore_layer
        self.restore_file, self.cancel_waiting = self.recipes.restore_file, self.queue.cancel_waiting
        self.next_result, self.previous_result = self.results.next_result, self.results.previous_result
        self.rescan, self.free_memory = self.server.rescan, self.serving.free_memory
        self.copy_report = self.serving.copy_diagnostics
        self._for_shortcuts()
        self.leave_out, self.unmark = self.controlling.leave_out_active, self.controlling.unmark_active
        self._refresh()

    def _for_shortcuts(self) -> None:
        """Names for what has no button of its own: pages, lines of menus, steps of values."""
        part, now = self.shortcuts, functools.partial
        for page in ("history", "grid", "queue", "models", "server", "prompts", "style", "folders", "downloads"):
            setattr(self, f"show_{page}", now(self.show_page, page))
        for way in ("above", "into", "mask"):
            setattr(self, f"apply_{way}", now(self.apply_in, way))
        for side in SIDES:
            setattr(self, f"expand_{side}", now(self.enlarging.expand, side))
        for what in COPIES:
            setattr(self, f"copy_{what}", now(self.copy, what))
        self.stronger, self.weaker = now(part.change_strength, 1), now(part.change_strength, -1)
        self.toggle_seed, self.toggle_exact_mask = part.toggle_seed, part.toggle_exact_mask
        self.toggle_options, self.show_save, self.add_control = part.toggle_options, part.show_save, part.add_control

    def input_result(self) -> str | None:
        """Key of the result that the next picture starts from; None for the canvas."""
        return self.again.input if self.again.input in self.table.results else None

    @guarded
    def show_page(self, name: str) -> None:
        """Show a page of the first docker, or go back from it."""
        for docker in self.dockers():
            docker.show_page(name)
            return

    def next_workspace(self) -> None:
        """Generate, Live and back."""
        self.change(workspace="generate" if self.settings.workspace == "live" else "live")

    @guarded
    def focus_prompt(self) -> None:
        """Put the keyboard into the prompt of the first docker."""
        for docker in self.dockers():
            docker.focus_prompt()
            return

    @property
    def live_view(self) -> LiveView:
        """What the Live workspace draws."""
        return self.live.view

    def perform(self, effect: ev.Effect) -> None:
        self.results.perform(effect)

    def before_look(self) -> None:
        self.results.forget_closed()

    def _emit(self, event: Any) -> None:
        """In the link's thread: codecs here, then over to the GUI thread."""
        self._arrived.emit(with_thumbnail(event) if isinstance(event, client.ResultReady) else event)

    @guarded
    def _receive(self, event: Any) -> None:
        for part in self.parts:
            part.received(event)
        fed = job_event(event)
        if fed is not None:
            self.feed(fed)
        self.redraw()
