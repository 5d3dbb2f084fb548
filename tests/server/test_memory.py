# SPDX-License-Identifier: GPL-3.0-or-later
"""Memory that runs out costs a retry per rung, never the next job; what fits is answered before; memory can be freed.

There is no device here whose memory could run out: the model raises what PyTorch would raise.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from krita_sd.wire.client import Answered, ModelsListed
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.queries import Estimate, FreeMemory, MemoryEstimate
from krita_sd.wire.recipe import Recipe
from server.library.memory import Load, peak, weights_of
from server.worker.controls import PartCache
from server.worker.job import Execution
from server.worker.live import LiveDesk
from server.worker.models import ModelCache
from tests.server.harness import Painter, tiny
from tests.server.test_passes import Free
from tests.tiny import make_model

Failing = Callable[[str, int], Any]


class Worker:
    """An execution with one tiny model, whose part fails the first `times` times with "out of memory"."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.models = ModelCache("cpu", dtype=torch.float32)
        self.execution = Execution(self.models)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.model: Any = self.models.get(path, "sd1", lambda: False)

    def fail(self, part: str, times: int) -> None:
        modules = {
            "encode": self.model.encoders["text_encoder"],
            "step": self.model.denoiser,
            "decode": self.model.autoencoder.decoder,
        }
        left = [times]

        def raise_first(*_: Any) -> None:
            if left[0] > 0:
                left[0] -= 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

        modules[part].register_forward_pre_hook(raise_first)

    def run(self) -> bytes:
        recipe = Recipe(prompt="a boat", width=64, height=64, steps=2, guidance=2.0, seed=3)
        order = {
            "job": "job",
            "first": True,
            "model": {"id": "tiny", "path": str(self.path), "family": "sd1", "loras": {}, "prompt_loras": []},
            "words": {"prompt": "a boat", "negative": ""},
            "recipe": recipe.to_json(),
            "previews": {"level": "off", "reliable": False, "max_pixels": 1},
        }

        def emit(kind: str, payload: bytes = b"", **data: Any) -> None:
            self.events.append((kind, data))

        data, pixels = self.execution.run(order, {}, Free(), emit)  # type: ignore[arg-type]
        self.computed: dict[str, int] = data["computed"]
        return pixels

    @property
    def told(self) -> list[str]:
        return [data["text"] for kind, data in self.events if kind == "state" and data.get("text")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("memory") / "tiny")


@pytest.mark.parametrize("part", ["encode", "step", "decode"])
def test_memory_that_runs_out_once_costs_one_rung_and_is_told(folder: Path, part: str) -> None:
    expected = Worker(folder).run()
    worker = Worker(folder)
    worker.fail(part, 1)
    assert worker.run() == expected
    assert len(worker.told) == 1 and "tiled" in worker.told[0]
    assert worker.run() == expected and len(worker.told) == 1  # the next job starts on that rung


def test_at_the_foot_of_the_ladder_the_job_fails_and_the_next_one_works(folder: Path) -> None:
    worker = Worker(folder)
    worker.fail("step", 2)  # the processor's ladder has two rungs
    with pytest.raises(torch.OutOfMemoryError):
        worker.run()
    assert len(worker.told) == 1
    assert worker.run()


def test_what_was_read_before_is_not_read_again_and_this_is_told(folder: Path) -> None:
    worker = Worker(folder)
    worker.run()
    assert worker.computed == {"prompts": 2, "canvases": 0, "maps": 0}
    worker.run()
    assert worker.computed == {"prompts": 0, "canvases": 0, "maps": 0}


def test_other_errors_are_not_taken_for_it(folder: Path) -> None:
    worker = Worker(folder)
    worker.model.denoiser.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("something else")))
    with pytest.raises(RuntimeError, match="something else"):
        worker.run()
    assert not worker.told


def test_what_else_is_loaded_goes_before_anything_is_offloaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from server.worker import models as module

    cache = ModelCache("cpu")
    other = make_model(tmp_path / "other")
    for path in (other, folder):
        cache.get(path, "sd1", lambda: False)
    monkeypatch.setattr(module, "free_memory", lambda device: 1)
    cache.place(folder, 64, 64, True)
    assert not cache.peek(other) and cache.peek(folder)
    assert cache.free() > 0 and not cache.peek(folder)


def test_models_stay_by_recency_within_a_budget(folder: Path, tmp_path: Path) -> None:
    one, two, three = folder, tmp_path / "two", tmp_path / "three"
    for copy in (two, three):
        shutil.copytree(folder, copy)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    cache = ModelCache("cpu", keep_bytes=int(2.5 * size))
    first = cache.get(one, "sd1", lambda: False)
    cache.get(two, "sd1", lambda: False)
    assert cache.get(one, "sd1", lambda: False) is first and cache.loads == 2
    cache.get(three, "sd1", lambda: False)
    assert [cache.peek(path) for path in (one, two, three)] == [True, False, True]
    tight = ModelCache("cpu", keep_bytes=1)
    tight.get(one, "sd1", lambda: False)
    assert tight.peek(one), "what is in use always stays"


class LoadFails:
    """`load_model` whose first `times` calls run out of memory; keeps what it was asked for."""

    def __init__(self, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
        import server.diffusion

        self.left = times
        self.asked: list[str] = []
        self._load = server.diffusion.load_model
        monkeypatch.setattr(server.diffusion, "load_model", self)
        monkeypatch.setattr(ModelCache, "_offloads", True)

    def __call__(self, path: Path, family: str, device: str, *more: Any) -> Any:
        self.asked.append(device)
        if self.left > 0:
            self.left -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return self._load(path, family, device, *more)


@pytest.mark.parametrize(("times", "rung"), [(1, "full"), (2, "model")])
def test_memory_that_runs_out_while_loading_costs_the_others_then_a_rung(
    times: int, rung: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Worker(folder).run()
    worker = Worker(make_model(tmp_path / "other"))
    worker.path = folder
    fails = LoadFails(times, monkeypatch)
    assert worker.run() == expected and len(fails.asked) == times + 1
    assert len(worker.told) == times and all(text.startswith("Memory ran out while loading") for text in worker.told)
    held = worker.models._held[str(folder)]
    assert list(worker.models._held) == [str(folder)] and held.residency.rung == rung
    assert worker.run() == expected and len(worker.told) == times
    assert held.residency.rung == rung, "an estimate does not lead up to where memory ran out"


def test_when_nothing_helps_the_load_fails_and_the_next_one_works(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ModelCache("cpu")
    fails = LoadFails(2, monkeypatch)
    with pytest.raises(torch.OutOfMemoryError):
        cache.get(folder, "sd1", lambda: False)
    assert len(fails.asked) == 2 and not cache.peek(folder)
    assert cache.get(folder, "sd1", lambda: False) and cache.peek(folder)


def test_a_model_that_the_device_cannot_hold_is_loaded_beside_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the estimate, before anything fails: the device is asked for nothing."""
    from server.worker import models as module

    expected = Worker(folder).run()
    monkeypatch.setattr(ModelCache, "_offloads", True)
    needed = peak(Load("sd1", weights_of(folder), 512, 512, False, 4), "model")
    monkeypatch.setattr(module, "free_memory", lambda device: needed)
    worker = Worker(folder)
    residency = worker.models._held[str(folder)].residency
    assert residency.rung == "model" and not residency.here
    monkeypatch.setattr(module, "free_memory", lambda device: 2**40)
    assert worker.run() == expected and residency.rung == "full" and not worker.told


def test_live_goes_on_when_memory_runs_out(folder: Path) -> None:
    worker = Worker(folder)
    pictures: list[bytes] = []
    states: list[str] = []

    def emit(kind: str, payload: bytes = b"", **data: Any) -> None:
        if kind == "live":
            pictures.append(payload)
        else:
            states.append(data["state"])

    def frame(times: int) -> None:
        recipe = Recipe(prompt="a boat", width=64, height=64, steps=2, seed=3, strength=0.5, kind="img2img")
        worker.fail("step", times)
        desk = LiveDesk(lambda: None)
        patch = {"do": "live_patch", "live": 1, "whole": True, "width": 64, "height": 64, "tiles": [[0, 1]]}
        desk.order(patch, bytes(range(256)) * 64)
        order = {"do": "live", "live": 1, "generation": 1, "blobs": [], "recipe": recipe.to_json()}
        order |= {"words": {"prompt": "a boat", "negative": ""}}
        order |= {"model": {"id": "tiny", "path": str(folder), "family": "sd1", "loras": {}, "prompt_loras": []}}
        desk.order(order, b"")
        desk.run(worker.models, PartCache("cpu"), emit, lambda error: WireError(Code.OUT_OF_MEMORY, str(error)))

    frame(0)
    frame(1)
    assert len(pictures) == 2 and pictures[0] == pictures[1] and "failed" not in states
    assert worker.models._held[str(folder)].residency.rung == "tiled"
    frame(1)  # at the foot of the ladder
    assert len(pictures) == 2 and states[-1] == "failed"
    frame(0)
    assert len(pictures) == 3


async def answer_to(painter: Painter, message: Estimate) -> MemoryEstimate:
    painter.client.core.ask(message)
    painter.client.flush()
    found: list[MemoryEstimate] = []

    def arrived() -> bool:
        found.extend(
            event.message
            for event in painter.events
            if isinstance(event, Answered) and isinstance(event.message, MemoryEstimate)
        )
        return any(answer.id == message.id for answer in found)

    await painter.until(arrived, "the answer")
    return next(answer for answer in found if answer.id == message.id)


async def test_a_client_can_ask_whether_a_picture_fits(painter: Painter) -> None:
    model = painter.tiny_model()
    small = await answer_to(painter, Estimate("small", tiny(model=model)))
    assert small.verdict == "fits" and 0 < small.needed < small.free and small.text.startswith("Fits")
    huge = await answer_to(painter, Estimate("huge", tiny(model=model, width=8192, height=8192)))
    assert huge.needed > small.needed
    # Enlarging goes by pieces of the model's own size, and at strength 0 without the model.
    enlarged = {"kind": "upscale", "image": "0" * 32, "target_width": 8192, "target_height": 8192}
    pieces = await answer_to(painter, Estimate("pieces", tiny(model=model, **enlarged)))
    plain = await answer_to(painter, Estimate("plain", tiny(model=model, strength=0.0, **enlarged)))
    assert plain.verdict == "fits" and plain.needed < pieces.needed < huge.needed
    missing = await answer_to(painter, Estimate("none", tiny(model="no such model")))
    assert missing.verdict == "unknown" and missing.text


async def test_freed_memory_is_told_and_the_next_job_loads_again(painter: Painter) -> None:
    first = await painter.ended(painter.submit(tiny()))
    painter.client.core.ask(FreeMemory())
    painter.client.flush()
    told = lambda: [e for e in painter.events if isinstance(e, ModelsListed) and e.device.get("free", 0) > 0]  # noqa: E731
    await painter.until(lambda: bool(told()), "the device's memory")
    second = await asyncio.wait_for(painter.ended(painter.submit(tiny())), 120)
    assert second.results[0].picture.data == first.results[0].picture.data


def test_loading_is_told_in_whole_percents_up_to_the_end(folder: Path) -> None:
    worker = Worker(folder)
    worker.models.free()
    worker.run()
    told = [data["step"] for kind, data in worker.events if kind == "step" and data["state"] == "loading"]
    assert told == sorted(set(told)) and told[-1] == 100 and len(told) > 5
    worker.events.clear()
    worker.run()
    assert not [data for kind, data in worker.events if kind == "step" and data["state"] == "loading"]
