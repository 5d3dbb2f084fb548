# SPDX-License-Identifier: GPL-3.0-or-later
"""A compare grid: its cells are ordinary jobs; when they are done, a contact sheet and a layer group."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from krita_sd import grid, grid_sheet, plan, view
from krita_sd.actions.again import Again
from krita_sd.actions.core import Core
from krita_sd.actions.history import History
from krita_sd.actions.part import Part
from krita_sd.actions.results import Results
from krita_sd.canvas import capture, group, insert
from krita_sd.geometry import Bounds
from krita_sd.guarded import guarded
from krita_sd.text import tr
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.frames import Picture


@dataclass(frozen=True)
class Run:
    """The grid that was started last; jobs[i] makes cell i."""

    made: grid.Grid
    jobs: tuple[str, ...]
    bounds: Bounds
    name: str


class Comparing(Part):
    """`wish` is what the page shows; `run` the grid whose cells are or were made."""

    def __init__(self, core: Core, results: Results, again: Again, history: History) -> None:
        super().__init__(core)
        self.wish = grid.Wish()
        self.run: Run | None = None
        self._results = results
        self._again = again
        self._later = history.later
        self._group: group.GroupInsertion | None = None

    def change(self, wish: grid.Wish) -> None:
        """The painter types."""
        if wish != self.wish:
            self.wish = wish
            self.core.redraw()

    def _grid(self, scene: Any) -> tuple[grid.Grid, Bounds]:
        """The grid of the wish for that scene. Raises WireError with a sentence."""
        core, wish = self.core, self.wish
        entry = view.model_entry(core.models, core.settings.model)
        made = plan.make(core.settings, entry, scene.extent, scene.selection, core.settings.seed)
        across = grid.axis(wish.x_kind, wish.x_text, made.recipe, core.models)
        down = grid.axis(wish.y_kind, wish.y_text, made.recipe, core.models)
        return grid.make(made.recipe, across, down), made.bounds

    def describe(self) -> tuple[str, bool]:
        """(what the button would do, whether it can): "3 x 4 = 12 pictures", or what is wrong."""
        if self.core.scene is None:
            return tr("Open or create a document first."), False
        try:
            made, _ = self._grid(self.core.scene)
        except WireError as error:
            return str(error), False
        columns, rows = len(made.x.labels), len(made.y.labels)
        return tr("{columns} x {rows} = {count} pictures", columns=columns, rows=rows, count=len(made.cells)), True

    def progress(self) -> tuple[int, int]:
        """(cells that have their picture, cells)."""
        if self.run is None:
            return 0, 0
        return sum(self._key(job) is not None for job in self.run.jobs), len(self.run.jobs)

    def _key(self, job: str) -> str | None:
        key = f"{job}:0"
        return key if key in self.core.table.results else None

    @guarded
    def start(self) -> None:
        """Begin: every cell is a job of its own, and what they need of the canvas is read once."""
        core = self.core
        doc = core.begin()
        scene = capture.describe(doc)
        if not core.settings.seed_fixed:
            core.change(seed=plan.draw_seed())
        made, bounds = self._grid(scene)
        recipes = [cell.recipe for cell in made.cells]
        jobs = self._again.from_canvas(doc, scene.doc_id, bounds, recipes)
        self.run = Run(made, tuple(jobs), bounds, plan.layer_name(recipes[0]))

    def _reader(self, run: Run) -> Callable[[int], Picture | None]:
        return lambda number: self._results.shelf.get(f"{run.jobs[number]}:0")

    @guarded
    def sheet(self) -> None:
        """Open the labelled contact sheet as a document of its own."""
        run = self.run
        if run is None or not self.progress()[0]:
            raise WireError(
                Code.BAD_REQUEST, tr("There are no pictures to compare yet."), tr("Wait for the first ones.")
            )

        def work() -> Callable[[], None]:
            found = grid_sheet.draw(run.made, run.bounds.width, run.bounds.height, self._reader(run))
            return functools.partial(self._open, found, run.name)

        self._later(work)

    def _open(self, found: Picture, name: str) -> None:
        insert.open_as_document(found.data, found.width, found.height, tr("Grid: {name}", name=name))

    @guarded
    def layers(self) -> None:
        """Put all cells as a group into the document they were made for, one undo step."""
        run = self.run
        done = [number for number, job in enumerate(run.jobs) if self._key(job) is not None] if run is not None else []
        if run is None or not done:
            raise WireError(
                Code.BAD_REQUEST, tr("There are no pictures to compare yet."), tr("Wait for the first ones.")
            )
        doc = self._results.stage.document_of(run.jobs[0])
        if doc is None:
            raise WireError(Code.BAD_REQUEST, tr("The document of this grid is closed."), tr("Take the contact sheet."))
        for key in [key for key in self.core.table.results if key.rpartition(":")[0] in run.jobs]:
            if self._results.is_shown(key):
                self._results.hide(key)
        read = self._reader(run)

        def data(number: int) -> bytes | None:
            picture = read(number)
            return picture.data if picture is not None else None

        members = [
            group.Member(run.made.label(run.made.cells[number]), functools.partial(data, number)) for number in done
        ]
        self._group = group.GroupInsertion(doc, run.bounds, tr("Grid: {name}", name=run.name), members, self.core)
        self._group.done.connect(lambda: self.say(tr("The grid is a layer group now.")))
