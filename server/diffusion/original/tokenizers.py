# SPDX-License-Identifier: GPL-3.0-or-later
"""The tokenizers of T5 and of Qwen's language models, rebuilt from the shipped tables: single files hold none."""

from __future__ import annotations

import gzip
import json
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from server.diffusion.tokenizer import CONFIGS
from server.prompt.vocabulary import byte_symbols

_EXTRA = 100  # T5's <extra_id_99> to <extra_id_0>, behind its pieces
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
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
