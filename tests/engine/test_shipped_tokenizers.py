# SPDX-License-Identifier: GPL-3.0-or-later
"""The tokenizers of T5, Qwen and Mistral that single files are read with: numbers noted from the published ones."""

from __future__ import annotations

from typing import Any

import pytest

from server.diffusion.original.tokenizers import mistral_tokenizer, qwen_tokenizer, t5_tokenizer


@pytest.fixture(scope="module")
def t5() -> Any:
    return t5_tokenizer()


@pytest.fixture(scope="module")
def qwen() -> Any:
    return qwen_tokenizer()


def test_t5(t5: Any) -> None:
    assert len(t5) == 32100
    for text, wanted in T5.items():
        assert t5(text).input_ids == wanted, text
    padded = t5(["a red boat"], padding="max_length", max_length=8, truncation=True, return_tensors="pt")
    assert padded.input_ids.tolist() == [[3, 9, 1131, 3432, 1, 0, 0, 0]]
    assert padded.attention_mask.tolist() == [[1, 1, 1, 1, 1, 0, 0, 0]]
    assert t5("word " * 600, truncation=True).input_ids[-1] == 1 and t5.model_max_length == 512


def test_qwen(qwen: Any) -> None:
    assert len(qwen) == 151669
    for text, wanted in QWEN.items():
        assert qwen(text).input_ids == wanted, text
    said = qwen.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True, enable_thinking=True
    )
    assert said == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    padded = qwen(["a red boat"], padding="max_length", max_length=5)
    assert padded.input_ids == [[64, 2518, 15328, 151643, 151643]]


def test_mistral() -> None:
    """Numbers of tiktoken with the vocabulary of mistral-common, and of its chats."""
    mistral = mistral_tokenizer()
    assert len(mistral) == 131072
    for text, wanted in MISTRAL.items():
        assert mistral(text, add_special_tokens=False).input_ids == wanted, text
    said = [[{"role": role, "content": [{"type": "text", "text": text}]} for role, text in CHAT]]
    padded = mistral.apply_chat_template(
        said, tokenize=True, return_dict=True, return_tensors="pt", padding="max_length", truncation=True, max_length=13
    )
    assert padded["input_ids"].tolist() == [[11, 11, 1, 17, 5934, 13426, 1046, 18, 3, 1097, 4804, 25532, 4]]
    assert padded["attention_mask"].tolist() == [[0, 0] + [1] * 11]
    cut = mistral.apply_chat_template(
        said, tokenize=True, return_dict=True, padding="max_length", truncation=True, max_length=9
    )
    assert cut["input_ids"] == [[1, 17, 5934, 13426, 1046, 18, 3, 1097, 4804]]


CHAT = [("system", "Be brief."), ("user", "a red boat")]
MISTRAL: dict[str, list[int]] = {
    "a red boat, naïve 漢字 🙂": [1097, 4804, 25532, 1044, 98355, 93537, 1162, 18724, 119685, 1153, 1130],
    "don't 12345  x\n\n": [21797, 2405, 1032, 1049, 1050, 1051, 1052, 1053, 1032, 2460, 1267],
    "CamelCase eBay (km/s)": [38487, 1299, 11139, 1324, 58677, 1319, 12055, 3826, 1041],
    "हिन्दी": [3086, 9658, 25793, 2063],  # by the finer rule of Mistral's package: 3086, 75790, 2063
    "": [],
}
T5: dict[str, list[int]] = {
    "a red boat": [3, 9, 1131, 3432, 1],
    "  two   spaces, naïve ﬁne ": [192, 4856, 6, 3, 29, 9, 2, 162, 1399, 1],
    "ｆｕｌｌ ½ Ⅷ\ttab": [423, 209, 2, 357, 27936, 3808, 1],
    "don't <extra_id_5> x": [278, 31, 17, 32094, 3, 226, 1],
    "": [1],
}
QWEN: dict[str, list[int]] = {
    "a red boat, naïve 漢字 🙂": [64, 2518, 15328, 11, 94880, 586, 6567, 120, 95, 18600, 27484],
    "<|im_start|>user\nhi<|im_end|>\n": [151644, 872, 198, 6023, 151645, 198],
    "don't 12345  x\n\n": [15007, 944, 220, 16, 17, 18, 19, 20, 220, 856, 271],
    "é": [963],
}
