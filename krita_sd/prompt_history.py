# SPDX-License-Identifier: GPL-3.0-or-later
"""Prompts that were used, newest first, searchable, with favourites; one bounded file on disk. Qt-free."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from krita_sd.wire.limits import MAX_PROMPT

log = logging.getLogger(__name__)

MAX_ENTRIES = 300
"""Prompts that are remembered besides the favourites; the oldest are forgotten."""

MAX_FAVOURITES = 500
MAX_FILE = 32 * 1024 * 1024


@dataclass(frozen=True)
class Used:
    """A prompt with its negative, as typed."""

    prompt: str
    negative: str = ""
    favourite: bool = False

    @property
    def key(self) -> tuple[str, str]:
        return self.prompt, self.negative


class PromptHistory:
    """Newest first. `load` and `save` touch the disk and may be called in another thread than the rest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.entries: tuple[Used, ...] = ()

    def add(self, prompt: str, negative: str) -> bool:
        """Remember that these were used; False when there is nothing new."""
        if not prompt.strip():
            return False
        known = next((entry for entry in self.entries if entry.key == (prompt, negative)), None)
        if known is not None and self.entries[0] is known:
            return False
        new = known or Used(prompt, negative)
        self.entries = _bounded((new, *(entry for entry in self.entries if entry is not known)))
        return True

    def set_favourite(self, key: tuple[str, str], on: bool) -> None:
        """Star a prompt, or take the star away."""
        changed = tuple(Used(*entry.key, on) if entry.key == key else entry for entry in self.entries)
        self.entries = _bounded(changed)

    def forget(self, key: tuple[str, str]) -> None:
        """Take a prompt out of the history."""
        self.entries = tuple(entry for entry in self.entries if entry.key != key)

    def search(self, words: str, favourites_only: bool = False) -> list[Used]:
        """Entries that contain every word, newest first."""
        wanted = words.lower().split()
        return [
            entry
            for entry in self.entries
            if (entry.favourite or not favourites_only)
            and all(word in entry.prompt.lower() or word in entry.negative.lower() for word in wanted)
        ]

    def load(self) -> None:
        """Read the file; what was used meanwhile stays in front. A damaged file is an empty history."""
        try:
            if self._path.stat().st_size > MAX_FILE:
                raise ValueError("too large")
            data = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            if not isinstance(error, FileNotFoundError):
                log.warning("the prompt history was not read (%s)", error)
            return
        read = [_read(item) for item in data] if isinstance(data, list) else []
        ours = self.entries
        known = {entry.key for entry in ours}
        self.entries = _bounded((*ours, *(entry for entry in read if entry is not None and entry.key not in known)))

    def save(self) -> None:
        """Write the file as a whole or not at all."""
        data = [{"prompt": e.prompt, "negative": e.negative, "favourite": e.favourite} for e in self.entries]
        draft = self._path.with_name(f"{self._path.name}.{os.getpid()}.tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(data, ensure_ascii=True, indent=0), encoding="utf-8")
            draft.replace(self._path)
        except OSError as error:
            log.warning("the prompt history was not saved (%s)", error)


def _read(item: Any) -> Used | None:
    if not isinstance(item, dict):
        return None
    prompt, negative = item.get("prompt"), item.get("negative", "")
    if not isinstance(prompt, str) or not isinstance(negative, str) or not prompt.strip():
        return None
    if max(len(prompt), len(negative)) > MAX_PROMPT:
        return None
    return Used(prompt, negative, item.get("favourite") is True)


def _bounded(entries: tuple[Used, ...]) -> tuple[Used, ...]:
    kept, plain, stars = [], 0, 0
    for entry in entries:
        stars += entry.favourite
        plain += not entry.favourite
        if (stars <= MAX_FAVOURITES) if entry.favourite else (plain <= MAX_ENTRIES):
            kept.append(entry)
    return tuple(kept)
