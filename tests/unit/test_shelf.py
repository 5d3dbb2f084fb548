# SPDX-License-Identifier: GPL-3.0-or-later
"""Results survive a crash of Krita, and many of them take little memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from krita_sd.shelf import RESTORED, Kept, Shelf
from krita_sd.wire.frames import Picture
from krita_sd.wire.recipe import Recipe

SIZE = 16 * 16 * 4


def kept(index: int, job: str = "job") -> Kept:
    picture = Picture("bgra8", 16, 16, bytes([index]) * SIZE)
    return Kept(job, index, Recipe(prompt="é\n<b>", seed=2**63 - 1, width=16, height=16), index % 2 == 1, picture)


def now(work: Callable[[], None]) -> None:
    work()


def nothing() -> None:
    pass


def test_a_result_is_called_safe_only_when_it_comes_back_after_a_crash(tmp_path: Path) -> None:
    waiting: list[Callable[[], None]] = []
    safe: list[int] = []
    shelf = Shelf(tmp_path / "results", waiting.append)
    shelf.put(kept(0), lambda: safe.append(0))
    assert safe == [] and shelf.get("job:0") == kept(0).picture
    assert list(Shelf(tmp_path / "results", now).restore()) == []
    waiting[0]()
    assert safe == [0]
    again = Shelf(tmp_path / "results", now)
    assert list(again.restore()) == [kept(0)]
    again.drop("job:0")
    assert list((tmp_path / "results").iterdir()) == []


def test_many_results_take_a_bounded_amount_of_memory_and_all_come_back(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, now, memory=3 * SIZE)
    for number in range(10):
        shelf.put(kept(number), nothing)
    assert sum(len(picture.data) for picture in shelf._pictures.values()) <= 3 * SIZE
    assert [shelf.get(f"job:{number}") for number in range(10)] == [kept(number).picture for number in range(10)]


def test_a_result_that_is_dropped_before_it_was_written_leaves_no_file_and_is_acknowledged(tmp_path: Path) -> None:
    waiting: list[Callable[[], None]] = []
    safe: list[int] = []
    shelf = Shelf(tmp_path, waiting.append)
    shelf.put(kept(0), lambda: safe.append(0))
    shelf.drop("job:0")
    for work in waiting:
        work()
    assert list(tmp_path.iterdir()) == [] and safe == [0]


def test_a_full_disk_keeps_the_result_in_memory_and_with_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    safe: list[int] = []
    shelf = Shelf(tmp_path, now, memory=0)
    shelf.put(kept(0), lambda: safe.append(0))
    assert shelf.get("job:0") == kept(0).picture and safe == []


def test_only_the_newest_of_earlier_runs_come_back_and_damage_is_left_out(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, now)
    for number in range(RESTORED + 2):
        shelf.put(kept(number), nothing)
    files = sorted(tmp_path.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    files[-1].write_text("{")
    files[-2].with_suffix(".raw").write_bytes(b"short")
    found = list(Shelf(tmp_path, now).restore())
    assert len(found) == RESTORED - 2
    assert len(list(tmp_path.glob("*.raw"))) == RESTORED - 2


@pytest.mark.parametrize("job", ["../../evil", "/etc/passwd", "", "x" * 500, "CON", "a:b\\c"])
def test_a_job_id_from_a_server_never_leaves_the_folder(tmp_path: Path, job: str) -> None:
    folder = tmp_path / "a" / "b" / "results"
    Shelf(folder, now).put(kept(1, job), nothing)
    assert len(list(folder.iterdir())) == 2
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.parent != folder] == []


def test_a_file_that_was_deleted_from_outside_is_no_crash(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, now, memory=0)
    shelf.put(kept(0), nothing)
    shelf.put(kept(1), nothing)
    for path in tmp_path.iterdir():
        path.unlink()
    assert shelf.get("job:0") is None


def test_what_was_applied_does_not_come_back(tmp_path: Path) -> None:
    waiting: list[Callable[[], None]] = []
    shelf = Shelf(tmp_path, waiting.append)
    for number in range(2):
        shelf.put(kept(number), nothing)
    for work in waiting:
        work()
    shelf.settle(["job:0"])
    assert list(Shelf(tmp_path, now).restore()) == [kept(1)]
