# SPDX-License-Identifier: GPL-3.0-or-later
"""Which Kritas the tests run in: the installed one, and those that tests/krita/make_krita.py makes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from server.setup import Say, SetupError
from server.setup.environment import clean_environment, last_line

KEYS = ("5.1", "5.2", "5.3", "6")
"""How the versions begin that make_krita.py knows, oldest first."""

NEWEST = KEYS[-1]
TOOLS = {"debootstrap": "debootstrap debian-archive-keyring"}
"""What making a folder needs: program -> Debian's packages."""


@dataclass(frozen=True)
class Target:
    """A Krita to test in: the installed one (key "") or the folder that is made for `key`."""

    key: str = ""


def installed_krita() -> str | None:
    """The version of the krita on PATH, as its package or the program says; None without one."""
    if shutil.which("krita") is None:
        return None
    environment = clean_environment() | {"QT_QPA_PLATFORM": "offscreen"}
    try:
        said = subprocess.run(
            ["krita", "--version"], env=environment, capture_output=True, text=True, timeout=60
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        said = ""
    match = re.search(r"\d+\.\d+(\.\d+)*", said)
    if match is None and shutil.which("dpkg-query"):
        command = ["dpkg-query", "--show", "--showformat=${source:Upstream-Version}", "krita"]
        match = re.search(r"\d+\.\d+(\.\d+)*", subprocess.run(command, capture_output=True, text=True).stdout)
    return match[0] if match else "of unknown version"


def begins(version: str, beginning: str) -> bool:
    """Whether `version` is `beginning` or a closer description of it: 5.2.9 begins with 5.2, 5.21 does not."""
    return f"{version}.".startswith(f"{beginning.rstrip('.')}.")


def targets(wanted: str, installed: str | None) -> list[Target]:
    """The Kritas that `--krita WANTED` means: a version, "newest", "installed" or "all". Raises SetupError.

    The installed one is taken for its version; for every other version a folder is made.
    """
    if wanted == "all":
        return [found for key in KEYS for found in targets(key, installed)]
    if wanted == "newest":
        wanted = NEWEST
    if wanted == "installed" or (installed is not None and begins(installed, wanted)):
        return [Target()]
    keys = [key for key in KEYS if begins(wanted, key)]
    if not keys:
        known = f"installed ({installed or 'none is'}), all, newest, {', '.join(KEYS)}"
        raise SetupError(f"There is no Krita {wanted} to test in; --krita takes {known}.")
    return [Target(keys[0])]


def cache_folder(env: Mapping[str, str], home: Path) -> Path:
    """Where make_krita.py keeps the folders."""
    if "KRITA_SD_KRITAS" in env:
        return Path(env["KRITA_SD_KRITAS"])
    return Path(env.get("XDG_CACHE_HOME") or home / ".cache") / "krita-sd" / "kritas"


def can_make() -> bool:
    """Whether a folder with another Krita can be made here: as root on Debian and what descends from it."""
    return hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get") is not None


@dataclass(frozen=True)
class Folder:
    """A Krita in a folder, and the version that is really in it."""

    root: Path
    version: str


class Making:
    """Makes the folders of `targets` one after the other while other work goes on."""

    def __init__(self, project: Path, targets: Sequence[Target], say: Say) -> None:
        self._project, self._say = project, say
        self._pool = ThreadPoolExecutor(max_workers=1)
        keys = [target.key for target in targets if target.key]
        self._made: dict[str, Future[Folder]] = {key: self._pool.submit(self._make, key) for key in keys}

    def wait(self, target: Target) -> Folder:
        """The folder, once it is there. Raises SetupError with the reason why it cannot be made."""
        return self._made[target.key].result()

    def close(self) -> None:
        """Begin no further one."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _make(self, key: str) -> Folder:
        command = [sys.executable, str(self._project / "tests" / "krita" / "make_krita.py"), key, "--json"]
        process = subprocess.Popen(
            ["nice", "-n", "5", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        last = ""
        for line in process.stdout:
            last = line.strip()
            if not last.startswith("{"):
                self._say(last)
        errors = process.stderr.read() if process.stderr else ""
        if process.wait():
            raise SetupError(f"Krita {key} could not be made: {last_line(errors).removeprefix('make_krita.py: ')}")
        told = json.loads(last)
        return Folder(Path(told["root"]), str(told["version"]))
