# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the Kritas of a machine keep their resources and settings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from server.setup import SetupError, kritarc
from server.setup.krita_programs import APPIMAGE, FROM_FLATPAK, FROM_SNAP, Program, find_programs

FLATHUB, SNAP = "Krita from Flathub", "Krita from the Snap Store"


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
        Place(FLATHUB, flatpak / "data" / "krita", flatpak / "config" / "kritarc"),
        Place(SNAP, snap / ".local/share/krita", snap / ".config/kritarc"),
    ]


def find_places(
    system: str, env: Mapping[str, str], home: Path, programs: Sequence[Program] | None = None
) -> list[Place]:
    """The places in use and those of the Kritas found, with Krita's own "resource folder" setting obeyed.

    programs: the Kritas of this machine, if they are known already. Without any trace of a Krita, the ordinary place.
    """
    known = known_places(system, env, home)
    if programs is None:
        programs = find_programs(system, env, home)
    expected = [place_of(program, known, home) for program in programs]
    used = [place for place in known if place.resources.is_dir() or (place.kritarc and place.kritarc.is_file())]
    ordered = [place for place in known if place in used or place in expected]
    ordered += [place for place in expected if place not in ordered]
    return [_moved(place, home) for place in dict.fromkeys(ordered or known[:1])]


def place_of(program: Program, known: Sequence[Place], home: Path) -> Place:
    """Where that Krita keeps things. An AppImage does so in the ordinary place, unless folders lie beside it that are
    called as it is with .home (which is then its home) or .config at the end.
    """
    names = {FROM_FLATPAK: FLATHUB, FROM_SNAP: SNAP}
    place = next((place for place in known if place.name == names.get(program.kind)), known[0])
    if program.kind == APPIMAGE:
        own_home, own_config = (program.file.with_name(program.file.name + end) for end in (".home", ".config"))
        if own_home.is_dir():
            own = replace(place, name=f"{program.file.name} with a home of its own")
            place = replace(own, resources=own_home / ".local/share/krita", kritarc=own_home / ".config" / "kritarc")
        if own_config.is_dir():
            place = replace(place, kritarc=own_config / "kritarc")
    return place


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
