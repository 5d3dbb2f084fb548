# SPDX-License-Identifier: GPL-3.0-or-later
"""Which type a control model is for: its name alone says it; which family an addition is for. The docker greys by it,
the server chooses by it."""

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


_BASES = {"flux1-kontext": "flux1", "qwen-image-edit": "qwen-image"}


def fits_family(part: str, model: str) -> bool:
    """Whether an addition (LoRA, VAE, control model) of the family `part` is for models of the family `model`.

    Models for editing share their build, and so their additions, with the family that they were trained from. "" fits
    several families or is not known.
    """
    return not part or _BASES.get(part, part) == _BASES.get(model, model)


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
