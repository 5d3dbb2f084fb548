# SPDX-License-Identifier: GPL-3.0-or-later
"""A painter at work: what golden paths do with hands and eyes, in their words."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from tests.krita.driver import Hand
from tests.krita.session import Failure, Session

JOB_TIMEOUT = 240.0  # seconds; the first job also imports torch and loads the model

SEEN = """
def seen():
    d = K.activeDocument()
    p = widget_state('krita_sd_progress')
    return {
        'progress': p['format'] if p['value'] >= 0 else '',
        'text': p.get('text') or '',
        'results': widget_state('krita_sd_results')['count'],
        'status': widget_state('krita_sd_status')['text'],
        'cancel': widget_state('krita_sd_cancel')['enabled'],
        'digest': doc_digest(d) if d else '',
        'layers': [n['name'] for n in layers(d)] if d else [],
        'rows': undo_rows()['rows'],
        'current': undo_rows()['current'],
    }
"""


class Studio(Hand):
    """The session's Krita with its docker and server."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        session.run(SEEN)

    # --- eyes ---------------------------------------------------------------------------------------------------

    def look(self) -> dict[str, Any]:
        """What is on the screen now."""
        state: dict[str, Any] = self.session.eval("seen()")
        return state

    def watch(self, until: str, timeout: float = JOB_TIMEOUT) -> list[dict[str, Any]]:
        """Everything that was seen until the expression about `s` (the last look) is true; equal looks once."""
        seen: list[dict[str, Any]] = []
        deadline = time.monotonic() + timeout
        while True:
            asked = time.monotonic()
            now = self.look()
            if not seen or seen[-1] != now:
                seen.append(now)
            if eval(until, {"s": now, "first": seen[0], "seen": seen}):
                return seen
            if time.monotonic() > deadline:
                raise Failure(f"waited {timeout:.0f} s for {until}; last: {now}")
            time.sleep(max(0.03, time.monotonic() - asked))

    def digest(self) -> str:
        return str(self.session.eval("doc_digest()"))

    def undo_steps(self) -> list[str]:
        """The steps that Undo would take back, oldest first."""
        state = self.session.eval("undo_rows()")
        steps: list[str] = state["rows"][1 : state["current"] + 1]
        return steps

    def layer_names(self) -> list[str]:
        found: list[str] = self.session.eval("[n['name'] for n in layers()]")
        return found

    # --- hands --------------------------------------------------------------------------------------------------

    def document(self, width: int, height: int, model: str = "RGBA", depth: str = "U8", name: str = "test") -> None:
        """A new document at 100 %, which the docker has noticed."""
        self.session.run(f"new_document({width}, {height}, {model!r}, {depth!r}, name={name!r})")
        self.session.wait("idle() and canvas_state() is not None")
        self.session.run("K.action('zoom_to_100pct').trigger()")
        self.session.wait("abs(canvas_state()['zoom'] - 1) < 1e-6")
        self.widget("krita_sd_generate")

    def connected(self) -> None:
        """Wait for the docker's own server."""
        self.session.wait("'Connected' in widget_state('krita_sd_status')['text']", 180, "the server")

    def set_number(self, name: str, value: int) -> None:
        """Type a number into a spin box."""
        for _ in range(3):
            state = self.widget(name)
            if state["value"] == value:
                return
            self.click_at(state["x"] + 20, state["y"] + state["height"] // 2)
            try:
                # Without the keyboard in the box, Ctrl+A would select all of the canvas.
                self.session.wait(f"widget_state({name!r})['focus']", 10.0)
                self._xdotool("key", "ctrl+a", "type", "--delay", "8", str(value))
                self.key("Tab")
                self.session.wait(f"widget_state({name!r})['value'] == {value}", 10.0)
                return
            except Failure:
                continue
        raise Failure(f"{value} did not arrive in {name}")

    def steps(self, count: int) -> None:
        """Behind the gear: how many steps; then the gear is closed again."""
        self._gear(True)
        self.set_number("krita_sd_steps", count)
        self._gear(False)

    def _gear(self, open_it: bool) -> None:
        """Click until it is so: lines that come and go above it may move it away under the pointer."""
        wanted = f"bool(widget_state('krita_sd_steps')['visible']) == {open_it}"
        for _ in range(3):
            self.click("krita_sd_options")
            try:
                self.session.wait(wanted, 10.0)
                return
            except Failure:
                continue
        raise Failure(f"the gear did not {'open' if open_it else 'close'}")

    def strength(self, percent: int) -> None:
        self.set_number("krita_sd_strength_value", percent)

    def prompt(self, text: str) -> None:
        self.type_into("krita_sd_prompt", text)

    def generate(self) -> None:
        """Press the button, and see that a job begins."""
        self.click("krita_sd_generate")
        self.session.wait("widget_state('krita_sd_cancel')['enabled']", 60, "a job to begin")

    def result(self, before: int, timeout: float = JOB_TIMEOUT) -> list[dict[str, Any]]:
        """Watch until one more result than `before` is in the strip and the job is over."""
        return self.watch(f"s['results'] > {before} and not s['cancel']", timeout)

    def preview(self, blank: str) -> None:
        """Wait until the canvas shows something else than `blank` while the job runs."""
        self.watch(f"s['digest'] != {blank!r} and s['cancel']")

    def apply(self) -> None:
        """Press Apply, and wait until the result is a layer of the painter's."""
        self.click("krita_sd_apply")
        self.applied()

    def applied(self) -> None:
        """Wait until no layer of the active document is locked any more."""
        self.session.wait("len(layers()) > 1 and not any(n['locked'] for n in layers()) and idle()", 60, "Apply")

    def gone(self, clean: str) -> None:
        """Wait until the job is over and the canvas shows `clean` again, and only the painter's layer is left."""
        self.watch(f"not s['cancel'] and s['digest'] == {clean!r} and s['layers'] == ['Background']", 30)
        self.idle()

    def stroke(self, *points: tuple[float, float], size: int = 12) -> None:
        """One brush stroke on the background; waits until it is there."""
        ink = "digest(K.activeDocument().nodeByName('Background').pixelData(0, 0, 2048, 2048))"
        before = self.session.eval(ink)
        self.brush(size)
        self.drag(*points)
        self.session.wait(f"idle() and {ink} != {before!r}", 60, "the stroke")

    # --- the server ---------------------------------------------------------------------------------------------

    def server_pid(self) -> int:
        """Of the server that the plugin started."""
        found = list(self.session.state.rglob("server.json"))
        return int(json.loads(found[0].read_text())["pid"])

    def worker_pids(self) -> list[int]:
        """Of the server's worker processes: those of its children that have torch in memory."""
        pids = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                try:
                    parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                    if parent == self.server_pid() and "torch" in (folder / "maps").read_text():
                        pids.append(int(folder.name))
                except (OSError, ValueError, IndexError):
                    continue
        return pids

    def kill(self, pid: int) -> None:
        """As the kernel kills a program that took too much memory."""
        os.kill(pid, signal.SIGKILL)
