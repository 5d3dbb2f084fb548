# SPDX-License-Identifier: GPL-3.0-or-later
"""Around the prompt field: what completes, which prompts were used, and how the server reads what is typed."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from krita_sd import job_events as ev
from krita_sd.actions.core import Core
from krita_sd.actions.part import Part
from krita_sd.guarded import guarded
from krita_sd.prompt_history import PromptHistory, Used
from krita_sd.prompt_reading import has_problem, line_of, tip_of
from krita_sd.prompt_text import Typed
from krita_sd.qt import QtCore
from krita_sd.vocabulary import Candidate, Tags, Vocabulary, read_tags, tag_files
from krita_sd.wire import client
from krita_sd.wire.errors import Code
from krita_sd.wire.places import default_models_dir
from krita_sd.wire.queries import PromptReading, ReadPrompt

READ_MS = 250
"""How long the painter must not type before the server is asked how it reads the prompt."""

MAX_WILDCARDS = 5000


class Prompting(Part):
    """`history.entries` and `shown()` are what the docker draws."""

    def __init__(self, core: Core) -> None:
        super().__init__(core)
        self.history = PromptHistory(core.folder / "prompts.json")
        self.tags_folder = core.folder / "tags"
        self._tags = Tags()
        self._local_wildcards: tuple[str, ...] = ()
        self._told_wildcards: tuple[str, ...] = ()
        self._asked: tuple[str, str, str] | None = None
        self._question = ""
        self._supported = True
        self._reading: PromptReading | None = None
        self._timer = QtCore.QTimer(core, interval=READ_MS, singleShot=True)
        self._timer.timeout.connect(self._ask)
        core.changed.connect(self._notice)

    # Completion ------------------------------------------------------------------------------------------------------

    def offer(self, typed: Typed) -> list[Candidate]:
        """What a half typed word could become."""
        return self.vocabulary().complete(typed)

    def vocabulary(self) -> Vocabulary:
        """Everything known by now."""
        loras = tuple(
            str(entry.get("name") or entry.get("id"))
            for entry in self.core.models
            if entry.get("kind") == "lora" and entry.get("usable", True)
        )
        styles = tuple((style.id, style.name) for style in self.core.styles.styles)
        return Vocabulary(loras, self._told_wildcards or self._local_wildcards, styles, self._tags)

    def reload(self) -> None:
        """Look at the tag files and wildcard files again."""
        self.core.link.run(self._read_files)

    def _read_files(self) -> None:
        """In the link's thread."""
        self._tags = read_tags(tag_files(self.tags_folder))
        self._local_wildcards = _wildcard_names(default_models_dir() / "wildcards")

    # History ---------------------------------------------------------------------------------------------------------

    def started(self) -> None:
        self.core.link.run(self._load)
        self.reload()

    def _load(self) -> None:
        """In the link's thread."""
        self.history.load()

    def stopped(self) -> None:
        if self.core.is_started:
            self.history.save()

    def fed(self, event: Any) -> None:
        settings = self.core.settings
        if isinstance(event, ev.Created) and self.history.add(settings.prompt, settings.negative):
            self.core.link.run(self.history.save)

    @guarded
    def use(self, entry: Used) -> None:
        """Put a prompt of the history into the fields."""
        self.core.change(prompt=entry.prompt, negative=entry.negative)

    @guarded
    def star(self, entry: Used, on: bool) -> None:
        """Make it a favourite, or take the star away."""
        self.history.set_favourite(entry.key, on)
        self._changed()

    @guarded
    def forget(self, entry: Used) -> None:
        """Take it out of the history."""
        self.history.forget(entry.key)
        self._changed()

    def _changed(self) -> None:
        self.core.link.run(self.history.save)
        self.core.redraw()

    # How it is read --------------------------------------------------------------------------------------------------

    def _words(self) -> tuple[str, str, str]:
        settings, style = self.core.settings, self.core.style
        return settings.model, style.words(settings.prompt), style.negative_words(settings.negative)

    def _notice(self) -> None:
        """After every change: ask again a little later."""
        if self._supported and self.core.table.connected and self._words() != self._asked:
            self._timer.start()

    def _ask(self) -> None:
        self._asked = model, prompt, negative = self._words()
        self._question = uuid.uuid4().hex
        self.core.link.ask(ReadPrompt(self._question, model, prompt, negative))

    def received(self, event: Any) -> None:
        if isinstance(event, client.Connected):
            self._supported, self._asked = True, None
            told = event.welcome.features.get("wildcards")
            names = told if isinstance(told, list) else []
            self._told_wildcards = tuple(name for name in names[:MAX_WILDCARDS] if isinstance(name, str))
        elif isinstance(event, client.Answered) and isinstance(event.message, PromptReading):
            if event.message.id == self._question:
                self._reading = event.message
        elif isinstance(event, client.Refused) and event.error.code is Code.UNSUPPORTED:
            # An older server: the line stays empty.
            self._supported = self._supported and ReadPrompt.type not in event.error.message

    def shown(self) -> dict[str, Any]:
        reading = self._reading
        if reading is None or not self._supported or not self.core.table.connected:
            return {}
        text = line_of(((reading.prompt, self._words()[1]), (reading.negative, self._words()[2])))
        warns = any(has_problem(side) for side in (reading.prompt, reading.negative))
        return {"reading": text, "reading_tip": tip_of(reading.prompt, reading.negative), "reading_warns": warns}


def _wildcard_names(folder: Path) -> tuple[str, ...]:
    try:
        found = [path.relative_to(folder).with_suffix("").as_posix() for path in sorted(folder.rglob("*.txt"))]
    except OSError:
        return ()
    return tuple(found[:MAX_WILDCARDS])
