# SPDX-License-Identifier: GPL-3.0-or-later
"""Textual inversions in a prompt: where the names of learned words stand.

As A1111 has it, the name as a word of its own; `embedding:name` (ComfyUI) and `<name>` (diffusers) say the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple


class Piece(NamedTuple):
    """A stretch of a prompt: text, or where `name` is not empty, the textual inversion of that name."""

    text: str
    name: str = ""


def split_inversions(text: str, names: Iterable[str]) -> list[Piece]:
    """`text` cut at the names that stand in it, which are found whatever their case; longer ones win."""
    known = {name.casefold(): name for name in names if name}
    if not known:
        return [Piece(text)]
    words = "|".join(re.escape(name) for name in sorted(known, key=len, reverse=True))
    pattern = re.compile(
        rf"<(?P<angle>{words})>|(?<![\w-])(?:embedding:)?(?P<plain>{words})(?:\.(?:safetensors|pt|bin))?(?![\w-])",
        re.IGNORECASE,
    )
    pieces: list[Piece] = []
    end = 0
    for match in pattern.finditer(text):
        if match.start() > end:
            pieces.append(Piece(text[end : match.start()]))
        written = match["angle"] or match["plain"]
        pieces.append(Piece(match[0], known.get(written.casefold(), written)))
        end = match.end()
    if end < len(text) or not pieces:
        pieces.append(Piece(text[end:]))
    return pieces


def called(text: str, names: Iterable[str]) -> tuple[str, ...]:
    """The names that stand in `text`, in order, each once."""
    return tuple(dict.fromkeys(piece.name for piece in split_inversions(text, names) if piece.name))
