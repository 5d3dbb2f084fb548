# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of what the docker can show: workspaces below the prompt, and pages that take its whole room.

Every widget is made by `make(actions)` and has `show_view(view, settings)`, called after each change while it shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from krita_sd.dock.generate_page import GeneratePage


@dataclass(frozen=True)
class Entry:
    """`name` is remembered and part of object names; `title` and `tip` are English; `icon` is Krita's name, with
    `text` where Krita has none."""

    name: str
    title: str
    tip: str
    make: Callable[[Any], Any]
    icon: str = ""
    text: str = ""


WORKSPACES: tuple[Entry, ...] = (Entry("generate", "Generate", "Pictures one by one", GeneratePage),)

PAGES: tuple[Entry, ...] = ()
