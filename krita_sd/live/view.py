# SPDX-License-Identifier: GPL-3.0-or-later
"""What the Live workspace shows, derived from the state machine and what was measured. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from krita_sd.live.machine import Machine, Phase
from krita_sd.text import tr


@dataclass(frozen=True)
class LiveView:
    """`status`: one line about Live; record_text: where frames go, or went."""

    on: bool = False
    status: str = ""
    is_error: bool = False
    can_apply: bool = False
    recording: bool = False
    record_text: str = ""


LATE = 3.0
"""Seconds, and times the usual latency: after the longer of the two a picture is said to be waited for."""


def status(machine: Machine, latency: float, rate: float, waiting: float = 0.0) -> str:
    """One sentence. latency: seconds from pen to picture; rate: frames per second; 0.0 when not known. waiting: seconds
    since the request that nothing has answered."""
    match machine.phase:
        case Phase.OFF:
            return ""
        case Phase.STARTING:
            return machine.text or tr("Starting ...")
        case Phase.PAUSED:
            return f"{tr('Paused.')} {machine.text}".strip()
        case Phase.FAILED:
            return machine.text
    if machine.text:
        return machine.text
    if waiting > LATE * max(1.0, latency):
        return tr("Waiting for the picture for {0} s.").format(int(waiting))
    if latency <= 0:
        return tr("Live.")
    behind = f"{latency:.1f} s" if latency >= 1 else f"{latency * 1000:.0f} ms"
    text = tr("{0} behind the pen").format(behind)
    return f"{text}, {tr('{0} pictures per second').format(f'{rate:.1f}')}" if rate > 0 else text
