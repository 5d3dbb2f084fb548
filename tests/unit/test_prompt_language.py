# SPDX-License-Identifier: GPL-3.0-or-later
"""The prompt language without any model: attention, blends, wildcards, comments, LoRA tags, and how they are told."""

from __future__ import annotations

import collections
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.prompt import BREAK, Wildcards, expand, parse_attention, plain_text, split_blend, take_loras
from server.prompt.expand import MAX_DRAWS, without_comments
from server.prompt.inversions import called, split_inversions
from server.prompt.reading import read_words, words_of
from server.prompt.tokens import TokenCounter, clip_counter, folder_counter


def weights(prompt: str) -> list[tuple[str, float]]:
    return [("BREAK" if text is BREAK else text, round(weight, 6)) for text, weight in parse_attention(prompt)]


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
        (r"(cat\:1.2)", [("cat:1.2", 1.1)]),
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


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet="ab ()[]:\\.1-BREAK\n\x00", max_size=60))
def test_any_text_is_read(prompt: str) -> None:
    parts = parse_attention(prompt)
    assert parts and all(math.isfinite(weight) for _, weight in parts)
    if not set(prompt) & set("()[]\\\x00") and "BREAK" not in prompt:
        assert parts == [(prompt, 1.0)]


def blends(prompt: str) -> list[tuple[str, float]]:
    return [(text, round(share, 3)) for text, share in split_blend(prompt)]


def test_the_blend_of_the_specification() -> None:
    assert blends("cute dog:0.95 cyborg:0.85 hybrid character") == [
        ("cute dog", 0.339),
        ("cyborg", 0.304),
        ("hybrid character", 0.357),
    ]


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("cat:1 dog:3", [("cat", 0.25), ("dog", 0.75)]),
        ("cat:.5 dog:.5", [("cat", 0.5), ("dog", 0.5)]),
        ("cat:1.5", [("cat", 1.0)]),
        ("cat:0 dog", [("dog", 1.0)]),
        ("cat:0 dog:0", [("cat", 0.5), ("dog", 0.5)]),
        ("(red:1.3) cat:1 a dog", [("(red:1.3) cat", 0.5), ("a dog", 0.5)]),
        ("a [x]:1 b", [("a [x]", 0.5), ("b", 0.5)]),
        ("cat:1\ndog", [("cat", 0.5), ("dog", 0.5)]),
    ],
)
def test_blends(prompt: str, wanted: list[tuple[str, float]]) -> None:
    assert blends(prompt) == wanted


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "a cat",
        "3:30 pm",
        "16:9",
        "16:9 wide",
        "http://x",
        "see http://host:8080 now",
        "(cat:1.2)",
        "(a (cat:1.2) b)",
        "[cat:0.5 ]",
        "(cat:1.2 ",
        "a smile :3 and a cat",
        "cat:1.2, dog",
        "cat:1.2x",
        "cat:-1 dog",
        ":0.5 cat",
        "ratio 2:1 ",
        r"cat\:0.5 dog",
        "embedding:7 style",
        "cat: 0.5",
        "cat:1e3 ",
        "a  cat\n b ",
    ],
)
def test_what_only_looks_like_a_blend_stays_as_it_is(prompt: str) -> None:
    assert split_blend(prompt) == ((prompt, 1.0),)


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet="ab ()[]:\\.12 \n", max_size=60))
def test_shares_are_a_whole_and_nothing_is_lost(prompt: str) -> None:
    variants = split_blend(prompt)
    assert math.isclose(sum(share for _, share in variants), 1.0)
    letters = [char for text, _ in variants for char in text if char in "ab"]
    if not re.search(r":0*\.?0*(\s|$)", prompt):
        assert letters == [char for char in prompt if char in "ab"]


@pytest.fixture
def wildcards(tmp_path: Path) -> Wildcards:
    folder = tmp_path / "wildcards"
    (folder / "places").mkdir(parents=True)
    (folder / "animals.txt").write_text("# a note\ncat\n\ndog \n{big|small} horse\n")
    (folder / "places" / "towns.txt").write_text("Ghent\n")
    (folder / "circle.txt").write_text("x __circle__ __circle__\n")
    (tmp_path / "secret.txt").write_text("secret")
    return Wildcards([tmp_path, tmp_path / "missing"])


def drawn(prompt: str, wildcards: Wildcards | None = None, seeds: int = 60) -> set[str]:
    return {expand(prompt, seed, wildcards).text for seed in range(seeds)}


def test_groups_are_drawn_by_the_seed() -> None:
    assert drawn("a {red|green|blue} boat") == {"a red boat", "a green boat", "a blue boat"}
    assert drawn("{a|{b|c} d}") == {"a", "b d", "c d"}
    assert drawn("{a|}x") == {"ax", "x"}
    assert expand("{a|b} {a|b} {a|b} {a|b}", 4).text == expand("{a|b} {a|b} {a|b} {a|b}", 4).text
    counts = collections.Counter(expand("{a|b|c}", seed).text for seed in range(3000))
    assert all(900 < count < 1100 for count in counts.values())
    # Two groups of one prompt, and prompt and negative prompt, are drawn independently.
    assert drawn("{a|b} {a|b}") == {"a a", "a b", "b a", "b b"}
    pairs = {(expand("{a|b}", seed).text, expand("{a|b}", seed, stream="negative").text) for seed in range(60)}
    assert len(pairs) == 4


def test_draws_are_the_same_everywhere_and_for_ever() -> None:
    """A hash decides, not a generator that another version may change: recipes are kept for years."""
    assert "".join(expand("{a|b|c|d|e|f|g|h}", seed).text for seed in (*range(7), 2**63 - 1)) == "ddddfbbd"


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("{alone}", "{alone}"),
        ("{open|x", "{open|x"),
        ("x} {", "x} {"),
        (r"\{a\|b\}", "{a|b}"),
        ("snake__case", "snake__case"),
        ("a  b\n c ", "a  b\n c "),
    ],
)
def test_what_only_looks_like_a_wildcard_stays(prompt: str, wanted: str) -> None:
    assert drawn(prompt) == {wanted}


def test_wildcard_files(wildcards: Wildcards) -> None:
    assert drawn("a __animals__", wildcards) == {"a cat", "a dog", "a big horse", "a small horse"}
    assert drawn("__places/towns__ __towns__ __TOWNS__", wildcards) == {"Ghent Ghent Ghent"}
    assert wildcards.names == ("animals", "circle", "places/towns", "towns")
    missing = expand("__nothing__ at all", 1, wildcards)
    assert missing.text == "__nothing__ at all" and missing.unknown == ("__nothing__",)


@pytest.mark.parametrize("name", ["../secret", "..\\secret", "/etc/hostname", "places/../../secret"])
def test_a_wildcard_never_leaves_its_folder(name: str, wildcards: Wildcards, tmp_path: Path) -> None:
    assert "secret" not in wildcards.lines(name) and wildcards.lines(name) == ()


def test_a_changed_wildcard_file_is_read_again(wildcards: Wildcards, tmp_path: Path) -> None:
    path = tmp_path / "wildcards" / "places" / "towns.txt"
    assert wildcards.lines("towns") == ("Ghent",)
    path.write_text("Delft")
    os.utime(path, ns=(1, 1))
    assert wildcards.lines("towns") == ("Delft",)


def test_wildcards_that_name_themselves_end(wildcards: Wildcards) -> None:
    done = expand("__circle__", 1, wildcards)
    assert done.draws <= MAX_DRAWS and len(done.text) <= 20_000


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet="ab{}|_\\# \n", max_size=60))
def test_any_text_is_expanded(prompt: str) -> None:
    assert len(expand(prompt, 3).text) <= len(prompt)


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("a cat # too plain?\nand a dog", "a cat\nand a dog"),
        ("# note\na cat", "a cat"),
        ("#note\n  # more\na cat", "a cat"),
        ("colour #ff0000 sky", "colour #ff0000 sky"),
        (r"issue \# 5", "issue # 5"),
        ("a cat #", "a cat"),
        ("C# code", "C# code"),
    ],
)
def test_comments(prompt: str, wanted: str) -> None:
    assert without_comments(prompt) == wanted


@pytest.mark.parametrize(
    ("prompt", "text", "tags", "ignored"),
    [
        ("a <lora:ink:0.8> cat", "a  cat", [("ink", 0.8)], 0),
        ("<lora:My style v2.1>", "", [("My style v2.1", 1.0)], 0),
        ("<lora:a:-1.5><LYCO:b:.5>", "", [("a", -1.5), ("b", 0.5)], 0),
        ("<lora:a:9>", "", [("a", 2.0)], 0),
        ("<lora:a:0.5:0.9>", "", [("a", 0.5)], 0),
        ("<lora:a:1><lora:a:0.2>", "", [("a", 0.2)], 0),
        ("<lora:a:much>", "", [], 1),
        ("<hypernet:x:1>", "", [], 1),
        ("x < y > z <b>", "x < y > z <b>", [], 0),
    ],
)
def test_lora_tags(prompt: str, text: str, tags: list[tuple[str, float]], ignored: int) -> None:
    found = take_loras(prompt)
    assert found[0] == text and list(found[1]) == tags and len(found[2]) == ignored


@pytest.fixture(scope="module")
def engines() -> Any:
    """The engine's own tokenizer."""
    from server.diffusion.tokenizer import shipped_tokenizer

    return shipped_tokenizer()


@pytest.fixture(scope="module")
def counter() -> TokenCounter:
    return clip_counter()


@pytest.mark.parametrize(
    "text", ["", "a photo of a cat", "A  Photo\nOF", "it's 16:9!", "naïve 漢字 🙂", "x" * 300, "<|endoftext|> a"]
)
def test_tokens_are_counted_as_transformers_does(text: str, counter: TokenCounter, engines: Any) -> None:
    assert counter.count(text) == len(engines(text, add_special_tokens=False).input_ids)


def test_the_embedded_models_own_tokenizer_is_counted_with() -> None:
    folder = Path(__file__).resolve().parents[2] / "server" / "pocket" / "tokenizer"
    own = folder_counter(folder)
    assert own is not None and own.limit == 77 and own.count("a red boat") == 3
    assert folder_counter(folder.parent) is None


@pytest.mark.parametrize(
    ("prompt", "tokens", "chunks"),
    [
        ("", 2, 1),
        ("a cat", 4, 1),
        ("cat " * 75, 77, 1),
        ("cat " * 76, 80, 2),
        ("cat " * 150, 154, 2),
        ("a BREAK cat", 6, 2),
        ("a BREAK", 3, 1),
        ("(cat:1.2) dog", 4, 1),
    ],
)
def test_tokens_and_chunks_are_those_of_the_engine(
    prompt: str, tokens: int, chunks: int, counter: TokenCounter, engines: Any
) -> None:
    from server.diffusion.text import split_chunks

    parts = parse_attention(prompt)
    assert counter.measure(parts) == (tokens, chunks)
    real = split_chunks(engines, parts)
    assert (sum(map(len, real)) + 2 * len(real), len(real)) == (tokens, chunks)


def test_the_reading_of_a_prompt(counter: TokenCounter) -> None:
    words = words_of("a (red:1.3) boat <lora:ink:0.8><lora:gone> {x|x} __no__ # note", 1)
    read = read_words(words, "sd1", counter, {"ink": 1}).to_json()
    assert read["parts"] == [["a ", 1.0], ["red", 1.3], [" boat  x __no__", 1.0]]
    assert read["tokens"] == counter.count(words.text.replace("(red:1.3)", "red")) + 2 and read["limit"] == 77
    assert read["loras"] == [["ink", 0.8, True], ["gone", 1.0, False]]
    assert len(read["ignored"]) == 2 and "__no__" in read["ignored"][0] and "gone" in read["ignored"][1]
    assert read["text"].count(".") >= 1 and "LoRA ink (0.8)" in read["text"] and "ignored" in read["text"]


def test_the_reading_of_a_blend(counter: TokenCounter) -> None:
    read = read_words(words_of("cute dog:0.95 cyborg:0.85 hybrid character"), "sd1", counter).to_json()
    assert [weight for _, weight in read["parts"]] == [0.3393, 0.3036, 0.3571]
    assert "0.339 : 0.304 : 0.357" in read["text"] and read["tokens"] == 4


def test_families_without_clip_are_told_what_means_nothing_to_them(counter: TokenCounter) -> None:
    read = read_words(words_of("a (red:1.3) boat BREAK sea"), "flux1").to_json()
    assert read["parts"] == [["a red boat \n sea", 1.0]] and read["limit"] == 512
    assert any("1.3" in note for note in read["ignored"]) and "BREAK" in read["ignored"]
    assert plain_text(r"a \(b\) [c]") == "a (b) c"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a EasyNegative, cat", ("easynegative",)),
        ("easynegatives", ()),
        ("my-easynegative", ()),
        ("embedding:easynegative", ("easynegative",)),
        ("Embedding:EasyNegative.pt x", ("easynegative",)),
        ("<easynegative>", ("easynegative",)),
        ("easynegative easynegative-v2 easynegative", ("easynegative", "easynegative-v2")),
        ("a b", ("a b",)),
        ("", ()),
    ],
)
def test_names_of_textual_inversions(text: str, found: tuple[str, ...]) -> None:
    names = ("easynegative", "easynegative-v2", "a b", "")
    assert called(text, names) == found
    assert "".join(piece.text for piece in split_inversions(text, names)) == text


def test_vectors_count_as_tokens_and_stay_together() -> None:
    counter = clip_counter()
    learned = {"mood": 5}
    for text in ("a mood cat", "cat " * 74 + "mood", "cat " * 70 + "mood dog", "mood BREAK mood", "mood " * 16):
        parts = parse_attention(text)
        words = sum(
            5 * part.count("mood") + counter.count(part.replace("mood", " ")) for part, _ in parts if part is not BREAK
        )
        tokens, chunks = counter.measure(parts, learned)
        assert tokens == words + 2 * chunks, text
    assert counter.measure(parse_attention("cat " * 74 + "mood"), learned)[1] == 2
    assert counter.measure(parse_attention("cat " * 70 + "mood"), learned)[1] == 1
    assert counter.measure(parse_attention("cat " * 70 + "mood dog"), learned)[1] == 2
