# SPDX-License-Identifier: GPL-3.0-or-later
"""The test command: brings what the tests need, runs every check, and says how each of them ended."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from server.setup import Say, SetupError
from server.setup.environment import clean_environment, last_line

# Debian's package for each program that the tests in the real Krita start.
PROGRAMS = {"krita": "krita", "Xvfb": "xvfb", "openbox": "openbox", "xdotool": "xdotool", "import": "imagemagick"}
# No program of its own: Krita's Python needs it to show any plugin.
QT_PACKAGE = "python3-pyqt5"
# A stage that takes this long hangs; all of them together should take less than twenty minutes on two cores.
STAGE_SECONDS = 25 * 60


@dataclass(frozen=True)
class Stage:
    """One check: its name, its command, and for pytest the report from which the counts come."""

    name: str
    command: Sequence[str]
    report: Path | None = None


@dataclass
class Outcome:
    """How a stage ended. Stages that are no tests count as one failure when they fail, and not otherwise."""

    name: str
    ok: bool
    seconds: float
    passed: int = 0
    failed: int = 0
    skipped: int = 0


def accept_krita(wanted: str | None) -> None:
    """`--krita VERSION`: for now only the installed version can be meant. Raises SetupError."""
    if wanted is None:
        return
    found = installed_krita()
    if found is None or wanted == "all" or not (found + ".").startswith(wanted.rstrip(".") + "."):
        raise SetupError(
            f"Only the installed Krita ({found or 'there is none yet'}) can be tested in for now; leave --krita out."
        )


def installed_krita() -> str | None:
    """The version of the krita on PATH, as its package or the program says."""
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


def bring_programs(say: Say) -> None:
    """Install missing programs on Debian as root; elsewhere name them. Raises SetupError."""
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    debian = shutil.which("apt-get") is not None and shutil.which("dpkg-query") is not None
    if debian and not _dpkg_has(QT_PACKAGE):
        missing.append(QT_PACKAGE)
    if not missing:
        say(f"Krita {installed_krita()} and the programs that drive it are here")
        return
    if not debian:
        raise SetupError(f"The tests need these programs, which are missing here: {', '.join(missing)}; install them.")
    if os.geteuid() != 0:
        raise SetupError(f"The tests need more programs; run: sudo apt-get install {' '.join(missing)}")
    say(f"installing {', '.join(missing)} with apt-get (a few minutes)")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *missing]):
        done = subprocess.run(
            ["apt-get", *command], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        # A source that cannot be refreshed is no obstacle as long as the install itself works.
        if done.returncode and command[0] == "install":
            raise SetupError(f"apt-get could not install {', '.join(missing)}: {last_line(done.stderr)}")
    say(f"Krita {installed_krita()} and the programs that drive it are here")


def stages(root: Path, python: Path, output: Path) -> list[Stage]:
    """Every check in the order of running: the quick ones first."""
    tool = [str(python), "-m"]
    found = [
        Stage("format", [*tool, "ruff", "format", "--check", "."]),
        Stage("lint", [*tool, "ruff", "check", "."]),
        Stage("types", [*tool, "mypy"]),
    ]
    for name in ("unit", "wire", "engine", "server", "krita"):
        report = output / f"{name}.xml"
        found.append(Stage(name, [*tool, "pytest", "-q", f"tests/{name}", f"--junitxml={report}"], report))
    return found


def run_all(root: Path, python: Path, say: Say) -> int:
    """Run every stage even when one fails; returns the exit code. The last line printed is the sum of all tests."""
    output = root / "tests" / "output" / "reports"
    output.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for stage in stages(root, python, output):
        say(f"--- {stage.name}")
        outcome = run(stage, root, STAGE_SECONDS)
        outcomes.append(outcome)
        say(f"--- {summary(outcome)}")
    say("")
    for outcome in outcomes:
        say(summary(outcome))
    failed = sum(outcome.failed for outcome in outcomes)
    passed, skipped = sum(o.passed for o in outcomes), sum(o.skipped for o in outcomes)
    say(f"all of it took {sum(o.seconds for o in outcomes) / 60:.1f} minutes")
    say(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 0 if all(outcome.ok for outcome in outcomes) else 1


def run(stage: Stage, root: Path, limit: float) -> Outcome:
    """One stage, with its output shown as it comes; everything it started is gone when it hangs past `limit`."""
    # A test that cannot find Krita has to fail here, where in a developer's quick run it may be skipped.
    environment = clean_environment() | {"KRITA_SD_REQUIRE_KRITA": "1", "PYTHONUNBUFFERED": "1"}
    if stage.report:
        stage.report.unlink(missing_ok=True)
    started = time.monotonic()
    process = subprocess.Popen(
        list(stage.command), cwd=root, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        code = process.wait(limit)
    except BaseException as error:
        # Interrupted or timed out: its servers and Kritas must not outlive it.
        _end(process)
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        code = -1
    outcome = Outcome(stage.name, code == 0, time.monotonic() - started)
    if stage.report:
        outcome.passed, outcome.failed, outcome.skipped = counts(stage.report)
        if outcome.passed + outcome.failed == 0:
            outcome.ok = False
    if not outcome.ok and not outcome.failed:
        outcome.failed = 1
    return outcome


def counts(report: Path) -> tuple[int, int, int]:
    """(passed, failed, skipped) of a JUnit report; zeros when there is none because pytest did not get that far."""
    try:
        suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    except (OSError, ElementTree.ParseError):
        return 0, 0, 0
    total, failures, errors, skipped = (
        sum(int(suite.get(key, "0")) for suite in suites) for key in ("tests", "failures", "errors", "skipped")
    )
    return total - failures - errors - skipped, failures + errors, skipped


def summary(outcome: Outcome) -> str:
    text = f"{outcome.name}: {'ok' if outcome.ok else 'FAILED'} in {outcome.seconds:.0f} s"
    if outcome.passed + outcome.skipped or outcome.failed > 1:
        text += f" ({outcome.passed} passed, {outcome.failed} failed, {outcome.skipped} skipped)"
    return text


def _end(process: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        try:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(10)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    else:
        process.kill()
    process.wait()


def _dpkg_has(package: str) -> bool:
    done = subprocess.run(["dpkg-query", "--show", "--showformat=${Status}", package], capture_output=True, text=True)
    return "install ok installed" in done.stdout
