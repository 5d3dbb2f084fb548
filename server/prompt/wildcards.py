# SPDX-License-Identifier: GPL-3.0-or-later
"""Wildcard files: `wildcards/animals.txt` beside the models is called `__animals__`; one choice per line.

Names come from a look at the folders and never take part in building a path. Lines that are empty or begin with # do
not count. Files in sub-folders are called by their path (`__places/towns__`), and by their name where it is unique.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)

FOLDER = "wildcards"
MAX_BYTES = 4 * 1024**2
MAX_FILES = 5000


class Wildcards:
    """The wildcard files under `<root>/wildcards` of every root. Files are read when used, and again when changed."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._roots = tuple(roots)
        self._files: dict[str, Path] = {}
        self._read: dict[Path, tuple[tuple[int, int], tuple[str, ...]]] = {}
        self.scan()

    def scan(self) -> None:
        """Look which files there are."""
        found: dict[str, Path] = {}
        short: dict[str, list[Path]] = {}
        for root in self._roots:
            base = root / FOLDER
            for folder, folders, names in os.walk(base):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                for name in sorted(names):
                    path = Path(folder, name)
                    if path.suffix.lower() != ".txt" or name.startswith(".") or len(found) >= MAX_FILES:
                        continue
                    found.setdefault(path.relative_to(base).with_suffix("").as_posix().lower(), path)
                    short.setdefault(path.stem.lower(), []).append(path)
        for stem, paths in short.items():
            if len(paths) == 1:
                found.setdefault(stem, paths[0])
        self._files = found

    @property
    def names(self) -> tuple[str, ...]:
        """What can stand between the underscores, in order."""
        return tuple(sorted(self._files))

    def lines(self, name: str) -> tuple[str, ...]:
        """The choices of a file; none when it does not exist or cannot be read."""
        path = self._files.get(name.strip().lower())
        if path is None:
            return ()
        try:
            stat = path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size)
            if path not in self._read or self._read[path][0] != stamp:
                with path.open("rb") as file:
                    text = file.read(MAX_BYTES).decode("utf-8-sig", "replace")
                self._read[path] = (stamp, _choices(text))
            return self._read[path][1]
        except OSError as error:
            log.warning("the wildcard file %s cannot be read: %s", path.name, error.strerror)
            return ()


def _choices(text: str) -> tuple[str, ...]:
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))
