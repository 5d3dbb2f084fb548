# SPDX-License-Identifier: GPL-3.0-or-later
"""From a parsed prompt to CLIP hidden states: chunks of 75 tokens, weights, clip skip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from server.diffusion.inversions import Slot, Vectors, in_place
from server.diffusion.prompt import BREAK, Part
from server.prompt.inversions import split_inversions

Token = tuple[int | Slot, float]
Chunk = tuple[Token, ...]


def split_chunks(tokenizer: Any, parts: Sequence[Part], learned: Mapping[str, int] | None = None) -> list[Chunk]:
    """Tokens with their weights in chunks of at most the encoder's length less two; at least one, maybe empty, chunk.

    BREAK starts a new chunk. A prompt of one part is tokenised in one piece, so that a prompt without weights gives
    exactly the tokens of the plain tokenizer. learned: textual inversions with their numbers of vectors, which are
    never parted: where the room does not do for all of them, they open a new chunk, as in A1111.
    """
    room = tokenizer.model_max_length - 2
    chunks: list[Chunk] = []
    current: list[Token] = []
    for text, weight in parts:
        if text is BREAK:
            chunks.append(tuple(current))
            current = []
            continue
        for piece in split_inversions(text, learned or ()):
            slots = [Slot(piece.name, row) for row in range((learned or {}).get(piece.name, 0))]
            if len(current) + len(slots) > room:
                chunks.append(tuple(current))
                current = []
            current += [(slot, weight) for slot in slots]
            words = () if slots else tokenizer(piece.text, add_special_tokens=False, truncation=False, verbose=False)
            for token in words.input_ids if words else ():
                if len(current) == room:
                    chunks.append(tuple(current))
                    current = []
                current.append((token, weight))
    if current or not chunks:
        chunks.append(tuple(current))
    return chunks


def encode_chunks(
    encoder: Any,
    tokenizer: Any,
    chunks: Sequence[Chunk],
    clip_skip: int,
    vectors: Vectors | None = None,
    device: torch.device | None = None,
) -> torch.Tensor:
    """Hidden states (1, chunks * length, width) of the chunks, each encoded on its own and laid side by side.

    device: where the encoder computes, which is not where its weights wait on lower rungs of the memory ladder.
    """
    place = encoder.device if device is None else device
    return torch.cat([_encode(encoder, tokenizer, chunk, clip_skip, vectors or {}, place) for chunk in chunks], dim=1)


def encode_inner(
    encoder: Any,
    tokenizer: Any,
    chunks: Sequence[Chunk],
    layer: int,
    vectors: Vectors | None = None,
    device: torch.device | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As SDXL and SD3 read: states of the `layer`-th layer from the end without the final norm, and the pooled output
    (1, projection) of the first chunk."""
    hidden, pooled = [], []
    for chunk in chunks:
        ids, attention = _inputs(encoder, tokenizer, chunk, encoder.device if device is None else device)
        with in_place(encoder, _slots(chunk), vectors or {}):
            out = encoder(ids, attention_mask=attention, output_hidden_states=True)
        states = out.hidden_states
        hidden.append(_weighted(states[-min(layer, len(states) - 1)], chunk))
        pooled.append(out[0] if out[0].ndim == 2 else out.pooler_output)
    return torch.cat(hidden, dim=1), pooled[0]


def _encode(
    encoder: Any, tokenizer: Any, chunk: Chunk, clip_skip: int, vectors: Vectors, device: torch.device
) -> torch.Tensor:
    ids, attention = _inputs(encoder, tokenizer, chunk, device)
    with in_place(encoder, _slots(chunk), vectors):
        if clip_skip <= 1:
            return _weighted(encoder(ids, attention_mask=attention)[0], chunk)
        states = encoder(ids, attention_mask=attention, output_hidden_states=True).hidden_states
    inner = getattr(encoder, "text_model", encoder)
    return _weighted(inner.final_layer_norm(states[-min(clip_skip, len(states) - 1)]), chunk)


def _slots(chunk: Chunk) -> dict[int, Slot]:
    """The places of vectors in a chunk, start token counted."""
    return {place: token for place, (token, _) in enumerate(chunk, 1) if isinstance(token, Slot)}


def _inputs(
    encoder: Any, tokenizer: Any, chunk: Chunk, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Token ids (1, length) and, where the encoder wants one, their mask.

    Vectors stand on the first word of the table: old configurations find the end by the greatest id.
    """
    words = (0 if isinstance(token, Slot) else token for token, _ in chunk)
    ids = [tokenizer.bos_token_id, *words, tokenizer.eos_token_id]
    padding = tokenizer.model_max_length - len(ids)
    tensor = torch.tensor([ids + [tokenizer.pad_token_id] * padding], device=device)
    if not getattr(encoder.config, "use_attention_mask", False):
        return tensor, None
    return tensor, torch.tensor([[1] * len(ids) + [0] * padding], device=device)


def _weighted(hidden: torch.Tensor, chunk: Chunk) -> torch.Tensor:
    if all(weight == 1.0 for _, weight in chunk):
        return hidden
    weights = [1.0, *(weight for _, weight in chunk), 1.0] + [1.0] * (hidden.shape[1] - len(chunk) - 2)
    scale = torch.tensor(weights, device=hidden.device, dtype=torch.float32)[None, :, None]
    weighted = hidden.to(torch.float32) * scale
    # A1111's rule: the mean of the whole chunk stays what it was.
    return (weighted * (hidden.to(torch.float32).mean() / weighted.mean())).to(hidden.dtype)
