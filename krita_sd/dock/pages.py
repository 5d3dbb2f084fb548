# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of what the docker can show: workspaces below the prompt, and pages that take its whole room.

Every widget is made by `make(actions)` and has `show_view(view, settings)`, called after each change while it shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from krita_sd.dock.downloads_page import DownloadsPage
from krita_sd.dock.folders_page import FoldersPage
from krita_sd.dock.generate_page import GeneratePage
from krita_sd.dock.grid import GridPage
from krita_sd.dock.history import HistoryPage
from krita_sd.dock.live_panel import LivePanel
from krita_sd.dock.models_page import ModelsPage
from krita_sd.dock.prompts_page import PromptsPage
from krita_sd.dock.queue import QueuePage
from krita_sd.dock.server_page import ServerPage
from krita_sd.dock.style_page import StylePage
from krita_sd.text import mark


@dataclass(frozen=True)
class Entry:
    """`name` is remembered and part of object names; `title` and `tip` are English; `icon` is Krita's name, with
    `text` where Krita has none. A page without a button in the header is opened from somewhere else."""

    name: str
    title: str
    tip: str
    make: Callable[[Any], Any]
    icon: str = ""
    text: str = ""
    has_button: bool = True


WORKSPACES: tuple[Entry, ...] = (
    Entry("generate", mark("Generate"), mark("Pictures one by one"), GeneratePage),
    Entry("live", mark("Live"), mark("The picture follows the pen"), LivePanel),
)

PAGES: tuple[Entry, ...] = (
    Entry("history", mark("History"), mark("Everything that was made"), HistoryPage, text="\u25f4"),
    Entry("grid", mark("Compare"), mark("Pictures with different values side by side"), GridPage, text="\u25a6"),
    Entry("queue", mark("Queue"), mark("What runs and what waits"), QueuePage, icon="format-list-ordered", text="Q"),
    Entry("models", mark("Models"), mark("Models that were found"), ModelsPage, icon="folder-pictures", text="M"),
    Entry(
        "server", mark("Server"), mark("Device, memory, log, another server"), ServerPage, icon="configure", text="S"
    ),
    Entry("prompts", mark("Prompts"), mark("Prompts that were used"), PromptsPage, has_button=False),
    Entry("folders", mark("Folders"), mark("Where models are looked for"), FoldersPage, has_button=False),
    Entry("downloads", mark("Downloads"), mark("Models from the hub"), DownloadsPage, has_button=False),
    Entry("style", mark("Style"), mark("The style's own words and values"), StylePage, has_button=False),
)
