# SPDX-License-Identifier: GPL-3.0-or-later
"""Model folders that a painter chose: other programs' layouts, what was found in each, and that no path is told."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from krita_sd.wire.client import ModelsListed
from krita_sd.wire.places import MAX_FOLDERS, folder_id, folders_file, folders_text, read_folders
from server.library import Library
from server.library.layouts import layout_of, title_of
from tests.server.harness import Painter, ServerProcess, running
from tests.tiny import make_file


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(library: Library) -> list[str]:
    library.scan()
    return sorted(entry.name for entry in library.entries)


def test_a_plain_folder_is_walked_as_it_is(tmp_path: Path) -> None:
    assert layout_of(tmp_path).roots == (tmp_path,)
    assert layout_of(tmp_path / "missing").roots == (tmp_path / "missing",)


def test_the_folder_of_a_web_ui(tmp_path: Path) -> None:
    touch(tmp_path / "models" / "Stable-diffusion" / "a.safetensors", tmp_path / "models" / "Lora" / "b.safetensors")
    touch(tmp_path / "embeddings" / "c.safetensors", tmp_path / "venv" / "lib" / "not-a-model.bin")
    assert layout_of(tmp_path).program == "Stable Diffusion web UI"
    assert names(Library([tmp_path], None)) == ["a", "b", "c"]


def test_the_folder_of_comfyui(tmp_path: Path) -> None:
    touch(tmp_path / "models" / "checkpoints" / "a.safetensors", tmp_path / "models" / "loras" / "b.safetensors")
    touch(tmp_path / "output" / "picture.bin")
    assert layout_of(tmp_path).program == "ComfyUI"
    assert names(Library([tmp_path], None)) == ["a", "b"]


@pytest.mark.parametrize("line", ["", "models_dir: elsewhere", 'models_dir: "elsewhere" # on a disk', "models_dir: {}"])
def test_the_folder_of_invokeai(tmp_path: Path, line: str) -> None:
    """Its models may be on another disk, as its settings say."""
    root, other = tmp_path / "invokeai", tmp_path / "absolute"
    root.mkdir()
    (root / "invokeai.yaml").write_text(f"schema_version: 4.0.2\n#models_dir: wrong\n{line.format(other)}\n")
    where = other if "{}" in line else root / ("elsewhere" if line else "models")
    touch(where / "sd-1" / "main" / "a.safetensors", root / "outputs" / "b.safetensors")
    assert layout_of(root).program == "InvokeAI"
    assert names(Library([root], None)) == ["a"]


@pytest.mark.parametrize("inside", ["", "hub"])
def test_a_hub_cache_has_one_revision_of_each_repository(tmp_path: Path, inside: str) -> None:
    """By the repository's name, not by the hash that its folder is called; blobs and old revisions are left out."""
    hub = tmp_path / inside
    for revision in ("1111", "2222"):
        touch(hub / "models--maker--dream" / "snapshots" / revision / "diffusion_pytorch_model.safetensors")
    touch(
        hub / "models--maker--dream" / "blobs" / "abc",
        hub / "models--maker--ink" / "snapshots" / "3" / "ink.safetensors",
    )
    (hub / "models--maker--dream" / "refs").mkdir()
    (hub / "models--maker--dream" / "refs" / "main").write_text("1111")
    newest = hub / "models--maker--ink" / "snapshots" / "4"
    touch(newest / "new.safetensors")
    os.utime(newest, (time.time() + 60, time.time() + 60))
    touch(hub / "models--maker--empty" / "refs" / "main")
    assert layout_of(tmp_path).program == "Hugging Face cache"
    assert names(Library([tmp_path], None)) == ["dream", "new"]
    assert title_of(hub / "models--maker--dream" / "snapshots" / "1111") == "dream"


def test_a_reference_that_leaves_the_cache_is_not_followed(tmp_path: Path) -> None:
    touch(tmp_path / "models--a--b" / "snapshots" / "1" / "x.safetensors", tmp_path / "secret" / "y.safetensors")
    (tmp_path / "models--a--b" / "refs").mkdir()
    (tmp_path / "models--a--b" / "refs" / "main").write_text("../../secret")
    assert names(Library([tmp_path], None)) == ["x"]


def test_every_folder_says_what_was_found(tmp_path: Path) -> None:
    make_file(tmp_path / "good" / "a.safetensors")
    touch(tmp_path / "good" / "b.safetensors")
    (tmp_path / "empty").mkdir()
    library = Library([tmp_path / "good", tmp_path / "empty", tmp_path / "gone"], None)
    library.scan()
    good, empty, gone = library.folders
    assert (good.models, good.unusable, good.problem) == (2, 1, "")
    assert "No model was found" in empty.problem and "does not exist" in gone.problem
    assert good.id == folder_id(tmp_path / "good") and str(tmp_path) not in json.dumps(good.to_json())


def test_the_painters_choice_is_read_at_every_scan(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    make_file(tmp_path / "one" / "a.safetensors")
    make_file(tmp_path / "two" / "b.safetensors")
    library = Library([tmp_path / "one"], None, state)
    assert names(library) == ["a"]
    folders_file(state).write_text(folders_text([tmp_path / "two", tmp_path / "one"]))
    assert names(library) == ["a", "b"] and library.roots == (tmp_path / "one", tmp_path / "two")
    folders_file(state).unlink()
    assert names(library) == ["a"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"folders": 5}', '{"folders": [5, null, "relative", "a\\u0000b"]}', "[" * 100_000],
)
def test_a_damaged_choice_is_none(tmp_path: Path, text: str) -> None:
    folders_file(tmp_path).write_text(text)
    assert read_folders(tmp_path) == ()


def test_a_choice_comes_back_as_it_was_written(tmp_path: Path) -> None:
    folders = [tmp_path / "ä b", tmp_path / "c", tmp_path / "ä b"]
    folders_file(tmp_path).write_text(folders_text(folders), encoding="utf-8")
    assert read_folders(tmp_path) == (tmp_path / "ä b", tmp_path / "c")
    folders_file(tmp_path).write_text(folders_text(tmp_path / str(number) for number in range(MAX_FOLDERS + 5)))
    assert len(read_folders(tmp_path)) == MAX_FOLDERS


async def test_a_running_server_takes_a_new_folder_and_tells_no_path(tmp_path: Path, models: Path) -> None:
    make_file(tmp_path / "mine" / "my-model.safetensors")
    state = tmp_path / "state"
    with running(state, "--models", models) as server:
        async with server.client() as client:
            welcome = client.core.welcome
            assert welcome is not None and [item["id"] for item in welcome.features["model_folders"]] == [
                folder_id(models)
            ]
            folders_file(state).write_text(folders_text([tmp_path / "mine"]))
            client.core.list_models(rescan=True)
            client.flush()
            listed = await _listed(Painter(client), server)
    assert "my-model" in [entry["name"] for entry in listed.models]
    assert listed.folders[1]["id"] == folder_id(tmp_path / "mine") and listed.folders[1]["models"] == 1
    assert str(tmp_path) not in json.dumps([listed.models, listed.folders])


async def _listed(painter: Painter, server: ServerProcess) -> ModelsListed:
    def found() -> list[ModelsListed]:
        events = [event for event in painter.events if isinstance(event, ModelsListed)]
        return [event for event in events if len(event.folders) == 2]

    await painter.until(lambda: bool(found()), "the new list")
    return found()[-1]
