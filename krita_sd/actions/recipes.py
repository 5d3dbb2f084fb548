# SPDX-License-Identifier: GPL-3.0-or-later
"""Recipes out of and into the docker: copied as text, saved in pictures, restored from layers and files."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from krita_sd import pictures
from krita_sd.actions.core import Core
from krita_sd.actions.part import Part
from krita_sd.actions.results import Results, model_name
from krita_sd.canvas import host, layer_recipes
from krita_sd.canvas.active import active_node
from krita_sd.guarded import guarded
from krita_sd.metadata import recipes
from krita_sd.metadata.restore import restore
from krita_sd.qt import QtWidgets
from krita_sd.text import tr
from krita_sd.wire import parameters
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.frames import Picture
from krita_sd.wire.parameters import Found
from krita_sd.wire.recipe import Recipe

COPIES = ("prompt", "seed", "recipe")


class Recipes(Part):
    """`later(work)` runs `work` in another thread and then what it returns in this one."""

    def __init__(self, core: Core, results: Results, later: Callable[[Callable[[], Callable[[], None]]], None]) -> None:
        super().__init__(core)
        self._results = results
        self._later = later

    # Copy ------------------------------------------------------------------------------------------------------------

    @guarded
    def copy(self, what: str) -> None:
        """Put prompt, seed or the whole recipe of the shown result on the clipboard."""
        result = self.core.table.current_result
        if result is not None:
            self.copy_of(result.recipe, model_name(self.core, result.recipe.model), what)

    def copy_of(self, recipe: Recipe, model: str, what: str) -> None:
        """The same for any recipe."""
        texts = {"prompt": recipe.prompt, "seed": str(recipe.seed), "recipe": parameters.write(recipe, model)}
        QtWidgets.QApplication.clipboard().setText(texts[what])
        self.say(tr("The {what} is on the clipboard.", what=what))

    @guarded
    def same_seed(self) -> None:
        """Keep the seed of the shown result for the next pictures."""
        result = self.core.table.current_result
        if result is not None:
            self.core.change(seed=result.recipe.seed, seed_fixed=True)
            self.say(tr("The next pictures begin with seed {seed}.", seed=result.recipe.seed))

    # Restore ---------------------------------------------------------------------------------------------------------

    def take_over(self, found: Found) -> None:
        """The docker is set as for that recipe."""
        restored = restore(found, self.core.models)
        self.core.change(**restored.changes)
        if restored.params:
            self.core.change_params(**restored.params)
        self.say(tr("The recipe was taken over. {note}", note=restored.note).strip(), bool(restored.note))

    @guarded
    def restore_result(self) -> None:
        """Set the docker as it was for the shown result."""
        result = self.core.table.current_result
        if result is not None:
            self.take_over(Found(_values(result.recipe), model_name(self.core, result.recipe.model)))

    @guarded
    def restore_layer(self) -> None:
        """Set the docker as it was for the active layer of the active document."""
        doc = host.active_document()
        found = layer_recipes.recall(doc, active_node(doc)) if doc is not None else None
        if found is None:
            raise WireError(
                Code.BAD_REQUEST,
                tr("The active layer has no recipe."),
                tr("Layers that were applied by Krita SD have one."),
            )
        self.take_over(found)

    @guarded
    def restore_file(self, path: str) -> None:
        """Set the docker as for the picture or Krita document at `path`."""

        def read() -> Callable[[], None]:
            try:
                found = recipes.read_file(Path(path))
            except WireError as error:
                return functools.partial(self.say, str(error), True)
            return functools.partial(self.take_over, found)

        self._later(read)

    # Save ------------------------------------------------------------------------------------------------------------

    @guarded
    def save(self, path: str) -> None:
        """Write the shown result as PNG, WebP or JPEG, by the ending of `path`; with its recipe unless switched off."""
        result = self.core.table.current_result
        if result is None:
            return
        picture = self._results.pixels(result)
        target = Path(path)
        model = model_name(self.core, result.recipe.model)
        texts = recipes.texts_of(result.recipe, model) if self.core.settings.save_metadata else {}
        self.core.change(save_folder=str(target.parent))

        def write() -> Callable[[], None]:
            try:
                write_picture(target, picture, texts)
            except WireError as error:
                return functools.partial(self.say, str(error), True)
            return functools.partial(self.say, tr("Saved as {name}.", name=target.name))

        self._later(write)


def _values(recipe: Recipe) -> dict[str, Any]:
    values, _ = parameters.checked(recipe.to_json())
    return values


def write_picture(path: Path, picture: Picture, texts: dict[str, str]) -> None:
    """In another thread: the file as a whole or not at all. Raises WireError with a sentence."""
    data = pictures.encoded(picture, path.suffix.lower().lstrip("."))
    if texts:
        data = recipes.embed(data, texts)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.write_bytes(data)
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise WireError(
            Code.DISK_FULL,
            tr("{name} cannot be written ({strerror}).", name=path.name, strerror=error.strerror or error),
        ) from None
