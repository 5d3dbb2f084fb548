# SPDX-License-Identifier: GPL-3.0-or-later
"""Blends: `cute dog:0.95 cyborg:0.85 hybrid character` mixes the embeddings of three prompts.

A weight belongs to the words before its colon, what has none counts 1, and the shares are normalised to one. A colon
is a weight only outside brackets, after something that is neither a digit nor a space, before a number up to
`MAX_WEIGHT` that ends at a space or at the end: so "3:30 pm", "16:9", "http://x", "(cat:1.2)", ":3" and "host:8080"
stay what they are. A backslash before the colon keeps any other.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_WEIGHT = 10.0
_WEIGHT = re.compile(r":(\d{1,4}(?:\.\d{0,6})?|\.\d{1,6})(?=\s|$)")


class Variant(NamedTuple):
    """One of the prompts that are blended (attention syntax is still in its text) and its share of the whole, 0..1."""

    text: str
    share: float


def split_blend(prompt: str) -> tuple[Variant, ...]:
    """The variants of a prompt in order; shares sum to one. Without a weight: the prompt as it is, share 1."""
    found: list[tuple[str, float]] = []
    start = index = depth = 0
    while index < len(prompt):
        char = prompt[index]
        if char == "\\":
            index += 2
            continue
        if char in "([":
            depth += 1
        elif char in ")]":
            depth = max(0, depth - 1)
        elif char == ":" and depth == 0 and index > start and _may_end(prompt, start, index):
            match = _WEIGHT.match(prompt, index)
            if match and float(match[1]) <= MAX_WEIGHT:
                found.append((prompt[start:index].strip(), float(match[1])))
                start = index = match.end()
                continue
        index += 1
    if not found:
        return (Variant(prompt, 1.0),)
    rest = prompt[start:].strip()
    if rest:
        found.append((rest, 1.0))
    total = sum(weight for _, weight in found)
    if total == 0.0:
        return tuple(Variant(text, 1.0 / len(found)) for text, _ in found)
    return tuple(Variant(text, weight / total) for text, weight in found if weight > 0.0)


def _may_end(prompt: str, start: int, colon: int) -> bool:
    """Whether the words before a colon can carry a weight."""
    before = prompt[colon - 1]
    # `embedding:1` is how textual inversions are called, also those with a number for a name.
    called = prompt[start:colon].rpartition(" ")[2].lower() == "embedding"
    return not before.isdigit() and not before.isspace() and not called
