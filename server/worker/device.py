# SPDX-License-Identifier: GPL-3.0-or-later
"""Which device computes: the wanted one, or the first of cuda, xpu, mps and cpu that really works."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger(__name__)

ORDER = ("cuda", "xpu", "mps", "cpu")

KEPT_BUFFER = 320 * 1024**2
"""Bytes up to which a buffer on the processor is used again instead of being given back and asked for anew: the largest
of Stable Diffusion's decode at 512 x 512 pixels has 256 MiB."""

KEPT_MEMORY = 2 * KEPT_BUFFER
"""Bytes of such memory that may lie idle."""

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def choose_device(wanted: str) -> tuple[str, dict[str, Any]]:
    """(device, {kind, name, memory, note}). A named device that fails is reported in `note`; the processor follows."""
    import torch

    notes: list[str] = []
    for kind in ORDER if wanted == "auto" else (wanted, "cpu"):
        problem = _problem(torch, kind)
        if not problem:
            if kind == "cpu":
                _leave_a_core(torch)
            info = {"kind": kind, "name": _name(torch, kind), "memory": total_memory(kind), "note": " ".join(notes)}
            log.info("device %s", info)
            return kind, info
        log.warning("device %s: %s", kind, problem)
        if wanted != "auto":
            notes.append(f"The device {kind} cannot be used ({problem}); the processor is used instead.")
    raise RuntimeError("no device works")


def _problem(torch: Any, kind: str) -> str:
    if kind == "cpu":
        return ""
    module = torch.backends.mps if kind == "mps" else getattr(torch, kind, None)
    if module is None or not module.is_available():
        return "not available in this installation of PyTorch"
    try:
        # A driver that is too old is found "available" and fails at the first kernel.
        (torch.ones(8, device=kind) * 2).sum().item()
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return ""


@contextmanager
def all_cores_but_one() -> Iterator[None]:
    """For Live on a processor: it and the brush compete, and a model on a core that is not free waits for it in every
    operation: beside a Krita that paints, two threads on two cores took more than twice as long as one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, (os.cpu_count() or 2) - 1)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _leave_a_core(torch: Any) -> None:
    # On many cores one is left to the front and to Krita; on two, half the speed would be too high a price.
    if "OMP_NUM_THREADS" in os.environ:
        return
    cores = torch.get_num_threads()
    if cores >= 4:
        torch.set_num_threads(cores - 1)


def _name(torch: Any, kind: str) -> str:
    if kind in ("cuda", "xpu"):
        return str(getattr(torch, kind).get_device_name(0))
    return {"mps": "Apple GPU", "cpu": "Processor"}[kind]


def total_memory(kind: str) -> int:
    """Bytes of memory of the device; 0 when unknown."""
    import torch

    if kind in ("cuda", "xpu"):
        return int(getattr(torch, kind).get_device_properties(0).total_memory)
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 0


def free_memory(kind: str) -> int:
    """Bytes that this process can still take on the device; 0 when unknown."""
    import torch

    if kind in ("cuda", "xpu"):
        module = getattr(torch, kind)
        # What the allocator keeps for reuse is free to us.
        return int(module.mem_get_info(0)[0]) + module.memory_reserved(0) - module.memory_allocated(0)
    if kind == "mps":
        return max(0, int(torch.mps.recommended_max_memory()) - int(torch.mps.current_allocated_memory()))
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found = next((line for line in lines if line.startswith("MemAvailable:")), "")
    except OSError:
        return 0
    return int(found.split()[1]) * 1024 if found else 0


def keep_buffers() -> bool:
    """Let the C library keep the memory of pictures for the next ones, within KEPT_MEMORY; whether it does.

    By itself glibc gives everything over 32 MB back when it is freed, and the system clears each of its pages at the
    next use: up to a tenth of the time of a decode. Other C libraries are left as they are.
    """
    libc = _glibc()
    # Old versions refuse so large a threshold, and must not get the other one alone: it would fix the first at 128 KB.
    return libc is not None and bool(
        libc.mallopt(_MMAP_THRESHOLD, KEPT_BUFFER) and libc.mallopt(_TRIM_THRESHOLD, KEPT_MEMORY)
    )


def _glibc() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    try:
        libc = ctypes.CDLL(None)
        return libc if libc.mallopt and libc.malloc_trim else None
    except (OSError, AttributeError):
        return None


def release(kind: str) -> None:
    """Give memory that the allocator keeps back to the device."""
    if kind == "cpu":
        if (libc := _glibc()) is not None:
            libc.malloc_trim(0)
        return
    import torch

    module = getattr(torch, kind, None)
    if module is not None and hasattr(module, "empty_cache"):
        module.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, as the different devices say it."""
    name, text = type(error).__name__, str(error)
    said = ("can't allocate memory", "not enough memory", "out of memory", "UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY")
    return "OutOfMemory" in name or isinstance(error, MemoryError) or any(part in text for part in said)
