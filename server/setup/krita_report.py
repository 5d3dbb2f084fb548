# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests in a real Krita found out besides passing: stroke identity and blocks of the GUI thread."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

STROKES = re.compile(r"same_stroke|stroke_is_the_same")
"""Names of the tests that compare a stroke painted beside a job or Live with the same one painted alone."""

BLOCK, APPLY, IDLE = "longest block ms", "longest block of Apply ms", "longest block without a job ms"
"""Properties that tests/krita/test_gui_blocks.py leaves in the report, for the document of 1024 x 1024 pixels."""


@dataclass(frozen=True)
class Found:
    """same of strokes were the same stroke; measured: property -> milliseconds, missing where nothing measured it."""

    strokes: int = 0
    same: int = 0
    measured: dict[str, str] = field(default_factory=dict)

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Strokes and the three blocks, in few characters; "-" for what was not run."""
        strokes = f"{self.same} of {self.strokes}" if self.strokes else "-"
        block, apply, idle = (self.measured.get(name, "-") for name in (BLOCK, APPLY, IDLE))
        return strokes, block, apply, idle


def found_in(report: Path | None) -> Found:
    """Read a JUnit report; nothing when there is none, because pytest did not get that far."""
    if report is None:
        return Found()
    try:
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    except (OSError, ElementTree.ParseError):
        return Found()
    # A skipped comparison is none.
    strokes = [c for c in cases if STROKES.search(c.get("name", "")) and c.find("skipped") is None]
    same = [c for c in strokes if c.find("failure") is None and c.find("error") is None]
    properties = [p for c in cases for p in c.iter("property")]
    return Found(len(strokes), len(same), {p.get("name", ""): p.get("value", "") for p in properties})
