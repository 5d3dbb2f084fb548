# SPDX-License-Identifier: GPL-3.0-or-later
"""Results beyond the memory bound go to files and come back unchanged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from krita_sd.shelf import Shelf
from krita_sd.wire.frames import Picture

SIZE = 16 * 16 * 4


def picture(value: int) -> Picture:
    return Picture("bgra8", 16, 16, bytes([value]) * SIZE)


@pytest.fixture(autouse=True)
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def files(folder: Path) -> list[Path]:
    return list(folder.rglob("*.raw"))


def test_many_results_take_a_bounded_amount_of_memory_and_all_come_back(private: Path) -> None:
    shelf = Shelf(lambda work: work(), memory=3 * SIZE)
    for number in range(10):
        shelf.put(f"job:{number}", picture(number))
    assert len(files(private)) == 7
    assert [shelf.get(f"job:{number}") for number in range(10)] == [picture(number) for number in range(10)]
    shelf.drop("job:0")
    assert shelf.get("job:0") is None and len(files(private)) == 6
    shelf.close()
    assert files(private) == []


def test_a_result_that_is_dropped_while_it_waits_to_be_written_leaves_no_file(private: Path) -> None:
    waiting: list[Callable[[], None]] = []
    shelf = Shelf(waiting.append, memory=SIZE)
    shelf.put("a:0", picture(1))
    shelf.put("a:1", picture(2))
    assert shelf.get("a:0") == picture(1), "until it is written it is in memory"
    shelf.drop("a:0")
    for work in waiting:
        work()
    assert files(private) == [] and shelf.get("a:1") == picture(2)


def test_a_full_disk_keeps_the_result_in_memory(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    shelf = Shelf(lambda work: work(), memory=SIZE)
    shelf.put("a:0", picture(1))
    shelf.put("a:1", picture(2))
    assert shelf.get("a:0") == picture(1)


def test_a_file_that_was_deleted_from_outside_is_no_crash(private: Path) -> None:
    shelf = Shelf(lambda work: work(), memory=SIZE)
    shelf.put("a:0", picture(1))
    shelf.put("a:1", picture(2))
    shutil.rmtree(next(private.iterdir()))
    assert shelf.get("a:0") is None
