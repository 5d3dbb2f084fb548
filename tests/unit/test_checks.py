# SPDX-License-Identifier: GPL-3.0-or-later
"""The test command: stages are counted, end when they hang, run in two lanes, and cover every room."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from server.setup import checks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def stage(tmp_path: Path) -> Callable[[str, str | None], checks.Outcome]:
    def run(code: str, report: str | None = None) -> checks.Outcome:
        target = tmp_path / "report.xml"
        command = f"import pathlib, time\n{code}\n"
        if report is not None:
            command = f"import pathlib\npathlib.Path({str(target)!r}).write_text({report!r})\n{code}"
        chosen = checks.Stage("s", [sys.executable, "-c", command], target if report is not None else None)
        return checks.run(chosen, tmp_path, limit=5)

    return run


REPORT = '<testsuites><testsuite tests="9" failures="2" errors="1" skipped="1"/></testsuites>'


def test_stages_are_counted(stage: Callable[..., checks.Outcome]) -> None:
    good = stage("pass")
    assert (good.ok, good.passed, good.failed) == (True, 0, 0)
    bad = stage("raise SystemExit(3)")
    assert (bad.ok, bad.failed) == (False, 1)
    tested = stage("raise SystemExit(1)", REPORT)
    assert (tested.ok, tested.passed, tested.failed, tested.skipped) == (False, 5, 3, 1)


def test_a_stage_without_any_test_has_failed(stage: Callable[..., checks.Outcome]) -> None:
    empty = stage("", '<testsuite tests="0" failures="0" errors="0" skipped="0"/>')
    assert (empty.ok, empty.failed) == (False, 1)
    skipped = stage("", '<testsuite tests="2" failures="0" errors="0" skipped="2"/>')
    assert not skipped.ok


def test_a_stage_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "alive"
    child = (
        f"import time, pathlib\nfor i in range(200):\n time.sleep(.05); pathlib.Path({str(mark)!r}).write_text(str(i))"
    )
    code = f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(60)"
    outcome = checks.run(checks.Stage("s", [sys.executable, "-c", code]), tmp_path, limit=2)
    assert not outcome.ok and outcome.seconds < 30
    last = mark.read_text() if mark.exists() else ""
    time.sleep(0.5)
    assert (mark.read_text() if mark.exists() else "") == last


def test_lanes_run_beside_one_another_and_say_whose_each_line_is(tmp_path: Path) -> None:
    """Each of the two waits for the other's file: one after the other they would never end."""

    def meet(mine: str, other: str) -> checks.Stage:
        code = (
            f"import pathlib, time\nprint('hello')\npathlib.Path({mine!r}).touch()\n"
            f"while not pathlib.Path({other!r}).exists():\n    time.sleep(.02)"
        )
        return checks.Stage(mine, [sys.executable, "-c", code])

    said: list[str] = []
    last = checks.Stage("last", [sys.executable, "-c", "raise SystemExit(1)"])
    outcomes = checks.run_lanes([[meet("a", "b"), last], [meet("b", "a")]], tmp_path, said.append)
    assert [(outcome.name, outcome.ok) for outcome in outcomes] == [("a", True), ("last", False), ("b", True)]
    assert {"a | hello", "b | hello"} <= set(said)


def test_every_room_of_tests_is_run() -> None:
    lanes = checks.lanes(Path("python"), Path("out"))
    names = [stage.name for lane in lanes for stage in lane]
    assert sorted(names) == sorted(["format", "lint", "types", "unit", "wire", "engine", "server"])
    assert len(lanes) == 2
    assert {path.name for path in (ROOT / "tests").iterdir() if list(path.glob("test_*.py"))} <= {*names, "krita"}
    everywhere = checks.krita_stage(Path("python"), Path("out"), "6.0.4", Path("/k"), essential=True)
    assert everywhere.name == "krita 6.0.4, essential tests" and everywhere.environment == {"KRITA_SD_KRITA": "/k"}
    assert checks.krita_stage(Path("p"), Path("o"), "5.1.5", None, False).environment == {"KRITA_SD_KRITA": ""}
