# SPDX-License-Identifier: GPL-3.0-or-later
"""Which type a control model is for: its name alone says it. The docker greys by it, the server chooses by it."""

from __future__ import annotations

# Letters and digits only, lower case.
_NAMED = {
    "scribble": ("scribble", "sketch"),
    "line_art": ("lineart",),
    "soft_edge": ("softedge", "hed", "pidi"),
    "depth": ("depth", "midas"),
    "segmentation": ("segmentation", "seg"),
    "blur": ("blur", "tile"),
    "stencil": ("stencil", "qrcode", "brightness", "illumination"),
}
_ANYTHING = ("union", "promax")


def is_named_for(name: str, type: str) -> bool:
    """Whether a control model of that name is for control layers of that type."""
    letters = _letters(name)
    return any(word in letters for word in _NAMED.get(type, (_letters(type),)))


def is_for_all(name: str) -> bool:
    """Whether a control model of that name is one for all types."""
    letters = _letters(name)
    return any(word in letters for word in _ANYTHING)


def _letters(text: str) -> str:
    return "".join(char for char in text.lower() if char.isascii() and char.isalnum())
