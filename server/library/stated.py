# SPDX-License-Identifier: GPL-3.0-or-later
"""What a single file is where no tensor tells: Flux 1 Kontext has those of Flux 1, Qwen-Image Edit those of Qwen-Image.

Some files say so in their own metadata. For the others the painter says it, in a small file beside the model that has
its name and ends in .json: {"family": "flux1-kontext"}.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from .companions import TWINS

_MAX_BYTES = 256 * 1024
_WORDS = {"flux1-kontext": ("kontext",), "qwen-image-edit": ("image-edit", "image_edit", "image edit")}


def may_be_other(family: str) -> bool:
    """Whether files of this family may be of another one."""
    return family in TWINS.values() or family in TWINS


def stated_family(path: Path, family: str, metadata: Mapping[str, str]) -> str:
    """`family` as detected, or the one of the same build that the file, or the file beside it, states."""
    others = [twin for twin, base in TWINS.items() if base == family]
    beside = _beside(path)
    if beside in (family, *others):
        return beside
    about = " ".join(value for key, value in metadata.items() if key.startswith("modelspec.")).casefold()
    return next((twin for twin in others if any(word in about for word in _WORDS[twin])), family)


def statement_stamp(path: Path) -> tuple[int, ...]:
    """What changes when the file beside a model does."""
    try:
        info = path.with_suffix(".json").stat()
    except OSError:
        return ()
    return info.st_size, info.st_mtime_ns


def _beside(path: Path) -> str:
    """The family in the file beside a model; "" when there is none that can be read."""
    try:
        with open(path.with_suffix(".json"), "rb") as stream:
            found = json.loads(stream.read(_MAX_BYTES).decode("utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError):
        return ""
    family = found.get("family") if isinstance(found, dict) else None
    return family if isinstance(family, str) else ""
