# SPDX-License-Identifier: GPL-3.0-or-later
"""What a half typed word could become: LoRAs, wildcard files, styles and the user's own tag files. Qt-free.

Tag files are the csv files that the users of such programs already have: name, category, count, "other,names".
"""

from __future__ import annotations

import bisect
import csv
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from krita_sd.prompt_text import Typed
from krita_sd.text import mark

log = logging.getLogger(__name__)

MAX_TAGS = 250_000
MAX_FILE = 32 * 1024 * 1024
"""Bytes of one tag file."""

MAX_TAG = 120
"""Characters of one tag."""

LIMIT = 12
_EXAMINED = 2000  # entries of one prefix that are compared by how often they are used


@dataclass(frozen=True)
class Candidate:
    """One line of the completion. `insert` replaces what was typed; "" for a style, which is chosen by its `id`."""

    text: str
    insert: str
    note: str = ""
    kind: str = "tag"
    id: str = ""


@dataclass(frozen=True)
class Tags:
    """Tags in alphabetical order: keys are lower case, with spaces; `entries` are (key, shown name, count)."""

    keys: tuple[str, ...] = ()
    entries: tuple[tuple[str, str, int], ...] = ()

    def starting_with(self, prefix: str) -> list[tuple[str, str, int]]:
        """Entries whose key begins so, the most used first."""
        begin = bisect.bisect_left(self.keys, prefix)
        found = []
        for at in range(begin, min(begin + _EXAMINED, len(self.keys))):
            if not self.keys[at].startswith(prefix):
                break
            found.append(self.entries[at])
        return sorted(found, key=lambda entry: -entry[2])


@dataclass(frozen=True)
class Vocabulary:
    """Everything that can be completed. loras: names; styles: (id, title)."""

    loras: tuple[str, ...] = ()
    wildcards: tuple[str, ...] = ()
    styles: tuple[tuple[str, str], ...] = ()
    tags: Tags = field(default_factory=Tags)

    def complete(self, typed: Typed, limit: int = LIMIT) -> list[Candidate]:
        """The best lines for what is typed."""
        prefix = typed.prefix.lower()
        if typed.kind == "lora":
            return [Candidate(name, f"<lora:{name}:1>", "LoRA", "lora") for name in _like(self.loras, prefix)[:limit]]
        if typed.kind == "wildcard":
            names = _like(self.wildcards, prefix)[:limit]
            return [Candidate(name, f"__{name}__", mark("wildcard"), "wildcard") for name in names]
        if len(prefix) < 2:
            return []
        found = []
        seen = set()
        for key, name, count in self.tags.starting_with(prefix):
            if name not in seen:
                seen.add(name)
                alias = key if key != name.lower() else ""
                note = " ".join(part for part in (_short(count), f"({alias})" if alias else "") if part)
                found.append(Candidate(name, _escaped(name), note))
        loras = [Candidate(name, f"<lora:{name}:1>", "LoRA", "lora") for name in _starting(self.loras, prefix)]
        styles = [
            Candidate(title, "", mark("style"), "style", id)
            for id, title in self.styles
            if len(prefix) >= 3 and title.lower().startswith(prefix)
        ]
        found = loras + found[: max(1, limit - len(loras) - len(styles))] + styles
        return [item for item in found if item.insert.lower() != prefix][:limit]


def read_tags(paths: Iterable[Path]) -> Tags:
    """All tag files together; what cannot be read is left out. Takes long for a large one: not in the GUI thread."""
    rows = []
    for path in paths:
        try:
            if path.stat().st_size > MAX_FILE:
                log.warning("the tag file %s is too large", path.name)
                continue
            with path.open(encoding="utf-8", errors="replace", newline="") as file:
                for row in _rows(file):
                    rows.append(row)
                    if len(rows) % 2000 == 0:
                        time.sleep(0)  # the interpreter's lock is the GUI's too
                    if len(rows) >= MAX_TAGS:
                        log.warning("more than %d tags; the rest is ignored", MAX_TAGS)
                        break
        except (OSError, csv.Error) as error:
            log.warning("the tag file %s was not read (%s)", path.name, error)
    rows.sort()
    return Tags(tuple(key for key, _, _ in rows), tuple(rows))


def _rows(file: Iterable[str]) -> Iterator[tuple[str, str, int]]:
    for fields in csv.reader(file):
        name = fields[0].strip().replace("_", " ") if fields else ""
        if not name or len(name) > MAX_TAG or name.startswith("#"):
            continue
        count = int(fields[2]) if len(fields) > 2 and fields[2].strip().isdecimal() else 0
        yield name.lower(), name, count
        for alias in fields[3].split(",") if len(fields) > 3 else ():
            alias = alias.strip().replace("_", " ").lower()
            if alias and len(alias) <= MAX_TAG:
                yield alias, name, count


def tag_files(folder: Path) -> list[Path]:
    """The csv and txt files of that folder, in order."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix.lower() in (".csv", ".txt"))
    except OSError:
        return []


def _starting(names: Sequence[str], prefix: str) -> list[str]:
    return [name for name in names if name.lower().startswith(prefix)]


def _like(names: Sequence[str], prefix: str) -> list[str]:
    """Names that begin so, then names that contain it."""
    begin = _starting(names, prefix)
    return begin + [name for name in names if prefix in name.lower() and name not in begin]


def _short(count: int) -> str:
    if count >= 1_000_000:
        return f"{count / 1_000_000:.1f}M"
    return f"{count / 1000:.0f}k" if count >= 1000 else str(count or "")


def _escaped(name: str) -> str:
    """Brackets in a tag are part of its name, not a weight."""
    for char in "()[]":
        name = name.replace(char, "\\" + char)
    return name
