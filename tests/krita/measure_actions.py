# SPDX-License-Identifier: GPL-3.0-or-later
"""How long each action of the docker holds Krita's GUI thread: `python -m tests.krita.measure_actions [--sides 1024]`.

For every action and size of the document one cell, for example "31/2 own 4 refreshProjection 24": the longest time
between two turns of the event loop was 31 ms, 2 were longer than 16 ms, and in the plugin's longest turn its own
Python took 4 ms and Krita's slowest call 24. What is in neither is Krita's drawing. Pictures come from the tool
itself, so that only Krita and the plugin are measured; nothing is judged. A load of other programs shows in "idle".
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from typing import Any

from tests.krita.session import CANVAS, OUTPUT, Failure, Session, install_plugin_alone
from tests.krita.studio import Studio

SIDES = (1024, 2048, 4096)

TOOLS = """
import sys, time, uuid
from krita_sd.plugin import actions
from krita_sd import grid, pictures, job_events as ev
from krita_sd.actions.grid import Run
from krita_sd.actions.results import ResultWithThumbnail
from krita_sd.canvas import capture, host, previews
from krita_sd.geometry import Bounds
from krita_sd.shelf import Kept
from krita_sd.wire.frames import Picture
from krita_sd.wire.recipe import Recipe
A = actions()

class Turns:
    '''The plugin's turns: what a profile hook sees between entering Python and leaving it.'''

    def start(self):
        self.turns, self.stack = [], []
        sys.setprofile(self.hook)

    def stop(self):
        sys.setprofile(None)
        return max(self.turns, default=(0.0, 0.0, '', 0.0))

    def hook(self, frame, event, arg):
        now = time.perf_counter()
        if event in ('call', 'c_call'):
            if not self.stack:
                if event == 'c_call':
                    return
                self.file, self.own, self.spent = frame.f_code.co_filename, 0.0, {}
            self.stack.append([arg.__name__ if event == 'c_call' else frame.f_code, now, 0.0])
        elif self.stack:
            name, begun, inner = self.stack.pop()
            if not isinstance(name, str):
                self.own += now - begun - inner
                name = 'Python in ' + name.co_name
            self.spent[name] = self.spent.get(name, 0.0) + now - begun - inner
            if self.stack:
                self.stack[-1][2] += now - begun
            elif 'krita_test_control' not in self.file:
                slowest = max(self.spent, key=self.spent.get, default='')
                times = now - begun, self.own, self.spent.get(slowest, 0.0)
                self.turns.append((times[0] * 1000, times[1] * 1000, slowest, times[2] * 1000))

TURNS = Turns()

def colour(number, side=None):
    '''A picture of the document's size that does not compress to nothing, made before anything is measured.'''
    w = side or d.width()
    line = bytes(((x * 7 + number * 31) & 255 if x % 4 < 3 else 255) for x in range(w * 4))
    return Picture('bgra8', w, w, line * w)

def begin(count=1):
    global job, box, recipe
    job, box = uuid.uuid4().hex, Bounds(0, 0, d.width(), d.height())
    recipe = Recipe(prompt='measured', width=d.width(), height=d.height())
    A.results.stage.remember(host.document_id(d), d)
    A.feed(ev.Created(job, host.document_id(d), box, recipe, count))
    A.feed(ev.Captured(job))
    A.feed(ev.StateChanged(job, ev.Phase.SAMPLING, 0, 1, 9))

def show(picture):
    A.feed(ev.PreviewArrived(job, 0, 1, picture))

def arrive(number, picture, small):
    A._receive(ResultWithThumbnail(Kept(job, number, recipe, False, picture), small, -1))

def settled():
    p = list(A.results.stage._placements.values())
    still = all(not x._stale and x._newest is None and x._writing is None and x._layer for x in p)
    return still and not A.results.stage._applying and idle()

def later(work):
    QtCore.QTimer.singleShot(0, work)
"""


@dataclass(frozen=True)
class Action:
    """`before` is not measured; `act` runs in a turn of its own; over when `until` holds."""

    name: str
    act: str
    until: str = "settled()"
    before: str = ""


MADE = """
begin({0})
made = [(p, pictures.thumbnail(p)) for p in map(colour, range({0}))]
for n, (p, small) in enumerate(made): arrive(n, p, small)
A.feed(ev.StateChanged(job, ev.Phase.DONE))
made = p = None
"""
"""A finished job with so many results, the last of them shown."""

ACTIONS = (
    Action("idle, nothing to do", "None", "time.monotonic() > end", "end = time.monotonic() + 1.5"),
    Action(
        "read the canvas (Refine)",
        "capture.Capture(d, Bounds(0, 0, d.width(), d.height()), 'visible', False, []).start(got, print)",
        "read",
        "read = []\ndef got(*found): read.append(1)",
    ),
    Action(
        "read canvas and selection (Fill)",
        "capture.Capture(d, Bounds(0, 0, d.width(), d.height()), 'visible', True, []).start(got, print)",
        "read",
        "read = []; q = d.width() // 4; select(d, q, q, 2 * q, 2 * q, 20)",
    ),
    Action("first preview", "show(p)", before="d.setSelection(None); begin(); p = colour(1)"),
    Action("next preview", "show(p)", before="p = colour(2)"),
    Action(
        "a result arrives, with its history",
        "[arrive(0, *made), A.feed(ev.StateChanged(job, ev.Phase.DONE))]",
        "settled() and not A.history._pending",
        "p = colour(3); made = p, pictures.thumbnail(p)",
    ),
    Action("Apply on top", "A.apply_in('top')"),
    Action("pick another result", "A.pick(job + ':0')", before=MADE.format(2)),
    Action("hide it (Space)", "A.toggle_shown()", "not A.results.stage._placements and idle()"),
    Action("show it again", "A.toggle_shown()"),
    Action("Discard", "A.discard()"),
    Action("Apply above the active layer", "A.apply_in('above')"),
    Action("Apply into the active layer", "A.apply_in('into')", before=MADE.format(1)),
    Action("Apply with a mask", "A.apply_in('mask')", before=MADE.format(1)),
    Action("Cancel during previews", "A.cancel()", "not previews._entries and idle()", "begin(); show(colour(4))"),
    Action("open the history", "A.show_page('history')", "A.history.model.rowCount() > 0"),
    Action("search it", "A.history.model.search('meas', False)", "not A.history.model._waiting"),
    Action("close it", "A.show_page('')", "True"),
    Action("another recipe into the docker", "A.restore_result()", "True", MADE.format(1)),
    Action("save a PNG with its recipe", "A.save_result(path)", "__import__('os').path.exists(path)"),
)


def measure(session: Session, action: Action, side: int, timeout: float = 60) -> dict[str, Any]:
    """Longest block in ms, turns over 16 ms, and the plugin's longest turn (ms, own ms, slowest call, its ms)."""
    session.run(action.before or "pass")
    session.wait("settled() and not A.history._pending", timeout, "Krita to settle before " + action.name)
    time.sleep(0.3)
    session.run(f"act = lambda: {action.act}")
    session.run("TURNS.start(); METER.start(); later(act)")
    time.sleep(0.15)
    deadline, known = time.monotonic() + timeout, True
    while not session.eval(f"bool({action.until})"):
        if time.monotonic() > deadline:
            known = False
            break
        time.sleep(0.1)
    time.sleep(0.2)
    session.run("turn = TURNS.stop(); blocks = METER.stop(); act = None")
    blocks, turn = session.eval("[blocks, turn]")
    longest, own, name, slowest = turn
    return {
        "action": action.name,
        "side": side,
        "longest": blocks["max"],
        "over16": blocks["over16"],
        "turn": round(longest, 1),
        "own": round(own, 1),
        "call": name,
        "call_ms": round(slowest, 1),
        "finished": known,
    }


def table(rows: list[dict[str, Any]], sides: list[int]) -> str:
    """Markdown: one line for each action."""
    lines = ["| action | " + " | ".join(f"{side}²" for side in sides) + " |", "|---|" + "---|" * len(sides)]
    for name in dict.fromkeys(row["action"] for row in rows):
        cells = []
        for side in sides:
            row = next((row for row in rows if row["action"] == name and row["side"] == side), None)
            if row is None:
                cells.append("–")
                continue
            call = f" {row['call']} {row['call_ms']:.0f}" if row["call_ms"] >= 1 else ""
            late = "" if row["finished"] else " (not over)"
            cells.append(f"{row['longest']:.0f}/{row['over16']} own {row['own']:.0f}{call}{late}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", default=",".join(map(str, SIDES)), help="sizes of the document")
    parser.add_argument("--actions", default="", help="only actions whose name contains this")
    sides = [int(side) for side in parser.parse_args().sides.split(",")]
    part = parser.parse_args().actions
    rows: list[dict[str, Any]] = []
    begun = time.monotonic()
    with Session(install_plugin_alone) as session:
        studio = Studio(session)
        session.run(TOOLS)
        for side in sides:
            studio.document(side, side)
            session.run(f"d = K.activeDocument(); path = {str(session.work)!r} + '/measured-{side}.png'")
            for action in ACTIONS:
                if part not in action.name:
                    continue
                try:
                    rows.append(measure(session, action, side))
                except Failure as error:
                    sys.stdout.write(f"{side} {action.name}: {error}\n")
            session.run("for j in list(A.table.active): A.generating.cancel_job(j.id)")
            session.run("[A.feed(ev.Discarded(key)) for key in list(A.table.results)]; made = p = None")
            session.wait("not A.table.stage and idle() and not A.history._pending", 60)
            session.run("close_all()")
            session.wait("not K.documents()", 60)
        errors = session.eval("ERRORS")
        version = session.room.version
    report = {"krita": version, "canvas": CANVAS, "load": os.getloadavg()[0], "rows": rows}
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / f"actions-{version}-{CANVAS}.json").write_text(json.dumps(report, indent=1))
    sys.stdout.write(f"Krita {version}, {CANVAS} canvas, load {os.getloadavg()[0]:.1f}, ")
    sys.stdout.write(f"{time.monotonic() - begun:.0f} s\n{table(rows, sides)}\n")
    sys.stdout.write("".join(errors))


if __name__ == "__main__":
    main()
