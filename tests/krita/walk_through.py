# SPDX-License-Identifier: GPL-3.0-or-later
"""A new user's first picture by hand, with a clock: `python -m tests.krita.walk_through` prints seconds and clicks.

From the start of the program to the applied layer, on an installation that was never used before: no server runs, no
model is loaded. The document is the one that Krita's "New" offers by itself, a page of 2480 x 3508 pixels.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

from tests.krita.session import Failure, Session, install_plugin
from tests.krita.studio import Studio

WORDS = "a red circle on a blue background"
CREATE = """[[p.x(), p.y()] for top in QtWidgets.QApplication.topLevelWidgets() if top.isVisible()
    for b in top.findChildren(QtWidgets.QPushButton) if b.isVisible() and b.text().replace('&', '') == 'Create'
    for p in [b.mapToGlobal(b.rect().center())]]"""


class Counted(Studio):
    """Counts what the hand does."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.clicks, self.keys, self.typed = 0, 0, 0

    def _xdotool(self, *args: object) -> None:
        self.clicks += args.count("mousedown")
        if args[0] == "key":
            self.keys += len(args) - 1
        if args[0] == "type":
            self.typed += len(str(args[-1]))
        super()._xdotool(*args)


def walk() -> dict[str, object]:
    """Seconds since the start at which each step was done, and what the hand did."""
    begin = time.monotonic()
    seen: dict[str, float] = {}

    def mark(name: str) -> None:
        seen[name] = round(time.monotonic() - begin, 1)
        sys.stdout.write(f"{seen[name]:6.1f} s  {name}\n")
        sys.stdout.flush()

    with Session(install_plugin) as session:
        mark("Krita is there")
        studio = Counted(session)
        try:
            _paint(studio, session, mark)
        except Failure:
            sys.stdout.write(session.dump("walk-through") + "\n")
            raise
        size = session.eval("[K.activeDocument().width(), K.activeDocument().height()]")
    hand = {"clicks": studio.clicks, "keys": studio.keys, "letters": studio.typed}
    return {"load": os.getloadavg()[0], "document": size, "seconds": seen, "hand": hand}


def _at_rest(session: Session, where: str) -> list[tuple[int, int]]:
    """The places that the expression tells, once they are the same twice: the window manager moves new windows."""
    places = session.wait(where, 20)
    while True:
        time.sleep(0.2)
        before, places = places, session.wait(where, 20)
        if places == before:
            return list(places)


def _paint(studio: Counted, session: Session, mark: Callable[[str], None]) -> None:
    studio.key("ctrl+n")
    studio.click_at(*_at_rest(session, CREATE)[0])
    session.wait("K.activeDocument() is not None and canvas_state() is not None and idle()", 20)
    mark("the document is there")
    studio.connected()
    mark("the docker is connected")
    blank = studio.digest()
    studio.click("krita_sd_prompt")
    session.wait("widget_state('krita_sd_prompt')['focus']", 10)
    studio._xdotool("type", "--delay", "8", WORDS)
    mark("the prompt is typed")
    studio.key("shift+Return")
    session.wait("widget_state('krita_sd_cancel')['enabled']", 20)
    session.wait(f"doc_digest() != {blank!r}", 180, "an estimate on the canvas")
    mark("the first estimate is on the canvas")
    done = "widget_state('krita_sd_results')['count'] > 0 and not widget_state('krita_sd_cancel')['enabled']"
    session.wait(done, 300, "the picture")
    mark("the picture is there")
    session.screenshot("walk-through")
    studio.click("krita_sd_apply")
    session.wait("not any(n['locked'] for n in layers() if n['name'] != 'Background') and idle()", 60, "Apply")
    session.wait("layers()[-1]['name'].startswith('a red circle')", 20)
    mark("it is a layer")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(walk(), indent=1) + "\n")
