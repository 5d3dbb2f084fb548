# SPDX-License-Identifier: GPL-3.0-or-later
"""Which model the arms of a row run, where and how: the one thing in which the columns of the table differ."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
POCKET = ROOT / "server" / "pocket"


@dataclass(frozen=True)
class Setup:
    """A model and how both arms run it.

    title: how row names and the server's list call it; "" is the embedded model, which needs no folder of models.
    side: pixels of one side of the picture, first_side of the first image's (row 7). previews: the level whose cost is
    measured. card: the targets are those of a graphics card.
    """

    folder: Path
    family: str = "sd1"
    title: str = ""
    device: str = "cpu"
    dtype: str = "float32"
    side: int = 256
    steps: int = 12
    guidance: float = 3.0
    threads: int = 1
    previews: str = "rgb"
    first_side: int = 192
    card: bool = False

    def named(self, row: str) -> str:
        """A row's name: its number (two places), the model unless it is the embedded one, and what it says."""
        return f"{row[:3]}{self.title} {row[3:]}" if self.title else row

    @property
    def machine(self) -> list[str]:
        """Options of `python -m server` for this model; the server would choose the precision by itself otherwise."""
        models = ["--models", str(self.folder.parent)] if self.title else []
        return [*models, "--device", self.device, "--dtype", self.dtype]


def embedded(threads: int = 1) -> Setup:
    """The embedded model on the processor, within its native range, so that both arms render the same pixels."""
    native = json.loads((POCKET / "krita_sd.json").read_text(encoding="utf-8"))["native"]
    return Setup(POCKET, side=min(256, int(native["max_pixels"] ** 0.5)), threads=threads)
