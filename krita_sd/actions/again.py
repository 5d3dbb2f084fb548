# SPDX-License-Identifier: GPL-3.0-or-later
"""A result goes round again: as the input of the next picture, or as a variation of itself."""

from __future__ import annotations

import dataclasses
import functools
import random
import uuid
from collections.abc import Callable
from typing import Any

from krita_sd import job_events as ev
from krita_sd import pictures, plan
from krita_sd.actions.core import Core
from krita_sd.actions.generating import PREVIEW_PIXELS, Generating
from krita_sd.actions.part import Part
from krita_sd.actions.results import Results
from krita_sd.canvas import capture, host, nodes
from krita_sd.geometry import Bounds, Extent
from krita_sd.guarded import guarded
from krita_sd.job_events import Phase
from krita_sd.jobs import Result
from krita_sd.link import Draft
from krita_sd.text import mark, tr
from krita_sd.view import View
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.frames import Picture
from krita_sd.wire.messages import PreviewWish
from krita_sd.wire.recipe import Recipe

VARIATION = 0.2
"""Share of another noise in a variation: enough to see, little enough to be the same picture."""

MAX_VARIATIONS = 16
ROUND_STRENGTH = 0.6
"""Strength of the first round with a result as input, when the docker is set to make a new picture."""


class Again(Part):
    """`input` is the key of the result that the next job starts from instead of the canvas."""

    def __init__(self, core: Core, results: Results, generating: Generating) -> None:
        super().__init__(core)
        self.input: str | None = None
        self._results = results
        self._generating = generating
        self._readers: dict[str, capture.Capture] = {}
        self._by_hash: set[str] = set()  # jobs whose pictures only the server has

    # Use as input ----------------------------------------------------------------------------------------------------

    @guarded
    def use_as_input(self) -> None:
        """The next picture starts from the shown result."""
        result = self.core.table.current_result
        if result is None:
            return
        self.input = result.key
        text = tr("The next picture starts from this result.")
        if self.core.settings.strength >= 1.0:
            self.core.change(strength=ROUND_STRENGTH)
            text += " " + tr("Strength was set to {strength:.0%}.", strength=ROUND_STRENGTH)
        self.say(text)

    @guarded
    def clear_input(self) -> None:
        """The next picture starts from the canvas again."""
        self.input = None
        self.core.redraw()

    @guarded
    def generate(self) -> None:
        """What the button does: from the canvas, or from the chosen result."""
        result = self.core.table.results.get(self.input or "")
        if result is None:
            self.input = None
            self._generating.generate()
            return
        self.say("")
        self.core.start()
        self._round(result)

    def viewed(self, view: View) -> View:
        if self.input in self.core.table.results:
            return dataclasses.replace(view, button=mark("Refine result"))
        return view

    def _round(self, result: Result) -> None:
        core = self.core
        doc, bounds = self.place_of(result)
        scene = capture.describe(doc)
        if not core.settings.seed_fixed:
            core.change(seed=plan.draw_seed())
        recipe = self.recipe_for(Extent(bounds.width, bounds.height))
        selected = scene.selection is not None and not scene.selection.intersect(bounds).is_empty
        recipe = recipe.replace(kind="inpaint" if selected else "img2img", strength=core.settings.strength)
        job = self.begin(doc, scene.doc_id, bounds, recipe, core.settings.count)
        picture = self._results.pixels(result)
        opaque = result.recipe.kind != "inpaint"
        if opaque and not selected:
            self.submit(job, picture, None, core.settings.place)
            return

        def captured(below: bytes, mask: bytes | None) -> None:
            if opaque:
                self._captured(job, picture.data, mask, core.settings.place)
                return
            lower = Picture("bgra8", bounds.width, bounds.height, below)
            core.link.run(lambda: self._lay_over(job, lower, picture, mask))

        self._read(job, doc, bounds, selected, captured)

    def _lay_over(self, job: str, below: Picture, above: Picture, mask: bytes | None) -> None:
        """In the link's thread: a result with transparency is seen on what is below it."""
        data = pictures.over(below, above).data
        self.core.later(functools.partial(self._captured, job, data, mask, self.core.settings.place))

    def place_of(self, result: Result) -> tuple[Any, Bounds]:
        """(document, rectangle) for another picture of that size: its own, else in the middle of the active one."""
        job = self.core.table.jobs.get(result.job)
        doc = self._results.stage.document_of(result.job)
        if doc is not None and job is not None:
            return doc, job.bounds
        doc = self.core.document()
        width, height = result.recipe.width, result.recipe.height
        return doc, Bounds((doc.width() - width) // 2, (doc.height() - height) // 2, width, height)

    def recipe_for(self, extent: Extent) -> Recipe:
        """What the docker is set to, for a picture of that size."""
        return self.core.plan(extent, None, self.core.settings.seed).recipe

    # Vary ------------------------------------------------------------------------------------------------------------

    @guarded
    def vary(self) -> None:
        """The shown result again with a little other noise, as many times as the docker makes pictures."""
        result = self.core.table.current_result
        if result is None:
            return
        self.say("")
        self.core.start()
        for _ in range(min(self.core.settings.count, MAX_VARIATIONS)):
            seed = random.SystemRandom().randrange(2**32)
            self.repeat(result, result.recipe.replace(variation=VARIATION, variation_seed=seed))

    def repeat(self, result: Result, recipe: Recipe) -> str:
        """A job with `recipe` on the inputs that `result` was made from, which the server has; its id."""
        doc, bounds = self.place_of(result)
        job = self.begin(doc, host.document_id(doc), bounds, recipe, 1)
        if recipe.blobs():
            self._by_hash.add(job)
        self.submit(job, None, None)
        return job

    def fed(self, event: Any) -> None:
        if not isinstance(event, ev.StateChanged) or not event.phase.terminal or event.job not in self._by_hash:
            return
        self._by_hash.discard(event.job)
        missing = event.error is not None and event.error.code is Code.BLOB_MISSING
        job = self.core.table.jobs.get(event.job)
        if event.phase is not Phase.FAILED or not missing or job is None:
            return
        doc = self._results.stage.document_of(job.id)
        if doc is not None:
            self.say(tr("The server no longer has the picture this was made from; what is visible now is taken."))
            self.from_canvas(doc, job.document, job.bounds, [job.recipe])

    # Jobs ------------------------------------------------------------------------------------------------------------

    def begin(self, doc: Any, document: str, bounds: Bounds, recipe: Recipe, count: int) -> str:
        """A new job of the table, bound to that document; its id."""
        job = uuid.uuid4().hex
        self._results.stage.remember(document, doc)
        self.core.feed(ev.Created(job, document, bounds, recipe, count))
        return job

    def submit(self, job: str, image: Picture | None, mask: Picture | None, place: str = "back") -> None:
        """Hand a job to the link. Pictures that its recipe names by hash are with the server. The jobs of one press
        keep their order when each goes to the back."""
        core = self.core
        wish = PreviewWish(core.settings.previews, PREVIEW_PIXELS)
        made = core.table.jobs[job]
        core.link.submit(Draft(job, made.recipe, image, mask, made.count, place, previews=wish))
        core.feed(ev.Captured(job))

    def from_canvas(self, doc: Any, document: str, bounds: Bounds, recipes: list[Recipe]) -> list[str]:
        """One job for each recipe; what they need of the canvas is read once. Their ids."""
        jobs = [self.begin(doc, document, bounds, recipe, 1) for recipe in recipes]
        if all(recipe.kind == "txt2img" for recipe in recipes):
            for job in jobs:
                self.submit(job, None, None)
            return jobs

        def captured(picture: bytes, mask: bytes | None) -> None:
            for job in jobs:
                self._captured(job, picture, mask)

        self._read(jobs[0], doc, bounds, any(recipe.kind == "inpaint" for recipe in recipes), captured, jobs)
        return jobs

    def _read(
        self,
        job: str,
        doc: Any,
        bounds: Bounds,
        mask: bool,
        done: Callable[[bytes, bytes | None], None],
        jobs: list[str] | None = None,
    ) -> None:
        without = nodes.uuids(self.core.not_read(host.document_id(doc)))
        reader = capture.Capture(doc, bounds, self.core.settings.source, mask, without)
        self._readers[job] = reader

        def read(picture: bytes, selection: bytes | None) -> None:
            self._readers.pop(job, None)
            done(picture, selection)

        def failed(text: str) -> None:
            self._readers.pop(job, None)
            for name in jobs or [job]:
                self.core.feed(ev.JobFailed(name, WireError(Code.BAD_REQUEST, text)))

        reader.start(read, failed)

    @guarded
    def _captured(self, job_id: str, picture: bytes, mask: bytes | None, place: str = "back") -> None:
        job = self.core.table.jobs[job_id]
        if not job.active:
            return
        if job.recipe.kind == "inpaint" and mask is None:
            error = WireError(
                Code.BAD_REQUEST, tr("Nothing is selected any more."), tr("Select an area, or generate anew.")
            )
            self.core.feed(ev.JobFailed(job_id, error))
            return
        size = job.bounds.width, job.bounds.height
        image = Picture("bgra8", *size, picture) if job.recipe.kind != "txt2img" else None
        use = mask is not None and job.recipe.kind == "inpaint"
        self.submit(job_id, image, Picture("grey8", *size, mask) if use and mask is not None else None, place)
