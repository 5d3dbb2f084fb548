# SPDX-License-Identifier: GPL-3.0-or-later
"""From a recipe that was found somewhere to the docker's settings. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from krita_sd.settings import ModelParams, Settings
from krita_sd.text import tr
from krita_sd.wire.parameters import Found

Models = Sequence[Mapping[str, Any]]

_PLAIN = ("prompt", "negative", "strength", "feather", "grow", "exact_mask", "fill", "tile")


@dataclass(frozen=True)
class Restored:
    """`changes` of the settings, `params` of what is remembered per model, and a sentence about what could not be."""

    changes: dict[str, Any] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    note: str = ""


def restore(found: Found, models: Models) -> Restored:
    """What to change so that the next picture has this recipe. What the recipe does not say stays as it is."""
    values = found.values
    known = {item.name for item in dataclasses.fields(Settings)}
    changes = {key: values[key] for key in _PLAIN if key in values and key in known}
    if "seed" in values:
        changes |= {"seed": values["seed"], "seed_fixed": True}
    missing = []
    model = find_model(models, "checkpoint", str(values.get("model", "")), found.model)
    if model is not None:
        changes["model"] = model
        if "style" in known:
            changes["style"] = ""  # a style would bring its own model
    elif values.get("model") or found.model:
        missing.append(found.model or str(values["model"]))
    loras = []
    for lora in values.get("loras", ()):
        if find_model(models, "lora", lora.id, "") is None:
            missing.append(lora.id)
        else:
            loras.append(lora)
    if "loras" in values and "loras" in known:
        changes["loras"] = tuple(loras)
    params = {
        item.name: values[item.name] for item in dataclasses.fields(ModelParams) if values.get(item.name) is not None
    }
    if params.get("vae") and find_model(models, "vae", params["vae"], "") is None:
        missing.append(params.pop("vae"))
    notes = []
    if missing:
        notes.append(tr("Not found here: {names}; the rest was taken over.", names=", ".join(missing)))
    if found.ignored:
        notes.append(tr("Not usable: {names}.", names=", ".join(found.ignored)))
    return Restored(changes, params, " ".join(notes))


def find_model(models: Models, kind: str, id: str, name: str) -> str | None:
    """The id of that model here, by id or by name; None when it is not here."""
    of_kind = [entry for entry in models if entry.get("kind", "checkpoint") == kind]
    for entry in of_kind:
        if id and entry.get("id") == id:
            return id
    wanted = _stem(name)
    for entry in of_kind:
        if wanted and wanted in (_stem(str(entry.get("name", ""))), _stem(str(entry.get("id", "")))):
            return str(entry.get("id", ""))
    return None


def _stem(name: str) -> str:
    """A name as people compare it: without folder and ending."""
    short = name.replace("\\", "/").rpartition("/")[2].casefold()
    for ending in (".safetensors", ".ckpt"):
        short = short.removesuffix(ending)
    return short
