# SPDX-License-Identifier: GPL-3.0-or-later
"""The docker's state inside a document: saved with the .kra, bounded, and never trusted."""

from __future__ import annotations

import json
import logging
from typing import Any

from ..qt import QtCore
from . import host

log = logging.getLogger(__name__)

NAME = "krita_sd/docker.json"
MAX_BYTES = 512 * 1024


def load(doc: Any) -> Any | None:
    """What the document holds, as JSON values; None when there is nothing readable, and when it is closed."""
    data = bytes(doc.annotation(NAME)) if host.is_whole(doc) else b""
    if not data or len(data) > MAX_BYTES:
        return None
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        log.warning("the docker's state in the document was not read (%s)", error)
        return None


def save(doc: Any, state: Any) -> None:
    """Put JSON values into the document, unless it is closed. No undo step, and it does not count as changed."""
    data = json.dumps(state, ensure_ascii=True).encode("ascii")
    if len(data) <= MAX_BYTES and host.is_whole(doc):
        doc.setAnnotation(NAME, "Krita SD", QtCore.QByteArray(data))
