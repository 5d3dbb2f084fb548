# SPDX-License-Identifier: GPL-3.0-or-later
"""The recipe in a picture file or a document: two texts, our JSON and AUTOMATIC1111's "parameters"."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from krita_sd.metadata import exif, jpeg, png, webp
from krita_sd.text import tr
from krita_sd.wire import parameters
from krita_sd.wire.errors import WireError, bad_request
from krita_sd.wire.limits import MAX_NAME
from krita_sd.wire.parameters import Found
from krita_sd.wire.recipe import Recipe
from krita_sd.wire.values import dump, parse_object

KEY = "krita_sd"
"""Keyword of our JSON: {"recipe": {...}, "model_name": "...", ...}."""

PARAMETERS = "parameters"
DOCUMENT_KEY = "krita_sd/recipes.json"
"""Annotation of a document: {"layers": {layer id: {"name", "recipe", "model_name"}}}, oldest first."""

MAX_DOCUMENT = 4 * 1024 * 1024
"""Bytes of that annotation."""

_WANTED = frozenset((KEY, PARAMETERS))


def texts_of(recipe: Recipe, model: str, **more: Any) -> dict[str, str]:
    """The two texts. `model`: its name for people and other programs; `more`: JSON values kept beside the recipe."""
    ours = {"recipe": recipe.to_json(), "model_name": model, **more}
    return {KEY: dump(ours), PARAMETERS: parameters.write(recipe, model)}


def embed(data: bytes, texts: Mapping[str, str]) -> bytes:
    """An encoded PNG, JPEG or still WebP with `texts`. Raises WireError when the file cannot hold them."""
    try:
        if data.startswith(png.SIGNATURE):
            return png.insert(data, texts)
        block = exif.build(texts[PARAMETERS], texts[KEY])
        if webp.is_webp(data):
            return webp.insert(data, block)
        if len(block) + len(exif.MAGIC) > jpeg.MAX_SEGMENT:
            block = exif.build("", texts[KEY])
        return jpeg.insert(data, block)
    except (ValueError, KeyError):
        raise bad_request(tr("The recipe is too long for this kind of file."), tr("Save it as PNG or WebP.")) from None


def read_texts(path: Path) -> dict[str, str]:
    """The texts of a picture file, by their keywords; empty when there are none. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(0)
        if head.startswith(png.SIGNATURE):
            return png.read(file, _WANTED)
        if head.startswith(jpeg.SIGNATURE):
            comment, note = exif.read(jpeg.read(file))
        elif webp.is_webp(head):
            comment, note = exif.read(webp.read(file))
        else:
            return {}
    return {key: text for key, text in ((KEY, note), (PARAMETERS, comment)) if text}


def found_in(texts: Mapping[str, str]) -> Found | None:
    """What the texts say, ours before a stranger's; None when they say nothing."""
    ours = of_json(texts.get(KEY, ""))
    if ours is not None:
        return ours
    return parameters.read(texts[PARAMETERS]) if texts.get(PARAMETERS, "").strip() else None


def details_of(texts: Mapping[str, str]) -> dict[str, Any]:
    """Everything in our JSON, unchecked; empty when it is not there or damaged."""
    try:
        return parse_object(texts.get(KEY, ""), "recipe")
    except WireError:
        return {}


def of_json(data: str | dict[str, Any]) -> Found | None:
    """What our JSON says, field by field; None when it holds no recipe."""
    if isinstance(data, str):
        data = details_of({KEY: data})
    recipe, name = data.get("recipe"), data.get("model_name")
    if not isinstance(recipe, dict):
        return None
    values, ignored = parameters.checked(recipe)
    return Found(values, name if isinstance(name, str) and len(name) <= MAX_NAME else "", tuple(ignored))


def read_file(path: Path) -> Found:
    """The recipe in a picture or a Krita document (that of its newest layer). Raises WireError with a sentence."""
    try:
        if zipfile.is_zipfile(path):
            found = _newest(_annotation(path))
        else:
            found = found_in(read_texts(path))
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        raise bad_request(tr("The file {name} cannot be read ({error}).", name=path.name, error=error)) from None
    if found is None:
        raise bad_request(
            tr("{name} holds no recipe.", name=path.name),
            tr("Pictures keep it when they are saved with metadata by Krita SD or A1111."),
        )
    return found


def _annotation(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if entry.filename.endswith(f"/annotations/{DOCUMENT_KEY}") and entry.file_size <= MAX_DOCUMENT:
                with archive.open(entry) as file:
                    return file.read(MAX_DOCUMENT)
    return b""


def layers_of(annotation: bytes) -> dict[str, dict[str, Any]]:
    """The annotation's entries by layer id, oldest first; empty when there is none or it is damaged."""
    if not annotation or len(annotation) > MAX_DOCUMENT:
        return {}
    try:
        layers = parse_object(annotation, "recipes of the document").get("layers")
    except WireError:
        return {}
    return {key: entry for key, entry in layers.items() if isinstance(entry, dict)} if isinstance(layers, dict) else {}


def _newest(annotation: bytes) -> Found | None:
    entries = list(layers_of(annotation).values())
    return of_json(entries[-1]) if entries else None
