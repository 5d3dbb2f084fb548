# SPDX-License-Identifier: GPL-3.0-or-later
"""What the docker says about a download and about a folder of models. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from krita_sd.text import tr
from krita_sd.view_lists import size_text

BUSY = ("asking", "waiting", "running", "checking", "stopping")


@dataclass(frozen=True)
class FolderLine:
    """One folder with models. `report`: what the server found there, empty while it has not told."""

    path: str
    is_own: bool = False
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def problem(self) -> str:
        return str(self.report.get("problem") or "")

    @property
    def text(self) -> str:
        """What was found, in one line."""
        if not self.report:
            return tr("The server has not looked into it yet.")
        program, found, bad = str(self.report.get("program") or ""), _count(self.report, "models"), ""
        if unusable := _count(self.report, "unusable"):
            bad = ", " + tr("{number} of them cannot be used", number=unusable)
        text = tr("1 model") if found == 1 else tr("{number} models", number=found)
        return (f"{program}: " if program else "") + text + bad


def state_text(offer: Mapping[str, Any]) -> str:
    """The column that says how it stands with a download."""
    phase = str(offer.get("phase") or "")
    size, done = _count(offer, "bytes"), _count(offer, "done")
    if phase == "partial":
        return tr("{done} are here", done=size_text(done))
    if phase in ("running", "checking") and size:
        return f"{100 * min(done, size) // size} %"
    return {
        "installed": tr("installed"),
        "asking": tr("asking ..."),
        "waiting": tr("waiting"),
        "running": tr("running"),
        "checking": tr("checking"),
        "stopping": tr("stopping"),
    }.get(phase, "")


def progress_text(offer: Mapping[str, Any]) -> str:
    """Beside the bar: how much, how fast, how long still; "" when nothing runs."""
    phase = str(offer.get("phase") or "")
    size, done, rate = _count(offer, "bytes"), _count(offer, "done"), _count(offer, "rate")
    if phase == "checking":
        return tr("Comparing with the checksum ...")
    if phase not in ("running", "stopping") or not size:
        return state_text(offer) if phase in BUSY else ""
    text = tr("{done} of {size}", done=size_text(done), size=size_text(size))
    if rate > 0:
        text += ", " + tr("{rate} per second", rate=size_text(rate)) + ", " + left_text((size - done) / rate)
    return text


def left_text(seconds: float) -> str:
    """How long it will still take."""
    if seconds < 60:
        return tr("less than a minute left")
    minutes = round(seconds / 60)
    if minutes < 100:
        return tr("{minutes} min left", minutes=minutes)
    return tr("{hours} h left", hours=round(minutes / 60))


def button_text(offer: Mapping[str, Any]) -> str:
    """What the button will do: ask for the size first, then fetch it, or the rest."""
    size, phase = _count(offer, "bytes"), str(offer.get("phase") or "")
    if not size:
        return tr("Go on") if phase == "partial" else tr("Ask for the size")
    if phase == "partial":
        return tr("Download the other {size}", size=size_text(max(0, size - _count(offer, "done"))))
    return tr("Download {size}", size=size_text(size))


def wish(offer: Mapping[str, Any]) -> str:
    """What that button sends: "ask" or "start"; "" when there is nothing to do."""
    phase = str(offer.get("phase") or "")
    if not offer or phase in BUSY or phase == "installed":
        return ""
    return "start" if _count(offer, "bytes") or phase == "partial" else "ask"


def _count(data: Mapping[str, Any], key: str) -> int:
    """A number that a server told; 0 for anything else."""
    value = data.get(key)
    return value if isinstance(value, int) and value > 0 else 0
