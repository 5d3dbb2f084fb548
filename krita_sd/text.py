# SPDX-License-Identifier: GPL-3.0-or-later
"""Texts in the painter's language, by Krita's own i18n function."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from typing import Any


def tr(text: str, **values: Any) -> str:
    """`text` translated where Krita offers `i18n`, unchanged elsewhere; then `values` in place of its {names}.

    `text` is a constant, so that it can be found and translated. A translation that lost a name is not used.
    """
    translated = _translated(text)
    if not values:
        return translated
    try:
        return translated.format(**values)
    except (KeyError, IndexError, ValueError):
        return text.format(**values)


def _translated(text: str) -> str:
    translate: Callable[[str], Any] | None = getattr(builtins, "i18n", None)
    if translate is None or not text:
        return text
    return str(translate(text))
