# SPDX-License-Identifier: GPL-3.0-or-later
"""How far Live is behind the pen, in the real Krita with the real server: measured and printed, not judged.

    python -m tests.krita.measure_live [--strokes 2] [--mirror [--shrink 1]] [--gl] [--side 1024] [--region canvas]

A scripted pen paints the same strokes at 60 Hz, first with Live off, then with Live on; the painted pixels must be the
same. For every pen event: the time until pixels of a frame that contains it were painted over the canvas. `--mirror`
measures against a server in this process that only inverts the canvas: what is left then is the plugin, the wire and
Krita. With `--gl` Krita uses OpenGL. Prints the lines of the tables in docs/benchmarks.md and keeps all as JSON.
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
from tests.krita import session as sessions
from tests.krita.live_peer import Peer
from tests.krita.live_pen import Pen, wave
from tests.krita.session import OUTPUT, Session, install_plugin, install_plugin_alone

PARTS_OF = "[t.parts() for t in L.timeline.done if t.event]"


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    asked.add_argument("--side", type=int, default=1024, help="pixels along each side of the document")
    asked.add_argument("--strokes", type=int, default=2, help="of three seconds each")
    asked.add_argument("--region", default="canvas", choices=("canvas", "strokes", "automatic"))
    asked.add_argument("--mirror", action="store_true", help="a server that only inverts")
    asked.add_argument("--shrink", type=int, default=4, help="its pictures have so many times fewer pixels on a side")
    asked.add_argument("--gl", action="store_true", help="an OpenGL canvas; also with KRITA_SD_CANVAS=gl")
    given = asked.parse_args()
    if given.gl:
        sessions.CANVAS = "gl"
    peer = Peer(given.shrink) if given.mirror else None
    try:
        with Session(install_plugin_alone if peer else install_plugin) as session:
            report = measure(session, given, peer)
    finally:
        if peer is not None:
            peer.close()
    print(table(report))
    OUTPUT.mkdir(parents=True, exist_ok=True)
    name = f"live_latency-{report['server']}-{report['canvas']}.json"
    (OUTPUT / name).write_text(json.dumps(report, indent=1))


def paint(session: Session, pen: Pen, given: argparse.Namespace) -> dict[str, Any]:
    """The strokes; when their events came, and how the GUI thread fared meanwhile."""
    session.run("events = []; METER.start()")
    left, right = given.side * 0.2, given.side * 0.8
    for number in range(given.strokes):
        pen.begin(wave(left, given.side * (0.3 + 0.15 * (number % 4)), right, 180))
        session.wait("R.done", 120, "the stroke")
        session.run("events += R.times")
        time.sleep(1.0)
    time.sleep(3)
    session.run("gaps = METER.stop()")
    session.wait("idle()", 60)
    return {"events": session.eval("events"), "gaps": session.eval("gaps"), "ink": pen.ink()}


def measure(session: Session, given: argparse.Namespace, peer: Peer | None) -> dict[str, Any]:
    """The strokes on a new document without Live, then on another one with it; everything that was seen."""
    pen = Pen(session)
    uri = f"server_uri={peer.uri!r}, server_token='t', " if peer is not None else ""
    session.run(f"A.change({uri}workspace='live', prompt='a landscape'); A.start()")
    session.wait("A.table.connected", 120, "the server")
    session.run(f"A.change_live(region={given.region!r}, place='canvas')")
    pen.document(given.side, given.side)
    alone = paint(session, pen, given)
    session.run("close_all()")
    session.wait("not K.documents()")
    pen.document(given.side, given.side)
    begin = time.monotonic()
    session.run("import collections; L.timeline.done = collections.deque(); L.switch(True)")
    session.wait("len(L.timeline.done) > 0 or L.view.is_error", 180, "the first frame")
    if session.eval("L.view.is_error"):
        raise SystemExit("Live failed: " + session.eval("L.view.status"))
    first = time.monotonic() - begin
    session.wait("L._reader is None")
    time.sleep(5)  # the server traces the model after its first frame
    session.run("L.timeline.done.clear()")
    live = paint(session, pen, given)
    session.screenshot("live-measured")
    trips = pen.trips()
    behind = latencies(live["events"], trips)
    return {
        "krita": session.eval("K.version()"),
        "canvas": sessions.CANVAS,
        "side": given.side,
        "server": "mirror" if peer is not None else "embedded",
        "load": round(os.getloadavg()[0], 1),
        "first frame s": round(first, 2),
        "the stroke is the same": live["ink"] == alone["ink"],
        "latency ms": percentiles([latency * 1000 for latency in behind]),
        "pen events": len(live["events"]),
        "unanswered events": len(live["events"]) - len(behind),
        "parts ms": parts(session.eval(PARTS_OF)),
        "frames": len(trips),
        "frames per second": round((len(trips) - 1) / max(0.001, trips[-1][3] - trips[0][3]), 1),
        "KiB up per frame": percentiles([trip[5] / 1024 for trip in trips]),
        "KiB down per frame": percentiles([trip[6] / 1024 for trip in trips]),
        "share of the raw canvas": round(statistics.median(trip[5] for trip in trips) / (given.side**2 * 4), 4),
        "GUI gaps ms": live["gaps"],
        "GUI gaps without Live ms": alone["gaps"],
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


def table(report: dict[str, Any]) -> str:
    """As Markdown: one line about all, one per part."""
    behind, gaps, alone = report["latency ms"], report["GUI gaps ms"], report["GUI gaps without Live ms"]
    same = "yes" if report["the stroke is the same"] else "NO"
    answered = report["pen events"] - report["unanswered events"]
    kib = " / ".join(f"{report[f'KiB {way} per frame'].get('p50', 0.0):.0f}" for way in ("up", "down"))
    lines = [
        f"Krita {report['krita']}, {report['canvas']} canvas, {report['side']} x {report['side']} px; first frame "
        f"after {report['first frame s']} s; {answered} of {report['pen events']} pen events answered",
        "",
        "| server | load | p50 | p95 | frames (per s) | longest gap, with / without Live | over 16 ms, with / without "
        "| KiB up / down | same stroke |",
        "|---|---|---|---|---|---|---|---|---|",
        f"| {report['server']} | {report['load']} | {behind.get('p50', 0.0):.0f} | {behind.get('p95', 0.0):.0f} "
        f"| {report['frames']} ({report['frames per second']}) | {gaps['max']} / {alone['max']} "
        f"| {gaps['over16']} of {gaps['turns']} / {alone['over16']} of {alone['turns']} | {kib} | {same} |",
        "",
        "| part | " + " | ".join(PARTS) + " |",
        "|---" * (len(PARTS) + 1) + "|",
    ]
    for share in ("p50", "p95"):
        numbers = [f"{report['parts ms'][name].get(share, 0.0):.1f}" for name in PARTS]
        lines.append(f"| {share} | " + " | ".join(numbers) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
