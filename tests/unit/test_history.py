# SPDX-License-Identifier: GPL-3.0-or-later
"""The history: lossless, found by words, bounded, starred pictures stay, and a crash at any point costs nothing."""

from __future__ import annotations

import io
import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from krita_sd.history.store import INDEX, Codec, Store, kept_of
from krita_sd.history.worker import Worker
from krita_sd.metadata import png
from krita_sd.shelf import Kept
from krita_sd.wire.frames import Picture
from krita_sd.wire.recipe import Recipe

RNG = np.random.default_rng(5)


def encode(picture: Picture) -> bytes:
    pixels = np.frombuffer(picture.data, np.uint8).reshape(picture.height, picture.width, 4)
    out = io.BytesIO()
    Image.fromarray(pixels[..., [2, 1, 0, 3]]).save(out, "PNG")
    return out.getvalue()


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def decode(path: Path) -> Picture:
    pixels = np.asarray(Image.open(path).convert("RGBA"))
    return Picture("bgra8", pixels.shape[1], pixels.shape[0], pixels[..., [2, 1, 0, 3]].tobytes())


CODEC = Codec(lambda picture, path: write(path, encode(picture)), lambda picture: b"small")


def kept(number: int, prompt: str = "a house") -> Kept:
    data = RNG.integers(0, 256, 16 * 12 * 4, np.uint8).tobytes()
    recipe = Recipe(prompt=prompt, seed=1000 + number, width=16, height=12)
    return Kept(f"job{number}", 0, recipe, number % 2 == 1, Picture("bgra8", 16, 12, data))


def opened(folder: Path, max_bytes: int = 1 << 30) -> Store:
    store = Store(folder, CODEC, max_bytes)
    store.open()
    return store


def test_a_picture_comes_back_bit_by_bit_with_its_recipe(tmp_path: Path) -> None:
    store, item = opened(tmp_path), kept(1)
    assert store.add(item, "Pocket") and not store.add(item, "Pocket")
    (entry,) = store.search()
    assert kept_of(entry, decode(store.path(entry))) == item
    assert entry.found.model == "Pocket" and store.thumbnail(entry.key) == b"small"


def test_words_find_prompts_models_and_seeds_and_newest_come_first(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for number, prompt in enumerate(("a Red house", "red BOAT 100%_", "grün", "no")):
        store.add(kept(number, prompt), "Model X" if number == 3 else "", created=number)
    found = lambda text: [entry.found.values["seed"] - 1000 for entry in store.search(text)]  # noqa: E731
    assert found("") == [3, 2, 1, 0] and found("red") == [1, 0] and found("RED house") == [0]
    assert found("GRÜN") == [2] and found("model x") == [3] and found("1002") == [2]
    assert found("%_") == [1] and found("' or 1 --") == [] and store.count("red") == 2
    assert [entry.key for entry in store.search(offset=1, limit=2)] == ["job2:0", "job1:0"]


def test_the_oldest_go_when_it_is_full_but_no_starred_one(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for number in range(4):
        store.add(kept(number), "", created=number)
    each = store.total_bytes // 4
    store.star(["job0:0", "job2:0"], True)
    store.close()
    small = opened(tmp_path, max_bytes=3 * each + 50)
    assert small.prune() == 1
    assert [entry.key for entry in small.search()] == ["job3:0", "job2:0", "job0:0"]
    assert small.prune() == 0 and len(list(tmp_path.glob("*.png"))) == 3
    tiny = opened(tmp_path, max_bytes=1)
    tiny.prune()
    assert {entry.key for entry in tiny.search(starred=True)} == {"job0:0", "job2:0"} == {e.key for e in tiny.search()}
    assert tiny.delete(["job0:0", "nothing"]) == 1 and len(list(tmp_path.glob("*.png"))) == 1


def test_what_a_crash_left_out_of_the_index_is_taken_in(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for number in range(3):
        store.add(kept(number), "m", created=number)
    before = store.search()
    store.close()
    with sqlite3.connect(tmp_path / INDEX) as base:
        base.execute("delete from pictures where key='job1:0'")
    base.close()
    (tmp_path / "half.tmp").write_bytes(b"x")
    store.path(before[0]).unlink()
    (tmp_path / "foreign.png").write_bytes(encode(kept(9).picture))
    again = opened(tmp_path)
    assert [entry for entry in again.search() if entry.key != "foreign"] == before[1:]
    assert not list(tmp_path.glob("*.tmp"))
    assert again.thumbnail("job1:0") is None and again.set_thumbnail("job1:0", kept(1).picture) == b"small"
    assert again.thumbnail("job1:0") == b"small"


@pytest.mark.parametrize("damage", [b"", b"not a database at all", None])
def test_a_lost_or_damaged_index_is_made_anew_from_the_pictures(tmp_path: Path, damage: bytes | None) -> None:
    store = opened(tmp_path)
    for number in range(3):
        store.add(kept(number), "m", created=number)
    store.star(["job1:0"], True)
    before = store.search("house")
    store.close()
    for file in tmp_path.glob(f"{INDEX}*"):
        file.unlink()
    if damage is not None:
        (tmp_path / INDEX).write_bytes(damage)
    assert opened(tmp_path).search("house") == before


def test_a_full_disk_leaves_no_half_written_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)

    def full(source: object, target: io.BufferedWriter, texts: object) -> None:
        target.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(png, "copy_with", full)
    with pytest.raises(OSError):
        store.add(kept(1), "")
    assert store.search() == [] and not list(tmp_path.glob("*.png")) and not list(tmp_path.glob("*.tmp"))


def test_what_the_painter_waits_for_comes_first_and_closing_finishes_the_rest() -> None:
    worker, order, begun, go = Worker("test"), [], threading.Event(), threading.Event()
    worker.post(lambda: (begun.set(), go.wait(10)))  # type: ignore[func-returns-value]
    begun.wait(10)
    for number in range(3):
        worker.post(lambda number=number: order.append(number))  # type: ignore[misc]
    worker.post(lambda: 1 // 0)
    worker.post(lambda: order.append(9), urgent=True)
    go.set()
    assert worker.close(10) and order == [9, 0, 1, 2]
    worker.post(lambda: order.append(5))
    assert order == [9, 0, 1, 2]
