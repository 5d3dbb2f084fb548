# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the GUI thread is blocked by a job and by Apply, in every Krita: measured several times, one table.

    python -m tests.krita.measure_blocks [--krita all] [--runs 2]

For a quiet machine: about a minute for each Krita and run. Every run is tests/krita/test_gui_blocks.py in a Krita of
its own; versions that are not installed run in the folders of make_krita.py. With $KRITA_SD_CANVAS=gl on OpenGL.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from server.setup import SetupError, kritas
from tests.krita.room import ROOT

REPORTS = ROOT / "tests" / "output"
CANVAS = os.environ.get("KRITA_SD_CANVAS", "raster")


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    asked.add_argument("--krita", default="all", help="a version, newest, installed or all")
    asked.add_argument("--runs", type=int, default=2, help="how often each Krita is measured")
    given = asked.parse_args()

    def say(text: str) -> None:
        print(text, flush=True)

    try:
        targets = kritas.targets(given.krita, kritas.installed_krita())
        making = kritas.Making(ROOT, targets, say)
        try:
            found = {}
            for target in targets:
                folder = making.wait(target) if target.key else None
                version = folder.version if folder else str(kritas.installed_krita())
                environment = {"KRITA_SD_KRITA": str(folder.root) if folder else "", "KRITA_SD_REQUIRE_KRITA": "1"}
                found[version] = [run for _ in range(given.runs) if (run := measure(version, environment))]
        finally:
            making.close()
    except SetupError as error:
        print(f"measure_blocks: {error}", file=sys.stderr)
        return 1
    for line in table(found):
        say(line)
    return 0 if all(len(runs) == given.runs for runs in found.values()) else 1


def measure(version: str, environment: Mapping[str, str]) -> dict[str, Any] | None:
    """What one run of the test saw, side of the document -> its report; None when it failed, with its output shown."""
    path = REPORTS / f"gui_blocks-{version}-{CANVAS}.json"
    path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "tests/krita/test_gui_blocks.py"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)
    if done.returncode or not path.exists():
        print(done.stdout[-4000:], file=sys.stderr)
        return None
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Markdown: for each Krita and side of the document the longest blocks of every run, in milliseconds."""
    lines = [
        "| Krita | document | job | turns over 16 ms | Apply | without a job | load |",
        "|---|---|---|---|---|---|---|",
    ]
    for version, runs in found.items():
        for side in sorted({side for run in runs for side in run}, key=int):
            seen = [run[side] for run in runs if side in run]

            def all_of(part: str, what: str, seen: Sequence[Mapping[str, Any]] = seen) -> str:
                return "; ".join(f"{one[part][what]:g}" for one in seen)

            over = "; ".join(f"{one['generate']['over16']} of {one['generate']['turns']}" for one in seen)
            load = "; ".join(f"{one['load']:.1f}" for one in seen)
            blocks = f"{all_of('generate', 'max')} | {over} | {all_of('apply', 'max')} | {all_of('idle', 'max')}"
            lines.append(f"| {version} | {side} x {side} | {blocks} | {load} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
