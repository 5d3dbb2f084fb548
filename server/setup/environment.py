# SPDX-License-Identifier: GPL-3.0-or-later
"""The private Python environment (.venv): made, asked what it holds, and filled by pip with visible progress."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from server.setup import Say, SetupError

# The first pip that writes resolution reports, and the first that prints progress in a form a program can read.
REPORTING_PIP = (22, 2)
RAW_PROGRESS_PIP = (24, 1)
# Downloads smaller than this are named but not counted down.
LARGE_DOWNLOAD = 30_000_000

_HELD = """
import importlib.metadata as m, json, sys
found = {}
for name in sys.argv[1:]:
    try:
        d = m.distribution(name)
        found[name] = {"version": d.version, "requires": d.requires or []}
    except m.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


_SATISFIES = """
import importlib.metadata as m, sys
from pip._vendor.packaging.requirements import Requirement
wanted = Requirement(sys.argv[1])
version = m.version(wanted.name)
sys.exit(wanted.url is not None or not wanted.specifier.contains(version, prereleases=True))
"""


class Environment:
    """One virtual environment, in `folder`. Its record (krita-sd.json) says what install.py did with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        windows = os.name == "nt"
        self.python = folder / ("Scripts" if windows else "bin") / ("python.exe" if windows else "python")
        self.record_file = folder / "krita-sd.json"

    def make(self, say: Say) -> None:
        """Create the environment, or keep a working one. Raises SetupError when Python's venv cannot do it."""
        if self.works():
            return
        if self.folder.exists() and not (self.folder / "pyvenv.cfg").exists() and any(self.folder.iterdir()):
            raise SetupError(f"{self.folder} exists and is no Python environment; move it away and run this again.")
        say(f"making {self.folder} with Python {sys.version.split()[0]}")
        made = subprocess.run(
            [sys.executable, "-m", "venv", "--clear", str(self.folder)],
            env=clean_environment(),
            capture_output=True,
            text=True,
        )
        if made.returncode or not self.works():
            # A half-made folder would be taken for the user's own next time.
            shutil.rmtree(self.folder, ignore_errors=True)
            if "ensurepip" in made.stdout + made.stderr:
                raise SetupError(
                    "This Python cannot make environments; install its venv package "
                    "(on Debian and Ubuntu: sudo apt install python3-venv) and run this again."
                )
            raise SetupError(f"Python could not make {self.folder}: {last_line(made.stderr or made.stdout)}")

    def works(self) -> bool:
        """True when the interpreter starts, is recent enough and has pip."""
        code = "import sys, pip; sys.exit(sys.version_info < (3, 10))"
        try:
            return (
                subprocess.run([str(self.python), "-c", code], env=clean_environment(), capture_output=True).returncode
                == 0
            )
        except OSError:
            return False

    def held(self, *names: str) -> dict[str, dict[str, Any]]:
        """Installed distributions among `names`: {name: {"version": str, "requires": [requirement, ...]}}."""
        done = subprocess.run(
            [str(self.python), "-c", _HELD, *names], env=clean_environment(), capture_output=True, text=True
        )
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def satisfies(self, requirement: str) -> bool:
        """Whether what is installed already fulfils a requirement such as `torch==2.13.0` (any local tag will do)."""
        command = [str(self.python), "-c", _SATISFIES, requirement]
        return subprocess.run(command, env=clean_environment(), capture_output=True).returncode == 0

    def pip_version(self) -> tuple[int, int]:
        version = self.held("pip").get("pip", {}).get("version", "0.0")
        numbers = [int(n) for n in re.findall(r"\d+", version)[:2]]
        return (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)

    def refresh_pip(self, say: Say) -> None:
        """A pip that can report and count down; an older one that can report will do when there is no newer."""
        if self.pip_version() >= RAW_PROGRESS_PIP:
            return
        self.pip(["install", "--upgrade", "pip"], say, quiet=True)
        if self.pip_version() < REPORTING_PIP:
            raise SetupError(
                "The environment's pip is older than 22.2 and could not be updated; check the internet connection."
            )

    def pip(self, arguments: Sequence[str], say: Say, quiet: bool = False) -> PipRun:
        """Run pip with the user's own configuration, telling `say` in short form what it does. Never raises."""
        command = [str(self.python), "-m", "pip", *arguments]
        if arguments[0] in ("install", "download"):
            command += ["--progress-bar", "raw" if self.pip_version() >= RAW_PROGRESS_PIP else "off"]
        # A user-site or required-virtualenv setting of the user's cannot apply to this environment.
        environment = clean_environment() | {"PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUTF8": "1"}
        progress = Progress((lambda _: None) if quiet else say)
        with subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as process:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line.rstrip())
                progress.feed(lines[-1])
        return PipRun(process.returncode, lines)

    def record(self) -> dict[str, Any]:
        """What earlier runs noted; empty when there is nothing readable."""
        try:
            found = json.loads(self.record_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def note(self, **entries: Any) -> None:
        """Add to the record."""
        text = json.dumps(self.record() | entries, indent=1)
        temporary = self.record_file.with_suffix(".new")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, self.record_file)


class PipRun:
    """How a pip command ended: `code`, and its output `lines`."""

    def __init__(self, code: int, lines: list[str]) -> None:
        self.code, self.lines = code, lines

    @property
    def reason(self) -> str:
        """Why it failed, in one line: an address that did not answer, or pip's own last error."""
        for line in self.lines:
            if match := re.search(r"connection broken by '.*': (\S+)$", line):
                return f"no answer for {match[1]}"
        errors = [line for line in self.lines if line.lower().lstrip().startswith("error")]
        if errors:
            return re.sub(r"^\s*error:\s*", "", errors[-1], flags=re.IGNORECASE)
        return last_line("\n".join(self.lines)) or "pip said nothing"


class Progress:
    """Turns pip's output into short lines: what is downloaded, how far a large one is, what is being installed."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self.tenths = 0

    def feed(self, line: str) -> None:
        text = line.strip()
        if match := re.match(r"Progress (\d+) of (\d+)", text):
            done, total = int(match[1]), int(match[2])
            tenths = done * 10 // total if total > LARGE_DOWNLOAD else 0
            if tenths > self.tenths:
                self.say(f"  {tenths * 10} % of {total / 1e6:.0f} MB")
            self.tenths = tenths
        elif match := re.match(r"(Downloading|Using cached|Processing) (\S+)(?: \((.+)\))?", text):
            name = match[2].split("?")[0].rsplit("/", 1)[-1]
            if name.endswith((".metadata", "...")) or not re.search(r"\.(whl|gz|zip)$", name):
                return
            self.tenths = 0
            package = " ".join(name.replace("%2B", "+").split("-")[:2])
            verb = "downloading" if match[1] == "Downloading" else "found"
            size = match[3] if match[3] and not match[3].startswith("from ") else ""
            self.say(f"{verb} {package}" + (f" ({size})" if size else ""))
        elif text.startswith("Installing collected packages:"):
            number = text.count(",") + 1
            self.say(f"installing {number} package{'s' if number > 1 else ''}")


def clean_environment() -> dict[str, str]:
    """The caller's environment without what would lead another Python astray."""
    unwanted = {"PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"}
    return {name: value for name, value in os.environ.items() if name not in unwanted}


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
