# SPDX-License-Identifier: GPL-3.0-or-later
"""Where Krita keeps its resources and its settings on each system, and how it is started."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from server.setup import SetupError, kritarc


@dataclass(frozen=True)
class Place:
    """One Krita: its resource folder (holds pykrita/), its kritarc, and whether a missing kritarc is made."""

    name: str
    resources: Path
    kritarc: Path | None
    make_kritarc: bool = True


def known_places(system: str, env: Mapping[str, str], home: Path) -> list[Place]:
    """Every place where a Krita of this system may keep things, the ordinary one first. Nothing needs to exist.

    `system` as `platform.system()` says; `env` supplies the XDG and Windows folders.
    """
    if system == "Windows":
        roaming = Path(env.get("APPDATA") or home / "AppData" / "Roaming")
        local = Path(env.get("LOCALAPPDATA") or home / "AppData" / "Local")
        places = [Place("Krita", roaming / "krita", local / "kritarc")]
        for package in sorted((local / "Packages").glob("*Krita_*")):
            cache = package / "LocalCache"
            places.append(
                Place("Krita from the Windows Store", cache / "Roaming" / "krita", cache / "Local" / "kritarc")
            )
        return places
    if system == "Darwin":
        library = home / "Library"
        return [Place("Krita", library / "Application Support" / "krita", library / "Preferences" / "kritarc")]
    data = Path(env.get("XDG_DATA_HOME") or home / ".local" / "share")
    config = Path(env.get("XDG_CONFIG_HOME") or home / ".config")
    flatpak = home / ".var" / "app" / "org.kde.krita"
    snap = home / "snap" / "krita" / "current"
    return [
        Place("Krita", data / "krita", config / "kritarc"),
        Place("Krita from Flathub", flatpak / "data" / "krita", flatpak / "config" / "kritarc"),
        Place("Krita from the Snap Store", snap / ".local/share/krita", snap / ".config/kritarc"),
    ]


def find_places(system: str, env: Mapping[str, str], home: Path) -> list[Place]:
    """The places in use, with Krita's own "resource folder" setting obeyed; the ordinary one when none is in use."""
    places = known_places(system, env, home)
    used = [place for place in places if place.resources.is_dir() or (place.kritarc and place.kritarc.is_file())]
    if places[0] not in used and find_program(system, env) == ["krita"]:
        used.insert(0, places[0])
    return [_moved(place, home) for place in used or places[:1]]


def given_place(folder: Path, system: str, env: Mapping[str, str], home: Path) -> Place:
    """The place named by --krita-dir: `folder` contains pykrita/. Its kritarc is used only if it exists.

    Looked for inside the folder, then where the systems put it relative to a resource folder
    (.local/share/krita and .config, data/krita and config, Roaming and Local, Application Support and Preferences).
    """
    folder = folder.expanduser().absolute()
    if folder.name == "pykrita":
        folder = folder.parent
    if folder.exists() and not folder.is_dir():
        raise SetupError(f"{folder} is a file; --krita-dir takes the folder that contains pykrita.")
    for place in known_places(system, env, home):
        if place.resources == folder:
            return Place(place.name, folder, place.kritarc, make_kritarc=False)
    above, twice = folder.parent, folder.parent.parent
    candidates = [
        folder / "kritarc",
        above / "kritarc",
        twice / "config" / "kritarc",
        twice.parent / ".config" / "kritarc",
        twice / "Local" / "kritarc",
        twice / "Preferences" / "kritarc",
    ]
    found = next((path for path in candidates if path.is_file()), None)
    return Place("the given folder", folder, found, make_kritarc=False)


def find_program(system: str, env: Mapping[str, str]) -> list[str] | None:
    """The command that starts Krita, or None. Flatpak and snap are found by the commands they put on PATH."""
    path = env.get("PATH")
    if shutil.which("krita", path=path):
        return ["krita"]
    if system == "Linux" and shutil.which("org.kde.krita", path=path):
        return ["org.kde.krita"]
    if system == "Linux" and shutil.which("flatpak", path=path):
        home = Path(env.get("HOME") or "~").expanduser()
        for exports in (home / ".local/share/flatpak/app", Path("/var/lib/flatpak/app")):
            if (exports / "org.kde.krita").exists():
                return ["flatpak", "run", "org.kde.krita"]
    if system == "Darwin" and Path("/Applications/krita.app").exists():
        return ["/Applications/krita.app/Contents/MacOS/krita"]
    if system == "Windows":
        for root in (env.get("ProgramFiles"), env.get("ProgramW6432")):
            program = Path(root or "") / "Krita (x64)" / "bin" / "krita.exe"
            if root and program.exists():
                return [str(program)]
    return None


def program_environment(env: Mapping[str, str]) -> dict[str, str]:
    """An environment in which Krita's own Python and Qt find their own files."""
    unwanted = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "QT_PLUGIN_PATH", "QML2_IMPORT_PATH")
    return {name: value for name, value in env.items() if name not in unwanted}


def _moved(place: Place, home: Path) -> Place:
    """Krita can keep its resources elsewhere (Settings, General, Resources); kritarc then says where."""
    if place.kritarc is None or not place.kritarc.is_file():
        return place
    named = kritarc.value(place.kritarc.read_text("utf-8", "replace"), "ResourceDirectory")
    if not named:
        return place
    folder = Path(os.path.expanduser(named.replace("$HOME", str(home))))
    return Place(place.name, folder, place.kritarc) if folder.is_dir() else place
