# SPDX-License-Identifier: GPL-3.0-or-later
"""The memory ladder: the same bytes on every rung (8 bits: nearly), and only the part in use is on the device.

There is no second device here: parts "move" from the processor to the processor, and what is counted is which part
would be there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from server.diffusion import Task, generate, load_model
from server.diffusion.residency import Residency
from server.library.memory import RUNGS
from server.worker import precision
from server.worker.models import parts_of
from tests.engine import test_lora_forms as forms
from tests.tiny import make_model

TASK = Task(prompt="a red boat", negative="fog", seed=5, total_steps=2, guidance=5.0, width=64, height=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("residency") / "model")


@pytest.fixture(scope="module")
def whole(folder: Path) -> Any:
    return generate(load_model(folder, "sd1"), TASK).image


def loaded(folder: Path, rung: str) -> tuple[Any, Residency]:
    model: Any = load_model(folder, "sd1")
    residency = Residency(parts_of(model), model.device)
    residency.step_to(rung)
    return model, residency


@pytest.mark.parametrize("rung", RUNGS)
def test_a_rung_changes_where_weights_are_and_not_the_picture(folder: Path, whole: Any, rung: str) -> None:
    model, _ = loaded(folder, rung)
    image = generate(model, TASK).image
    if rung == "fp8":
        assert np.abs(image.astype(int) - whole).mean() < 8 and not np.array_equal(image, whole)
    else:
        np.testing.assert_array_equal(image, whole)


@pytest.mark.parametrize("rung", ["model", "groups", "fp8"])
def test_an_overflow_is_repaired_in_float32_on_the_lower_rungs_too(folder: Path, rung: str) -> None:
    """As in test_jobs: the last norm's activations pass half precision's range, and the layer after it takes that back
    (in 8 bits as far as those go)."""
    model: Any = load_model(folder, "sd1", dtype=torch.float16)
    model.unet.conv_norm_out.weight.fill_(60000.0)
    model.unet.conv_out.weight.mul_(1 / 60000.0)
    residency = Residency(parts_of(model), model.device)
    residency.step_to(rung)
    task = replace(TASK, total_steps=1, guidance=1.0, width=32, height=32)  # half precision is slow on processors
    first = generate(model, task).image
    assert first.std() > 1.0 and model.unet.dtype == torch.float16
    assert np.array_equal(generate(model, task).image, first)


@pytest.mark.parametrize("rung", ["model", "groups"])
def test_a_lora_works_and_leaves_where_weights_wait_outside(
    folder: Path, whole: Any, rung: str, tmp_path: Path
) -> None:
    model, _ = loaded(folder, rung)
    shape = tuple(model.unet.get_submodule(forms.MATRIX).weight.shape)
    task = replace(TASK, loras=((forms.save(tmp_path / "a.safetensors", forms.MATRIX, forms.loha(shape)[0]), 1.0),))
    expected = generate(load_model(folder, "sd1"), task).image
    np.testing.assert_array_equal(generate(model, task).image, expected)
    assert not np.array_equal(expected, whole)
    np.testing.assert_array_equal(generate(model, TASK).image, whole)


@pytest.mark.parametrize(("rung", "allowed"), [("encoders", 2), ("model", 1)])
def test_only_what_is_in_use_is_on_the_device(folder: Path, rung: str, allowed: int) -> None:
    model, residency = loaded(folder, rung)
    seen: dict[str, set[frozenset[str]]] = {"encoders": set(), "denoiser": set(), "autoencoder": set()}
    inner = {
        "encoders": model.text_encoder,
        "denoiser": model.unet.mid_block,
        "autoencoder": model.vae.decoder.mid_block,
    }
    for name, module in inner.items():
        module.register_forward_pre_hook(lambda *_, name=name: seen[name].add(residency.here))
    generate(model, TASK)
    for name, states in seen.items():
        assert states and all(name in state for state in states)
    assert all(len(state) <= allowed for name in ("denoiser", "autoencoder") for state in seen[name])
    assert residency.brought["encoders"] == 1
    before = dict(residency.brought)
    generate(model, TASK)
    # A prompt that was read before needs no encoder, and steps of one picture move nothing.
    assert residency.brought["encoders"] == before["encoders"]
    assert residency.brought["denoiser"] - before["denoiser"] <= 1


def test_on_the_way_back_up_everything_returns_and_no_hook_stays(folder: Path, whole: Any) -> None:
    model, residency = loaded(folder, "model")
    residency.step_to("full")
    assert residency.here == {"encoders", "denoiser", "autoencoder"}
    assert not any(module._forward_pre_hooks for module in model.unet.modules())
    np.testing.assert_array_equal(generate(model, TASK).image, whole)
    residency.step_to("groups")
    with pytest.raises(ValueError, match="groups"):
        residency.step_to("full")
    residency.settle("model")
    assert residency.rung == "groups"


def test_an_estimate_leads_up_again_but_not_above_where_memory_ran_out(folder: Path) -> None:
    _, residency = loaded(folder, "model")
    residency.settle("full")
    assert residency.rung == "full"
    residency.floor = "encoders"
    for wanted in ("model", "full"):
        residency.settle(wanted)
    assert residency.rung == "encoders"


def test_tiles_come_and_go_with_the_estimate_on_any_rung(folder: Path) -> None:
    model, residency = loaded(folder, "full")
    for rung, tiled in (("model", True), ("full", False), ("full", True), ("full", False)):
        residency.settle(rung, tiled)
        assert residency.rung == rung and model.vae.use_tiling is tiled
    residency.settle("groups")
    residency.settle("full", True)
    assert residency.rung == "groups" and model.vae.use_tiling


def test_weights_can_still_be_changed_after_a_move(folder: Path) -> None:
    """LoRAs add to weights in place; a parameter made in inference mode would refuse."""
    model, residency = loaded(folder, "model")
    generate(model, TASK)
    residency.step_to("full")
    with torch.no_grad():
        next(model.unet.parameters()).add_(1.0)


def test_the_usual_precision_wins_unless_another_is_much_faster() -> None:
    assert precision.fastest({"float32": 100.0, "bfloat16": 150.0}) == "float32"
    assert precision.fastest({"float32": 100.0, "bfloat16": 170.0}) == "bfloat16"
    assert precision.fastest({"bfloat16": 3.0}) == "bfloat16"
    assert precision.fastest({}) == "float32"


class CoarseClock:
    """A fake of Windows' clock of a thread: it goes in steps of 15.625 ms. Looking at it takes 1 us."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now // 0.015625 * 0.015625

    def work(self, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.now += seconds

        return run


@pytest.mark.parametrize(("usual", "other"), [(0.003, 0.001), (0.0011, 0.001), (0.03, 0.025), (0.001, 0.003)])
def test_precisions_are_told_apart_by_a_coarse_clock(usual: float, other: float) -> None:
    clock = CoarseClock()
    assert precision.tick(clock) == pytest.approx(0.015625)
    works = {"float32": clock.work(usual), "bfloat16": clock.work(other)}
    speeds = precision.measured(works, precision.SECONDS, clock)
    for name, seconds in (("float32", usual), ("bfloat16", other)):
        assert speeds[name] == pytest.approx(1.0 / seconds, rel=0.1)
    assert precision.fastest(speeds) == ("bfloat16" if usual > precision.MARGIN * other else "float32")
    assert clock.now < 1.0


def test_the_precision_of_the_processor_is_measured() -> None:
    assert precision.choose_dtype("cpu", seconds=0.002) in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_words_go_to_the_device_though_the_encoder_still_waits_outside(family: str, tmp_path: Path) -> None:
    """The encoder is brought when it is called; what it is called with must be there before. "meta" is outside here."""
    model: Any = load_model(make_model(tmp_path / "model", family), family)
    outside = model.text_encoder
    outside.to("meta")
    seen: list[torch.device] = []

    class Enough(Exception):
        pass

    def look(module: Any, arguments: Any) -> None:
        seen.append(arguments[0].device)
        raise Enough

    outside.register_forward_pre_hook(look)
    with pytest.raises(Enough):
        model.condition(TASK)
    assert seen == [model.device]
