# SPDX-License-Identifier: GPL-3.0-or-later
"""Finished pictures: they arrive, wait in the strip, are looked at, applied or dropped."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from krita_sd import job_events as ev
from krita_sd import pictures
from krita_sd.actions.core import Core
from krita_sd.actions.part import Part
from krita_sd.guarded import guarded
from krita_sd.jobs import Result
from krita_sd.link import PreviewWaiting
from krita_sd.shelf import Kept, Shelf
from krita_sd.stage import Stage, open_as_document
from krita_sd.wire import client
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.frames import Picture


@dataclass(frozen=True)
class ResultWithThumbnail:
    """A result of the server, or one that an earlier run of Krita left: `seq` is 0 for that."""

    kept: Kept
    thumbnail: Any
    seq: int


def with_thumbnail(event: client.ResultReady) -> ResultWithThumbnail:
    """In the link's thread: what has to be decoded or scaled is, before it goes over to the GUI's."""
    result = event.result
    kept = Kept(result.job, result.index, result.recipe, result.partial, event.picture)
    return ResultWithThumbnail(kept, pictures.thumbnail(event.picture), result.seq)


class Results(Part):
    """Holds the shelf and what is on the canvas of which document."""

    def __init__(self, core: Core, arrived: Callable[[Any], None]) -> None:
        """`arrived` brings an event from the link's thread into the GUI's."""
        super().__init__(core)
        self._arrived = arrived
        self._thumbnails: dict[str, Any] = {}
        self.shelf = Shelf(core.folder / "results", core.link.run)
        self.stage = Stage(core.table, self.pixels, core)

    # What the painter does -------------------------------------------------------------------------------------------

    @guarded
    def apply(self) -> None:
        """Make the selected result a layer of the document it was made for."""
        result = self.core.table.current_result
        if result is None or result.applied:
            return
        if self.stage.apply(result, functools.partial(self._open_parked, result.key)):
            self.core.feed(ev.Applied(result.key))
        else:
            self._open_parked(result.key)

    @guarded
    def discard(self) -> None:
        """Drop the selected result."""
        if self.core.table.selected is not None:
            self.core.feed(ev.Discarded(self.core.table.selected))

    @guarded
    def pick(self, key: str) -> None:
        """Choose a result and show it on the canvas."""
        self.core.feed(ev.Picked(key))

    @guarded
    def toggle_shown(self) -> None:
        """Take the selected result off the canvas, or put it there."""
        result = self.core.table.current_result
        if result is None:
            return
        shown = result.job in self.core.table.stage.values()
        self.core.feed(ev.Hidden(result.key) if shown else ev.Picked(result.key))

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
            raise WireError(Code.INTERNAL, "The pixels of this result are gone.", "Generate it again with its seed.")
        return picture

    # What happens ----------------------------------------------------------------------------------------------------

    def started(self) -> None:
        self.core.link.run(self._restore)

    def stopped(self) -> None:
        # What was applied is in its document now; the rest is offered again next time.
        self.shelf.settle([result.key for result in self.core.table.results.values() if result.applied])

    def received(self, event: Any) -> None:
        if isinstance(event, PreviewWaiting):
            self._preview(event.job)
        elif isinstance(event, ResultWithThumbnail):
            self._result(event)

    def perform(self, effect: ev.Effect) -> None:
        """One effect of the job table."""
        if isinstance(effect, ev.Forget):
            self._thumbnails.pop(effect.key, None)
            self.shelf.drop(effect.key)
        else:
            self.stage.perform(effect)

    def forget_closed(self) -> None:
        """Notice documents that were closed."""
        for key in self.stage.forget_closed():
            self.core.feed(ev.DocumentClosed(key))

    def _preview(self, job: str) -> None:
        # Taken in any case: as long as one waits, the link does not tell of the next.
        ready = self.core.link.take_preview(job)
        if ready is not None:
            self.core.feed(ev.PreviewArrived(job, ready.index, ready.step, ready.picture))

    def _result(self, event: ResultWithThumbnail) -> None:
        kept = event.kept
        self._thumbnails[kept.key] = event.thumbnail
        if event.seq:
            self.shelf.put(kept, functools.partial(self.core.link.stored, event.seq))
        self.core.feed(ev.ResultArrived(kept.job, kept.index, kept.recipe, kept.partial))
        if kept.key not in self.core.table.results:
            # Of a job that was cancelled meanwhile.
            self._thumbnails.pop(kept.key)
            self.shelf.drop(kept.key)
        self.core.save_soon()

    def _restore(self) -> None:
        """In the link's thread: what was neither applied nor discarded when Krita ended comes back."""
        for kept in self.shelf.restore():
            self._arrived(ResultWithThumbnail(kept, pictures.thumbnail(kept.picture), 0))

    @guarded
    def _open_parked(self, key: str) -> None:
        """The document of this result is closed: it becomes a document of its own."""
        result = self.core.table.results.get(key)
        if result is None:
            return
        open_as_document(result, self.pixels(result))
        self.core.feed(ev.Applied(key))
        self.say("The document of this result is closed; it was opened as a new one.")
