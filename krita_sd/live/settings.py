# SPDX-License-Identifier: GPL-3.0-or-later
"""What the painter last chose for Live. A damaged value is replaced by its default. None: the model's own default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from krita_sd.wire.limits import MAX_GUIDANCE, MAX_SEED, MAX_STEPS
from krita_sd.wire.recipe import SAMPLERS

PLACES = ("canvas", "layer", "docker", "both")
"""canvas: a widget over it; layer: a locked layer; docker: beside it; both: canvas and docker."""

REGIONS = ("automatic", "canvas", "strokes")
"""strokes: a rectangle around the recent ones. automatic: the canvas while the model paints it at full detail."""


@dataclass(frozen=True)
class LiveSettings:
    """strength, opacity: 0..1. A selection goes before `region`. record_folder "": Pictures/Krita SD."""

    strength: float = 0.3
    seed: int = 0
    steps: int | None = None
    sampler: str | None = None
    guidance: float | None = None
    place: str = "canvas"
    region: str = "automatic"
    opacity: float = 1.0
    see_through: bool = True
    battery: bool = False
    record_folder: str = ""

    @classmethod
    def read(cls, read: Any) -> LiveSettings:
        """From a tolerant reader over the JSON object that was saved."""
        return cls(
            strength=read.number("strength", 0.0, 1.0, 0.3),
            seed=read.integer("seed", 0, MAX_SEED, 0),
            steps=read.integer("steps", 1, MAX_STEPS, None),
            sampler=read.choice("sampler", SAMPLERS, None),
            guidance=read.number("guidance", 0.0, MAX_GUIDANCE, None),
            place=read.choice("place", PLACES, "canvas"),
            region=read.choice("region", REGIONS, "automatic"),
            opacity=read.number("opacity", 0.0, 1.0, 1.0),
            see_through=read.flag("see_through", True),
            battery=read.flag("battery", False),
            record_folder=read.text("record_folder", 4000, ""),
        )
