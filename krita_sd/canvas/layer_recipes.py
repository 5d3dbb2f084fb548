# SPDX-License-Identifier: GPL-3.0-or-later
"""The recipe of every applied layer, kept in the document itself: it is saved with the .kra and costs no undo step."""

from __future__ import annotations

from typing import Any

from ..metadata import recipes
from ..qt import QtCore
from ..wire.parameters import Found
from ..wire.recipe import Recipe
from ..wire.values import dump
from . import host

MAX_LAYERS = 500
MAX_BYTES = 1024 * 1024
"""Of all recipes of a document; the oldest are forgotten."""


def remember(doc: Any, node: Any, recipe: Recipe, model: str) -> None:
    """`node` of the open `doc` was made with `recipe`; `model` is the model's name."""
    entries = recipes.layers_of(_annotation(doc))
    key = node.uniqueId().toString()
    entries.pop(key, None)
    entries[key] = {"name": node.name(), "recipe": recipe.to_json(), "model_name": model}
    sizes = {name: len(dump(entry).encode()) + len(name) + 8 for name, entry in entries.items()}
    total = sum(sizes.values())
    for name in list(entries)[:-1]:
        if len(entries) <= MAX_LAYERS and total <= MAX_BYTES:
            break
        total -= sizes[name]
        del entries[name]
    data = QtCore.QByteArray(dump({"layers": entries}).encode())
    doc.setAnnotation(recipes.DOCUMENT_KEY, "Recipes of layers made with Krita SD", data)


def recall(doc: Any, node: Any) -> Found | None:
    """The recipe of that layer, or of the one it is a copy of; None when it has none. Safe for closed documents."""
    if node is None or not host.is_open(doc):
        return None
    entries = recipes.layers_of(_annotation(doc))
    entry = entries.get(node.uniqueId().toString())
    if entry is None:
        # A copy has an id of its own, and keeps the name inside its own.
        named = [item for item in entries.values() if item.get("name") and str(item["name"]) in node.name()]
        entry = named[-1] if named else None
    return recipes.of_json(entry) if entry is not None else None


def _annotation(doc: Any) -> bytes:
    return bytes(doc.annotation(recipes.DOCUMENT_KEY))
