# SPDX-License-Identifier: GPL-3.0-or-later
"""Base of the parts of `Actions`: each is about one thing a painter does, and is told what happens elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from krita_sd.actions.core import Core
    from krita_sd.view import View


class Part:
    """`core` holds what all parts share. Hooks do nothing here; a part overrides those it needs."""

    def __init__(self, core: Core) -> None:
        self.core = core

    def say(self, text: str, is_error: bool = False) -> None:
        """One sentence in the status line (`guarded` needs it here)."""
        self.core.say(text, is_error)

    def started(self) -> None:
        """The link's thread begins; called once."""

    def stopped(self) -> None:
        """Krita quits; the link's thread has ended."""

    def received(self, event: Any) -> None:
        """Something came from the link; in the GUI thread, before the job table learns of it."""

    def fed(self, event: Any) -> None:
        """The job table has taken this event, and the canvas has done what follows from it."""

    def looked(self, doc: Any, scene: Any) -> None:
        """A few times per second while a docker is visible: the active document and its scene, or None and None."""

    def shown(self) -> dict[str, Any]:
        """Fields of the view that this part knows; asked whenever the view is made."""
        return {}

    def viewed(self, view: View) -> View:
        """The view that dockers will draw, with what this part has to add."""
        return view

    def hidden(self) -> None:
        """No docker is visible any more (said on every look)."""
