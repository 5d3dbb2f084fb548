# SPDX-License-Identifier: GPL-3.0-or-later
"""`<lora:name:0.8>` in a prompt: taken out of the text, with name and weight; other tags of that form are noted."""

from __future__ import annotations

import re
from typing import NamedTuple

from krita_sd.wire.limits import MAX_LORA_WEIGHT, MAX_LORAS

_TAG = re.compile(r"<(lora|lyco|hypernet):([^<>:\n]{1,256})((?::[^<>:\n]*)*)>", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)")


class Tag(NamedTuple):
    """A LoRA that a prompt calls for: the name as written, weight -2..2."""

    name: str
    weight: float


def take_loras(prompt: str) -> tuple[str, tuple[Tag, ...], tuple[str, ...]]:
    """(text without tags, LoRAs in order, tags that are ignored). A name that occurs again counts with its last weight.

    Weights beyond -2..2 are brought to the border, missing ones are 1. Of several weights the first counts.
    """
    tags: dict[str, float] = {}
    ignored: list[str] = []

    def take(match: re.Match[str]) -> str:
        kind, name, rest = match[1].lower(), match[2].strip(), match[3]
        given = rest[1:].split(":")[0].strip() if rest else "1"
        if kind == "hypernet" or not name or not _NUMBER.fullmatch(given):
            ignored.append(match[0])
            return ""
        if name not in tags and len(tags) == MAX_LORAS:
            ignored.append(match[0])
            return ""
        tags[name] = max(-MAX_LORA_WEIGHT, min(MAX_LORA_WEIGHT, float(given)))
        return ""

    text = _TAG.sub(take, prompt)
    return text, tuple(Tag(name, weight) for name, weight in tags.items()), tuple(ignored)
