# SPDX-License-Identifier: GPL-3.0-or-later
"""The tokenizers of T5 and of Qwen's and Mistral's language models, rebuilt from the shipped tables."""

from __future__ import annotations

import gzip
import json
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from server.diffusion.tokenizer import CONFIGS
from server.prompt.vocabulary import byte_order, byte_symbols

_EXTRA = 100  # T5's <extra_id_99> to <extra_id_0>, behind its pieces
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The rule of the tokenizer in the folders of Mistral Small 3.1 and of Flux 2 dev. Mistral's own package has a finer
# one, which differs for few texts: marks of Indian scripts, slashes before the end of a line.
_MISTRAL_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_MISTRAL_SPECIAL = 1000  # numbers before the words; those without a name are fillers
_MISTRAL_NAMES = (
    "<unk> <s> </s> [INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] [/TOOL_RESULTS] [TOOL_CALLS]"
    " [IMG] <pad> [IMG_BREAK] [IMG_END] [PREFIX] [MIDDLE] [SUFFIX] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CONTENT]"
).split()
_TOLD = (
    "{{ '<s>' }}{% for message in messages %}"
    "{% set marks = ('[SYSTEM_PROMPT]', '[/SYSTEM_PROMPT]') if message.role == 'system' else ('[INST]', '[/INST]') %}"
    "{{ marks[0] }}{% for part in message.content %}{{ part.text }}{% endfor %}{{ marks[1] }}{% endfor %}"
)
# What Qwen's template makes of one message of a user; Z-Image's prompts are nothing else.
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def t5_tokenizer(length: int = 512) -> Any:
    """The tokenizer of T5 v1.1 in all sizes; every text ends with </s>."""
    return PreTrainedTokenizerFast(
        tokenizer_object=_t5(),
        model_max_length=length,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def qwen_tokenizer() -> Any:
    """The tokenizer of Qwen2.5 and Qwen3, with the template of a plain chat."""
    made = PreTrainedTokenizerFast(
        tokenizer_object=_qwen(),
        model_max_length=131072,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
    )
    made.chat_template = _CHAT
    return made


def mistral_tokenizer(length: int = 131072) -> Any:
    """The tokenizer of Mistral Small 3 with the template of its chats (system and user, contents as lists of texts);
    shorter texts are filled on the left."""
    made = PreTrainedTokenizerFast(
        tokenizer_object=tekken(_MISTRAL_WORDS),
        model_max_length=length,
        padding_side="left",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
    )
    made.chat_template = _TOLD
    return made


def _lines(name: str) -> list[str]:
    return gzip.decompress((CONFIGS / name).read_bytes()).decode("utf-8").split("\n")


def _t5() -> Tokenizer:
    pieces = [(piece, float(score)) for piece, score in (line.split("\t") for line in _lines("t5_pieces.txt.gz"))]
    extra = [f"<extra_id_{number}>" for number in reversed(range(_EXTRA))]
    made = Tokenizer(models.Unigram(pieces + [(word, 0.0) for word in extra], unk_id=2))
    made.normalizer = normalizers.Sequence([
        normalizers.Precompiled(gzip.decompress((CONFIGS / "t5_normalizer.bin.gz").read_bytes())),
        normalizers.Strip(left=False, right=True),
        normalizers.Replace(Regex(" {2,}"), "▁"),
    ])  # fmt: skip
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made.add_special_tokens([AddedToken(word, normalized=False) for word in ("<pad>", "</s>", "<unk>", *extra)])
    return made


def _qwen() -> Tokenizer:
    settings = json.loads((CONFIGS / "qwen_tokens.json").read_text("utf-8"))
    merges = [(left, right) for left, right in (line.split(" ") for line in _lines("qwen_merges.txt.gz"))]
    words = [*byte_symbols(), *(left + right for left, right in merges)]
    made = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, merges))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_QWEN_WORDS), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    made.decoder = decoders.ByteLevel()
    for word, special in settings:
        token = AddedToken(word, normalized=False, special=special)
        (made.add_special_tokens if special else made.add_tokens)([token])
    return made


def tekken(rule: str) -> Tokenizer:
    """Mistral's byte-pair encoding of 131,072 words; `rule` is the expression whose matches are encoded one by one."""
    symbols = dict(zip(byte_order(), byte_symbols()))
    words = _mistral_words()
    ranks = {word: rank for rank, word in enumerate(words)}
    written = ["".join(symbols[byte] for byte in word) for word in words]
    merges: list[tuple[str, str]] = []
    for word in words[256:]:
        # Two neighbours become one wherever both together are a word, so every way to halve it is a merge.
        halves = ((word[:at], word[at:]) for at in range(1, len(word)))
        known = sorted((ranks[left], ranks[right]) for left, right in halves if left in ranks and right in ranks)
        merges += [(written[left], written[right]) for left, right in known]
    special = [*_MISTRAL_NAMES, *(f"<SPECIAL_{number}>" for number in range(len(_MISTRAL_NAMES), _MISTRAL_SPECIAL))]
    numbers = {word: number for number, word in enumerate([*special, *written])}
    made = Tokenizer(models.BPE(numbers, merges, ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(rule), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(word, normalized=False) for word in special])
    return made


def _mistral_words() -> list[bytes]:
    """All 130,072 words in order of rank: the single bytes, then those of the table, each behind its length."""
    table = gzip.decompress((CONFIGS / "mistral_words.bin.gz").read_bytes())
    words, at = [bytes([byte]) for byte in range(256)], 0
    while at < len(table):
        end = at + 1 + table[at]
        words.append(table[at + 1 : end])
        at = end
    return words
