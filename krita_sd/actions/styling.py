# SPDX-License-Identifier: GPL-3.0-or-later
"""Styles and LoRAs: choosing them, changing them, keeping them."""

from __future__ import annotations

import functools
import logging
from typing import Any

from krita_sd.actions.core import Core
from krita_sd.actions.part import Part
from krita_sd.guarded import guarded
from krita_sd.plan import loras as effective_loras
from krita_sd.settings import FOLLOW
from krita_sd.styles import Style, resolve
from krita_sd.text import tr
from krita_sd.wire.errors import bad_request
from krita_sd.wire.limits import MAX_LORA_WEIGHT, MAX_LORAS
from krita_sd.wire.recipe import Lora

log = logging.getLogger(__name__)


class Styling(Part):
    """Changes `core.styles` and the settings."""

    def __init__(self, core: Core) -> None:
        super().__init__(core)
        # A handful of small files: quicker than a turn of the event loop, and the docker draws them at once.
        core.styles.load()

    @guarded
    def choose(self, id: str) -> None:
        """Take a style; its model and its strength come with it."""
        style = self.core.styles.get(id)
        changes: dict[str, Any] = {"style": style.id}
        if style.model:
            changes["model"] = resolve(style.model, self.core.models, "checkpoint")
        if style.strength is not None:
            changes["strength"] = style.strength
        self.core.change(**changes)

    @guarded
    def reload(self) -> None:
        """Read the files again: one may have been put there by another painter."""
        self.core.styles.load()
        if self.core.styles.problems:
            self.say(self.core.styles.problems[0], True)
        self.core.redraw()

    def current(self) -> Style:
        """A style that holds what the docker shows now."""
        core, settings = self.core, self.core.settings
        style, params = core.style, settings.params
        given = {
            name: getattr(params, name) if getattr(params, name) is not None else getattr(style, name)
            for name in ("steps", "guidance", "sampler", "vae", "clip_skip")
        }
        tile = style.tile if settings.tile == FOLLOW else settings.tile
        loras = effective_loras(settings, style, core.models)
        return style.replace(model=settings.model, loras=loras, tile=tile, **given)

    @guarded
    def save(self, style: Style) -> None:
        """Keep a style as one of the painter's own and choose it."""
        if not style.name.strip():
            raise bad_request(tr("The style has no name."), tr("Type one."))
        own = self.core.styles.add(style)
        params = dict.fromkeys(("steps", "guidance", "sampler", "vae", "clip_skip"))
        self.core.change(style=own.id, loras=(), tile=FOLLOW, model=own.model or self.core.settings.model)
        self.core.change_params(**params)
        self.core.link.run(functools.partial(self._write, own))
        self.core.redraw()

    @guarded
    def delete(self, id: str) -> None:
        """Remove one of the painter's own styles, and its file."""
        if not self.core.styles.get(id).is_own:
            raise bad_request(tr("This style is built in."), tr("Save it under another name to change it."))
        self.core.styles.remove(id)
        if self.core.settings.style == id:
            self.core.change(style="")
        self.core.link.run(functools.partial(self._unlink, id))
        self.core.redraw()

    def _write(self, style: Style) -> None:
        try:
            self.core.styles.save(style)
        except OSError as error:
            log.warning("the style %s was not saved (%s)", style.name, error)
            sentence = tr("The style was not saved ({strerror}). Is the disk full?", strerror=error.strerror or error)
            self.core.later(lambda: self.say(sentence, True))

    def _unlink(self, id: str) -> None:
        try:
            self.core.styles.delete(id)
        except OSError as error:
            log.warning("a style was not deleted (%s)", error)

    # LoRAs -----------------------------------------------------------------------------------------------------------

    @guarded
    def add_lora(self, id: str) -> None:
        """Switch a LoRA on, with weight 1."""
        loras = self.core.settings.loras
        if any(lora.id == id for lora in loras):
            return
        if len(loras) >= MAX_LORAS:
            raise bad_request(
                tr("More than {max_loras} LoRAs cannot be used together.", max_loras=MAX_LORAS),
                tr("Take one away first."),
            )
        self.core.change(loras=(*loras, Lora(id, 1.0)))

    @guarded
    def weigh_lora(self, id: str, weight: float) -> None:
        """Change the weight of one, -2..2."""
        weight = max(-MAX_LORA_WEIGHT, min(MAX_LORA_WEIGHT, weight))
        loras = self.core.settings.loras
        self.core.change(loras=tuple(Lora(id, weight) if lora.id == id else lora for lora in loras))

    @guarded
    def drop_lora(self, id: str) -> None:
        """Switch one off."""
        self.core.change(loras=tuple(lora for lora in self.core.settings.loras if lora.id != id))
