# SPDX-License-Identifier: GPL-3.0-or-later
"""How measurements are taken and shown: interleaved rounds, ratios of medians and of minima, target and verdict."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

Arm = Callable[[], Awaitable[float]]


@dataclass(frozen=True)
class Row:
    """One line: `value` is what the target speaks of; `other` are further numbers worth reading beside it."""

    name: str
    value: float
    unit: str
    target: float | None = None
    other: dict[str, float] = field(default_factory=dict)
    at_least: bool = False

    @property
    def verdict(self) -> str:
        if self.target is None:
            return "reported"
        good = self.value >= self.target if self.at_least else self.value <= self.target
        return "reached" if good else "MISSED"


async def timed(work: Awaitable[Any]) -> float:
    """Seconds of wall time that `work` took."""
    start = time.perf_counter()
    await work
    return time.perf_counter() - start


async def interleave(arms: dict[str, Arm], rounds: int) -> dict[str, list[float]]:
    """Seconds of every arm, ABAB..., after one unmeasured warm-up of each."""
    for arm in arms.values():
        await arm()
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds):
        # The order alternates: whatever the first of a pair pays (caches, clock changes) is paid by both.
        for name in list(arms) if number % 2 == 0 else reversed(list(arms)):
            seconds[name].append(await arms[name]())
    return seconds


def ratio(name: str, seconds: dict[str, list[float]], ours: str, theirs: str, target: float | None) -> Row:
    """Median of `ours` over median of `theirs`, with the ratio of the minima and both medians beside it."""
    medians = {arm: statistics.median(values) for arm, values in seconds.items()}
    other = {
        "of minima": min(seconds[ours]) / min(seconds[theirs]),
        f"{ours} (s)": medians[ours],
        f"{theirs} (s)": medians[theirs],
    }
    return Row(name, medians[ours] / medians[theirs], "x", target, other)


def times_faster(name: str, seconds: dict[str, list[float]], ours: str, theirs: str, target: float | None) -> Row:
    """How many times as many of ours as of theirs in the same time; otherwise as `ratio`."""
    row = ratio(name, seconds, theirs, ours, target)
    return replace(row, at_least=True)


def show(rows: list[Row]) -> str:
    """The table as text."""
    lines = []
    for row in rows:
        sign = ">=" if row.at_least else "<="
        target = "" if row.target is None else f"{sign} {row.target:g}"
        beside = ", ".join(f"{key} {value:.3g}" for key, value in row.other.items())
        lines.append(f"{row.name:<58} {row.value:7.3f} {row.unit:<6} {target:<9} {row.verdict:<9} {beside}")
    return "\n".join(lines)


def save(rows: list[Row], path: Path, settings: dict[str, Any]) -> None:
    """Write rows and settings as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = {"machine": platform.machine(), "python": platform.python_version()}
    body = {"settings": {**settings, **machine}, "rows": [{**asdict(row), "verdict": row.verdict} for row in rows]}
    path.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
