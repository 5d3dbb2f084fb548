# SPDX-License-Identifier: GPL-3.0-or-later
"""What only shortcuts do: a menu's line, a switch or a step of a value, without the pointer."""

from __future__ import annotations

import dataclasses
from typing import Any

from krita_sd import plan
from krita_sd.actions.part import Part
from krita_sd.guarded import guarded
from krita_sd.text import tr
from krita_sd.wire.errors import Code, WireError


class Shortcuts(Part):
    """`core.dockers()` have the widgets that are opened."""

    @guarded
    def change_strength(self, direction: int) -> None:
        """5 % more (1) or less (-1), in the workspace that shows."""
        core = self.core
        if core.settings.workspace == "live":
            value = plan.stepped(core.settings.live.strength, direction)
            core.change(live=dataclasses.replace(core.settings.live, strength=value))
        else:
            value = plan.stepped(core.settings.strength, direction)
            core.change(strength=value)
        self.say(tr("Strength {strength:.0%}.", strength=value))

    @guarded
    def toggle_seed(self) -> None:
        """Keep the seed for the next pictures, or draw one for each press again."""
        core = self.core
        core.change(seed_fixed=not core.settings.seed_fixed)
        kept = tr("The next pictures begin with seed {seed}.", seed=core.settings.seed)
        self.say(kept if core.settings.seed_fixed else tr("Every press draws a new seed."))

    @guarded
    def toggle_exact_mask(self) -> None:
        """The selection as it is, or with grow and feather."""
        on = not self.core.settings.exact_mask
        self.core.change(exact_mask=on)
        self.say(tr("The selection is used exactly as it is.") if on else tr("The selection runs out softly."))

    @guarded
    def toggle_options(self) -> None:
        """Show or hide what is behind the gear."""
        self.core.change(options_open=not self.core.settings.options_open)

    @guarded
    def show_save(self) -> None:
        """Ask where to save the shown result."""
        if self.core.table.current_result is None:
            raise WireError(Code.BAD_REQUEST, tr("There is no picture to save."), tr("Generate one, or choose one."))
        self._first().ask_where_to_save()

    @guarded
    def add_control(self) -> None:
        """Open the menu of control layers."""
        self._first().open_control_menu()

    def _first(self) -> Any:
        for docker in self.core.dockers():
            return docker
        raise WireError(Code.BAD_REQUEST, tr("The docker is not open."), tr("Open it: Settings > Dockers > Krita SD."))
