# SPDX-License-Identifier: GPL-3.0-or-later
"""CLIP's tokenizer, rebuilt from the shipped merges or read from a model folder, without the network."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer

from krita_sd.wire.errors import Code, WireError

CONFIGS = Path(__file__).parent / "configs"
MAX_TOKENS = 77
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_symbols() -> list[str]:
    """The 256 printable characters that stand for the bytes, in the order in which the vocabulary counts them.

    Printable Latin-1 bytes stand for themselves and come first; the others follow, moved to U+0100 and up (byte-level
    BPE as in GPT-2).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return [chr(byte) for byte in printable] + [chr(0x100 + i) for i in range(len(others))]


def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's vocabulary (49408 entries) and its merges, in order of rank."""
    lines = gzip.decompress((CONFIGS / "clip_merges.txt.gz").read_bytes()).decode("utf-8").split("\n")
    merges = [(left, right) for left, right in (line.split(" ") for line in lines)]
    symbols = byte_symbols()
    words = [*symbols, *(symbol + "</w>" for symbol in symbols), *(a + b for a, b in merges), START, END]
    return {word: index for index, word in enumerate(words)}, merges


def shipped_tokenizer(pad_token: str = END) -> Any:
    """The tokenizer of every SD1.x and SD2.x checkpoint; `pad_token` is the end token in SD1.x and "!" in SD2.x."""
    vocabulary, merges = clip_vocabulary()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad_token, model_max_length=MAX_TOKENS)


def folder_tokenizer(folder: Path) -> Any:
    """The tokenizer of a diffusers folder's `tokenizer/`: tokenizer.json, or vocab.json with merges.txt.

    Raises WireError(model_corrupt) when the files are missing or unreadable.
    """
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        if (folder / "tokenizer.json").is_file():
            tables = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]
            vocabulary = tables["vocab"]
            lines = tables["merges"]
        else:
            vocabulary = json.loads((folder / "vocab.json").read_text("utf-8"))
            lines = (folder / "merges.txt").read_text("utf-8").split("\n")
        merges = [_pair(line) for line in lines if line and not (isinstance(line, str) and line.startswith("#version"))]
        special = {}
        special_file = folder / "special_tokens_map.json"
        stored = json.loads(special_file.read_text("utf-8")) if special_file.is_file() else {}
        for name in ("unk_token", "bos_token", "eos_token", "pad_token"):
            value = settings.get(name, stored.get(name))
            if value is not None:
                special[name] = value["content"] if isinstance(value, dict) else value
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WireError(
            Code.MODEL_CORRUPT,
            "The model's tokenizer files are missing or damaged.",
            "Download the model folder again.",
        ) from error
    length = settings.get("model_max_length", MAX_TOKENS)
    length = int(length) if isinstance(length, (int, float)) and length <= 4096 else MAX_TOKENS
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length, **special)


def _pair(line: str | list[str]) -> tuple[str, str]:
    left, right = line.split(" ") if isinstance(line, str) else line
    return left, right
