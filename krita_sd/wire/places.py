# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the server keeps its state and looks for models: the one answer that plugin, server and command line share."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
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
