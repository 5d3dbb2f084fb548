# SPDX-License-Identifier: GPL-3.0-or-later
"""Folders of other programs: where in them the models lie, and what a model in a hub cache is called.

A painter points at the folder of a program that they have. Walking all of it would list pictures' and programs'
files for minutes; its models are in known places.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_HUB_PREFIX = "models--"


@dataclass(frozen=True)
class Layout:
    """`program`: whose folder it is ("" for a plain one). `roots`: what to walk in it."""

    program: str
    roots: tuple[Path, ...]


def layout_of(folder: Path) -> Layout:
    """How that folder is arranged. Looks at a few names in it; a folder that cannot be read is a plain one."""
    models = folder / "models"
    if (folder / "invokeai.yaml").is_file():
        return Layout("InvokeAI", (_invoke_models(folder),))
    if (models / "Stable-diffusion").is_dir():
        return Layout("Stable Diffusion web UI", (models, folder / "embeddings"))
    if (models / "checkpoints").is_dir() or (models / "diffusion_models").is_dir():
        return Layout("ComfyUI", (models,))
    for hub in (folder, folder / "hub"):
        revisions = _hub_revisions(hub)
        if revisions:
            return Layout("Hugging Face cache", revisions)
    return Layout("", (folder,))


def title_of(folder: Path) -> str:
    """What to call a model in that folder: its name, or the repository's where the folder is a revision of one."""
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith(_HUB_PREFIX):
        return repository.rpartition("--")[2]
    return folder.name


def _invoke_models(folder: Path) -> Path:
    """`models_dir` of invokeai.yaml: a top-level line of it; "models" when it says nothing."""
    try:
        lines = (folder / "invokeai.yaml").read_text(encoding="utf-8", errors="replace")[:100_000].splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        value = value.partition(" #")[0].strip().strip("\"'")
        if key == "models_dir" and value:
            return folder / value
    return folder / "models"


def _hub_revisions(hub: Path) -> tuple[Path, ...]:
    """The current revision of every repository in a hub cache: `refs/main` names it; else the newest."""
    try:
        with os.scandir(hub) as entries:
            repositories = sorted(entry.path for entry in entries if entry.name.startswith(_HUB_PREFIX))
    except OSError:
        return ()
    found = (_revision(Path(repository)) for repository in repositories)
    return tuple(path for path in found if path is not None)


def _revision(repository: Path) -> Path | None:
    snapshots = repository / "snapshots"
    try:
        named = (repository / "refs" / "main").read_text(encoding="ascii").strip()
        if named.isalnum() and (snapshots / named).is_dir():
            return snapshots / named
    except (OSError, ValueError):
        pass  # no such reference: another branch was fetched
    try:
        revisions = [path for path in snapshots.iterdir() if path.is_dir()]
        return max(revisions, key=lambda path: path.stat().st_mtime_ns) if revisions else None
    except OSError:
        return None
