# SPDX-License-Identifier: GPL-3.0-or-later
"""Slots that never raise: Krita answers an exception with a modal dialog; we log it and say it in the docker."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from krita_sd.text import tr
from krita_sd.wire.errors import WireError

log = logging.getLogger(__name__)


def guarded(method: Callable[..., Any]) -> Callable[..., None]:
    """A method of an object with `say(text, is_error)`, which is told instead of the caller."""

    @functools.wraps(method)
    def run(self: Any, *arguments: Any, **named: Any) -> None:
        try:
            method(self, *arguments, **named)
        except WireError as error:
            self.say(str(error), True)
        except Exception as error:  # the last line of defence before Krita's dialog
            log.exception("%s", method.__name__)
            self.say(
                tr("Something went wrong in the plugin ({name}: {error}).", name=type(error).__name__, error=error),
                True,
            )

    return run
