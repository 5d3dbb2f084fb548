# SPDX-License-Identifier: GPL-3.0-or-later
"""From a parsed prompt to CLIP hidden states: chunks of 75 tokens, weights, clip skip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from server.diffusion.prompt import BREAK, Part

Token = tuple[int, float]
Chunk = tuple[Token, ...]


def split_chunks(tokenizer: Any, parts: Sequence[Part]) -> list[Chunk]:
    """Tokens with their weights in chunks of at most the encoder's length less two; at least one, maybe empty, chunk.

    BREAK starts a new chunk. A prompt of one part is tokenised in one piece, so that a prompt without weights gives
    exactly the tokens of the plain tokenizer.
    """
    room = tokenizer.model_max_length - 2
    chunks: list[Chunk] = []
    current: list[Token] = []
    for text, weight in parts:
        if text is BREAK:
            chunks.append(tuple(current))
            current = []
            continue
        for token in tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids:
            if len(current) == room:
                chunks.append(tuple(current))
                current = []
            current.append((token, weight))
    if current or not chunks:
        chunks.append(tuple(current))
    return chunks


def encode_chunks(encoder: Any, tokenizer: Any, chunks: Sequence[Chunk], clip_skip: int) -> torch.Tensor:
    """Hidden states (1, chunks * length, width) of the chunks, each encoded on its own and laid side by side."""
    return torch.cat([_encode(encoder, tokenizer, chunk, clip_skip) for chunk in chunks], dim=1)


def encode_inner(
    encoder: Any, tokenizer: Any, chunks: Sequence[Chunk], layer: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """As SDXL and SD3 read: states of the `layer`-th layer from the end without the final norm, and the pooled output
    (1, projection) of the first chunk."""
    hidden, pooled = [], []
    for chunk in chunks:
        ids, attention = _inputs(encoder, tokenizer, chunk)
        out = encoder(ids, attention_mask=attention, output_hidden_states=True)
        states = out.hidden_states
        hidden.append(_weighted(states[-min(layer, len(states) - 1)], chunk))
        pooled.append(out[0] if out[0].ndim == 2 else out.pooler_output)
    return torch.cat(hidden, dim=1), pooled[0]


def _encode(encoder: Any, tokenizer: Any, chunk: Chunk, clip_skip: int) -> torch.Tensor:
    ids, attention = _inputs(encoder, tokenizer, chunk)
    if clip_skip <= 1:
        return _weighted(encoder(ids, attention_mask=attention)[0], chunk)
    states = encoder(ids, attention_mask=attention, output_hidden_states=True).hidden_states
    inner = getattr(encoder, "text_model", encoder)
    return _weighted(inner.final_layer_norm(states[-min(clip_skip, len(states) - 1)]), chunk)


def _inputs(encoder: Any, tokenizer: Any, chunk: Chunk) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Token ids (1, length) and, where the encoder wants one, their mask."""
    ids = [tokenizer.bos_token_id, *(token for token, _ in chunk), tokenizer.eos_token_id]
    padding = tokenizer.model_max_length - len(ids)
    tensor = torch.tensor([ids + [tokenizer.pad_token_id] * padding], device=encoder.device)
    if not getattr(encoder.config, "use_attention_mask", False):
        return tensor, None
    return tensor, torch.tensor([[1] * len(ids) + [0] * padding], device=encoder.device)


def _weighted(hidden: torch.Tensor, chunk: Chunk) -> torch.Tensor:
    if all(weight == 1.0 for _, weight in chunk):
        return hidden
    weights = [1.0, *(weight for _, weight in chunk), 1.0] + [1.0] * (hidden.shape[1] - len(chunk) - 2)
    scale = torch.tensor(weights, device=hidden.device, dtype=torch.float32)[None, :, None]
    weighted = hidden.to(torch.float32) * scale
    # A1111's rule: the mean of the whole chunk stays what it was.
    return (weighted * (hidden.to(torch.float32).mean() / weighted.mean())).to(hidden.dtype)
