# SPDX-License-Identifier: GPL-3.0-or-later
"""Prompts in the engine: the tokenizer, weights, long prompts, clip skip."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from server.diffusion import Task, generate
from server.diffusion.text import encode_chunks, split_chunks
from server.diffusion.tokenizer import shipped_tokenizer
from server.prompt import parse_attention
from server.prompt.vocabulary import clip_vocabulary
from tests.engine.conftest import Loaded

TASK = Task(prompt="a cat", seed=1, total_steps=2, guidance=3.0, width=64, height=64)


def test_vocabulary_and_known_tokens() -> None:
    vocabulary, merges = clip_vocabulary()
    assert len(vocabulary) == 49408 and len(merges) == 48894
    assert vocabulary["<|startoftext|>"] == 49406 and vocabulary["<|endoftext|>"] == 49407
    tokenizer = shipped_tokenizer()
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer("A  Photo\nOF a CAT").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer.model_max_length == 77 and tokenizer.pad_token_id == 49407
    assert shipped_tokenizer("!").pad_token_id == 0


def plain(model: Any, text: str) -> torch.Tensor:
    """What the diffusers pipelines do with a prompt."""
    ids = model.tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    with torch.inference_mode():
        return model.text_encoder(ids)[0]


def encode(model: Any, text: str, clip_skip: int = 0) -> torch.Tensor:
    with torch.inference_mode():
        chunks = split_chunks(model.tokenizer, parse_attention(text))
        return encode_chunks(model.text_encoder, model.tokenizer, chunks, clip_skip)


@pytest.mark.parametrize("family", ["sd1", "sd2"])
@pytest.mark.parametrize(
    "text", ["", "a cat", "3:30 pm, 16:9", "naïve 漢字 🙂\n\nline", "a " * 75, "word" * 40, "<lora:x:1>"]
)
def test_without_weights_it_is_the_plain_encoding(text: str, family: str, model_of: Loaded) -> None:
    model = model_of(family)
    assert torch.equal(encode(model, text), plain(model, text))


def test_weights_against_an_independent_computation(model_of: Loaded) -> None:
    model = model_of("sd1")
    hidden = plain(model, "a red cat")  # start, a, red, cat, end, padding
    expected = hidden.clone()
    expected[:, 2] *= 1.3
    expected *= hidden.mean() / expected.mean()
    assert torch.allclose(encode(model, "a (red:1.3) cat"), expected, atol=1e-5)
    assert torch.equal(encode(model, "a (red:1.0) cat"), hidden)


def test_long_prompts_are_encoded_in_chunks_side_by_side(model_of: Loaded) -> None:
    model = model_of("sd1")
    long = encode(model, "cat " * 100)
    assert long.shape == (1, 2 * 77, 32)
    assert torch.equal(long[:, :77], plain(model, "cat " * 75))
    assert torch.equal(long[:, 77:], plain(model, "cat " * 25))
    both = encode(model, "a cat BREAK a dog")
    assert torch.equal(both, torch.cat([plain(model, "a cat"), plain(model, "a dog")], dim=1))


def test_a_long_prompt_with_a_short_negative_runs_both_ways(model_of: Loaded) -> None:
    model = model_of("sd1")
    one = generate(model, replace(TASK, prompt="cat " * 200, negative="fog"))
    two = generate(model, replace(TASK, prompt="cat", negative="fog " * 200))
    assert one.image.tobytes() != two.image.tobytes()


def test_clip_skip_counts_as_in_a1111(model_of: Loaded) -> None:
    model = model_of("sd1")
    assert torch.equal(encode(model, "a cat", 1), plain(model, "a cat"))
    ids = model.tokenizer("a cat", padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.inference_mode():
        states = model.text_encoder(ids, output_hidden_states=True).hidden_states
        before_last = model.text_encoder.final_layer_norm(states[-2])
    assert torch.equal(encode(model, "a cat", 2), before_last)
    assert not torch.equal(encode(model, "a cat", 2), encode(model, "a cat", 1))
    images = {generate(model, replace(TASK, clip_skip=skip)).image.tobytes() for skip in (0, 1, 2)}
    assert len(images) == 2


def test_a_blend_is_the_weighted_sum_of_its_prompts(model_of: Loaded) -> None:
    """Against numbers worked out here: the shares of the specification, on each prompt's plain encoding."""
    model = model_of("sd1")
    task = replace(TASK, guidance=1.0, prompt="cute dog:0.95 cyborg:0.85 hybrid character")
    with torch.inference_mode():
        found = model.condition(task).embeds
    shares = [0.95 / 2.8, 0.85 / 2.8, 1.0 / 2.8]
    assert [round(share, 3) for share in shares] == [0.339, 0.304, 0.357]
    parts = [plain(model, text).numpy() for text in ("cute dog", "cyborg", "hybrid character")]
    assert np.allclose(found.numpy(), sum(share * part for share, part in zip(shares, parts)), atol=1e-6)
    with torch.inference_mode():
        alone = model.condition(replace(task, prompt="a cat:1.5")).embeds
        assert torch.equal(alone, plain(model, "a cat")), "one prompt's weight is the whole"
        assert torch.equal(model.condition(replace(task, prompt="3:30 pm 16:9")).embeds, plain(model, "3:30 pm 16:9"))


def test_a_blend_of_prompts_of_different_lengths_and_in_the_negative(model_of: Loaded) -> None:
    model = model_of("sd1")
    task = replace(TASK, prompt="cat " * 80 + ":1 dog:3", negative="fog:1 rain:1")
    task = replace(task, prompt=task.prompt.replace(" :1", ":1"))
    with torch.inference_mode():
        found = model.condition(task).embeds
        dog = torch.cat([plain(model, "dog"), plain(model, "")], dim=1)
        cats = torch.cat([plain(model, "cat " * 75), plain(model, "cat " * 5)], dim=1)
        fog, rain = (torch.cat([plain(model, word), plain(model, "")], dim=1) for word in ("fog", "rain"))
    assert found.shape == (2, 154, 32)
    assert torch.allclose(found[1:], 0.25 * cats + 0.75 * dog, atol=1e-6)
    assert torch.allclose(found[:1], 0.5 * fog + 0.5 * rain, atol=1e-6)
