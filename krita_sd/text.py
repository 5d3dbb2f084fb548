# SPDX-License-Identifier: GPL-3.0-or-later
"""Texts in the painter's language, by Krita's own i18n function."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any


def tr(text: str) -> str:
    """`text` translated where Krita offers `i18n`; unchanged elsewhere. For constant texts without placeholders."""
    translate: Callable[[str], Any] | None = getattr(builtins, "i18n", None)
    if translate is None or not text:
        return text
    return str(translate(text))
