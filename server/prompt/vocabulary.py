# SPDX-License-Identifier: GPL-3.0-or-later
"""CLIP's vocabulary, rebuilt from the shipped merges."""

from __future__ import annotations

import gzip
from pathlib import Path

MERGES = Path(__file__).resolve().parents[1] / "diffusion" / "configs" / "clip_merges.txt.gz"
MAX_TOKENS = 77
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # of Latin-1
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_symbols() -> list[str]:
    """The 256 printable characters that stand for the bytes, in the order in which the vocabulary counts them.

    Printable Latin-1 bytes stand for themselves and come first; the others follow, moved to U+0100 and up (byte-level
    BPE as in GPT-2).
    """
    return [chr(byte) for byte in _PRINTABLE] + [chr(0x100 + i) for i in range(256 - len(_PRINTABLE))]


def byte_order() -> list[int]:
    """The bytes that `byte_symbols` stand for, in its order."""
    return [*_PRINTABLE, *(byte for byte in range(256) if byte not in set(_PRINTABLE))]


def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's vocabulary (49408 entries) and its merges, in order of rank."""
    lines = gzip.decompress(MERGES.read_bytes()).decode("utf-8").split("\n")
    merges = [(left, right) for left, right in (line.split(" ") for line in lines)]
    symbols = byte_symbols()
    words = [*symbols, *(symbol + "</w>" for symbol in symbols), *(a + b for a, b in merges), START, END]
    return {word: index for index, word in enumerate(words)}, merges
