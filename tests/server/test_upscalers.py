# SPDX-License-Identifier: GPL-3.0-or-later
"""Upscalers of the extra on the server: what the list says of them, and jobs that enlarge by one."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.frames import Picture
from krita_sd.wire.queries import Estimate
from krita_sd.wire.recipe import Recipe
from server.diffusion.upscale import enlarge, load_upscaler
from server.front.memory import answer
from server.library import Library
from server.library.upscalers import SIDES, piece_bytes
from server.worker.job import Execution
from server.worker.models import ModelCache
from server.worker.reports import Control
from tests.engine.conftest import picture
from tests.engine.test_upscale_extra import tensors_of
from tests.server.test_library import pack


def test_upscalers_are_usable_only_where_something_runs_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hat = ("conv_first.weight", "layers.0.residual_group.overlap_attn.qkv.weight")
    headers: dict[str, dict[str, tuple[int, ...]]] = {
        "hat": dict.fromkeys(hat, (12, 3, 3, 3)),
        "averaged": {f"params_ema.{name}": (12, 3, 3, 3) for name in hat},
        "grey": dict.fromkeys(hat, (12, 1, 3, 3)),
        "strange": {"conv_first.weight": (12, 3, 3, 3), "groups.0.weight": (1,)},
        "esrgan": {"conv_first.weight": (8, 3, 3, 3), "body.0.rdb1.conv1.weight": (4, 8, 3, 3)},
    }
    for name, shapes in headers.items():
        table, position = {}, 0
        for tensor_name, shape in shapes.items():
            size = math.prod(shape)
            table[tensor_name] = {"dtype": "U8", "shape": list(shape), "data_offsets": [position, position + size]}
            position += size
        (tmp_path / f"{name}.safetensors").write_bytes(pack(table, bytes(position)))
    library = Library([tmp_path], None)

    def listed(present: bool) -> dict[str, str]:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: present or None)
        library.scan()
        assert {entry.kind for entry in library.entries} == {"upscaler"}
        return {entry.name: entry.problem for entry in library.entries}

    without = listed(False)
    assert without["esrgan"] == "" and "install.py --with upscalers" in without["hat"]
    assert without["averaged"] == without["hat"].replace("hat.", "averaged.")
    with pytest.raises(WireError, match="is a HAT network"):
        library.find(next(entry.id for entry in library.entries if entry.name == "hat"), "upscaler")
    # Installed since: the same files, scanned again.
    after = listed(True)
    assert {name for name, problem in after.items() if not problem} == {"esrgan", "hat", "averaged"}
    assert "1 channels" in after["grey"] and "not known here" in after["strange"]
    assert listed(False) == without


def test_an_estimate_counts_the_upscaler(tmp_path: Path) -> None:
    save_file(tensors_of("PLKSR"), tmp_path / "tiny.safetensors")
    library = Library([tmp_path])
    library.scan()
    id = next(entry.id for entry in library.entries if entry.name == "tiny")
    recipe = Recipe(kind="upscale", width=64, height=64, image="0" * 32, target_width=500, target_height=500)
    device = {"dtype": "float16", "free": 2**33, "kind": "cuda"}

    def needed(**changes: Any) -> int:
        return answer(library, device, Estimate("x", recipe.replace(**changes))).needed

    numbers = sum(value.numel() for value in tensors_of("PLKSR").values())
    assert needed(upscaler=id, strength=0.3) - needed(strength=0.3) == 4 * numbers
    assert needed(upscaler=id, strength=0.0) - needed(strength=0.0) == 4 * numbers + piece_bytes(64, 4, False, 4)
    assert "no such upscaler" in answer(library, device, Estimate("x", recipe.replace(upscaler="gone"))).text


def test_naming_one_that_cannot_run_says_why() -> None:
    from server.cli.arguments import parse
    from server.cli.request import make_request

    why = "tiny.safetensors is a HAT network, which needs a package that is not installed."
    listed = {"id": "tiny-1", "name": "tiny", "kind": "upscaler", "usable": False, "problem": why}
    given = parse(["generate", "--out", "x.png", "--image", "x.png", "--upscale", "2x", "--upscaler", "Tiny"])
    with pytest.raises(WireError) as caught:
        make_request(given, [listed])
    assert caught.value.message == why


class Worker:
    """An execution that enlarges to twice the size, by a tiny PLKSR; `free`: bytes that it finds free."""

    def __init__(self, folder: Path, free: int = 2**40) -> None:
        self.path = folder / "tiny.safetensors"
        save_file(tensors_of("PLKSR"), self.path)
        self.models = ModelCache("cpu", dtype=torch.float32)
        self.models.free_bytes = lambda: free  # type: ignore[method-assign]
        self.execution = Execution(self.models)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.control = Control()
        self.sizes: list[tuple[int, int]] = []

    def watch(self, fails: int = 0, cancels: bool = False) -> None:
        """Keep the sizes of pieces; the first `fails` of them run out of memory, or the job is cancelled there."""
        upscaler = self.execution.parts.get(self.path, load_upscaler, lambda: False)
        run = upscaler.run

        def watched(image: torch.Tensor) -> torch.Tensor:
            self.sizes.append((image.shape[3], image.shape[2]))
            if cancels:
                self.control.order("cancel")
            if len(self.sizes) <= fails:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
            out: torch.Tensor = run(image)
            return out

        upscaler.run = watched

    def run(self, rgb: np.ndarray, alpha: int | np.ndarray = 255) -> np.ndarray:
        """BGRA of the result."""
        bgra = np.empty((*rgb.shape[:2], 4), np.uint8)
        bgra[..., :3], bgra[..., 3] = rgb[..., ::-1], alpha
        given = Picture("bgra8", rgb.shape[1], rgb.shape[0], bgra.tobytes())
        wide, high = given.width * 2, given.height * 2
        recipe = Recipe(
            kind="upscale", width=given.width, height=given.height, image=given.hash, strength=0.0, upscaler="tiny",
            target_width=wide, target_height=high,
        )  # fmt: skip
        order = {
            "job": "job",
            "first": True,
            "model": {"id": "", "path": "none", "family": "", "upscaler": str(self.path)},
            "recipe": recipe.to_json(),
            "previews": {"level": "off", "reliable": False, "max_pixels": 1},
        }

        def emit(kind: str, payload: bytes = b"", **data: Any) -> None:
            self.events.append((kind, data))

        _, raw = self.execution.run(order, {given.hash: given}, self.control, emit)
        return np.frombuffer(raw, np.uint8).reshape(high, wide, 4)

    @property
    def told(self) -> list[str]:
        return [data["text"] for kind, data in self.events if kind == "state" and data.get("text")]


def test_a_job_enlarges_by_a_network_of_the_extra_and_tells_how_far_it_is(tmp_path: Path) -> None:
    worker, source = Worker(tmp_path), picture(70, 40)
    out = worker.run(source, np.arange(1, 71, dtype=np.uint8))
    wanted = enlarge(source, 140, 80, load_upscaler(worker.path))
    assert np.array_equal(out[..., 2::-1], wanted) and np.abs(out[40, ::2, 3].astype(int) - np.arange(1, 71)).max() <= 1
    steps = [(data["state"], data["step"], data["total"]) for kind, data in worker.events if kind == "step"]
    loading = [step for state, step, _ in steps if state == "loading"]
    assert loading == sorted(set(loading)) and loading[-1] == 100 and steps[-1] == ("encoding", 100, 100)


def test_pieces_are_as_small_as_memory_asks_for(tmp_path: Path) -> None:
    worker, source = Worker(tmp_path, free=piece_bytes(64, 2, False, 4)), picture(70, 40)
    worker.watch()
    small = worker.run(source)
    assert {size[0] for size in worker.sizes} == {64} and not worker.told
    # It runs out all the same: smaller pieces, for the next job too.
    failing = Worker(tmp_path)
    failing.watch(fails=3)
    assert np.array_equal(failing.run(source), small)
    assert len(failing.told) == 3 and failing.sizes[:3] == [(70, 40)] * 3
    count = len(failing.sizes)
    failing.run(source)
    assert {size[0] for size in failing.sizes[count:]} == {64} and len(failing.told) == 3
    # Below the smallest there is nothing; the next job works.
    worst = Worker(tmp_path)
    worst.watch(fails=len(SIDES))
    with pytest.raises(torch.OutOfMemoryError):
        worst.run(source)
    assert np.array_equal(worst.run(source), small)


def test_cancelling_takes_effect_after_one_piece(tmp_path: Path) -> None:
    worker = Worker(tmp_path, free=1)
    worker.watch(cancels=True)
    with pytest.raises(WireError) as caught:
        worker.run(picture(70, 40))
    assert caught.value.code is Code.CANCELLED and len(worker.sizes) == 1
