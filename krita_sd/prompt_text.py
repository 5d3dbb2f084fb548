# SPDX-License-Identifier: GPL-3.0-or-later
"""A prompt as the painter edits it: what to highlight, changing a weight at the cursor, what to complete. Pure.

The server decides what a prompt means (`server/prompt`); here the same syntax is found in a text that is half typed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_SPANS_TEXT = 6000
"""Characters: longer texts are not highlighted, so that a keystroke stays cheap."""

STEP = 0.1
MAX_WEIGHT = 10.0
MAX_LORA = 2.0

_COMMENT = re.compile(r"(?m)(?:^[^\S\n]*#[^\n]*|(?<=\s)#(?=\s)[^\n]*|(?<=\s)#$)")
_TAG = re.compile(r"<(?:lora|lyco|hypernet):[^<>\n]*>", re.IGNORECASE)
_FILE = re.compile(r"__[A-Za-z0-9][\w ./-]*?__")
_BREAK = re.compile(r"\bBREAK\b")
_NUMBER = re.compile(r":\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*$")
_LORA_WEIGHT = re.compile(r"(<(?:lora|lyco):[^<>:\n]+)(?::([^<>\n:]*))?(>)", re.IGNORECASE)
_SEPARATORS = ",\n|()[]{}<>:"


@dataclass(frozen=True)
class Span:
    """A stretch of the text to be shown differently. kind: comment, tag, file, choice, break, weight, unclosed.

    weight: of kind "weight", the product of all brackets around it.
    """

    start: int
    end: int
    kind: str
    weight: float = 1.0


@dataclass(frozen=True)
class Group:
    """A bracket: text[start] opens, text[end - 1] closes; `inner` ends before a number. weight: what it multiplies
    with."""

    start: int
    end: int
    inner: int
    weight: float


@dataclass(frozen=True)
class Edit:
    """A changed text with a selection."""

    text: str
    start: int
    end: int


def spans(text: str) -> list[Span]:
    """What to highlight, of overlapping ones the last counts; none for a very long text."""
    if len(text) > MAX_SPANS_TEXT:
        return []
    blank = _blanked(text)
    groups, unclosed = _groups(blank)
    found = _weights(groups)
    found += [Span(at, at + 1, "unclosed") for at in unclosed]
    found += _choices(blank)
    for pattern, kind in ((_BREAK, "break"), (_FILE, "file")):
        found += [Span(match.start(), match.end(), kind) for match in pattern.finditer(blank)]
    for pattern, kind in ((_TAG, "tag"), (_COMMENT, "comment")):
        found += [Span(match.start(), match.end(), kind) for match in pattern.finditer(text)]
    return found


def change_weight(text: str, start: int, end: int, by: float) -> Edit:
    """Ctrl+Up and Ctrl+Down: the weight of the selection, or of the word, bracket or LoRA at the cursor, by `by`.

    A weight of 1 needs no brackets. Nothing changes in a comment or where brackets would cross.
    """
    for match in _LORA_WEIGHT.finditer(text):
        if match.start() < end and start < match.end():
            return _change_lora(text, match, start, end, by)
    if any(match.start() <= end and start <= match.end() for match in _COMMENT.finditer(text)):
        return Edit(text, start, end)
    groups, _ = _groups(_blanked(text))
    if start == end:
        inside = [g for g in groups if g.inner < g.end - 1 and g.inner <= start < g.end]
        start, end = (inside[0].start + 1, inside[0].inner) if inside else _word(text, start)
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    if start == end:
        return Edit(text, start, end)
    group = next((g for g in groups if (start, end) in _extents(g)), None)
    if group is not None:
        inner = text[group.start + 1 : group.inner]
        return _put(text, group.start, group.end, inner, _rounded(group.weight + by))
    if any(_crosses(g, start, end) for g in groups):
        return Edit(text, start, end)
    return _put(text, start, end, text[start:end], _rounded(1.0 + by))


def _extents(group: Group) -> tuple[tuple[int, int], ...]:
    """Selections that mean this bracket: its inside with or without the number, and the whole."""
    return (group.start + 1, group.inner), (group.start + 1, group.end - 1), (group.start, group.end)


def _crosses(group: Group, start: int, end: int) -> bool:
    """Whether brackets around start..end would tear this one, or its number, apart."""
    opens, closes = start <= group.start < end, start < group.end <= end
    return opens != closes or (not opens and group.inner < end and start < group.end - 1 and group.start < start)


def _put(text: str, start: int, end: int, inner: str, weight: float) -> Edit:
    if weight == 1.0:
        return Edit(text[:start] + inner + text[end:], start, start + len(inner))
    return Edit(f"{text[:start]}({inner}:{weight:g}){text[end:]}", start + 1, start + 1 + len(inner))


def _change_lora(text: str, match: re.Match[str], start: int, end: int, by: float) -> Edit:
    try:
        weight = float(match[2]) if match[2] else 1.0
    except ValueError:
        return Edit(text, start, end)
    weight = round(max(-MAX_LORA, min(MAX_LORA, weight + by)), 2)
    tag = f"{match[1]}:{weight:g}>"
    at = min(start, match.start() + len(tag) - 1)
    return Edit(text[: match.start()] + tag + text[match.end() :], at, at)


def _rounded(weight: float) -> float:
    return round(max(0.0, min(MAX_WEIGHT, weight)), 2)


def _word(text: str, at: int) -> tuple[int, int]:
    start = end = at
    while start and not (text[start - 1].isspace() or text[start - 1] in _SEPARATORS):
        start -= 1
    while end < len(text) and not (text[end].isspace() or text[end] in _SEPARATORS):
        end += 1
    return start, end


def _blanked(text: str) -> str:
    """The same length, with what is no bracket, whatever it looks like, replaced by spaces."""
    for pattern in (_COMMENT, _TAG, re.compile(r"\\.", re.DOTALL)):
        text = pattern.sub(lambda match: " " * len(match[0]), text)
    return text


def _groups(blank: str) -> tuple[list[Group], list[int]]:
    """(brackets that are closed, inner ones first; places of those that are not)."""
    groups: list[Group] = []
    opened: list[int] = []
    unclosed: list[int] = []
    for at, char in enumerate(blank):
        if char in "([":
            opened.append(at)
        elif char in ")]":
            if opened and blank[opened[-1]] == {")": "(", "]": "["}[char]:
                groups.append(_group(blank, opened.pop(), at + 1))
            else:
                unclosed.append(at)
    return groups, unclosed + opened


def _group(blank: str, start: int, end: int) -> Group:
    if blank[start] == "[":
        return Group(start, end, end - 1, round(1 / 1.1, 1))
    tail = max(start + 1, end - 16)  # a number is short; the whole group need not be searched
    number = _NUMBER.search(blank[tail : end - 1])
    if number is None:
        return Group(start, end, end - 1, 1.1)
    return Group(start, end, tail + number.start(), max(-MAX_WEIGHT, min(MAX_WEIGHT, float(number[1]))))


def _choices(blank: str) -> list[Span]:
    """Outermost `{a|b}` groups with their bars; a group without a bar is no choice."""
    out: list[Span] = []
    opened: list[int] = []
    bars: list[list[int]] = []
    for at, char in enumerate(blank):
        if char == "{":
            opened.append(at)
            bars.append([])
        elif char == "|" and opened:
            bars[-1].append(at)
        elif char == "}" and opened:
            start, inside = opened.pop(), bars.pop()
            if inside:
                out += [Span(place, place + 1, "choice") for place in (start, *inside, at)]
    return out


def _weights(groups: list[Group]) -> list[Span]:
    """Outer brackets first, each with the product of those around it."""
    out = []
    outer: list[tuple[Group, float]] = []
    for group in sorted(groups, key=lambda item: item.start):
        while outer and outer[-1][0].end < group.end:
            outer.pop()
        weight = group.weight * (outer[-1][1] if outer else 1.0)
        outer.append((group, weight))
        out.append(Span(group.start, group.end, "weight", weight))
    return out


# Completion ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Typed:
    """What stands before the cursor: text[start:cursor] would be replaced. kind: lora, wildcard or word."""

    start: int
    prefix: str
    kind: str


def typed_at(text: str, cursor: int) -> Typed | None:
    """What could be completed at the cursor; None in a comment or where too little is typed."""
    line = text[text.rfind("\n", 0, cursor) + 1 : cursor]
    offset = cursor - len(line)
    if any(match.start() < cursor <= match.end() for match in _COMMENT.finditer(text)):
        return None
    opened = line.rfind("<")
    if opened > line.rfind(">"):
        inside = line[opened + 1 :]
        kind, colon, name = inside.partition(":")
        if not colon:
            name = "" if "lora".startswith(kind.lower()) else kind
        return Typed(offset + opened, name, "lora") if ":" not in name else None
    under = line.rfind("__")
    if under >= 0 and line.count("__") % 2:
        return Typed(offset + under, line[under + 2 :], "wildcard")
    start = max(line.rfind(char) for char in _SEPARATORS) + 1
    start += len(line[start:]) - len(line[start:].lstrip())
    prefix = line[start:]
    return Typed(offset + start, prefix, "word") if len(prefix) >= 2 else None
