# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings survive damage, and zeros survive settings."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krita_sd.settings import MAX_MODELS, ModelParams, Settings, load, save

JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "settings.json"
    before = Settings(
        session="abc", prompt="a\n<b>“é”", strength=0.0, seed=2**63 - 1, seed_fixed=True, feather=0, grow=0
    )
    before = before.replace(model="m").with_params(steps=1, guidance=0.0, sampler="Euler a")
    save(path, before)
    assert load(path) == before
    assert before.params == ModelParams(1, 0.0, "Euler a")


def test_the_file_is_for_the_user_only_because_it_may_hold_a_token(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    save(path, Settings(session="a", server_token="t"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '"x"', "[" * 100_000, '{"prompt": 5, "seed": -1, "count": 1e9}']
)
def test_a_damaged_file_gives_defaults_and_a_new_session(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.json"
    path.write_text(text)
    settings = load(path)
    assert settings.session
    assert settings == Settings(session=settings.session)


def test_a_new_session_never_continues_the_numbers_of_an_old_one(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"session": "", "last_seq": 99, "instance": "x"}))
    assert (load(path).last_seq, load(path).instance) == (0, "")


@given(st.dictionaries(st.sampled_from(list(Settings().to_json())), JSON))
def test_one_wrong_value_does_not_cost_the_others(data: dict[str, Any]) -> None:
    settings = Settings.read({**Settings(prompt="kept").to_json(), **data})
    if "prompt" not in data:
        assert settings.prompt == "kept"
    assert 0.0 <= settings.strength <= 1.0 and 0 <= settings.seed < 2**63


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    save(tmp_path / "file" / "settings.json", Settings())


def test_parameters_are_remembered_per_model_and_the_oldest_are_forgotten() -> None:
    settings = Settings()
    for number in range(MAX_MODELS + 3):
        settings = settings.replace(model=f"m{number}").with_params(steps=number % 100 + 1)
    assert len(settings.models) == MAX_MODELS and "m0" not in settings.models
    assert settings.params.steps == (MAX_MODELS + 2) % 100 + 1
