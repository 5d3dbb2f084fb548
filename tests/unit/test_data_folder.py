# SPDX-License-Identifier: GPL-3.0-or-later
"""Two Krita processes never share a session; one that died leaves its folder free. In an interpreter that has Qt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from krita_sd import settings as store

ROOT = Path(__file__).resolve().parents[2]
INTERPRETERS = (sys.executable, "/usr/bin/python3")
PROGRAM = """
import sys
from pathlib import Path
from krita_sd.data_folder import claim
from krita_sd import settings
folder, lock = claim(Path(sys.argv[1]))
mine = settings.load(folder / "settings.json")
settings.save(folder / "settings.json", mine)
print(folder.name, mine.session, mine.prompt, flush=True)
sys.stdin.readline()
"""


def has_qt(interpreter: str) -> bool:
    command = [interpreter, "-c", "import PyQt5.QtWidgets"]
    return Path(interpreter).exists() and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def start(base: Path, started: list[subprocess.Popen[str]]) -> list[str]:
    """Folder name, session and prompt of a process that goes on running."""
    interpreter = next(filter(has_qt, INTERPRETERS))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        [interpreter, "-c", PROGRAM, str(base)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    started.append(process)
    assert process.stdout is not None
    return process.stdout.readline().split()


def test_a_second_krita_has_a_session_of_its_own(tmp_path: Path, started: list[subprocess.Popen[str]]) -> None:
    base = tmp_path / "krita_sd"
    store.save(base / "settings.json", store.load(base / "settings.json").replace(prompt="tree", last_seq=7))
    first = start(base, started)
    second = start(base, started)
    assert [first[0], second[0]] == ["krita_sd", "process-2"]
    assert first[1] != second[1] and first[2] == second[2] == "tree"
    assert json.loads((base / "process-2" / "settings.json").read_text(encoding="utf-8")).get("last_seq", 0) == 0


def test_the_folder_of_a_killed_krita_is_free_again(tmp_path: Path, started: list[subprocess.Popen[str]]) -> None:
    first = start(tmp_path, started)
    os.kill(started[0].pid, signal.SIGKILL)
    started[0].wait()
    assert start(tmp_path, started) == first
