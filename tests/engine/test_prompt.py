# SPDX-License-Identifier: GPL-3.0-or-later
"""Prompts: the tokenizer, A1111's attention syntax, long prompts, clip skip."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from server.diffusion import Task, generate
from server.diffusion.prompt import BREAK, parse_prompt
from server.diffusion.text import encode_chunks, split_chunks
from server.diffusion.tokenizer import clip_vocabulary, shipped_tokenizer
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


def weights(prompt: str) -> list[tuple[str, float]]:
    return [("BREAK" if text is BREAK else text, round(weight, 6)) for text, weight in parse_prompt(prompt)]


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("", [("", 1.0)]),
        ("a cat", [("a cat", 1.0)]),
        ("a (red) cat", [("a ", 1.0), ("red", 1.1), (" cat", 1.0)]),
        ("((red))", [("red", 1.21)]),
        ("[red]", [("red", round(1 / 1.1, 6))]),
        ("[(red)]", [("red", 1.0)]),
        ("(red:1.3) cat", [("red", 1.3), (" cat", 1.0)]),
        ("(a (b:1.5) c:0.5)", [("a ", 0.5), ("b", 0.75), (" c", 0.5)]),
        ("(red: .5)", [("red", 0.5)]),
        ("(red:-1)", [("red", -1.0)]),
        (r"a \(cat\) \[x\] \\", [("a (cat) [x] \\", 1.0)]),
        ("one BREAK two", [("one ", 1.0), ("BREAK", 1.0), (" two", 1.0)]),
        ("BREAKING Bad", [("BREAKING Bad", 1.0)]),
        ("at 3:30 pm, 16:9, http://x", [("at 3:30 pm, 16:9, http://x", 1.0)]),
        ("(open", [("open", 1.1)]),
        ("close) here]", [("close) here]", 1.0)]),
        ("(red:1e9)", [("red:1e9", 1.1)]),
        ("(red:9999)", [("red", 10.0)]),
        ("[red:1.5)", [("red:1.5)", round(1 / 1.1, 6))]),
    ],
)
def test_attention_syntax(prompt: str, wanted: list[tuple[str, float]]) -> None:
    assert weights(prompt) == wanted


@given(st.text(alphabet="ab ()[]:\\.1-BREAK\n\x00", max_size=60))
def test_any_text_is_read(prompt: str) -> None:
    parts = parse_prompt(prompt)
    assert parts and all(math.isfinite(weight) for _, weight in parts)
    if not set(prompt) & set("()[]\\\x00") and "BREAK" not in prompt:
        assert parts == [(prompt, 1.0)]


def plain(model: Any, text: str) -> torch.Tensor:
    """What the diffusers pipelines do with a prompt."""
    ids = model.tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
    with torch.inference_mode():
        return model.text_encoder(ids)[0]


def encode(model: Any, text: str, clip_skip: int = 0) -> torch.Tensor:
    with torch.inference_mode():
        chunks = split_chunks(model.tokenizer, parse_prompt(text))
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
