# SPDX-License-Identifier: GPL-3.0-or-later
"""Finding and starting the server of this machine, with real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from krita_sd import server_process
from krita_sd.server_process import alive, clean_environment, find, read_local, start_or_find
from krita_sd.wire.errors import WireError

SERVER = """
import json, os, sys, time
state = sys.argv[sys.argv.index("--state") + 1]
{before}
open(os.path.join(state, "token"), "w").write("t\\n")
with open(os.path.join(state, "part"), "w") as file:
    json.dump({{"pid": os.getpid(), "port": 5, "instance": "i", "env": dict(os.environ), "argv": sys.argv}}, file)
os.rename(os.path.join(state, "part"), os.path.join(state, "server.json"))
time.sleep(60)
"""


@pytest.fixture
def local(tmp_path: Path) -> Path:
    return make_local(tmp_path, "")


def make_local(tmp_path: Path, before: str) -> Path:
    root = tmp_path / "root"
    (root / "server").mkdir(parents=True)
    (root / "server" / "__init__.py").write_text("")
    (root / "server" / "__main__.py").write_text(SERVER.format(before=before))
    path = tmp_path / "local.json"
    path.write_text(json.dumps({"python": sys.executable, "root": str(root)}))
    return path


def start(state: Path, local: Path, timeout: float = 20.0) -> server_process.Running:
    return start_or_find(lambda _text: None, threading.Event(), state=state, local=local, timeout=timeout)


def test_a_server_is_started_once_and_then_found(tmp_path: Path, local: Path) -> None:
    said: list[str] = []
    state = tmp_path / "state"
    first = start_or_find(said.append, threading.Event(), state=state, local=local)
    try:
        assert first.uri == "ws://127.0.0.1:5/v1" and first.token == "t"
        assert said == ["Starting the server ..."]
        assert start(state, local) == first
        arguments = json.loads((state / "server.json").read_text())["argv"]
        assert arguments[arguments.index("--owner") + 1] == str(os.getpid())
        assert "t" not in arguments, "the token is in no command line"
    finally:
        os.kill(first.pid, 9)


def test_the_server_gets_no_python_or_library_path_of_krita(
    tmp_path: Path, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH", "QT_PLUGIN_PATH", "QT_QPA_PLATFORM"):
        monkeypatch.setenv(name, "/nonsense")
    monkeypatch.setenv("HF_HOME", "/keep")
    running = start(tmp_path / "state", local)
    os.kill(running.pid, 9)
    seen = json.loads((tmp_path / "state" / "server.json").read_text())["env"]
    assert not [name for name in seen if name.startswith(("PYTHON", "QT_", "LD_"))]
    assert seen["HF_HOME"] == "/keep"


def test_paths_of_an_appimage_are_taken_out() -> None:
    environ = {"APPDIR": "/tmp/.mount_k", "PATH": "/tmp/.mount_k/usr/bin:/usr/bin", "HOME": "/home/p"}
    assert clean_environment(environ) == {"PATH": "/usr/bin", "HOME": "/home/p"}


def test_a_server_that_is_gone_is_not_found(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    write(tmp_path, {"pid": process.pid, "port": 5})
    deadline = time.monotonic() + 10
    while find(tmp_path) is not None:  # until it has ended; a zombie counts as gone
        assert time.monotonic() < deadline
    process.wait()
    assert find(tmp_path) is None


@pytest.mark.parametrize(
    "data", ["", "{}", "[]", '{"pid": "x", "port": 1}', '{"pid": 1, "port": 0}', '{"pid": -1, "port": 9}']
)
def test_a_damaged_server_json_is_no_server(tmp_path: Path, data: str) -> None:
    (tmp_path / "token").write_text("t")
    (tmp_path / "server.json").write_text(data)
    assert find(tmp_path) is None


def test_a_server_that_listens_everywhere_is_reached_over_the_loopback(tmp_path: Path) -> None:
    write(tmp_path, {"pid": os.getpid(), "port": 9, "host": "0.0.0.0"})
    found = find(tmp_path)
    assert found is not None and found.uri == "ws://127.0.0.1:9/v1"


def write(folder: Path, data: dict[str, object]) -> None:
    (folder / "token").write_text("t")
    (folder / "server.json").write_text(json.dumps(data))


def test_a_server_that_fails_says_why_in_one_sentence(tmp_path: Path) -> None:
    local = make_local(tmp_path, 'print("noise"); sys.exit("No space left for the state folder.")')
    with pytest.raises(WireError) as caught:
        start(tmp_path / "state", local)
    assert caught.value.message == "The server did not start: No space left for the state folder."


def test_a_server_that_hangs_is_given_up_and_ended(tmp_path: Path) -> None:
    local = make_local(tmp_path, 'open(os.path.join(state, "pid"), "w").write(str(os.getpid())); time.sleep(60)')
    with pytest.raises(WireError, match="in time"):
        start(tmp_path / "state", local, timeout=2.0)
    pid = int((tmp_path / "state" / "pid").read_text())
    deadline = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline


def test_without_an_installation_the_sentence_names_the_installer(tmp_path: Path) -> None:
    with pytest.raises(WireError) as caught:
        start(tmp_path / "state", tmp_path / "none.json")
    assert "install.py" in caught.value.hint


def test_a_moved_installation_is_noticed(tmp_path: Path, local: Path) -> None:
    (tmp_path / "root").rename(tmp_path / "elsewhere")
    with pytest.raises(WireError, match="no longer"):
        read_local(local)


def test_a_flatpak_says_how_to_start_it_by_hand(tmp_path: Path, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "info").write_text("")
    monkeypatch.setattr(server_process, "FLATPAK_INFO", tmp_path / "info")
    with pytest.raises(WireError) as caught:
        start(tmp_path / "state", local)
    assert "python -m server" in caught.value.hint
    write(tmp_path, {"pid": os.getpid(), "port": 9})
    assert start(tmp_path, local).uri.endswith(":9/v1"), "one that runs is used"
