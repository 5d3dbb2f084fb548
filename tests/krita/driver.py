# SPDX-License-Identifier: GPL-3.0-or-later
"""The painter's hands: mouse and keyboard events through xdotool, aimed at what the screen shows."""

from __future__ import annotations

import subprocess
import time
from typing import Any

from tests.krita.session import Failure, Session

PRESSED = 0.06  # seconds after a press: Krita takes a shorter one for a click
SETTLED = 0.16  # seconds before a release: Krita compresses moves and would lose the last ones
BETWEEN = 0.012  # seconds between two steps of a stroke


class Hand:
    """Uses only the X server; where things are comes from the control channel."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def _xdotool(self, *args: object) -> None:
        subprocess.run(["xdotool", *map(str, args)], env=self.session.env, check=True, timeout=30)

    # --- widgets ------------------------------------------------------------------------------------------------

    def widget(self, name: str, timeout: float = 60.0, enabled: bool = True) -> dict[str, Any]:
        """The state of a widget once it is visible (and enabled)."""
        condition = f"reach({name!r}, {enabled})"
        state: dict[str, Any] = self.session.wait(condition, timeout, f"widget {name} to be visible and enabled")
        return state

    def click(self, name: str, timeout: float = 60.0) -> None:
        """Click the middle of a widget."""
        state = self.widget(name, timeout)
        x, y = state["x"] + state["width"] // 2, state["y"] + state["height"] // 2
        self.click_at(x, y)

    def click_at(self, x: int, y: int, button: int = 1) -> None:
        """Click a point of the screen."""
        self._xdotool("mousemove", x, y, "mousedown", button, "sleep", PRESSED, "mouseup", button)

    def choose(self, name: str, text: str) -> None:
        """Open a menu button or a drop-down list, and click the line `text` in it."""
        self.click(name)
        place = self.session.wait(f"entry({text!r})", 30, f"the line {text} of {name}")
        self.click_at(*place)
        self.session.wait("QtWidgets.QApplication.activePopupWidget() is None", 30, "the list to close")

    def click_row(self, name: str, text: str) -> None:
        """Click the row of a list that contains `text`."""
        self.widget(name)
        self.click_at(*self.session.wait(f"row_of(widget({name!r}), {text!r})", 30, f"{text} in {name}"))

    def type_into(self, name: str, text: str) -> None:
        """Click into a text field, replace what is in it, and wait until it is there."""
        for _ in range(3):
            self.click(name)
            self._xdotool("key", "ctrl+a", "type", "--delay", "8", text)
            seen = f"(lambda s: (s.get('toPlainText') or s.get('text')) == {text!r})(widget_state({name!r}))"
            try:
                self.session.wait(seen, 10.0)
                return
            except Failure:
                continue
        raise Failure(f"{text!r} did not arrive in {name}")

    def key(self, *keys: str) -> None:
        """Press key combinations one after the other: "ctrl+z", "Escape"."""
        self._xdotool("key", *keys)

    # --- canvas -------------------------------------------------------------------------------------------------

    def canvas(self) -> dict[str, Any]:
        state: dict[str, Any] = self.session.wait("canvas_state()")
        return state

    def at(self, x: float, y: float) -> tuple[int, int]:
        """The point of the screen that shows image pixel (x, y) of the active view."""
        c = self.canvas()
        return round(c["left"] + x * c["zoom"]), round(c["top"] + y * c["zoom"])

    def press(self, x: float, y: float) -> None:
        """Pen down on image pixel (x, y)."""
        self._xdotool("mousemove", *self.at(x, y), "mousedown", 1, "sleep", PRESSED)

    def move(self, *points: tuple[float, float]) -> None:
        """Move through image pixels."""
        args: list[object] = []
        for x, y in points:
            args += ["mousemove", *self.at(x, y), "sleep", BETWEEN]
        self._xdotool(*args)

    def release(self) -> None:
        """Pen up."""
        self._xdotool("sleep", SETTLED, "mouseup", 1)

    def drag(self, *points: tuple[float, float], steps: int = 6) -> None:
        """A stroke through image pixels, with intermediate points."""
        path = _between(points, steps)
        self.press(*path[0])
        self.move(*path[1:])
        self.release()

    def tool(self, action: str) -> None:
        """Choose a tool: "KritaShape/KisToolBrush", "KisToolSelectRectangular", ..."""
        self.session.run(f"K.action({action!r}).trigger()")

    def brush(self, size: int = 20) -> None:
        """The freehand brush with a plain round tip and no smoothing: equal movements give equal bytes."""
        self.tool("KritaShape/KisToolBrush")
        self.session.run(
            "K.action('set_no_brush_smoothing').trigger(); v = K.activeWindow().activeView(); "
            f"v.setCurrentBrushPreset(K.resources('preset')['b) Basic-1']); v.setBrushSize({size})"
        )

    def idle(self, timeout: float = 60.0) -> None:
        """Wait until Krita has no work left on the active document."""
        self.session.wait("idle()", timeout)

    def undo(self) -> None:
        """Ctrl+Z on the canvas, and wait until the undo list has moved."""
        before = self.session.eval("undo_rows()")
        self.focus_canvas()
        self._xdotool("key", "ctrl+z")
        self.session.wait(f"undo_rows() != {before!r} and idle()", 60.0, "undo")

    def redo(self) -> None:
        """Ctrl+Shift+Z on the canvas, and wait until the undo list has moved."""
        before = self.session.eval("undo_rows()")
        self.focus_canvas()
        self._xdotool("key", "ctrl+shift+z")
        self.session.wait(f"undo_rows() != {before!r} and idle()", 60.0, "redo")

    def focus_canvas(self) -> None:
        """Put the pointer over the canvas, as a painter's is; Krita's canvas takes the focus on entering."""
        c = self.canvas()
        self._xdotool("mousemove", c["x"] + c["width"] - 8, c["y"] + c["height"] - 8)


def _between(points: tuple[tuple[float, float], ...], steps: int) -> list[tuple[float, float]]:
    path = [points[0]]
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        path += [(x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps) for i in range(1, steps + 1)]
    return path


def poll(condition: Any, timeout: float, what: str) -> Any:
    """Call `condition` until it is true; its value."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failure(f"waited {timeout:.0f} s for {what}")
        time.sleep(0.05)
