# SPDX-License-Identifier: GPL-3.0-or-later
"""What uninstalling removes besides the plugin: the server's state folder and what was made in the checkout.

Models and pictures are the user's. Only names that our programs write are removed, because KRITA_SD_STATE may name a
folder that holds other things too.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterable
from pathlib import Path

from server.setup import Say, SetupError

STATE = ("token", "lock", "server.json", "journal.db*", "pictures", "*.log", "*.log.[0-9]")
# Made in the checkout by set-up, by the first picture, by --zip, and by the tools that the tests run.
CHECKOUT = (
    *(".venv", "krita_sd/_vendor", "krita_sd.egg-info", "build", "first-picture.png", "dist/krita_sd.zip"),
    *("tests/output", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"),
)


def refuse_while_serving(state: Path) -> None:
    """Raise SetupError when a server still works from this state folder."""
    try:
        port = int(json.loads((state / "server.json").read_text(encoding="utf-8"))["port"])
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return
    raise SetupError("The server is still running; close Krita, wait ten seconds and run this again.")


def remove_state(state: Path, say: Say) -> None:
    """Token, queue, inputs, unfetched results and logs; the folder too when nothing else is in it."""
    found = [path for pattern in STATE for path in state.glob(pattern)] if state.is_dir() else []
    remove(found)
    if found:
        say(f"removed the server's state from {state}")
        _drop_empty(state)


def remove_from_checkout(root: Path, say: Say) -> None:
    """Everything in the checkout that git does not know."""
    for name in CHECKOUT:
        if remove([root / name]):
            say(f"removed {root / name}")
    remove(root.rglob("__pycache__"))
    _drop_empty(root / "dist")


def remove_kritas(folder: Path, keys: Iterable[str], say: Say) -> None:
    """The Kritas that the tests have made for themselves, and nothing else that may lie in the folder."""
    names = [name for key in keys for name in (key, f"{key}.part", f"{key}.log", f".{key}.lock")]
    if remove(folder / name for name in names):
        say(f"removed the Kritas of the tests from {folder}")
        _drop_empty(folder)


def remove(paths: Iterable[Path]) -> bool:
    """Remove files, links (not what they point to) and folders; True when one was there."""
    was_there = False
    for path in list(paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.exists() or path.is_symlink():
            path.unlink()
        else:
            continue
        was_there = True
    return was_there


def _drop_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
