# SPDX-License-Identifier: GPL-3.0-or-later
"""Texts in the painter's language: by our own catalogue (`krita_sd.translations`), else by Krita's own i18n."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from typing import Any

_catalogue: Mapping[str, str] = {}


def tr(text: str, **values: Any) -> str:
    """`text` translated where there is a translation, unchanged elsewhere; then `values` in place of its {names}.

    `text` is a constant, so that it can be found and translated. A translation that lost a name is not used.
    """
    translated = _translated(text)
    if not values:
        return translated
    try:
        return translated.format(**values)
    except (KeyError, IndexError, ValueError):
        return text.format(**values)


def mark(text: str) -> str:
    """`text` as it is: it will be given to `tr` elsewhere, and the extraction finds it here."""
    return text


def use(catalogue: Mapping[str, str]) -> None:
    """Translate by this catalogue from now on."""
    global _catalogue
    _catalogue = catalogue


def _translated(text: str) -> str:
    if text in _catalogue:
        return _catalogue[text]
    translate: Callable[[str], Any] | None = getattr(builtins, "i18n", None)
    if translate is None or not text:
        return text
    return str(translate(text))
