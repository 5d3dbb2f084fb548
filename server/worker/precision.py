# SPDX-License-Identifier: GPL-3.0-or-later
"""Which precision a device computes in: measured once when the worker starts, in about 50 ms per candidate (a coarse
clock needs more).

The usual one of the device wins unless another is faster by a wide margin: a close race could end differently at the
next start, and the same recipe would give other bytes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

log = logging.getLogger(__name__)

MARGIN = 1.6
SECONDS = 0.05

TICKS = 12
"""Steps of the clock that one measurement takes at least; by one of them it may be wrong."""

CANDIDATES = {
    "cpu": ("float32", "bfloat16"),
    "cuda": ("float16", "bfloat16", "float32"),
    "xpu": ("float16", "bfloat16", "float32"),
    "mps": ("float16", "float32"),
}
"""Per device, the usual precision first. bfloat16 is emulated, slowly, where the hardware lacks it."""


def read_dtype(name: str, device: str) -> Any:
    """The torch dtype that a user named; "auto" measures."""
    import torch

    return choose_dtype(device) if name == "auto" else getattr(torch, name)


def choose_dtype(device: str, seconds: float = SECONDS) -> Any:
    """The torch dtype for models on `device` ("cpu", "cuda", ...)."""
    import torch

    kind = torch.device(device).type
    threads = torch.get_num_threads()
    if kind == "cpu":
        torch.set_num_threads(1)
    try:
        # By the time of one thread other programs take nothing of it: a busy processor decides like a quiet one.
        clock = time.thread_time if kind == "cpu" else time.perf_counter
        speeds = measured(_works(torch, device, CANDIDATES.get(kind, ("float32",))), seconds, clock)
    finally:
        torch.set_num_threads(threads)
    chosen = fastest(speeds)
    log.info("precision %s on %s (rounds per second: %s)", chosen, device, speeds)
    return getattr(torch, chosen)


def fastest(speeds: dict[str, float]) -> str:
    """The first of `speeds` unless another is faster by MARGIN; "float32" when there is none."""
    if not speeds:
        return "float32"
    usual = next(iter(speeds))
    best = max(speeds, key=lambda name: speeds[name])
    return best if speeds[best] > MARGIN * speeds[usual] else usual


def measured(works: Mapping[str, Callable[[], None]], seconds: float, clock: Callable[[], float]) -> dict[str, float]:
    """Rounds per second by `clock`, by the quickest measurement of each; they take turns."""
    quickest = dict.fromkeys(works, float("inf"))
    least = TICKS * tick(clock)
    until = clock() + seconds * len(works)
    while works and (clock() < until or float("inf") in quickest.values()):
        for name, work in works.items():
            quickest[name] = min(quickest[name], _took(work, clock, least))
    return {name: 1.0 / max(took, 1e-9) for name, took in quickest.items()}


def _took(work: Callable[[], None], clock: Callable[[], float], least: float) -> float:
    """Seconds of one round, out of as many as take `least` seconds."""
    began, rounds = clock(), 0
    while True:
        work()
        rounds += 1
        passed = clock() - began
        if passed >= least:
            return passed / rounds


def tick(clock: Callable[[], float]) -> float:
    """By how much `clock` steps on. Looked at, not asked for: Windows promises 100 ns of the time of a thread, which
    goes in steps of 16 ms there."""
    steps = []
    for _ in range(2):  # the first one may have begun before
        began = now = clock()
        while now <= began:
            now = clock()
        steps.append(now - began)
    return min(steps)


def _works(torch: Any, device: str, names: Sequence[str]) -> dict[str, Callable[[], None]]:
    """What is measured of each precision that the device has."""
    works: dict[str, Callable[[], None]] = {}
    for name in names:
        try:
            works[name] = _work(torch, device, getattr(torch, name))
        except (RuntimeError, NotImplementedError) as error:
            log.info("%s on %s: %s", name, device, str(error).splitlines()[0])
    return works


def _work(torch: Any, device: str, dtype: Any) -> Callable[[], None]:
    """One round: a convolution and a matrix product of a UNet's usual shapes, waited for. Done once already."""
    kind = torch.device(device).type
    picture = torch.ones(1, 128, 32, 32, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    kernel = torch.ones(128, 128, 3, 3, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    rows, columns = (torch.ones(*shape, device=device, dtype=dtype) for shape in ((1024, 320), (320, 320)))

    def work() -> None:
        with torch.inference_mode():
            torch.nn.functional.conv2d(picture, kernel, padding=1)
            rows @ columns
        if kind != "cpu":
            getattr(torch, kind).synchronize()

    work()  # the first call chooses kernels
    return work
