# SPDX-License-Identifier: GPL-3.0-or-later
"""Pre-trains the text encoder to tell from its padding positions what a caption says; afterwards it is frozen.

Most of the 77 positions are padding, and nearly uniform early cross-attention sees little else. So the hidden states
there are trained to name every attribute and every word of the caption, before any picture is involved.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from . import captions
from .captions import attributes, chance, pick
from .muon import MuonAdamW, set_pace
from .runs import Progress, Run
from .tokenizer import LENGTH, OTHER_WORDS, encode
from .words import COLOURS, COUNTS, EXTRAS, POSITIONS, RELATIONS, SHAPES, SIZES, SKIES, STYLES, TERRAINS, THINGS

WIDTH = 128
BATCH = 64
HEADS: dict[str, tuple[str, ...]] = {
    "word": ("", *SHAPES, *THINGS),
    "colour": ("", *COLOURS),
    "word2": ("", *SHAPES, *THINGS),
    "colour2": ("", *COLOURS),
    "background": ("", *COLOURS),
    "position": ("", *POSITIONS),
    "size": ("", *SIZES),
    "relation": ("", *RELATIONS, "and"),
    "count": ("", *(str(n) for n in COUNTS)),
    "terrain": ("", *TERRAINS),
    "sky": ("", *SKIES),
    "style": STYLES,
}
JUNK = OTHER_WORDS.split()


def build(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        projection_dim=WIDTH,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


class Examiner(nn.Module):
    """The text encoder with the questions it has to answer from one hidden state."""

    def __init__(self, encoder: CLIPTextModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict({name: nn.Linear(WIDTH, len(values)) for name, values in HEADS.items()})
        self.extras = nn.Linear(WIDTH, len(EXTRAS))
        self.words = nn.Linear(WIDTH, len(encoder.get_input_embeddings().weight))

    def forward(self, states: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        return {name: head(states) for name, head in self.heads.items()}, self.extras(states), self.words(states)


def crowded(rng: np.random.Generator, text: str) -> str:
    """The caption among words that mean nothing to the model."""
    parts = text.split(" ")
    for _ in range(int(rng.integers(1, 5))):
        parts.insert(int(rng.integers(0, len(parts) + 1)), pick(rng, JUNK))
    return " ".join(parts)


def batch_of(tokenizer: CLIPTokenizer, seed: int, step: int, count: int = BATCH):
    """Token ids of captions, some crowded; their answers per head; which extras are named; token ids uncrowded."""
    rng = np.random.default_rng([seed, step])
    shares = np.array([0.22, 0.16, 0.16, 0.18, 0.08, 0.2])
    told, clean, answers, extras = [], [], [], []
    for _ in range(count):
        if chance(rng, 0.04):
            scene, text = captions.Scene("none", background=""), ""
        else:
            kind = captions.KINDS[int(rng.choice(len(captions.KINDS), p=shares))]
            style = pick(rng, STYLES[1:]) if chance(rng, 0.35) else "flat"
            scene = captions.sample(rng, kind, style)
            text = captions.wording(rng, scene, every=True)
        spoken = set(text.replace(",", "").split(" "))
        said = [name in spoken for name in EXTRAS]
        clean.append(text)
        told.append(crowded(rng, text) if text and chance(rng, 0.2) else text)
        values = attributes(scene)
        answers.append([HEADS[name].index(values[name]) for name in HEADS])
        extras.append([float(s and bool(scene.terrain)) for s in said])
    return encode(tokenizer, told), torch.tensor(answers), torch.tensor(extras), encode(tokenizer, clean)


def losses(examiner: Examiner, states: Tensor, answers: Tensor, extras: Tensor, words: Tensor) -> Tensor:
    heads, more, named = examiner(states)
    total = states.new_zeros(())
    for i, name in enumerate(HEADS):
        total = total + nn.functional.cross_entropy(heads[name], answers[:, i])
    total = total + nn.functional.binary_cross_entropy_with_logits(more, extras) * len(EXTRAS) * 0.3
    return total + nn.functional.binary_cross_entropy_with_logits(named, words, reduction="sum") / len(words) * 0.15


def accuracy(examiner: Examiner, tokenizer: CLIPTokenizer, seed: int = 99, rounds: int = 6) -> dict[str, float]:
    """Share of right answers per head, from the last position, on captions not seen in training."""
    right = dict.fromkeys(HEADS, 0.0)
    with torch.inference_mode():
        for i in range(rounds):
            ids, answers, _, _ = batch_of(tokenizer, seed, i)
            heads, _, _ = examiner(examiner.encoder(ids).last_hidden_state[:, -1])
            for j, name in enumerate(HEADS):
                right[name] += float((heads[name].argmax(1) == answers[:, j]).float().mean()) / rounds
    return right


def train(work: Path, tokenizer: CLIPTokenizer, steps: int, seed: int = 3) -> CLIPTextModel:
    """Train, or go on training; the encoder is saved in work/text_encoder."""
    torch.manual_seed(seed)
    examiner = Examiner(build(tokenizer))
    weights = [p for n, p in examiner.encoder.named_parameters() if p.ndim >= 2 and "embedding" not in n]
    chosen = {id(p) for p in weights}
    rest = [p for p in examiner.parameters() if id(p) not in chosen]
    optimizer = MuonAdamW(weights, rest, muon_lr=2e-3, adam_lr=2e-3)
    run = Run(work / "text.pt", examiner, optimizer, 0.99)
    progress = Progress("text", run.step, steps)
    while run.step < steps:
        began = time.process_time()
        set_pace(optimizer, run.step, steps)
        ids, answers, extras, clean = batch_of(tokenizer, seed, run.step)
        words = torch.zeros(len(ids), len(tokenizer)).scatter_(1, clean, 1.0)
        words[:, tokenizer.bos_token_id] = words[:, tokenizer.eos_token_id] = 0
        states = examiner.encoder(ids).last_hidden_state
        first_pad = (ids == tokenizer.eos_token_id).int().argmax(1)
        rng = np.random.default_rng([seed, run.step, 1])
        places = [int(rng.integers(int(first) + 1, LENGTH)) for first in first_pad]
        loss = losses(examiner, states[:, -1], answers, extras, words)
        loss = loss + losses(examiner, states[torch.arange(len(ids)), places], answers, extras, words)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(examiner.parameters(), 1.0)
        optimizer.step()
        run.average.update(examiner)
        progress(run.step, float(loss.detach()))
        run.step += 1
        run.seconds += time.process_time() - began
    run.save()
    examiner.load_state_dict(run.average.weights)
    examiner.eval()
    for name, share in accuracy(examiner, tokenizer).items():
        print(f"text {name}: {share:.3f}", flush=True)
    examiner.encoder.save_pretrained(work / "text_encoder")
    return examiner.encoder
