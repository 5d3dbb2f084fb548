# SPDX-License-Identifier: GPL-3.0-or-later
"""Comments and wildcards: `# note`, `{red|green|blue}` (nested), `__animals__` from a file; drawn by the image's seed.

A group needs a bar: `{text}` stays as it is. `\\{`, `\\|`, `\\}` and `\\#` are the characters themselves. The draw is
a hash of the seed and of the group's number, so that the same recipe gives the same words on every machine.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from krita_sd.wire.limits import MAX_PROMPT

from .wildcards import Wildcards

MAX_DRAWS = 1000
"""Wildcards in one prompt, nested ones included; files may name each other in a circle."""

MAX_DEPTH = 20

_COMMENT = re.compile(r"(?m)(?:^[^\S\n]*#[^\n]*|(?<=\s)#(?=\s)[^\n]*|(?<=\s)#$)")
_FILE = re.compile(r"__([A-Za-z0-9][\w ./-]*?)__")


@dataclass(frozen=True)
class Expanded:
    """The text after comments and wildcards; names of wildcard files that do not exist; how many draws were made."""

    text: str
    unknown: tuple[str, ...] = ()
    draws: int = 0


@dataclass
class _Draws:
    seed: int
    stream: str
    wildcards: Wildcards | None
    made: int = 0
    length: int = 0
    unknown: list[str] = field(default_factory=list)

    def pick(self, count: int) -> int:
        self.made += 1
        key = f"{self.seed}:{self.stream}:{self.made}".encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") % count


def expand(prompt: str, seed: int = 0, wildcards: Wildcards | None = None, stream: str = "prompt") -> Expanded:
    """The prompt of one image. `stream` keeps prompt and negative prompt from drawing in step."""
    draws = _Draws(seed, stream, wildcards)
    text = without_comments(prompt)
    if "{" in text or "__" in text:
        text = _expand(text, draws, 0)[:MAX_PROMPT]
    return Expanded(text, tuple(dict.fromkeys(draws.unknown)), draws.made)


def without_comments(prompt: str) -> str:
    """A line that begins with #, and what follows a # between spaces, are notes; `#ff0000` inside a line is not."""
    if "#" not in prompt:
        return prompt
    kept = []
    for line in prompt.split("\n"):
        found = _COMMENT.search(line)
        if found is None:
            kept.append(line.replace("\\#", "#"))
        elif line[: found.start()].strip():
            kept.append(line[: found.start()].replace("\\#", "#").rstrip())
    return "\n".join(kept)


def _expand(text: str, draws: _Draws, depth: int) -> str:
    """Groups from the outside in: what is not chosen is never drawn."""
    if depth > MAX_DEPTH:
        return text
    out: list[str] = []
    index = 0
    while index < len(text):
        char = text[index]
        if char == "\\" and text[index + 1 : index + 2] in ("{", "|", "}"):
            out.append(text[index + 1])
            index += 2
            continue
        if char == "{" and (group := _group(text, index)) is not None and draws.made < MAX_DRAWS:
            options, index = group
            out.append(_expand(options[draws.pick(len(options))], draws, depth + 1))
        elif char == "_" and (match := _FILE.match(text, index)) and draws.made < MAX_DRAWS:
            out.append(_from_file(match, draws, depth))
            index = match.end()
        else:
            out.append(char)
            index += 1
            continue
        draws.length += len(out[-1])
        if draws.length > MAX_PROMPT:
            break
    return "".join(out)


def _from_file(match: re.Match[str], draws: _Draws, depth: int) -> str:
    lines = draws.wildcards.lines(match[1]) if draws.wildcards is not None else ()
    if not lines:
        draws.unknown.append(match[0])
        return match[0]
    return _expand(lines[draws.pick(len(lines))], draws, depth + 1)


def _group(text: str, start: int) -> tuple[list[str], int] | None:
    """Options of the group that opens at `start`, and the index after it; None without a bar or a closing brace."""
    depth, begin = 0, start + 1
    options: list[str] = []
    index = start
    while index < len(text):
        char = text[index]
        if char == "\\":
            index += 2
            continue
        if char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                options.append(text[begin:index])
                return (options, index + 1) if len(options) > 1 else None
        elif char == "|" and depth == 1:
            options.append(text[begin:index])
            begin = index + 1
        index += 1
    return None
