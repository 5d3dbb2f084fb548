# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of families: one module and one row each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """One row: name for people, module that holds its class, config file, shape of the text encoder in single files."""

    title: str
    module: str
    config: str
    text_layout: str


FAMILIES: dict[str, Family] = {
    "sd1": Family("Stable Diffusion 1.x", "server.diffusion.families.sd", "sd1.json", "clip"),
    "sd2": Family("Stable Diffusion 2.x", "server.diffusion.families.sd", "sd2.json", "openclip"),
}
