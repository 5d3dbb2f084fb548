# SPDX-License-Identifier: GPL-3.0-or-later
"""A1111's attention syntax, read into parts with weights: `(x)`, `((x))`, `[x]`, `(x:1.3)`, `\\(`, `\\:`, `BREAK`.

Pure: no tokenizer, no torch. Anything unbalanced is taken literally as far as it can be, as users of the syntax expect.
"""

from __future__ import annotations

import re
from typing import Final

BREAK: Final = "\x00BREAK"  # not a text that a prompt can contain: control characters are taken out below
Part = tuple[str, float]

_ROUND, _SQUARE = 1.1, 1 / 1.1
_MAX_WEIGHT = 10.0
_PIECES = re.compile(
    r"""
    (?P<escaped>\\[()\[\]\\:])
  | (?P<weight>:\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*\))
  | (?P<bracket>[()\[\]])
  | (?P<break>\bBREAK\b)
  | (?P<text>[^\\()\[\]:B]+|.)
    """,
    re.VERBOSE | re.DOTALL,
)


def parse_attention(prompt: str) -> list[Part]:
    """Parts (text, weight) of a prompt in order; a part whose text is `BREAK` (by identity) starts a new chunk.

    A prompt without syntax is one part, exactly as written, with weight 1. There is always at least one part.
    """
    parts: list[list] = []
    opened: list[tuple[str, int]] = []

    def scale(start: int, factor: float) -> None:
        for part in parts[start:]:
            part[1] *= factor

    for match in _PIECES.finditer(prompt.replace("\x00", " ")):
        kind, piece = match.lastgroup, match.group()
        if kind == "escaped":
            parts.append([piece[1], 1.0])
        elif kind == "weight" and opened and opened[-1][0] == "(":
            weight = float(piece[1:-1])
            scale(opened.pop()[1], max(-_MAX_WEIGHT, min(_MAX_WEIGHT, weight)))
        elif kind == "break":
            parts.append([BREAK, 1.0])
        elif piece in ("(", "["):
            opened.append((piece, len(parts)))
        elif piece == ")" and opened and opened[-1][0] == "(":
            scale(opened.pop()[1], _ROUND)
        elif piece == "]" and opened and opened[-1][0] == "[":
            scale(opened.pop()[1], _SQUARE)
        else:
            parts.append([piece, 1.0])
    # What was never closed counts as if it were closed at the end.
    for bracket, start in reversed(opened):
        scale(start, _ROUND if bracket == "(" else _SQUARE)
    return _joined(parts)


def _joined(parts: list[list]) -> list[Part]:
    """Neighbours of equal weight as one part, so that words are not cut where the parser happened to stop."""
    joined: list[list] = []
    for text, weight in parts:
        if joined and text is not BREAK and joined[-1][0] is not BREAK and joined[-1][1] == weight:
            joined[-1][0] += text
        else:
            joined.append([text, weight])
    return [(text, weight) for text, weight in joined] or [("", 1.0)]


def plain_text(prompt: str) -> str:
    """The words of a prompt without brackets and weights, for encoders that know neither; BREAK becomes a line end."""
    return "".join("\n" if text is BREAK else text for text, _ in parse_attention(prompt))
