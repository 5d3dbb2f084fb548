# SPDX-License-Identifier: GPL-3.0-or-later
"""A text for a bug report: versions, device, models, the end of the logs; no token, no prompt, no name of the user."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from krita_sd.wire.version import VERSION

LOG_LINES = 120
MAX_BYTES = 256 * 1024
"""How much of the end of a log file is read."""

# Anything that looks like a key, and what stands behind a word that announces one.
_SECRETS = re.compile(
    r"(?i)\b(bearer|token|authorization|password|secret|api[_-]?key)\b(\W{1,4})([^\s\"',;]+)|\b[A-Za-z0-9_-]{32,}\b"
)
_PROMPT = re.compile(r"(?i)(\"?(?:negative|prompt)\"?\s*[:=]\s*)(\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|.*)")


def tail(path: Path, lines: int = LOG_LINES) -> str:
    """The last lines of a log; "" when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - MAX_BYTES))
            text = file.read(MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def without_secrets(text: str, home: str = "", secrets: Sequence[str] = ()) -> str:
    """`text` without tokens, prompts and the path of the user's home."""
    for secret in secrets:
        if len(secret) >= 4:
            text = text.replace(secret, "(removed)")
    if len(home) > 1:
        text = text.replace(home, "~")
    text = re.sub(r"(?<=://)[^/\s:@]*:[^/\s@]*@", "(removed)@", text)
    text = _PROMPT.sub(lambda match: f"{match[1]}(removed)", text)
    return _SECRETS.sub(lambda match: f"{match[1]}{match[2]}(removed)" if match[1] else "(removed)", text)


def report(
    krita: str,
    qt: str,
    connection: str,
    device: Mapping[str, Any],
    models: Sequence[Mapping[str, Any]],
    logs: Mapping[str, str],
    home: str = "",
    secrets: Sequence[str] = (),
) -> str:
    """The whole text."""
    lines = [
        f"Krita SD {VERSION}, Krita {krita}, Qt {qt}, Python {platform.python_version()}, {platform.platform()}",
        f"Connection: {connection}",
        f"Device: {json.dumps(dict(device), default=str)[:4000]}",
        f"Models: {len(models)}",
    ]
    for entry in models[:200]:
        facts = (entry.get("kind"), entry.get("family"), entry.get("bytes"), entry.get("problem") or "usable")
        lines.append(f"  {str(entry.get('name'))[:120]}: " + ", ".join(str(fact) for fact in facts if fact))
    for name, text in logs.items():
        lines += ["", f"--- {name} ---", text or "(nothing)"]
    return without_secrets("\n".join(lines), home, secrets)
