# SPDX-License-Identifier: GPL-3.0-or-later
"""The editing side of prompts: weights at the cursor, what is highlighted, what is completed, what is remembered."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krita_sd.prompt_history import MAX_ENTRIES, MAX_FAVOURITES, PromptHistory
from krita_sd.prompt_reading import has_problem, line_of, result_text, tip_of
from krita_sd.prompt_text import STEP, Typed, change_weight, spans, typed_at
from krita_sd.vocabulary import Candidate, Vocabulary, read_tags, tag_files

UP, DOWN = STEP, -STEP


def press(marked: str, by: float, times: int = 1) -> str:
    """`|` marks the cursor, `‹›` the selection; the answer is marked the same way."""
    if "‹" in marked:
        start, end = marked.index("‹"), marked.index("›") - 1
    else:
        start = end = marked.index("|")
    text = marked.replace("‹", "").replace("›", "").replace("|", "", 0 if "‹" in marked else 1)
    for _ in range(times):
        edit = change_weight(text, start, end, by)
        text, start, end = edit.text, edit.start, edit.end
    return f"{text[:start]}‹{text[start:end]}›{text[end:]}"


@pytest.mark.parametrize(
    "before, by, times, after",
    [
        ("a red| house", UP, 1, "a (‹red›:1.1) house"),
        ("a |red house", UP, 3, "a (‹red›:1.3) house"),
        ("a red| house", DOWN, 1, "a (‹red›:0.9) house"),
        ("a ‹red house›", UP, 1, "a (‹red house›:1.1)"),
        ("a‹ red house ›", UP, 1, "a (‹red house›:1.1) "),
        ("a (‹red›:1.1) house", DOWN, 1, "a ‹red› house"),
        ("a (red:1.|3) house", UP, 1, "a (‹red›:1.4) house"),
        ("a ‹(red)› house", UP, 1, "a (‹red›:1.2) house"),
        ("a ‹[red]› house", UP, 1, "a ‹red› house"),
        ("a ‹(red:1.25)› b", UP, 1, "a (‹red›:1.35) b"),
        ("a (‹red:1.25›) b", UP, 1, "a (‹red›:1.35) b"),
        ("x (big red| house:1.2)", UP, 1, "x (big (‹red›:1.1) house:1.2)"),
        ("red, bl|ue", UP, 1, "red, (‹blue›:1.1)"),
        ("<lora:ink|:0.8>", UP, 1, "<lora:ink‹›:0.9>"),
        ("<lora:ink|>", DOWN, 1, "<lora:ink‹›:0.9>"),
        ("<lora:ink:1.9|9>", UP, 5, "<lora:ink:2‹›>"),
        ("(a:0.|1)", DOWN, 4, "(‹a›:0)"),
    ],
)
def test_a_weight_changes_at_the_cursor(before: str, by: float, times: int, after: str) -> None:
    assert press(before, by, times) == after


@pytest.mark.parametrize("text", ["", " , ", "# a note", "(a‹ b) c›", "(a:1.‹2) b›", "(a b‹:1.2›)", "\\(‹›"], ids=repr)
def test_where_no_weight_makes_sense_nothing_changes(text: str) -> None:
    start = text.index("‹") if "‹" in text else len(text)
    end = text.index("›") - 1 if "›" in text else start
    plain = text.replace("‹", "").replace("›", "")
    assert change_weight(plain, start, end, UP).text == plain


@given(st.text(alphabet="ab ()[]:.1{}|<>\\#\n,lor_", max_size=30), st.data())
def test_no_text_breaks_it_and_the_selection_stays_inside(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    edit = change_weight(text, start, end, UP)
    assert 0 <= edit.start <= edit.end <= len(edit.text)
    assert all(0 <= span.start < span.end <= len(text) for span in spans(text))
    typed = typed_at(text, end)
    assert typed is None or typed.start <= end


@given(st.text(alphabet="abc ", min_size=1, max_size=12))
def test_up_then_down_is_the_text_again(words: str) -> None:
    up = change_weight(words, 0, len(words), UP)
    assert change_weight(up.text, up.start, up.end, DOWN).text == words


def kinds(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for span in spans(text):
        found.setdefault(span.kind, []).append(text[span.start : span.end])
    return found


def test_everything_that_means_something_is_highlighted() -> None:
    found = kinds("(a (b:1.5)) [c] {x|{y|z}} __animals__ <lora:ink:0.8> BREAK (d # e\n# note (\n\\(f\\)")
    assert found["weight"] == ["(a (b:1.5))", "(b:1.5)", "[c]"]
    assert found["choice"] == ["{", "|", "}", "{", "|", "}"]
    assert found["file"] == ["__animals__"] and found["tag"] == ["<lora:ink:0.8>"] and found["break"] == ["BREAK"]
    assert found["comment"] == ["# e", "# note ("] and found["unclosed"] == ["("]
    weights = [round(span.weight, 2) for span in spans("((a:1.5))") if span.kind == "weight"]
    assert weights == [1.1, 1.65]
    assert kinds("{no choice}") == {} and kinds("a:b 16:9 \\(x\\)") == {}


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("a <lora:in", Typed(2, "in", "lora")),
        ("a <lo", Typed(2, "", "lora")),
        ("a <ink", Typed(2, "ink", "lora")),
        ("a __ani", Typed(2, "ani", "wildcard")),
        ("__x__ blue sk", Typed(0, "__x__ blue sk", "word")),
        ("red, blue sk", Typed(5, "blue sk", "word")),
        ("(bl", Typed(1, "bl", "word")),
        ("a, b", None),
        ("# bl", None),
        ("<lora:ink:0.", None),
    ],
)
def test_what_is_being_typed(text: str, wanted: Typed | None) -> None:
    assert typed_at(text, len(text)) == wanted


def test_completion_knows_loras_wildcards_styles_and_tag_files(tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text(
        '1girl,0,5000000,"sole_female,1girls"\nblue_sky,0,900000,\nblue_(colour),3,12,\nblurry,0,5,\n,,\n"' + "x" * 500
    )
    (tmp_path / "other.json").write_text("blue")
    words = Vocabulary(("inkwash", "Think"), ("animals",), (("s1", "Blueprint"),), read_tags(tag_files(tmp_path)))
    blue = words.complete(Typed(0, "blu", "word"))
    assert [item.text for item in blue] == ["blue sky", "blue (colour)", "blurry", "Blueprint"]
    assert blue[3] == Candidate("Blueprint", "", "style", "style", "s1")
    assert blue[1].insert == "blue \\(colour\\)" and blue[0].note == "900k"
    assert words.complete(Typed(0, "sole f", "word")) == [Candidate("1girl", "1girl", "5.0M (sole female)")]
    assert [item.insert for item in words.complete(Typed(0, "ink", "lora"))] == [
        "<lora:inkwash:1>",
        "<lora:Think:1>",
    ]
    assert [item.insert for item in words.complete(Typed(0, "", "wildcard"))] == ["__animals__"]
    assert words.complete(Typed(0, "b", "word")) == [] and words.complete(Typed(0, "zzz", "word")) == []


def test_prompts_are_remembered_searched_and_starred(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "prompts.json"
    history = PromptHistory(path)
    assert history.add("a red\nhouse", "blurry") and not history.add("a red\nhouse", "blurry")
    assert history.add("a cat", "") and not history.add("  ", "x")
    history.set_favourite(("a red\nhouse", "blurry"), True)
    for number in range(MAX_ENTRIES + 20):
        history.add(f"number {number}", "")
    history.save()
    again = PromptHistory(path)
    again.add("typed before the file was read", "")
    again.load()
    assert again.entries[0].prompt == "typed before the file was read"
    assert len(again.entries) == MAX_ENTRIES + 1 and again.search("cat") == []
    assert [entry.prompt for entry in again.search("HOUSE blur")] == ["a red\nhouse"]
    assert [entry.prompt for entry in again.search("", True)] == ["a red\nhouse"]
    again.forget(("a red\nhouse", "blurry"))
    assert again.search("house") == []


def test_favourites_are_bounded_too_and_damage_is_survived(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text('[{"prompt": "ok", "favourite": true}, {"prompt": 5}, 7, {"prompt": "' + "x" * 30_000 + '"}]')
    history = PromptHistory(path)
    history.load()
    assert [(entry.prompt, entry.favourite) for entry in history.entries] == [("ok", True)]
    for text in ("{", "[[[", "null", "[" * 100_000):
        path.write_text(text)
        PromptHistory(path).load()
    for number in range(MAX_FAVOURITES + 5):
        history.add(str(number), "")
        history.set_favourite((str(number), ""), True)
    assert len(history.entries) == MAX_FAVOURITES and history.search("ok") == []


def test_nothing_is_said_of_a_prompt_without_words() -> None:
    """Begin and end are tokens too; nobody who has typed nothing wants to count them."""
    empty, cat = {"text": "2 of 77 tokens."}, {"text": "3 of 77 tokens."}
    assert line_of([(empty, " \n"), (empty, "")]) == ""
    assert line_of([(cat, "cat"), (empty, "")]) == line_of([(empty, ""), (cat, "dog")]) == "3 of 77 tokens."
    assert line_of([(cat, "cat"), (cat, "dog")]) == "3 of 77 tokens. \u00b7 3 of 77 tokens."


def test_a_result_says_how_its_prompt_was_read() -> None:
    """With the words that were drawn; a server's odd answer does no harm."""
    read = {"prompt": {"parts": [["a ", 1.0], ["red", 1.2], [" bird", 1.0]], "text": "5 of 77 tokens."}}
    assert result_text(read, "a ({red|blue}:1.2) bird") == "Read as: a red bird\n5 of 77 tokens."
    assert result_text(read, "a (red:1.2) bird") == "5 of 77 tokens."
    for odd in ({}, {"prompt": 5}, {"prompt": {"parts": [5, ["a"], ["a", "b"]], "text": 5, "loras": 1}}):
        assert result_text(odd, "{a}") == ""


def test_what_has_no_effect_is_a_problem() -> None:
    assert has_problem({"loras": [["ink", 1.0, False]]}) and has_problem({"ignored": ["x"]})
    assert not has_problem({"loras": [["ink", 1.0, True], 5], "ignored": []})
    assert tip_of({"parts": [["a", 1.5]]}, {"ignored": ["b"]}) == "Prompt: a  x 1.5\nIgnored: b"
