# SPDX-License-Identifier: GPL-3.0-or-later
"""The base of all control messages."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from .values import dump


@dataclass(frozen=True)
class Message:
    """Base of all control messages: `to_text` gives the JSON text; `read` is given typed access to the object."""

    type: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"type": self.type}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value is None:
                continue
            if hasattr(value, "to_json"):
                value = value.to_json()
            elif isinstance(value, tuple):
                value = list(value)
            out[item.name] = value
        return out

    def to_text(self) -> str:
        """JSON text of this message."""
        return dump(self.to_json())
