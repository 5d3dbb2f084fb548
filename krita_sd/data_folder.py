# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder of this Krita process: settings, session and kept results, never shared with a second Krita.

Two processes with one session would take each other's connection away and receive each other's results.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from krita_sd import settings as store
from krita_sd.qt import QtCore

log = logging.getLogger(__name__)

MAX_PROCESSES = 64
SETTINGS = "settings.json"


def data_folder() -> Path:
    """Where Krita keeps its resources; ours in a folder below."""
    override = os.environ.get("KRITA_SD_SETTINGS")
    location = QtCore.QStandardPaths.StandardLocation.AppDataLocation
    return Path(override or Path(QtCore.QStandardPaths.writableLocation(location)) / "krita_sd")


def claim(base: Path) -> tuple[Path, Any]:
    """(folder, lock): `base`, or a folder below it when another Krita has that. Hold the lock as long as Krita runs.

    A further process begins with a copy of the settings, and keeps its own from then on.
    """
    for number in range(1, MAX_PROCESSES):
        folder = base if number == 1 else base / f"process-{number}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            log.warning("settings cannot be kept in %s (%s)", folder, error)
            return folder, None
        lock = QtCore.QLockFile(str(folder / "lock"))
        lock.setStaleLockTime(0)  # a lock is void when its process is gone, not when it is old
        if lock.tryLock(0):
            if number > 1:
                _inherit(base / SETTINGS, folder / SETTINGS)
            return folder, lock
        if lock.error() != QtCore.QLockFile.LockError.LockFailedError:
            return folder, None  # the folder cannot be written: there is nothing to share either
    return base, None


def _inherit(source: Path, target: Path) -> None:
    if source.exists() and not target.exists():
        # Without a session: loading it draws a new one.
        store.save(target, store.load(source).replace(session="", instance="", last_seq=0))
