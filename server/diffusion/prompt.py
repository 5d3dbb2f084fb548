# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's name for the attention syntax of `server.prompt`."""

from server.prompt.attention import BREAK, Part
from server.prompt.attention import parse_attention as parse_prompt

__all__ = ["BREAK", "Part", "parse_prompt"]
