# SPDX-License-Identifier: GPL-3.0-or-later
"""Single files that are a transformer alone get their text encoders and autoencoder from other files of the library."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from krita_sd.wire.errors import Code

from .companions import SAYS, Need

if TYPE_CHECKING:
    from .scan import ModelEntry

# Flux's and SD3's autoencoders, and Qwen-Image's and that of the film model Wan, have the same shapes. SD3's are inside
# its files, so a file of its own is nearly always Flux's; where there are several, their names are the only hint left.
_OTHERS = ("sd3", "sd_3", "wan")


def completed(entries: Sequence[ModelEntry]) -> list[ModelEntry]:
    """The entries, with `parts` where one needs files of others; `problem` names the first part that is nowhere."""
    return [_complete(entry, entries) if entry.needs and entry.usable else entry for entry in entries]


def _complete(entry: ModelEntry, entries: Iterable[ModelEntry]) -> ModelEntry:
    parts = dict(entry.parts)
    for need in entry.needs:
        found = [other for other in entries if other.usable and need.met_by(*other.offers)]
        if found:
            parts[need.part] = min(found, key=lambda other: _order(entry, other)).path
        elif not need.optional:
            return replace(entry, problem=_lacks(entry, need), code=Code.MODEL_MISSING)
    return replace(entry, parts=parts)


def _order(entry: ModelEntry, other: ModelEntry) -> tuple[bool, bool, int, str]:
    """Files in the model's own folder first, then the most precise (largest); the order of a scan does not matter."""
    stranger = other.kind == "vae" and any(mark in other.path.name.lower() for mark in _OTHERS)
    return stranger, other.path.parent != entry.path.parent, -other.size, str(other.path)


def _lacks(entry: ModelEntry, need: Need) -> str:
    return f"{entry.name} needs {SAYS[need.role]}, which is in none of the model folders; put that file there."
