# SPDX-License-Identifier: GPL-3.0-or-later
"""Control maps made from a picture without any model: one table from a type to the function that makes it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from krita_sd.wire.errors import Code, WireError

from .lines import canny, line_art, scribble, soft_edge
from .tones import blurred, luminance_depth, tiled

Pixels = NDArray[np.uint8]

MAKERS: dict[str, Callable[[Pixels], Pixels]] = {
    "scribble": scribble,
    "line_art": line_art,
    "soft_edge": soft_edge,
    "canny": canny,
    "depth": luminance_depth,
    "tile": tiled,
    "blur": blurred,
}
"""Every function takes and gives uint8 (height, width, 3) RGB of the same size."""

LEARNED = {
    "normal": "normals",
    "pose": "poses",
    "segmentation": "segments",
}
"""Types that only a trained model can make out of a picture."""


def control_map(picture: Pixels, type: str) -> Pixels:
    """The map of `type` for a picture, RGB of the same size. Raises WireError(unsupported) for learned types."""
    if type in LEARNED:
        raise WireError(
            Code.UNSUPPORTED,
            f"Finding {LEARNED[type]} in a picture needs a trained model, which this server does not have.",
            "Paint the map by hand, or make it with another program and put it into a layer.",
        )
    return MAKERS[type](picture)
