# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmarks' table: every target has an arm in both columns, or says why not. Nothing is measured here."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from tests.benchmarks import models
from tests.benchmarks.__main__ import refusal
from tests.benchmarks.columns import CARD, MEMORY, PROCESSOR, TABLE, Column
from tests.benchmarks.setup import Setup, embedded


@pytest.mark.parametrize("column", [PROCESSOR, CARD], ids=["processor", "card"])
def test_every_row_of_the_table_is_measured_or_says_why_not(column: Column) -> None:
    assert len(column.rows) == len(set(column.rows)) and not set(column.rows) & set(column.absent)
    assert set(column.rows) | set(column.absent) | {MEMORY} == {*TABLE, MEMORY}
    assert all(reason.endswith(".") for reason in column.absent.values())


def test_a_card_measures_all_of_it_and_the_memory() -> None:
    assert set(CARD.rows) == {*TABLE, MEMORY} and not CARD.absent
    found = {title: [row for covered, _ in CARD.chosen("", title) for row in covered] for title in models.FAMILIES}
    assert found["SD1.5"] == CARD.rows and found["SDXL"][-1] == MEMORY and found["Flux"] == [MEMORY]
    assert {"1", "4", "5", "9", "10", "12"} <= set(found["SDXL"])


def test_rows_are_chosen_by_number() -> None:
    assert [covered for covered, _ in PROCESSOR.chosen("7, 4")] == [("1", "4"), ("7",)]
    assert CARD.chosen("3", "SDXL") == CARD.chosen("9", "Flux") == []
    with pytest.raises(ValueError, match="captured graphs"):
        PROCESSOR.chosen("1,9")
    with pytest.raises(ValueError, match="no row 13.*1, 4, 5"):
        CARD.chosen("13")


def test_both_arms_are_told_the_same_device_and_precision() -> None:
    assert embedded().machine == ["--device", "cpu", "--dtype", "float32"]
    setup = Setup(Path("/models/SDXL"), "sdxl", "SDXL", "cuda", "float16")
    assert setup.machine == ["--models", str(Path("/models")), "--device", "cuda", "--dtype", "float16"]
    assert setup.named("4  with previews") == "4  SDXL with previews" and embedded().named("12 eight") == "12 eight"


def test_full_size_on_a_processor_is_refused_with_what_to_do() -> None:
    asked = argparse.Namespace(device="cpu", sizes="full")
    assert "--sizes tiny" in refusal(asked)
    for sizes in (None, "tiny"):
        assert refusal(argparse.Namespace(device="cpu", sizes=sizes)) == ""
