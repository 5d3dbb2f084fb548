# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether another process still lives, told apart from a later one that was given the same number."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path


def process_exists(pid: int) -> Callable[[], bool]:
    """A predicate that is true while the process that has `pid` now exists; a zombie does not count."""
    if sys.platform == "win32":
        return _windows(pid)
    born = _birth(pid)

    def exists() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # somebody else's, but alive
        if not Path("/proc/self/stat").exists():
            return True
        now = _birth(pid)
        return now is not None and now == born

    return exists


def _birth(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot, from /proc; None when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None
    return fields[19] if len(fields) > 19 and fields[0] not in ("Z", "X") else None


def _windows(pid: int) -> Callable[[], bool]:
    import ctypes

    synchronize, wait_timeout = 0x00100000, 0x102
    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined]
    kernel.OpenProcess.restype = ctypes.c_void_p
    # The handle keeps the number from being given to another process.
    handle = kernel.OpenProcess(synchronize, False, pid)
    return lambda: bool(handle) and kernel.WaitForSingleObject(ctypes.c_void_p(handle), 0) == wait_timeout
