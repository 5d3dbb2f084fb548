# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether this machine runs on its battery: standard library only, "no" where nobody can tell."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

_SUPPLIES = Path("/sys/class/power_supply")


def on_battery(platform: str = sys.platform, supplies: Path = _SUPPLIES) -> bool:
    """Reads a few small files; a system without them, or one that we do not know, counts as plugged in."""
    if platform == "win32":
        return _windows()
    return platform == "linux" and _linux(supplies)


def _linux(supplies: Path) -> bool:
    """A battery that discharges, and no mains that are connected: a charging mouse or headset says nothing."""
    discharging = False
    try:
        folders = sorted(supplies.iterdir())
    except OSError:
        return False
    for folder in folders:
        kind = _text(folder / "type")
        if kind == "Mains" and _text(folder / "online") == "1":
            return False
        if kind == "Battery" and _text(folder / "scope") != "Device":
            discharging |= _text(folder / "status") == "Discharging"
    return discharging


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


class _PowerStatus(ctypes.Structure):
    """SYSTEM_POWER_STATUS of kernel32; the first byte is 0 on battery, 1 on mains, 255 unknown."""

    _fields_ = [(name, ctypes.c_ubyte) for name in ("line", "battery", "percent", "saver")] + [
        (name, ctypes.c_uint32) for name in ("left", "full")
    ]


def _windows() -> bool:
    status = _PowerStatus()
    known = ctypes.windll.kernel32.GetSystemPowerStatus(ctypes.byref(status))  # type: ignore[attr-defined,unused-ignore]
    return bool(known) and status.line == 0
