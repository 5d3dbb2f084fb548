# SPDX-License-Identifier: GPL-3.0-or-later
"""install.py: the plugin's copy in Krita, the vendored library, the command line, the test command."""

from __future__ import annotations

import hashlib
import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from server.setup import SetupError, checks, extras, krita_report, kritas, leftovers, vendor
from server.setup.environment import Environment, PipRun
from server.setup.krita_places import Place, given_place
from server.setup.plugin import install_plugin, pack, plugin_files, remove_plugin, version

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small project of the real shape, with two files that belong nowhere near Krita."""
    root = tmp_path / "checkout"
    for name, text in {
        "krita_sd/__init__.py": "",
        "krita_sd/wire/version.py": 'VERSION = "7.8.9"\n',
        "krita_sd/dock/panel.py": "x = 1\n",
        "krita_sd/krita_sd.desktop": "[Desktop Entry]\nX-KDE-Library=krita_sd\nName=Krita SD\n",
        "krita_sd/krita_sd.action": "<ActionCollection/>\n",
        "krita_sd/dock/__pycache__/panel.pyc": "",
        "krita_sd/local.json": "{}",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every path below `folder` with its bytes (None for folders)."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def test_install_twice_is_install_once_and_uninstall_leaves_nothing(checkout: Path, tmp_path: Path) -> None:
    resources, settings = tmp_path / "data" / "krita", tmp_path / "config" / "kritarc"
    (resources / "pykrita" / "other").mkdir(parents=True)
    (resources / "pykrita" / "other.desktop").write_text("x")
    settings.parent.mkdir()
    settings.write_text("a=1\n")
    before = snapshot(tmp_path)
    place = Place("Krita", resources, settings)
    made = install_plugin(checkout, Path("/env/bin/python"), place)
    assert made == [str(resources / "actions")]
    once = snapshot(tmp_path)
    new = set(once) - set(before)
    assert new == {
        "data/krita/actions",
        "data/krita/actions/krita_sd.action",
        "data/krita/pykrita/krita_sd.desktop",
        "data/krita/pykrita/krita_sd",
        "data/krita/pykrita/krita_sd/__init__.py",
        "data/krita/pykrita/krita_sd/dock",
        "data/krita/pykrita/krita_sd/dock/panel.py",
        "data/krita/pykrita/krita_sd/local.json",
        "data/krita/pykrita/krita_sd/wire",
        "data/krita/pykrita/krita_sd/wire/version.py",
    }
    local = json.loads(once["data/krita/pykrita/krita_sd/local.json"] or b"")
    assert local == {"python": "/env/bin/python", "root": str(checkout), "version": "7.8.9"}
    assert install_plugin(checkout, Path("/env/bin/python"), place) == []
    assert snapshot(tmp_path) == once
    assert remove_plugin(place, made)
    assert snapshot(tmp_path) == before
    assert not remove_plugin(place, made)


def test_uninstalling_takes_the_state_but_no_model(tmp_path: Path) -> None:
    for name in ("token", "server.json", "journal.db-wal", "start.log", "models/a.safetensors", "mine.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "pictures" / "ab").mkdir(parents=True)
    leftovers.remove_state(tmp_path, lambda _: None)
    assert set(snapshot(tmp_path)) == {"models", "models/a.safetensors", "mine.png"}


def test_nothing_is_uninstalled_under_a_running_server(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        (tmp_path / "server.json").write_text(json.dumps({"port": listener.getsockname()[1]}))
        with pytest.raises(SetupError, match="still running"):
            leftovers.refuse_while_serving(tmp_path)
    leftovers.refuse_while_serving(tmp_path)
    (tmp_path / "server.json").write_text('{"port": "x"}')
    leftovers.refuse_while_serving(tmp_path)


def test_a_new_version_leaves_no_file_of_the_old_one(checkout: Path, tmp_path: Path) -> None:
    place = Place("Krita", tmp_path / "krita", None)
    install_plugin(checkout, Path("p"), place)
    (checkout / "krita_sd/dock/panel.py").unlink()
    (checkout / "krita_sd/dock/panel2.py").touch()
    install_plugin(checkout, Path("p"), place)
    assert [path.name for path in (tmp_path / "krita/pykrita/krita_sd/dock").iterdir()] == ["panel2.py"]
    assert sorted(path.name for path in (tmp_path / "krita/pykrita").iterdir()) == ["krita_sd", "krita_sd.desktop"]


def test_a_missing_kritarc_is_made_in_the_ordinary_place_only(checkout: Path, tmp_path: Path) -> None:
    settings = tmp_path / "c" / "kritarc"
    install_plugin(checkout, Path("p"), Place("given", tmp_path / "krita", settings, make_kritarc=False))
    assert not settings.exists()
    place = Place("Krita", tmp_path / "krita2", settings)
    made = install_plugin(checkout, Path("p"), place)
    assert settings.read_text() == "[python]\nenable_krita_sd=true\n"
    remove_plugin(place, made)
    assert not settings.parent.exists() and not (tmp_path / "krita2").exists()


def test_a_developers_link_is_replaced_not_followed(checkout: Path, tmp_path: Path) -> None:
    pykrita = tmp_path / "krita" / "pykrita"
    pykrita.mkdir(parents=True)
    (pykrita / "krita_sd").symlink_to(checkout / "krita_sd", target_is_directory=True)
    place = Place("Krita", tmp_path / "krita", None)
    install_plugin(checkout, Path("p"), place)
    assert not (pykrita / "krita_sd").is_symlink()
    assert (checkout / "krita_sd/dock/panel.py").exists()
    remove_plugin(place, [])
    assert (checkout / "krita_sd/__init__.py").exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "krita").write_text("a file in the way")
    with pytest.raises(SetupError, match="could not be written"):
        install_plugin(checkout, Path("p"), Place("Krita", tmp_path / "krita", None))
    with pytest.raises(SetupError, match="is a file"):
        given_place(tmp_path / "krita", "Linux", {}, tmp_path)


def test_the_archive_is_what_kritas_importer_looks_for(checkout: Path, tmp_path: Path) -> None:
    archive = tmp_path / "dist" / "krita_sd.zip"
    pack(checkout, archive)
    names = zipfile.ZipFile(archive).namelist()
    # The importer wants the folder's own entry, its __init__.py, and desktop and action files by name.
    assert "krita_sd/" in names and "krita_sd/__init__.py" in names
    assert "krita_sd.desktop" in names and "krita_sd.action" in names
    assert not [name for name in names if "local.json" in name or "__pycache__" in name]


IMPORTER = Path("/usr/share/krita/pykrita/plugin_importer/plugin_importer.py")


@pytest.mark.skipif(not IMPORTER.exists(), reason="needs the importer of an installed Krita")
def test_kritas_own_importer_takes_the_archive_of_this_project(tmp_path: Path) -> None:
    archive, resources = tmp_path / "krita_sd.zip", tmp_path / "resources"
    pack(ROOT, archive)
    resources.mkdir()
    subprocess.run([sys.executable, IMPORTER, archive, resources], check=True, capture_output=True)
    imported = {path.relative_to(resources).as_posix() for path in resources.rglob("*") if path.is_file()}
    assert imported == set(plugin_files(ROOT))


def test_version_is_the_one_of_the_plugin() -> None:
    from krita_sd.wire.version import VERSION

    assert version(ROOT) == VERSION


STRANGER = 'raise ImportError("another plugin\'s websockets was touched")\n'
USE = """
import sys
sys.path[:0] = sys.argv[1:]
import krita_sd._vendor.websockets as w
import krita_sd._vendor.websockets.sync.client as client
import krita_sd._vendor.websockets.asyncio.client
from krita_sd._vendor.websockets import ConnectionClosed, Headers, serve, connect   # lazily imported names
from krita_sd._vendor.websockets.sync.server import serve
import threading
assert not [name for name in sys.modules if name.split(".")[0] == "websockets"]
with serve(lambda c: c.send(c.recv()), "127.0.0.1", 0, compression=None) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with client.connect("ws://127.0.0.1:%d" % server.socket.getsockname()[1], compression=None, proxy=None) as c:
        c.send(b"x" * 300_000)
        assert c.recv() == b"x" * 300_000
assert not [name for name in sys.modules if name.split(".")[0] == "websockets"]
print(w.__name__, w.__version__ if hasattr(w, "__version__") else "")
"""


@pytest.fixture(scope="module")
def vendored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plugin folder with the pinned websockets: the checkout's copy, or fetched by the real pip."""
    if vendor.is_there(ROOT / "krita_sd"):
        return ROOT / "krita_sd"
    plugin = tmp_path_factory.mktemp("vendored") / "krita_sd"
    environment = Environment(Path(sys.prefix))
    vendor.bring_websockets(environment, plugin, lambda _: None)
    return plugin


def test_installed_plugin_uses_its_own_websockets_only(vendored: Path, checkout: Path, tmp_path: Path) -> None:
    shutil.copytree(vendored / "_vendor", checkout / "krita_sd" / "_vendor")
    install_plugin(checkout, Path("p"), Place("Krita", tmp_path / "krita", None))
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "websockets.py").write_text(STRANGER)
    subprocess.run(
        [sys.executable, "-I", "-c", USE, str(stranger), str(tmp_path / "krita" / "pykrita")], check=True, timeout=60
    )
    assert "Copyright" in (tmp_path / "krita/pykrita/krita_sd/_vendor/websockets/LICENSE").read_text()


def make_wheel(path: Path) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("websockets/__init__.py", "x = 1\n")
        archive.writestr("websockets/speedups.so", b"binary")
        archive.writestr("websockets-1.dist-info/licenses/LICENSE", "terms")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_only_the_pinned_wheel_is_unpacked(tmp_path: Path) -> None:
    wheel, plugin = tmp_path / "websockets-1-py3-none-any.whl", tmp_path / "krita_sd"
    right = make_wheel(wheel)
    with pytest.raises(SetupError, match="is not the file that was pinned"):
        vendor.unpack(wheel, plugin)
    assert not plugin.exists() or list(plugin.iterdir()) == []
    vendor.unpack(wheel, plugin, right)
    assert snapshot(plugin / "_vendor/websockets") == {"__init__.py": b"x = 1\n", "LICENSE": b"terms"}
    assert not vendor.is_there(plugin), "another wheel than the pinned one does not count"
    assert [path.name for path in plugin.iterdir()] == ["_vendor"]


class Asked(Environment):
    """An environment with extras; `complete`: they are there. What pip is told is kept, and not done."""

    def __init__(self, folder: Path, complete: bool = False, code: int = 0) -> None:
        super().__init__(folder)
        self.complete, self.code, self.told = complete, code, list[list[str]]()

    def held(self, *names: str) -> dict[str, dict[str, Any]]:
        wants = ["torch<3,>=2.8", 'spandrel<0.5,>=0.4.2; extra == "upscalers"', "einops<1,>=0.8; extra == 'upscalers'"]
        return {"krita-sd": {"version": "1", "requires": [*wants, 'pytest; extra == "test"']}}

    def satisfies(self, requirement: str) -> bool:
        return self.complete

    def pip(self, arguments: Sequence[str], say: Any, quiet: bool = False) -> PipRun:
        self.told.append(list(arguments))
        return PipRun(self.code, ["ERROR: no answer"])


def test_extras_come_without_what_they_ask_for_and_stay_asked_for(tmp_path: Path) -> None:
    environment, said = Asked(tmp_path), list[str]()
    extras.bring(environment, [], said.append)
    assert environment.told == [] and not environment.record_file.exists()
    extras.bring(environment, ["upscalers"], said.append)
    assert environment.told == [["install", "--no-deps", "spandrel<0.5,>=0.4.2", "einops<1,>=0.8"]]
    later = Asked(tmp_path)
    extras.bring(later, [], said.append)
    assert later.told == environment.told, "an update brings them again"
    complete = Asked(tmp_path, complete=True)
    extras.bring(complete, ["upscalers"], said.append)
    assert complete.told == [] and "already here" in said[-1]
    with pytest.raises(SetupError, match="no answer"):
        extras.bring(Asked(tmp_path, code=1), [], said.append)


def test_every_extra_that_is_offered_is_in_the_project() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name in extras.EXTRAS:
        listed = re.search(rf"(?m)^{name} = \[([^\]]*)\]", project)
        assert listed and "torchvision" not in listed[1]


def run_install(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "install.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | (env or {}),
    )


@pytest.mark.parametrize(
    "arguments",
    [["--torch", "gpu"], ["--nonsense"], ["--zip", "--test"], ["--krita", "5.2"], ["--krita-dir"], ["--with", "x"]],
)
def test_bad_arguments_end_with_two(arguments: list[str]) -> None:
    done = run_install(*arguments)
    assert done.returncode == 2 and "error:" in done.stderr and "Traceback" not in done.stderr


def test_a_krita_that_debian_does_not_have_is_refused_in_one_sentence() -> None:
    done = run_install("--test", "--krita", "4.4")
    assert done.returncode == 1
    assert done.stderr.startswith("install.py: There is no Krita 4.4 to test in") and done.stderr.count("\n") == 1


def test_the_kritas_that_a_word_means() -> None:
    made = [kritas.Target(key) for key in ("5.2", "5.3", "6")]
    assert kritas.targets("all", "5.1.5") == [kritas.Target(), *made]
    assert kritas.targets("all", "6.0.4") == [kritas.Target("5.1"), *made[:2], kritas.Target()]
    assert kritas.targets("6.0.4", "5.1.5") == kritas.targets("newest", None) == [kritas.Target("6")]
    assert kritas.targets("5.1", "5.1.5") == kritas.targets("installed", None) == [kritas.Target()]
    assert kritas.targets("5.2.9", "5.21.0") == [kritas.Target("5.2")]


def test_the_script_and_the_command_know_the_same_kritas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = runpy.run_path(str(ROOT / "tests" / "krita" / "make_krita.py"))
    assert tuple(make["RECIPES"]) == kritas.KEYS and make["NEWEST"] == kritas.NEWEST
    for settings in ({"XDG_CACHE_HOME": "/c"}, {"HOME": "/h"}, {"KRITA_SD_KRITAS": "/k"}):
        for name in ("XDG_CACHE_HOME", "KRITA_SD_KRITAS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        assert make["cache_folder"]() == kritas.cache_folder(os.environ, Path.home())


SOURCES = {
    "one line": (
        "sources.list",
        "# x\ndeb [arch=amd64] http://a/debian bookworm main\ndeb-src http://b/debian sid main\n",
    ),
    "stanza": (
        "sources.list.d/debian.sources",
        "Types: deb\nURIs: http://a/debian\nSuites: bookworm bookworm-updates\n\n"
        "Types: deb\nURIs: http://c/debian-security\nSuites: bookworm-security\n\n"
        "Types: deb\nEnabled: no\nURIs: http://d/debian\nSuites: sid\n",
    ),
}


@pytest.mark.parametrize(("name", "text"), SOURCES.values(), ids=SOURCES.keys())
def test_the_mirror_is_the_machines_own(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    assert runpy.run_path(str(ROOT / "tests" / "krita" / "make_krita.py"))["apt_mirrors"](tmp_path) == [
        "http://a/debian"
    ]


def test_an_index_past_its_date_is_noticed() -> None:
    is_past = runpy.run_path(str(ROOT / "tests" / "krita" / "make_krita.py"))["is_past"]
    index = "Origin: Debian\nDate: Fri, 30 Oct 2026 08:08:01 UTC\nValid-Until: Fri, 06 Nov 2026 08:08:01 UTC\n"
    until = 1793952481
    assert not is_past(index, until - 1) and is_past(index, until + 1)
    assert not is_past("Origin: Debian\n", until + 1)


@pytest.fixture
def nowhere() -> str:
    """The address of a mirror that cannot be reached."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}/debian"


@pytest.mark.skipif(shutil.which("debootstrap") is None or os.geteuid() != 0, reason="needs root and debootstrap")
def test_without_a_network_no_krita_is_made_and_one_sentence_says_so(
    nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIRROR", nowhere)
    monkeypatch.setenv("KRITA_SD_KRITAS", str(tmp_path))
    said: list[str] = []
    code = checks.run_kritas(tmp_path_with_script(tmp_path), Path(sys.executable), [kritas.Target("6")], said.append)
    assert code == 1 and said[-1] == "0 passed, 1 failed, 0 skipped"
    (sentence,) = [line for line in said if "could not be made" in line]
    assert "No Debian mirror with sid could be reached (" in sentence and "check the network" in sentence
    assert not (tmp_path / "6").exists()


def tmp_path_with_script(folder: Path) -> Path:
    """A project that has nothing but the script."""
    root = folder / "project"
    (root / "tests" / "krita").mkdir(parents=True)
    shutil.copyfile(ROOT / "tests" / "krita" / "make_krita.py", root / "tests" / "krita" / "make_krita.py")
    return root


def test_a_finished_folder_is_used_again_and_tested_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is a fake; the script, the waiting and the table are the real ones."""
    monkeypatch.setenv("KRITA_SD_KRITAS", str(tmp_path))
    (tmp_path / "6").mkdir()
    note = {"root": str(tmp_path / "6"), "version": "6.0.4.1", "seconds": 99.0, "megabytes": 1250}
    (tmp_path / "6" / "krita-sd.json").write_text(json.dumps(note))
    root = tmp_path_with_script(tmp_path)
    (root / "tests" / "krita" / "test_x.py").write_text(
        f"import os\ndef test_x():\n    assert os.environ['KRITA_SD_KRITA'] == {note['root']!r}\n"
    )
    said: list[str] = []
    assert checks.run_kritas(root, Path(sys.executable), [kritas.Target("6")], said.append) == 0
    assert f"Krita 6.0.4.1 is in {note['root']} (1250 MB, made once in 99 s)" in said
    assert [line.split()[:5] for line in said if line.startswith("6.0.4.1")] == [["6.0.4.1", "ok", "1", "0", "0"]]


FOUND = """<testsuites><testsuite tests="5" failures="1" errors="0" skipped="1">
<testcase name="test_a_stroke_during_previews_is_the_same_stroke"/>
<testcase name="test_a_stroke_while_the_result_arrives_is_the_same_stroke"><failure/></testcase>
<testcase name="test_the_stroke_is_the_same_and_frames_follow_it"><skipped/></testcase>
<testcase name="test_block"><properties><property name="longest block ms" value="31.5"/></properties></testcase>
<testcase name="test_other"/></testsuite></testsuites>"""


def test_the_table_tells_strokes_and_blocks(tmp_path: Path) -> None:
    (tmp_path / "r.xml").write_text(FOUND)
    found = krita_report.found_in(tmp_path / "r.xml")
    assert found.cells == ("1 of 2", "31.5", "-", "-")
    assert krita_report.found_in(tmp_path / "none.xml").cells == ("-", "-", "-", "-")
    head, line = checks.table([checks.Outcome("krita 6.0.4", False, 61.6, 3, 1, 1, tmp_path / "r.xml")])
    assert line.split() == ["6.0.4", "FAILED", "3", "1", "1", "62", "1", "of", "2", "31.5", "-", "-"]
    assert head.startswith("Krita") and head.index("same strokes") == line.index("1 of 2")


def test_the_names_that_the_table_looks_for_are_in_the_tests() -> None:
    text = "".join(path.read_text() for path in (ROOT / "tests" / "krita").glob("test_*.py"))
    assert len(re.findall(rf"def test_\w*(?:{krita_report.STROKES.pattern})\w*\(", text)) >= 3


def test_uninstalling_takes_the_kritas_of_the_tests(tmp_path: Path) -> None:
    for name in ("6/usr", "5.2.part", "mine"):
        (tmp_path / name).mkdir(parents=True)
    leftovers.remove_kritas(tmp_path, kritas.KEYS, lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_help_names_every_option() -> None:
    text = run_install("--help").stdout
    for option in ("--torch", "--krita-dir", "--open", "--zip", "--test", "--uninstall", "--krita"):
        assert option in text


def fake_programs(folder: Path, **scripts: str) -> None:
    folder.mkdir()
    for name, text in scripts.items():
        (folder / name.replace("_", "-")).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name.replace("_", "-")).chmod(0o755)


def test_missing_programs_are_installed_on_debian_as_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    fake_programs(tmp_path / "bin", apt_get=f'echo "$@" >> {log}; exit 0', dpkg_query="echo unknown", xdotool="")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    checks.bring_programs(lambda _: None)
    update, install = log.read_text().splitlines()
    assert update == "update"
    assert install == "install --yes --no-install-recommends krita xvfb openbox imagemagick python3-pyqt5"
    log.unlink()
    checks.bring_programs(lambda _: None, folders=True)
    assert "imagemagick debootstrap debian-archive-keyring python3-pyqt5" in log.read_text()
    fake_programs(tmp_path / "bin2", apt_get="echo no such package >&2; exit 100", dpkg_query="echo unknown")
    monkeypatch.setenv("PATH", str(tmp_path / "bin2"))
    with pytest.raises(SetupError, match="no such package"):
        checks.bring_programs(lambda _: None)


def test_missing_programs_are_named_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_programs(tmp_path / "bin", apt_get="exit 1", dpkg_query="echo unknown", krita="")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(SetupError, match="sudo apt-get install xvfb openbox xdotool imagemagick python3-pyqt5"):
        checks.bring_programs(lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError, match="missing here: krita, xvfb"):
        checks.bring_programs(lambda _: None)
