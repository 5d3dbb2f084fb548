# SPDX-License-Identifier: GPL-3.0-or-later
"""Finished pictures: they arrive, wait in the strip, are looked at, applied or dropped."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from krita_sd import job_events as ev
from krita_sd import pictures, view
from krita_sd.actions.core import Core
from krita_sd.actions.part import Part
from krita_sd.canvas.insert import can_mask
from krita_sd.geometry import Bounds
from krita_sd.guarded import guarded
from krita_sd.history.worker import Worker
from krita_sd.jobs import Result
from krita_sd.link import PreviewWaiting
from krita_sd.prompt_reading import result_text
from krita_sd.shelf import Kept, Shelf
from krita_sd.stage import Stage, open_as_document
from krita_sd.text import tr
from krita_sd.wire import client
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.frames import Picture


@dataclass(frozen=True)
class ResultWithThumbnail:
    """A result of the server, or one that an earlier run of Krita left: for that `seq` is 0, and the pixels are not
    in `kept` but on the shelf."""

    kept: Kept
    thumbnail: Any
    seq: int
    reading: str = ""


_NOTHING = Picture("grey8", 1, 1, b"\0")


def with_thumbnail(event: client.ResultReady) -> ResultWithThumbnail:
    """In the link's thread: what has to be decoded or scaled is, before it goes over to the GUI's."""
    result = event.result
    kept = Kept(result.job, result.index, result.recipe, result.partial, event.picture)
    reading = result_text(result.reading, result.recipe.prompt)
    return ResultWithThumbnail(kept, pictures.thumbnail(event.picture), result.seq, reading)


def model_name(core: Core, id: str) -> str:
    """What people call that model; its id when the server does not tell."""
    return str(view.model_entry(core.models, id).get("name") or id)


class Results(Part):
    """Holds the shelf and what is on the canvas of which document."""

    def __init__(self, core: Core, arrived: Callable[[Any], None]) -> None:
        """`arrived` brings an event from the link's thread into the GUI's."""
        super().__init__(core)
        self._arrived = arrived
        self._thumbnails: dict[str, Any] = {}
        self._chosen: tuple[str, ...] = ()
        self.unsaved: Callable[[], set[str]] = set  # keys that the history has not written yet
        self.shelf = Shelf(core.folder / "results", core.link.run)
        self.stage = Stage(core.table, self.read, core)
        self.stage.application_ended.connect(self._application_ended)
        self._drop_later: set[str] = set()  # discarded, but on its way to become a layer
        self._reader = Worker("krita-sd-read")

    # What the painter does -------------------------------------------------------------------------------------------

    @guarded
    def apply(self) -> None:
        """Make the selected results layers of the document they were made for, each one undo step."""
        self.apply_in(self.core.settings.apply_way)

    @guarded
    def apply_in(self, way: str) -> None:
        """The same in one of the ways of `settings.APPLY_WAYS`, which is remembered where it can be gone."""
        for key in self.targets():
            result = self.core.table.results[key]
            if result.applied:
                continue
            name = model_name(self.core, result.recipe.model)
            if self.stage.apply(result, way, name, functools.partial(self._open_parked, key)):
                self.core.feed(ev.Applied(key))
            else:
                self._open_parked(key)
        self.core.change(apply_way=way)

    @guarded
    def discard(self) -> None:
        """Drop the selected results. They stay in the history."""
        for key in self.targets():
            self.core.feed(ev.Discarded(key))

    @guarded
    def discard_others(self) -> None:
        """Drop all results but the selected ones, of every document. They stay in the history."""
        kept = self.targets()
        if not kept:
            raise WireError(Code.BAD_REQUEST, tr("No result is selected."), tr("Select those that you want to keep."))
        others = [key for key in self.core.table.results if key not in kept]
        for key in others:
            self.core.feed(ev.Discarded(key))
        self.say(tr("{number} results were dropped. The history keeps them.", number=len(others)))

    @guarded
    def star(self) -> None:
        """Star the selected results, or take the star from all of them."""
        found = [self.core.table.results[key] for key in self.targets()]
        on = not all(result.starred for result in found)
        for result in found:
            self.core.feed(ev.Starred(result.key, on))

    def choose(self, keys: tuple[str, ...]) -> None:
        """The painter has selected these results, among them the shown one."""
        self._chosen = keys

    def targets(self) -> list[str]:
        """What apply, discard and star are about: the selection when the shown result is in it, else that alone."""
        table = self.core.table
        chosen = [key for key in self._chosen if key in table.results]
        if table.selected in chosen:
            return chosen
        return [table.selected] if table.selected in table.results else []

    @guarded
    def pick(self, key: str) -> None:
        """Choose a result and show it on the canvas."""
        if key in self.core.table.results:
            self.core.feed(ev.Picked(key))

    @guarded
    def toggle_shown(self) -> None:
        """Take the selected result off the canvas, or put it there."""
        result = self.core.table.current_result
        if result is None:
            return
        if self.is_shown(result.key):
            self.hide(result.key)
        else:
            self.core.feed(ev.Picked(result.key))

    def is_shown(self, key: str) -> bool:
        """Whether the job of that result has something on a canvas."""
        return self.core.table.results[key].job in self.core.table.stage.values()

    def hide(self, key: str) -> None:
        """Take it off the canvas; it stays in the strip."""
        self.core.feed(ev.Hidden(key))

    def next_result(self) -> None:
        self._step(1)

    def previous_result(self) -> None:
        self._step(-1)

    @guarded
    def _step(self, direction: int) -> None:
        key = self.core.table.neighbour(direction)
        if key is not None:
            self.core.feed(ev.Picked(key))

    def thumbnail(self, key: str) -> Any:
        """The small QImage of a result, or None."""
        return self._thumbnails.get(key)

    def pixels(self, result: Result) -> Picture:
        """The picture itself. Raises WireError with a sentence when it is gone."""
        picture = self.shelf.get(result.key)
        if picture is None:
            raise WireError(
                Code.INTERNAL, tr("The pixels of this result are gone."), tr("Generate it again with its seed.")
            )
        return picture

    def read(self, key: str, done: Callable[[Picture | None], None]) -> None:
        """Call `done` with the picture, or None when it is gone: now, or when it has come from the disk."""
        picture = self.shelf.at_hand(key)
        if picture is not None:
            done(picture)
            return

        def load() -> None:
            found = self.shelf.get(key)
            self.core.later(functools.partial(self._loaded, key, found, done))

        self._reader.post(load)

    def _loaded(self, key: str, found: Picture | None, done: Callable[[Picture | None], None]) -> None:
        if found is None and key in self.core.table.results:
            self.say(tr("The pixels of this result are gone. Generate it again with its seed."), True)
        done(found)

    # What happens ----------------------------------------------------------------------------------------------------

    def started(self) -> None:
        self.core.link.run(self._restore)

    def shown(self) -> dict[str, Any]:
        return {"can_mask": can_mask()}

    def stopped(self) -> None:
        self._reader.close(0.2)
        # What was applied is in its document now; the rest is offered again next time.
        applied = [result.key for result in self.core.table.results.values() if result.applied]
        self.shelf.settle([key for key in applied if key not in self.unsaved()])

    def received(self, event: Any) -> None:
        if isinstance(event, PreviewWaiting):
            self._preview(event.job)
        elif isinstance(event, ResultWithThumbnail):
            self._result(event)

    def perform(self, effect: ev.Effect) -> None:
        """One effect of the job table."""
        if isinstance(effect, ev.Forget):
            self._thumbnails.pop(effect.key, None)
            if self.stage.is_applying(effect.key):
                self._drop_later.add(effect.key)
            else:
                self.shelf.drop(effect.key)
        else:
            self.stage.perform(effect)

    def _application_ended(self, key: str) -> None:
        if key in self._drop_later:
            self._drop_later.discard(key)
            self.shelf.drop(key)

    def forget_closed(self) -> None:
        """Notice documents that were closed."""
        for key in self.stage.forget_closed():
            self.core.feed(ev.DocumentClosed(key))

    def _preview(self, job: str) -> None:
        # Taken in any case: as long as one waits, the link does not tell of the next.
        ready = self.core.link.take_preview(job)
        if ready is not None:
            self.core.feed(ev.PreviewArrived(job, ready.index, ready.step, ready.picture))

    def adopt(self, kept: Kept, document: str, doc: Any, bounds: Bounds) -> str:
        """A picture of the history comes into the strip and onto the canvas of `doc`; its key."""
        self._thumbnails[kept.key] = pictures.thumbnail(kept.picture)
        self.shelf.put(kept, lambda: None)
        self.stage.remember(document, doc)
        self.core.feed(ev.Adopted(kept.job, document, bounds, kept.recipe))
        self.core.feed(ev.ResultArrived(kept.job, kept.index, kept.recipe, kept.partial))
        return kept.key

    def _result(self, event: ResultWithThumbnail) -> None:
        kept = event.kept
        self._thumbnails[kept.key] = event.thumbnail
        if event.seq:
            self.shelf.put(kept, functools.partial(self.core.link.stored, event.seq))
        self.core.feed(ev.ResultArrived(kept.job, kept.index, kept.recipe, kept.partial, event.reading))
        if kept.key not in self.core.table.results:
            # Of a job that was cancelled meanwhile.
            self._thumbnails.pop(kept.key)
            self.shelf.drop(kept.key)
        self.core.save_soon()

    def _restore(self) -> None:
        """In the link's thread: what was neither applied nor discarded when Krita ended comes back."""
        for kept in self.shelf.restore():
            # Without the pixels: a full strip of them, on its way into the GUI thread, would fill the memory.
            bare = dataclasses.replace(kept, picture=_NOTHING)
            self._arrived(ResultWithThumbnail(bare, pictures.thumbnail(kept.picture), 0))

    @guarded
    def _open_parked(self, key: str) -> None:
        """The document of this result is closed: it becomes a document of its own."""
        result = self.core.table.results.get(key)
        if result is None:
            return
        open_as_document(result.recipe, self.pixels(result))
        self.core.feed(ev.Applied(key))
        self.say(tr("The document of this result is closed; it was opened as a new one."))
