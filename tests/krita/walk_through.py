# SPDX-License-Identifier: GPL-3.0-or-later
"""A new user's first picture by hand, with a clock: `python -m tests.krita.walk_through` prints seconds and clicks.

From the start of the program to the applied layer, on an installation that was never used before: no server runs, no
model is loaded. The document is made as the "New" dialog makes it; its clicks are counted, not its seconds.
"""

from __future__ import annotations

import json
import os
import sys
import time

from tests.krita.session import Session, install_plugin
from tests.krita.studio import Studio

SIDE = 512
WORDS = "a red circle on a blue background"


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
        studio = Studio(session)
        studio.document(SIDE, SIDE)
        mark("the document is there")
        studio.connected()
        mark("the docker is connected")
        blank = studio.digest()
        studio.click("krita_sd_prompt")
        studio._xdotool("type", "--delay", "8", WORDS)
        mark("the prompt is typed")
        studio.key("shift+Return")
        session.wait("widget_state('krita_sd_cancel')['enabled']", 20)
        studio.watch(f"s['digest'] != {blank!r}", 180)
        mark("the first estimate is on the canvas")
        studio.watch("s['results'] > 0 and not s['cancel']", 300)
        mark("the picture is there")
        session.screenshot("walk-through")
        studio.click("krita_sd_apply")
        studio.applied()
        mark("it is a layer")
    clicks = ["New, Create (2 clicks)", "into the prompt (1 click)", "Shift+Enter", "Apply (1 click)"]
    return {"load": os.getloadavg()[0], "side": SIDE, "seconds": seen, "hand": clicks}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(walk(), indent=1) + "\n")
