# SPDX-License-Identifier: GPL-3.0-or-later
"""Control maps made from a picture: one table from a type to the function that makes it without any model, and the
types for which a trained model is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from krita_sd.wire.errors import Code, WireError
from server.library.preprocessors import NEEDED

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
"""Types that only a trained model can make out of a picture; depth is made better by one."""


def control_map(picture: Pixels, type: str, model: Any = None) -> Pixels:
    """The map of `type` for a picture, RGB of the same size, by `model` (a `Preprocessor`) where there is one.

    Raises WireError(unsupported) for learned types without a model.
    """
    if model is not None:
        from .learned import learned_map

        return learned_map(picture, type, model)
    if type in LEARNED:
        raise WireError(
            Code.UNSUPPORTED,
            f"Finding {LEARNED[type]} in a picture needs a trained model, which this server does not have.",
            f"Put the folder of {NEEDED[type]} with its config.json and model.safetensors into the models folder and "
            "rescan, or paint the map by hand.",
        )
    return MAKERS[type](picture)
