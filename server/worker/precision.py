# SPDX-License-Identifier: GPL-3.0-or-later
"""Which precision a device computes in: measured once when the worker starts, in about 50 ms per candidate.

The usual one of the device wins unless another is faster by a wide margin: a close race could end differently at the
next start, and the same recipe would give other bytes.
"""

from __future__ import annotations

import logging
import time
from typing import Any

log = logging.getLogger(__name__)

MARGIN = 1.6
SECONDS = 0.05

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
    speeds: dict[str, float] = {}
    for name in CANDIDATES.get(kind, ("float32",)):
        try:
            speeds[name] = _speed(torch, device, getattr(torch, name), seconds)
        except (RuntimeError, NotImplementedError) as error:
            log.info("%s on %s: %s", name, device, str(error).splitlines()[0])
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


def _speed(torch: Any, device: str, dtype: Any, seconds: float) -> float:
    """Rounds per second of a convolution and a matrix product of a UNet's usual shapes."""
    with torch.inference_mode():
        picture = torch.ones(1, 128, 32, 32, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
        kernel = torch.ones(128, 128, 3, 3, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
        rows, columns = (torch.ones(*shape, device=device, dtype=dtype) for shape in ((1024, 320), (320, 320)))

        def work() -> None:
            torch.nn.functional.conv2d(picture, kernel, padding=1)
            rows @ columns

        def wait() -> None:
            if torch.device(device).type != "cpu":
                getattr(torch, torch.device(device).type).synchronize()

        work()  # the first call chooses kernels
        wait()
        rounds, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            work()
            wait()
            rounds += 1
        return rounds / (time.perf_counter() - started)
