# SPDX-License-Identifier: GPL-3.0-or-later
"""The test command: brings what the tests need, runs every check, and says how each of them ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from server.setup import Say, SetupError, krita_report, kritas
from server.setup.environment import clean_environment, last_line
from server.setup.kritas import Making, Target, installed_krita

# Debian's package for each program that the tests in the real Krita start.
PROGRAMS = {"krita": "krita", "Xvfb": "xvfb", "openbox": "openbox", "xdotool": "xdotool", "import": "imagemagick"}
# No program of its own: Krita's Python needs it to show any plugin.
QT_PACKAGE = "python3-pyqt5"
# A stage that takes this long hangs; all of them together should take less than twenty minutes on two cores.
STAGE_SECONDS = 25 * 60


@dataclass(frozen=True)
class Stage:
    """One check: its name, its command, what it finds in its environment, and for pytest the report with the counts."""

    name: str
    command: Sequence[str]
    report: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """How a stage ended. Stages that are no tests count as one failure when they fail, and not otherwise."""

    name: str
    ok: bool
    seconds: float
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    report: Path | None = None


def bring_programs(say: Say, folders: bool = False) -> None:
    """Install missing programs on Debian as root; elsewhere name them. Raises SetupError.

    folders: also those that make a folder with another Krita.
    """
    wanted = PROGRAMS | (kritas.TOOLS if folders else {})
    missing = [name for program, names in wanted.items() if shutil.which(program) is None for name in names.split()]
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


def lanes(python: Path, output: Path) -> list[list[Stage]]:
    """Every check but the real Kritas: two lanes for two cores, about equally long; in each, one after the other.

    The tests of both lanes keep to one thread.
    """
    tool = [str(python), "-m"]

    def tests(name: str) -> Stage:
        report = output / f"{name}.xml"
        return Stage(name, [*tool, "pytest", "-q", f"tests/{name}", f"--junitxml={report}"], report)

    quick = [
        Stage("format", [*tool, "ruff", "format", "--check", "."]),
        Stage("lint", [*tool, "ruff", "check", "."]),
        Stage("types", [*tool, "mypy"]),
    ]
    return [[*quick, tests("unit"), tests("wire"), tests("server")], [tests("engine")]]


def krita_stage(python: Path, output: Path, version: str, root: Path | None, essential: bool) -> Stage:
    """The tests in one real Krita: the installed one, or the one in folder `root`. essential: those marked so only."""
    gl = os.environ.get("KRITA_SD_CANVAS") == "gl"
    report = output / f"krita-{version}{'-gl' if gl else ''}.xml"
    chosen = ["-m", "essential"] if essential else []
    command = [str(python), "-m", "pytest", "-q", "tests/krita", *chosen, f"--junitxml={report}"]
    name = f"krita {version}" + (" on OpenGL" if gl else "") + (", essential tests" if essential else "")
    return Stage(name, command, report, {"KRITA_SD_KRITA": str(root) if root else ""})


def run_all(root: Path, python: Path, say: Say) -> int:
    """Every check, and the essential tests once more in the newest Krita; returns the exit code.

    Every stage runs even when one fails. The last line printed is the sum of all tests.
    """
    started = time.monotonic()
    newest = kritas.targets("newest", installed_krita())
    others = [target for target in newest if target.key and kritas.can_make()]
    making = Making(root, others, say)  # it takes minutes, mostly of the network's
    try:
        output = _output(root)
        outcomes = run_lanes(lanes(python, output), root, say)
        outcomes.append(_in_krita(root, python, output, Target(), making, say))
        outcomes += [_in_krita(root, python, output, target, making, say, essential=True) for target in others]
    finally:
        making.close()
    say("")
    for outcome in outcomes:
        say(summary(outcome))
    if newest[0].key and not others:
        say("the newest Krita was not tested in: making its folder needs root on Debian")
    say(f"all of it took {(time.monotonic() - started) / 60:.1f} minutes")
    return _conclude(outcomes, say)


def run_kritas(root: Path, python: Path, targets: Sequence[Target], say: Say) -> int:
    """The whole suite of the real Krita in each of `targets`, and one table of all; returns the exit code."""
    making = Making(root, targets, say)
    try:
        outcomes = [_in_krita(root, python, _output(root), target, making, say) for target in targets]
    finally:
        making.close()
    say("")
    for line in table(outcomes):
        say(line)
    return _conclude(outcomes, say)


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """One line for each Krita: what its tests came to, strokes that stayed the same, longest blocks in ms."""
    heads = ("result", "passed", "failed", "skipped", "seconds", "same strokes", "job", "Apply", "no job")
    rows: list[tuple[str, ...]] = [("Krita", *heads)]
    for o in outcomes:
        ok, found = "ok" if o.ok else "FAILED", krita_report.found_in(o.report)
        counted = (str(number) for number in (o.passed, o.failed, o.skipped, round(o.seconds)))
        rows.append((o.name.removeprefix("krita "), ok, *counted, *found.cells))
    wide = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, wide)).rstrip() for row in rows]


def _in_krita(
    root: Path, python: Path, output: Path, target: Target, making: Making, say: Say, essential: bool = False
) -> Outcome:
    folder, version = None, installed_krita() or "not installed"
    if target.key:
        try:
            made = making.wait(target)
        except SetupError as error:
            say(f"--- krita {target.key}: {error}")
            return Outcome(f"krita {target.key}", False, 0.0, failed=1)
        folder, version = made.root, made.version
    return _tell(krita_stage(python, output, version, folder, essential), root, say)


def run_lanes(all_lanes: Sequence[Sequence[Stage]], root: Path, say: Say) -> list[Outcome]:
    """The lanes beside one another, each line of output under its stage's name; every process ends on an interrupt."""
    stop = threading.Event()

    def run_lane(lane: Sequence[Stage]) -> list[Outcome]:
        return [_tell(stage, root, say, stop) for stage in lane if not stop.is_set()]

    with ThreadPoolExecutor(len(all_lanes)) as pool:
        running = [pool.submit(run_lane, lane) for lane in all_lanes]
        try:
            return [outcome for lane in running for outcome in lane.result()]
        except BaseException:
            stop.set()
            raise


def _tell(stage: Stage, root: Path, say: Say, stop: threading.Event | None = None) -> Outcome:
    say(f"--- {stage.name}")
    outcome = run(stage, root, STAGE_SECONDS, say, stop)
    say(f"--- {summary(outcome)}")
    return outcome


def _conclude(outcomes: Sequence[Outcome], say: Say) -> int:
    passed, failed = sum(outcome.passed for outcome in outcomes), sum(outcome.failed for outcome in outcomes)
    say(f"{passed} passed, {failed} failed, {sum(outcome.skipped for outcome in outcomes)} skipped")
    return 0 if all(outcome.ok for outcome in outcomes) else 1


def _output(root: Path) -> Path:
    output = root / "tests" / "output" / "reports"
    output.mkdir(parents=True, exist_ok=True)
    return output


def run(stage: Stage, root: Path, limit: float, say: Say = print, stop: threading.Event | None = None) -> Outcome:
    """One stage, its output shown line by line; everything it started is gone when it hangs past `limit` seconds.

    stop: ends it early when set.
    """
    # A test that cannot find Krita has to fail here, where in a developer's quick run it may be skipped.
    environment = clean_environment() | {"KRITA_SD_REQUIRE_KRITA": "1", "PYTHONUNBUFFERED": "1", **stage.environment}
    if stage.report:
        stage.report.unlink(missing_ok=True)
    started = time.monotonic()
    process = subprocess.Popen(
        list(stage.command), cwd=root, env=environment, start_new_session=True, text=True, errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    telling = threading.Thread(target=_pass_on, args=(process, stage.name, say), daemon=True)
    telling.start()
    code: int | None = None
    try:
        while code is None and time.monotonic() - started < limit and not (stop and stop.is_set()):
            try:
                code = process.wait(0.2)
            except subprocess.TimeoutExpired:
                pass
    finally:
        # Interrupted or timed out: its servers and Kritas must not outlive it.
        if code is None:
            _end(process)
    telling.join(5)
    outcome = Outcome(stage.name, code == 0, time.monotonic() - started, report=stage.report)
    if stage.report:
        outcome.passed, outcome.failed, outcome.skipped = counts(stage.report)
        if outcome.passed + outcome.failed == 0:
            outcome.ok = False
    if not outcome.ok and not outcome.failed:
        outcome.failed = 1
    return outcome


def _pass_on(process: subprocess.Popen[str], name: str, say: Say) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        say(f"{name} | {line.rstrip()}")


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


def _end(process: subprocess.Popen[str]) -> None:
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
