# SPDX-License-Identifier: GPL-3.0-or-later
"""The prompt language, from what a painter types to what an encoder is given. Pure: no torch, no tokenizer, no model.

    text = expand(prompt, seed, wildcards)      comments out, {a|b} and __file__ drawn by the image's seed
    text, tags = take_loras(text)               <lora:name:weight> out
    for variant in split_blend(text): ...       "cute dog:0.95 cyborg:0.85", each with its share of the embeddings
        parse_attention(variant.text)           (x:1.3), [x], BREAK

`tokens` counts, and `reading` puts into words how a prompt was read; only `tokens` needs more than Python itself.
"""

from __future__ import annotations

from .attention import BREAK, Part, parse_attention, plain_text
from .blend import Variant, split_blend
from .expand import Expanded, expand
from .loras import Tag, take_loras
from .wildcards import Wildcards

__all__ = [
    "BREAK",
    "Expanded",
    "Part",
    "Tag",
    "Variant",
    "Wildcards",
    "expand",
    "parse_attention",
    "plain_text",
    "split_blend",
    "take_loras",
]
