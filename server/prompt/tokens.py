# SPDX-License-Identifier: GPL-3.0-or-later
"""Counting tokens as the engine will, with the `tokenizers` library alone: the front must never import torch."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .attention import BREAK, Part
from .inversions import split_inversions
from .vocabulary import END, MAX_TOKENS, START, clip_vocabulary

log = logging.getLogger(__name__)

# The words of CLIP's own pre-tokenizer (as in the original implementation's pattern).
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class TokenCounter:
    """Counts the tokens of texts. `limit`: tokens of one chunk, start and end included."""

    def __init__(self, tokenizer: Any, limit: int = MAX_TOKENS) -> None:
        self._tokenizer = tokenizer
        self.limit = limit

    def count(self, text: str) -> int:
        """Tokens of a text, without start and end."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def measure(self, parts: Iterable[Part], learned: Mapping[str, int] | None = None) -> tuple[int, int]:
        """(tokens, chunks) of a parsed prompt, by the engine's rule: a chunk that is full, or BREAK, opens another.
        learned: textual inversions with their numbers of vectors, which are never parted.

        Start and end of every chunk are counted, so that `limit` times chunks is the room there is.
        """
        room = self.limit - 2
        words, current, full = 0, 0, 0
        for text, _ in parts:
            if text is BREAK:
                full, current = full + 1, 0
                continue
            for piece in split_inversions(text, learned or ()):
                count = (learned or {}).get(piece.name) or self.count(piece.text)
                words += count
                if piece.name:
                    full, current = (full + 1, count) if current + count > room else (full, current + count)
                    continue
                over = max(0, current + count - 1) // room
                full, current = full + over, current + count - over * room
        chunks = full + 1 if current or not full else full
        return words + 2 * chunks, chunks


def clip_counter() -> TokenCounter:
    """The tokenizer of SD1.x, SD2.x and SDXL files."""
    vocabulary, merges = clip_vocabulary()
    return TokenCounter(_bpe(vocabulary, merges))


def folder_counter(folder: Path) -> TokenCounter | None:
    """The tokenizer of a model folder's `tokenizer/`; None when it has none that can be read."""
    from tokenizers import Tokenizer

    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        limit = settings.get("model_max_length", MAX_TOKENS)
        limit = int(limit) if isinstance(limit, (int, float)) and 2 < limit <= 4096 else MAX_TOKENS
        if (folder / "tokenizer.json").is_file():
            return TokenCounter(Tokenizer.from_file(str(folder / "tokenizer.json")), limit)
        vocabulary = json.loads((folder / "vocab.json").read_text("utf-8"))
        lines = (folder / "merges.txt").read_text("utf-8").split("\n")
        merges = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
        return TokenCounter(_bpe(vocabulary, merges), limit)
    except Exception as error:  # the library raises bare Exception; a count that is missing is not worth a failure
        log.warning("the tokenizer in %s cannot be read: %s", folder.name, error)
        return None


def _bpe(vocabulary: dict[str, int], merges: list[Any]) -> Any:
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

    model = models.BPE(
        vocab=vocabulary,
        merges=merges,
        unk_token=END,
        end_of_word_suffix="</w>",
        fuse_unk=False,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in (START, END)])
    return tokenizer
