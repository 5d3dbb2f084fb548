# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the tokenizer: byte-level BPE in CLIP's format, learnt from the captions, unknown words fall into letters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from . import captions

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77
OTHER_WORDS = (
    "photo picture image drawing painting illustration art beautiful nice pretty simple cute bright dark colourful "
    "colorful gray watercolor detailed clean minimal style portrait landscape scene view big little large round "
    "tall old new very lovely best quality masterpiece icon logo cartoon children book sketch of in the with and"
)
"""Words people type that no caption has; they get their own tokens, and the text encoder learns to pass over them."""


def caption_corpus(count: int, seed: int) -> list[str]:
    """`count` captions over every kind and style."""
    corpus = []
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        kind = captions.pick(rng, captions.KINDS)
        style = captions.pick(rng, captions.STYLES[1:]) if captions.chance(rng, 0.4) else "flat"
        corpus.append(captions.wording(rng, captions.sample(rng, kind, style), every=True))
    return corpus


def build(folder: Path, seed: int = 5) -> CLIPTokenizer:
    """Learn merges until every known word is one token, and save the tokenizer as a folder."""
    corpus = caption_corpus(6000, seed) + [OTHER_WORDS] * 50
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=4000, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False, min_frequency=2
    )
    split = [w for line in corpus for w in line.lower().replace(",", " ,").split()]
    learner.train_from_iterator(split, trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    vocabulary = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    vocabulary = list(dict.fromkeys(vocabulary)) + [START, END]
    tokenizer = CLIPTokenizer(
        vocab={word: i for i, word in enumerate(vocabulary)},
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=LENGTH,
    )
    tokenizer.save_pretrained(folder)
    # The two files that programs older than tokenizer.json read.
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return tokenizer


def encode(tokenizer: CLIPTokenizer, texts: list[str]):
    """(n, 77) token ids, padded and cut as every Stable Diffusion program does it."""
    return tokenizer(texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids
