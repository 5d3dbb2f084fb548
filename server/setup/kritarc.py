# SPDX-License-Identifier: GPL-3.0-or-later
"""Edits one key of Krita's settings file and leaves every other byte of it alone.

kritarc is KDE's ini dialect: keys before the first [group] belong to no group, keys may repeat groups, keys may
carry a suffix such as `[$i]`, and nothing in it may be reordered or re-encoded.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

KEY = "enable_krita_sd"
GROUP = "[python]"


def enable(text: str) -> str:
    """`text` with the plugin switched on. Idempotent."""
    lines = _lines(text)
    end = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    own = _own_lines(lines)
    if own:
        for number in own:
            body = lines[number].rstrip("\r\n")
            lines[number] = f"{body.partition('=')[0]}=true{lines[number][len(body) :]}"
        return "".join(lines)
    for number, line in enumerate(lines):
        if line.strip() == GROUP:
            lines[number] = line if line.endswith("\n") else line + end
            lines.insert(number + 1, f"{KEY}=true{end}")
            return "".join(lines)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += end
    if lines:
        lines.append(end)
    return "".join([*lines, GROUP + end, f"{KEY}=true{end}"])


def disable(text: str) -> str:
    """`text` without the plugin's key, and without its group when that held nothing else. Undoes `enable`."""
    lines = _lines(text)
    own = set(_own_lines(lines))
    if not own:
        return text
    lines = [line for number, line in enumerate(lines) if number not in own]
    for number, line in enumerate(lines):
        rest = lines[number + 1 :]
        if line.strip() == GROUP and all(not later.strip() for later in rest):
            # enable() set it apart with one empty line, which goes with it.
            if number and not lines[number - 1].strip():
                return "".join(lines[: number - 1] + rest)
            return "".join(lines[:number] + rest)
    return "".join(lines)


def edit(path: Path, change: str) -> bool:
    """Apply "enable" or "disable" to the file; a missing one counts as empty. True when the file was changed."""
    path = Path(os.path.realpath(path))  # a linked kritarc stays a link
    before = path.read_bytes().decode("utf-8", "surrogateescape") if path.exists() else ""
    after = (enable if change == "enable" else disable)(before)
    if after == before:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".kritarc-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(after.encode("utf-8", "surrogateescape"))
        os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else 0o600)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
    return True


def value(text: str, key: str) -> str | None:
    """A key that stands before every group (Krita keeps `ResourceDirectory` there), or None."""
    for line in text.splitlines():
        if line.startswith("["):
            return None
        if match := re.match(rf"{key}(\[\$\w+\])?\s*=(.*)", line):
            return match[2].strip()
    return None


def _lines(text: str) -> list[str]:
    """Lines with their ends. `str.splitlines` would also cut at form feeds and U+2028, which are data here."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _own_lines(lines: list[str]) -> list[int]:
    """Numbers of the lines that set our key inside a [python] group."""
    found, inside = [], False
    for number, line in enumerate(lines):
        text = line.strip()
        if text.startswith("["):
            inside = text == GROUP
        elif inside and re.match(rf"{KEY}(\[\$\w+\])?\s*=", text):
            found.append(number)
    return found
