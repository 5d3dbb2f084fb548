# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m server models`: what was found, its family and size, whether it is usable and why not."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from krita_sd.wire.places import default_models_dir, read_folders, state_dir
from server.library import Library


def model_folders(given: Sequence[Path] | None) -> tuple[Path, ...]:
    """The folders that were named, or the default one, which need not exist yet. A server reads the painter's choice
    beside them by itself, at every scan."""
    return tuple(given) if given else (default_models_dir(),)


def present_folders(given: Sequence[Path] | None) -> tuple[Path, ...]:
    """For a command without a server: the folders that were named, or the default one and those that were chosen in the
    docker; without those that do not exist."""
    folders = tuple(given) if given else (default_models_dir(), *read_folders(state_dir()))
    return tuple(folder for folder in folders if folder.is_dir())


def list_models(arguments: argparse.Namespace) -> str:
    """The text for stdout."""
    library = Library(present_folders(arguments.models))
    library.scan()
    if arguments.json:
        return json.dumps({"models": [{**entry.to_json(), "path": str(entry.path)} for entry in library.entries]})
    if not library.entries:
        return "No models were found."
    lines = []
    for entry in library.entries:
        size = f"{entry.size / 1024**2:.0f} MiB"
        lines.append(f"{entry.id}  {entry.name}  {entry.kind} {entry.family}  {size}  {entry.problem or 'usable'}")
    return "\n".join(lines)
