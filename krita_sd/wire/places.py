# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the server keeps its state and looks for models: the one answer that plugin, server and command line share."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

APP = "krita-sd"


def state_dir(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Folder of token, lock, queue, inputs, unacknowledged results, log and server.json. Not created here.

    `KRITA_SD_STATE` overrides it, so that a test or a second installation can live beside the first.
    """
    if override := environ.get("KRITA_SD_STATE"):
        return Path(override)
    return _base(environ, platform, "XDG_STATE_HOME", ".local/state") / APP


def default_models_dir(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Folder that is scanned for models when none is named. Not created here."""
    if override := environ.get("KRITA_SD_MODELS"):
        return Path(override)
    return _base(environ, platform, "XDG_DATA_HOME", ".local/share") / APP / "models"


def _base(environ: Mapping[str, str], platform: str, variable: str, fallback: str) -> Path:
    home = Path(environ.get("USERPROFILE" if platform == "win32" else "HOME") or os.path.expanduser("~"))
    if platform == "win32":
        return Path(environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    if platform == "darwin":
        return home / "Library" / "Application Support"
    # The XDG rules say that a relative path there must be ignored.
    given = environ.get(variable, "")
    return Path(given) if os.path.isabs(given) else home / fallback


MAX_FOLDERS = 50
"""Model folders that a painter can choose."""


def folders_file(state: Path) -> Path:
    """Where the painter's choice of model folders is kept. The plugin writes it and asks for a rescan; the server reads
    it before every scan. So a folder is chosen by whoever may write here, and no path ever crosses the wire."""
    return state / "folders.json"


def read_folders(state: Path) -> tuple[Path, ...]:
    """The chosen model folders, absolute, each once; () when there is no file or it is damaged."""
    try:
        data = json.loads(folders_file(state).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ()
    named = data.get("folders") if isinstance(data, dict) else None
    texts = [text for text in named if isinstance(text, str) and "\0" not in text] if isinstance(named, list) else []
    return tuple(Path(text) for text in dict.fromkeys(texts) if os.path.isabs(text))[:MAX_FOLDERS]


def folders_text(folders: Iterable[Path]) -> str:
    """What to write into `folders_file`."""
    return json.dumps({"folders": [str(folder) for folder in folders]}, indent=1) + "\n"


def folder_id(folder: Path) -> str:
    """The name under which the server tells about a model folder: the same on both sides, and it tells no path."""
    return hashlib.blake2b(str(folder).encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
