# SPDX-License-Identifier: GPL-3.0-or-later
"""Texts are translated by Krita's own function, and a broken translation never costs a sentence."""

from __future__ import annotations

import builtins

import pytest

from krita_sd.text import tr


def test_without_krita_a_text_is_itself() -> None:
    assert tr("") == "" and tr("a {b}") == "a {b}" and tr("a {b}", b="{c}") == "a {c}"


@pytest.mark.parametrize(
    "translation, shown",
    [("Schritt {step} von {total}", "Schritt 1 von 2"), ("kaputt {stap}", "step 1 of 2"), ("{", "step 1 of 2")],
)
def test_a_translation_is_used_unless_it_lost_a_name(
    monkeypatch: pytest.MonkeyPatch, translation: str, shown: str
) -> None:
    monkeypatch.setattr(builtins, "i18n", lambda text: translation, raising=False)
    assert tr("step {step} of {total}", step=1, total=2) == shown
