# SPDX-License-Identifier: GPL-3.0-or-later
"""Krita's folders and its settings file, as install.py finds and edits them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.setup import kritarc
from server.setup.krita_places import Place, find_places, given_place, known_places, program_environment
from server.setup.krita_programs import find_programs

SETTINGS = {
    "empty": ("", "[python]\nenable_krita_sd=true\n"),
    "keys without a group": ("a=1\n", "a=1\n\n[python]\nenable_krita_sd=true\n"),
    "no last newline": ("[x]\na=1", "[x]\na=1\n\n[python]\nenable_krita_sd=true\n"),
    "group exists": ("[python]\nb=1\n[x]\n", "[python]\nenable_krita_sd=true\nb=1\n[x]\n"),
    "group ends the file": ("a=1\n[python]", "a=1\n[python]\nenable_krita_sd=true\n"),
    "was off": ("[python]\nenable_krita_sd=false\nb=1\n", "[python]\nenable_krita_sd=true\nb=1\n"),
    "fixed by the administrator": ("[python]\nenable_krita_sd[$i]=false", "[python]\nenable_krita_sd[$i]=true"),
    "same key elsewhere": (
        "[x]\nenable_krita_sd=false\n",
        "[x]\nenable_krita_sd=false\n\n[python]\nenable_krita_sd=true\n",
    ),
    "longer name": (
        "[python]\nenable_krita_sd_two=false\n",
        "[python]\nenable_krita_sd=true\nenable_krita_sd_two=false\n",
    ),
    "windows lines": ("a=1\r\n[x]\r\n", "a=1\r\n[x]\r\n\r\n[python]\r\nenable_krita_sd=true\r\n"),
    "subgroup": ("[python][x]\na=1\n", "[python][x]\na=1\n\n[python]\nenable_krita_sd=true\n"),
}


@pytest.mark.parametrize(("before", "after"), SETTINGS.values(), ids=SETTINGS.keys())
def test_plugin_is_switched_on_and_nothing_else_changes(before: str, after: str) -> None:
    assert kritarc.enable(before) == after
    assert kritarc.enable(after) == after


LINE = st.sampled_from(
    ["a=1", "", "[x]", "[python]", "enable_other=true", "b[$e]=$HOME/ü", "\x0cc=2", "d=\u2028x", "  e = 3", "#n"]
)


@given(st.lists(LINE), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_switching_on_adds_lines_and_switching_off_takes_them_back(lines: list[str], end: str, closed: bool) -> None:
    text = end.join(lines) + (end if lines and closed else "")
    on = kritarc.enable(text)
    assert "enable_krita_sd=true" in on
    assert kritarc.enable(on) == on
    rest = iter(on.split("\n"))
    assert all(line.rstrip("\r") in (found.rstrip("\r") for found in rest) for line in text.split("\n") if line.strip())
    off = kritarc.disable(on)
    assert "enable_krita_sd" not in off
    if "[python]" not in lines:
        assert off in (text, text + "\n", text + end)


def test_switching_off_keeps_other_plugins() -> None:
    assert kritarc.disable("[python]\nenable_a=true\nenable_krita_sd=true\n[z]\n") == "[python]\nenable_a=true\n[z]\n"
    assert kritarc.disable("[z]\na=1\n") == "[z]\na=1\n"


def test_edit_keeps_bytes_that_are_no_text_the_mode_and_a_link(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_bytes(b"name=\xff\xfe\r\n")
    real.chmod(0o640)
    link = tmp_path / "kritarc"
    link.symlink_to(real)
    assert kritarc.edit(link, "enable")
    assert real.read_bytes() == b"name=\xff\xfe\r\n\r\n[python]\r\nenable_krita_sd=true\r\n"
    assert link.is_symlink() and real.stat().st_mode & 0o777 == 0o640
    assert not kritarc.edit(link, "enable")
    assert kritarc.edit(link, "disable")
    assert real.read_bytes() == b"name=\xff\xfe\r\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kritarc", "real"]


HOME = Path("/home/p")
FOLDERS: list[tuple[str, dict[str, str], str, str]] = [
    ("Linux", {}, "/home/p/.local/share/krita", "/home/p/.config/kritarc"),
    ("Linux", {"XDG_DATA_HOME": "/d", "XDG_CONFIG_HOME": "/c"}, "/d/krita", "/c/kritarc"),
    ("Linux", {"XDG_DATA_HOME": ""}, "/home/p/.local/share/krita", "/home/p/.config/kritarc"),
    ("Windows", {"APPDATA": "/r", "LOCALAPPDATA": "/l"}, "/r/krita", "/l/kritarc"),
    ("Windows", {}, "/home/p/AppData/Roaming/krita", "/home/p/AppData/Local/kritarc"),
    ("Darwin", {}, "/home/p/Library/Application Support/krita", "/home/p/Library/Preferences/kritarc"),
]


@pytest.mark.parametrize(("system", "env", "resources", "settings"), FOLDERS)
def test_the_ordinary_place_of_each_system(system: str, env: dict[str, str], resources: str, settings: str) -> None:
    first = known_places(system, env, HOME)[0]
    assert (first.resources, first.kritarc) == (Path(resources), Path(settings))


def test_packaged_kritas_are_found_by_their_folders(tmp_path: Path) -> None:
    nowhere = {"PATH": ""}
    assert [place.name for place in find_places("Linux", nowhere, tmp_path)] == ["Krita"]
    (tmp_path / ".var/app/org.kde.krita/data/krita").mkdir(parents=True)
    flatpak = find_places("Linux", nowhere, tmp_path)
    assert [place.name for place in flatpak] == ["Krita from Flathub"]
    assert flatpak[0].kritarc == tmp_path / ".var/app/org.kde.krita/config/kritarc"
    (tmp_path / ".local/share/krita").mkdir(parents=True)
    assert len(find_places("Linux", nowhere, tmp_path)) == 2


def script(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def found(env: dict[str, str], home: Path) -> list[tuple[str, Path, Path | None]]:
    return [(place.name, place.resources, place.kritarc) for place in find_places("Linux", env, home)]


def test_every_krita_of_a_home_is_found_with_its_folder(tmp_path: Path) -> None:
    """None of them was started yet: no folder of theirs is there to give them away."""
    home = tmp_path / "home"
    env = {"PATH": str(tmp_path / "bin")}
    script(tmp_path / "bin/krita")
    script(tmp_path / "bin/org.kde.krita")
    plain = script(home / "Downloads/krita-5.2.9-x86_64.AppImage")
    alone = script(home / "Applications/krita-6.0.4-x86_64.appimage")
    script(home / "Downloads/inkscape.AppImage")
    (home / "Applications/krita-6.0.4-x86_64.appimage.home").mkdir()
    programs = find_programs("Linux", env, home)
    assert [program.file for program in programs] == [
        *(tmp_path / "bin/krita", tmp_path / "bin/org.kde.krita"),
        *(alone, plain),
    ]
    assert programs[0].command == ("krita",) and programs[2].command == (str(alone),)
    flatpak, own = home / ".var/app/org.kde.krita", alone.with_name(alone.name + ".home")
    assert found(env, home) == [
        ("Krita", home / ".local/share/krita", home / ".config/kritarc"),
        ("Krita from Flathub", flatpak / "data/krita", flatpak / "config/kritarc"),
        (f"{alone.name} with a home of its own", own / ".local/share/krita", own / ".config/kritarc"),
    ]


def test_an_appimage_alone_uses_the_ordinary_place_or_its_own_settings(tmp_path: Path) -> None:
    home, env = tmp_path / "home", {"PATH": "", "XDG_DATA_HOME": str(tmp_path / "data")}
    program = script(home / "Desktop/krita.AppImage")
    assert found(env, home) == [("Krita", tmp_path / "data/krita", home / ".config/kritarc")]
    settings = program.with_name(program.name + ".config")
    settings.mkdir()
    assert found(env, home) == [("Krita", tmp_path / "data/krita", settings / "kritarc")]


def test_a_flatpak_is_found_by_its_installation_when_its_command_is_not_on_the_path(tmp_path: Path) -> None:
    home, env = tmp_path / "home", {"PATH": str(tmp_path / "bin")}
    (home / ".local/share/flatpak/app/org.kde.krita").mkdir(parents=True)
    assert find_programs("Linux", env, home) == []
    script(tmp_path / "bin/flatpak")
    assert find_programs("Linux", env, home)[0].command == ("flatpak", "run", "org.kde.krita")
    assert [name for name, *_ in found(env, home)] == ["Krita from Flathub"]


def test_a_snap_keeps_its_things_in_the_snaps_folder(tmp_path: Path) -> None:
    script(tmp_path / "snap/bin/krita")
    env = {"PATH": str(tmp_path / "snap/bin")}
    assert found(env, HOME) == [
        (
            "Krita from the Snap Store",
            HOME / "snap/krita/current/.local/share/krita",
            HOME / "snap/krita/current/.config/kritarc",
        )
    ]


def test_the_newest_appimage_of_a_folder_comes_first(tmp_path: Path) -> None:
    for name in ("krita-5.2.9.AppImage", "krita-5.2.11.AppImage", "krita-5.10.0.AppImage"):
        script(tmp_path / "AppImages" / name)
    names = [program.file.name for program in find_programs("Linux", {"PATH": ""}, tmp_path)]
    assert names == ["krita-5.10.0.AppImage", "krita-5.2.11.AppImage", "krita-5.2.9.AppImage"]


def test_a_moved_resource_folder_is_obeyed(tmp_path: Path) -> None:
    (tmp_path / ".config").mkdir()
    (tmp_path / "art").mkdir()
    (tmp_path / ".config/kritarc").write_text("ResourceDirectory[$e]=$HOME/art\n[x]\nResourceDirectory=/no\n")
    assert find_places("Linux", {"PATH": ""}, tmp_path)[0].resources == tmp_path / "art"


@pytest.mark.parametrize(
    ("folder", "settings"),
    [
        ("data/krita", "config/kritarc"),
        (".local/share/krita", ".config/kritarc"),
        ("Roaming/krita", "Local/kritarc"),
        ("Library/Application Support/krita", "Library/Preferences/kritarc"),
        ("anything", "anything/kritarc"),
    ],
)
def test_a_given_folder_uses_its_own_kritarc_only_if_there_is_one(tmp_path: Path, folder: str, settings: str) -> None:
    resources = tmp_path / folder
    env = {"XDG_CONFIG_HOME": str(tmp_path / "elsewhere")}
    assert given_place(resources, "Linux", env, HOME) == Place("the given folder", resources, None, False)
    (tmp_path / settings).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / settings).touch()
    assert given_place(resources / "pykrita", "Linux", env, HOME).kritarc == tmp_path / settings


def test_krita_is_started_without_our_python() -> None:
    env = {"PYTHONHOME": "x", "VIRTUAL_ENV": "y", "QT_PLUGIN_PATH": "z", "DISPLAY": ":1"}
    assert program_environment(env) == {"DISPLAY": ":1"}
