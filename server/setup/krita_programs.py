# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds the Kritas that can be started on this machine: the system's, Flathub's, the Snap Store's, AppImages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

FLATPAK = "org.kde.krita"
ORDINARY, FROM_FLATPAK, FROM_SNAP, APPIMAGE = "ordinary", "flatpak", "snap", "appimage"
APPIMAGE_FOLDERS = ("Applications", "AppImages", ".local/bin", "bin", "Desktop", "Downloads", "")
"""Where people keep AppImages, below their home; the first hit of a folder is its newest version."""


@dataclass(frozen=True)
class Program:
    """kind: which of the places its files go to. name: for people. command: starts it. file: what was found."""

    kind: str
    name: str
    command: tuple[str, ...]
    file: Path


def find_programs(system: str, env: Mapping[str, str], home: Path) -> list[Program]:
    """Every Krita that was found, the ordinary one first. `system` as `platform.system()` says."""
    finders = {"Windows": _on_windows(env), "Darwin": _on_macos(home), "Linux": _on_linux(env, home)}
    return list(finders.get(system, _on_path(env)))


def _on_path(env: Mapping[str, str]) -> Iterator[Program]:
    found = shutil.which("krita", path=env.get("PATH"))
    if found and "snap" in Path(found).parts:
        yield Program(FROM_SNAP, "Krita from the Snap Store", ("krita",), Path(found))
    elif found:
        yield Program(ORDINARY, "Krita", ("krita",), Path(found))


def _on_linux(env: Mapping[str, str], home: Path) -> Iterator[Program]:
    yield from _on_path(env)
    data = Path(env.get("XDG_DATA_HOME") or home / ".local" / "share")
    exported = shutil.which(FLATPAK, path=env.get("PATH"))
    runner = shutil.which("flatpak", path=env.get("PATH"))
    installed = [data / "flatpak" / "app" / FLATPAK, Path("/var/lib/flatpak/app") / FLATPAK]
    folder = next((path for path in installed if path.exists()), None)
    if exported:
        yield Program(FROM_FLATPAK, "Krita from Flathub", (FLATPAK,), Path(exported))
    elif runner and folder:
        yield Program(FROM_FLATPAK, "Krita from Flathub", ("flatpak", "run", FLATPAK), folder)
    for name in APPIMAGE_FOLDERS:
        for path in _appimages(home / name):
            yield Program(APPIMAGE, "Krita AppImage", (str(path),), path)


def _appimages(folder: Path) -> list[Path]:
    """Krita's AppImages in one folder, the highest version first."""
    try:
        files = [path for path in folder.iterdir() if path.suffix.lower() == ".appimage" and path.is_file()]
    except OSError:
        return []
    return sorted((path for path in files if path.name.lower().startswith("krita")), key=_numbers, reverse=True)


def _numbers(path: Path) -> list[int]:
    return [int(part) for part in "".join(c if c.isdigit() else " " for c in path.name).split()]


def _on_macos(home: Path) -> Iterator[Program]:
    for folder in (Path("/Applications"), home / "Applications"):
        program = folder / "krita.app" / "Contents" / "MacOS" / "krita"
        if program.exists():
            yield Program(ORDINARY, "Krita", (str(program),), program)


def _on_windows(env: Mapping[str, str]) -> Iterator[Program]:
    roots = dict.fromkeys(filter(None, (env.get("ProgramFiles"), env.get("ProgramW6432"))))
    for root in roots:
        program = Path(root) / "Krita (x64)" / "bin" / "krita.exe"
        if program.exists():
            yield Program(ORDINARY, "Krita", (str(program),), program)
