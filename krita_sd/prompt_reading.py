# SPDX-License-Identifier: GPL-3.0-or-later
"""How the server read a prompt, as the docker says it: one line below the field, and one for each result. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from krita_sd.text import tr

Side = Mapping[str, Any]
"""prompt or negative of a reading: {parts: [[text, weight]], loras: [[name, weight, found]], ignored, text, ...}."""

_PARTS, _IGNORED = 60, 20
_MAX_LINE = 400


def sentence_of(side: Side) -> str:
    """The server's sentence about a prompt; "" when it says nothing."""
    text = side.get("text")
    return text[:_MAX_LINE] if isinstance(text, str) else ""


def line_of(sides: Iterable[tuple[Side, str]]) -> str:
    """The line below the field; `sides` with the words that they are about. Two tokens of no words are no news."""
    return " \u00b7 ".join(filter(None, (sentence_of(side) for side, words in sides if words.strip())))


def tip_of(prompt: Side, negative: Side) -> str:
    """Part by part, with weights."""
    lines = []
    for title, side in ((tr("Prompt"), prompt), (tr("Negative"), negative)):
        lines += [f"{title}: {text.strip()[:120]}  x {weight:g}" for text, weight in _parts(side)]
        lines += [f"{tr('Ignored')}: {str(item)[:200]}" for item in _list(side, "ignored")[:_IGNORED]]
    return "\n".join(lines)


def has_problem(side: Side) -> bool:
    """Whether something of the prompt has no effect."""
    missing = any(isinstance(lora, list) and len(lora) == 3 and not lora[2] for lora in _list(side, "loras"))
    return missing or bool(side.get("ignored"))


def result_text(reading: Mapping[str, Any], prompt: str) -> str:
    """What a result's tip says of its prompt: the words where wildcards or notes made them others than were typed, and
    the server's sentence. "" when the server told nothing."""
    side = reading.get("prompt")
    if not isinstance(side, dict):
        return ""
    words = " ".join("".join(text for text, _ in _parts(side)).split())
    is_other = bool(words) and any(sign in prompt for sign in ("{", "__", "#"))
    lines = [tr("Read as: {words}", words=words[:_MAX_LINE])] if is_other else []
    return "\n".join([*lines, sentence_of(side)]).strip()


def _parts(side: Side) -> list[tuple[str, float]]:
    found = [part for part in _list(side, "parts")[:_PARTS] if isinstance(part, list) and len(part) == 2]
    return [(str(part[0]), float(part[1])) for part in found if isinstance(part[1], (int, float))]


def _list(side: Side, key: str) -> list[Any]:
    value = side.get(key)
    return value if isinstance(value, list) else []
