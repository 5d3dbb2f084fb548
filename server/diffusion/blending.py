# SPDX-License-Identifier: GPL-3.0-or-later
"""Blends of prompts: the weighted sum of what each of them alone would tell the denoiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from server.diffusion.model import Condition
from server.diffusion.text import Chunk, split_chunks
from server.prompt import parse_attention, split_blend

Variants = list[tuple[list[Chunk], float]]


def read_variants(tokenizer: Any, prompt: str, learned: Mapping[str, int] | None = None) -> Variants:
    """The chunks of every prompt in a blend, with its share; one of share 1 where there is none. learned: textual
    inversions with their numbers of vectors."""
    return [(split_chunks(tokenizer, parse_attention(text), learned), share) for text, share in split_blend(prompt)]


def same_length(*prompts: Variants) -> list[Variants]:
    """The prompts with as many chunks each: shorter ones get empty ones."""
    length = max(len(chunks) for prompt in prompts for chunks, _ in prompt)
    return [[(chunks + [()] * (length - len(chunks)), share) for chunks, share in prompt] for prompt in prompts]


def blended(variants: Variants, read: Callable[[list[Chunk]], Condition]) -> Condition:
    """Embeddings summed by their shares, in float32; a single variant is its own condition, bit for bit."""
    found = [(read(chunks), share) for chunks, share in variants]
    if len(found) == 1:
        return found[0][0]
    first = found[0][0]
    pooled = None if first.pooled is None else _sum([(c.pooled, share) for c, share in found])
    return replace(first, embeds=_sum([(c.embeds, share) for c, share in found]), pooled=pooled)


def _sum(parts: Sequence[tuple[torch.Tensor | None, float]]) -> torch.Tensor:
    known = [(tensor, share) for tensor, share in parts if tensor is not None]
    total = sum(share * tensor.to(torch.float32) for tensor, share in known)
    assert isinstance(total, torch.Tensor)
    return total.to(known[0][0].dtype)
