# SPDX-License-Identifier: GPL-3.0-or-later
"""How long the GUI thread is blocked during a job with a preview at every step: measured and reported, not judged.

A timer in Krita that wants a turn of the event loop every 2 ms; the longest time between two turns is the block. The
same timer without a job says what the machine itself adds.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from server.setup.krita_report import APPLY, BLOCK, IDLE
from tests.krita.session import CANVAS, OUTPUT, Session
from tests.krita.studio import Studio

SERVER = True
QUIET = 3.0  # seconds


@pytest.mark.parametrize("side", [pytest.param(1024, marks=pytest.mark.essential), 2048])
def test_longest_block_during_generate(
    session: Session, side: int, capsys: pytest.CaptureFixture[str], record_property: Callable[[str, object], None]
) -> None:
    studio = Studio(session)
    studio.document(side, side)
    studio.connected()
    studio.steps(8)
    blank, before = studio.digest(), studio.look()["results"]
    studio.prompt("a landscape")

    def measured(until: str, timeout: float) -> dict[str, object]:
        # Rarely asked, because a question is a turn of its own; and nothing that reads pixels.
        session.run("METER.start()")
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and not session.eval(until):
            time.sleep(0.5)
        session.run("result = METER.stop()")
        found: dict[str, object] = session.eval("result")
        return found

    session.run("strip = widget('krita_sd_results')")
    idle = measured("False", QUIET)
    studio.click("krita_sd_generate")
    job = measured(f"strip.count() > {before}", 300)
    session.wait("idle()", 60, "the result on the canvas")
    # Looked up first: finding a widget among all of Krita's takes the GUI thread a tenth of a second.
    button = studio.widget("krita_sd_apply")
    session.run("METER.start()")
    apply_at = time.monotonic()
    studio.click_at(button["x"] + button["width"] // 2, button["y"] + button["height"] // 2)
    studio.applied()
    session.run("result = METER.stop()")
    report: dict[str, Any] = {
        "side": side,
        "load": os.getloadavg()[0],
        "idle": idle,
        "generate": job,
        "apply": {**session.eval("result"), "seconds": round(time.monotonic() - apply_at, 2)},
    }
    if side == 1024:
        # For the table of `install.py --test --krita`.
        for name, seen in ((BLOCK, job), (APPLY, report["apply"]), (IDLE, idle)):
            record_property(name, seen["max"])
    path = OUTPUT / f"gui_blocks-{session.room.version}-{CANVAS}.json"
    OUTPUT.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**known, str(side): report}, indent=1))
    with capsys.disabled():
        print(
            f"\nGUI thread of Krita {session.room.version}, {CANVAS} canvas, {side}x{side}:"
            f" longest block {job['max']} ms, Apply {report['apply']['max']} ms (without a job {idle['max']} ms)"
        )
    assert studio.undo_steps() == ["Add Layer"] and studio.digest() != blank
