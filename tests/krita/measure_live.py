# SPDX-License-Identifier: GPL-3.0-or-later
"""How far Live is behind the pen, in the real Krita with the real server: measured and printed, not judged.

    python -m tests.krita.measure_live [--side 1024] [--strokes 3] [--region canvas] [--mirror [--shrink 4]]

A scripted pen paints at 60 Hz. For every pen event: the time until pixels of a frame that contains it were painted over
the canvas. `--mirror` measures against a server in this process that only inverts the canvas: what is left then is the
plugin, the wire and Krita. With $KRITA_SD_CANVAS=gl Krita uses OpenGL.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

from krita_sd.live.timing import PARTS
from tests.krita.live_peer import Peer
from tests.krita.live_pen import Pen, wave
from tests.krita.session import OUTPUT, Session, install_plugin, install_plugin_alone

PARTS_OF = "[t.parts() for t in L.timeline.done if t.event]"


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    asked.add_argument("--side", type=int, default=1024, help="pixels along each side of the document")
    asked.add_argument("--strokes", type=int, default=3)
    asked.add_argument("--region", default="canvas", choices=("canvas", "strokes", "automatic"))
    asked.add_argument("--mirror", action="store_true", help="a server that only inverts")
    asked.add_argument("--shrink", type=int, default=4, help="its pictures have so many times fewer pixels on a side")
    given = asked.parse_args()
    peer = Peer(given.shrink) if given.mirror else None
    try:
        with Session(install_plugin_alone if peer else install_plugin) as session:
            report = measure(session, given, peer)
    finally:
        if peer is not None:
            peer.close()
    show(report)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    (OUTPUT / "live_latency.json").write_text(json.dumps(report, indent=1))


def measure(session: Session, given: argparse.Namespace, peer: Peer | None) -> dict[str, Any]:
    """One document, some strokes, everything that was seen."""
    pen = Pen(session)
    uri = f"server_uri={peer.uri!r}, server_token='t', " if peer is not None else ""
    session.run(f"A.change({uri}workspace='live', prompt='a landscape'); A.start()")
    session.wait("A.table.connected", 120, "the server")
    session.run(f"A.change_live(region={given.region!r}, place='canvas')")
    pen.document(given.side, given.side)
    session.run("METER.start()")
    time.sleep(3)
    idle = session.eval("METER.stop()")
    begin = time.monotonic()
    session.run("L.timeline.done.clear(); L.switch(True)")
    session.wait("len(L.timeline.done) > 0 or L.view.is_error", 180, "the first frame")
    if session.eval("L.view.is_error"):
        raise SystemExit("Live failed: " + session.eval("L.view.status"))
    first = time.monotonic() - begin
    session.wait("L._reader is None")
    time.sleep(5)  # the server traces the model after its first frame
    session.run("L.timeline.done.clear(); events = []; METER.start()")
    span = given.side * 0.6
    for number in range(given.strokes):
        path = wave(given.side * 0.2, given.side * (0.3 + 0.15 * number), given.side * 0.2 + span, 180)
        pen.begin(path)
        session.wait("R.done", 120, "the stroke")
        session.run("events += R.times")
        time.sleep(1.0)
    time.sleep(3)
    session.run("gaps = METER.stop()")
    session.screenshot("live-measured")
    trips, events = pen.trips(), session.eval("events")
    return {
        "side": given.side,
        "server": "mirror" if peer is not None else session.eval("A.connection.text"),
        "load": os.getloadavg()[0],
        "first frame s": round(first, 2),
        "latency ms": percentiles([latency * 1000 for latency in latencies(events, trips)]),
        "unanswered events": len(events) - len(latencies(events, trips)),
        "parts ms": parts(session.eval(PARTS_OF)),
        "frames": len(trips),
        "frames per second": round((len(trips) - 1) / max(0.001, trips[-1][3] - trips[0][3]), 2),
        "KiB up per frame": percentiles([trip[5] / 1024 for trip in trips]),
        "share of the raw canvas": round(statistics.median(trip[5] for trip in trips) / (given.side**2 * 4), 4),
        "GUI gaps ms": session.eval("gaps"),
        "GUI gaps without Live ms": idle,
        "reading ms": percentiles([part["read"] * 1000 for part in session.eval(PARTS_OF)]),
    }


def latencies(events: Sequence[float], trips: Sequence[Sequence[float]]) -> list[float]:
    """Seconds from every pen event to the first frame on the screen whose pixels were read after it."""
    found = []
    for event in events:
        shown = [trip[3] for trip in trips if trip[2] >= event]
        if shown:
            found.append(min(shown) - event)
    return found


def percentiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)
    at = {"p50": 0.5, "p95": 0.95}
    return {name: round(ordered[int(len(ordered) * share)], 1) for name, share in at.items()} | {
        "max": round(ordered[-1], 1)
    }


def parts(seen: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    return {name: percentiles([part[name] * 1000 for part in seen]) for name in PARTS}


def show(report: dict[str, Any]) -> None:
    for name, value in report.items():
        if isinstance(value, dict) and all(isinstance(inner, dict) for inner in value.values()) and value:
            for inner, numbers in value.items():
                print(f"{name:24} {inner:8} {numbers}")
        else:
            print(f"{name:24} {value}")


if __name__ == "__main__":
    main()
