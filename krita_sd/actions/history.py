# SPDX-License-Identifier: GPL-3.0-or-later
"""The history as the docker uses it: everything that arrives is recorded, found again, and brought back."""

from __future__ import annotations

import dataclasses
import functools
import logging
import uuid
from collections.abc import Callable
from typing import Any

from krita_sd import job_events as ev
from krita_sd import pictures
from krita_sd.actions.core import Core
from krita_sd.actions.part import Part
from krita_sd.actions.recipes import Recipes
from krita_sd.actions.results import Results, ResultWithThumbnail, model_name
from krita_sd.canvas import host
from krita_sd.geometry import Bounds
from krita_sd.guarded import guarded
from krita_sd.history.model import HistoryModel
from krita_sd.history.store import Codec, Entry, Store, kept_of
from krita_sd.history.worker import Worker
from krita_sd.shelf import Kept
from krita_sd.stage import open_as_document
from krita_sd.text import tr
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.frames import Picture

log = logging.getLogger(__name__)

QUIT_SECONDS = 1.5
"""How long quitting Krita waits for pictures that are being written; what is not written then is kept as it came."""


class History(Part):
    """`model` is what the view shows. All work on files is done in the worker's thread."""

    def __init__(self, core: Core, results: Results) -> None:
        super().__init__(core)
        self._results = results
        self._worker = Worker("krita-sd-history")
        codec = Codec(pictures.write_png, pictures.small_file)
        self._store = Store(core.folder / "history", codec)
        self._pending: set[str] = set()
        self._told = False
        self.model = HistoryModel(self._page, self._small, core)
        results.unsaved = lambda: set(self._pending)
        self.recipes = Recipes(core, results, self.later)

    def later(self, work: Callable[[], Callable[[], None]]) -> None:
        """`work` in the worker's thread before what can wait, then what it returns in this one."""

        def run() -> None:
            answer = work()
            self.core.later(answer)

        self._worker.post(run, urgent=True)

    # Recording -------------------------------------------------------------------------------------------------------

    def received(self, event: Any) -> None:
        if isinstance(event, ResultWithThumbnail):
            kept = event.kept
            self._pending.add(kept.key)
            name = model_name(self.core, kept.recipe.model)
            self._worker.post(functools.partial(self._record, kept, name, event.seq == 0))

    def _record(self, kept: Kept, name: str, on_shelf: bool) -> None:
        """In the worker's thread. What an earlier run left is in the history, unless that run was killed."""
        problem = ""
        try:
            if on_shelf and self._store.get(kept.key) is None:
                picture = self._results.shelf.get(kept.key)
                if picture is not None:
                    self._store.add(dataclasses.replace(kept, picture=picture), name)
            elif not on_shelf:
                self._store.add(kept, name)
        except OSError as error:
            problem = tr(
                "The history cannot be written ({strerror}). Make room on the disk.", strerror=error.strerror or error
            )
        except WireError as error:
            problem = str(error)
        self.core.later(functools.partial(self._recorded, kept.key, problem))

    def _recorded(self, key: str, problem: str) -> None:
        self._pending.discard(key)
        if problem and not self._told:
            self._told = True
            self.say(problem, True)
        self.model.added()

    def fed(self, event: Any) -> None:
        if isinstance(event, ev.Starred):
            self._star([event.key], event.on)

    def stopped(self) -> None:
        if not self._worker.close(QUIT_SECONDS):
            log.warning("%d pictures were not written into the history yet", len(self._pending))
        else:
            self._pending.clear()

    # What the view asks for ------------------------------------------------------------------------------------------

    def _page(self, number: int, text: str, starred: bool, offset: int, limit: int) -> None:
        def find() -> Callable[[], None]:
            found = self._store.search(text, starred, offset, limit)
            return functools.partial(self.model.page, number, found, self._store.count(text, starred))

        self.later(find)

    def _small(self, entry: Entry) -> None:
        def load() -> Callable[[], None]:
            data = self._store.thumbnail(entry.key)
            if data is None:
                picture = pictures.read_file(str(self._store.path(entry)))
                data = self._store.set_thumbnail(entry.key, picture) if picture is not None else b""
            return functools.partial(self.model.thumbnail_came, entry.key, pictures.small_image(data))

        self.later(load)

    # What the painter does -------------------------------------------------------------------------------------------

    @guarded
    def star(self, keys: list[str], on: bool) -> None:
        """Star pictures of the history; those in the strip follow."""
        self._star(keys, on)
        for key in keys:
            if key in self.core.table.results and self.core.table.results[key].starred != on:
                self.core.feed(ev.Starred(key, on))

    def _star(self, keys: list[str], on: bool) -> None:
        self._worker.post(functools.partial(self._store.star, keys, on))
        self.model.starred(keys, on)

    @guarded
    def delete(self, keys: list[str]) -> None:
        """Delete pictures from the disk, for good."""
        self._worker.post(functools.partial(self._store.delete, keys), urgent=True)
        self.model.removed(keys)
        self.say(
            tr("Deleted from the history.")
            if len(keys) == 1
            else tr("{number} pictures deleted from the history.", number=len(keys))
        )

    @guarded
    def copy(self, entry: Entry, what: str) -> None:
        """Prompt, seed or recipe of a picture onto the clipboard."""
        found = entry.found
        self.recipes.copy_of(found.recipe(), found.model, what)

    @guarded
    def restore(self, entry: Entry) -> None:
        """Set the docker as it was for that picture."""
        self.recipes.take_over(entry.found)

    @guarded
    def show(self, entry: Entry, then: Callable[[], None] | None = None) -> None:
        """Bring a picture into the strip and onto the canvas of the active document; `then` when it is there."""
        if entry.key in self.core.table.results:
            self._results.pick(entry.key)
            if then is not None:
                then()
            return

        def load() -> Callable[[], None]:
            picture = pictures.read_file(str(self._store.path(entry)))
            return functools.partial(self._shown, entry, picture, then)

        self.later(load)

    @guarded
    def _shown(self, entry: Entry, picture: Picture | None, then: Callable[[], None] | None) -> None:
        if picture is None:
            raise WireError(Code.INTERNAL, tr("This picture is no longer on the disk."), tr("It was deleted or moved."))
        doc = host.active_document()
        job = uuid.uuid4().hex
        old = kept_of(entry, picture)
        kept = Kept(job, 0, old.recipe, old.partial, picture)
        if doc is None:
            open_as_document(kept.recipe, picture)
            return
        corner = (doc.width() - picture.width) // 2, (doc.height() - picture.height) // 2
        self._results.adopt(kept, host.document_id(doc), doc, Bounds(*corner, picture.width, picture.height))
        self._results.choose((kept.key,))
        if then is not None:
            then()
