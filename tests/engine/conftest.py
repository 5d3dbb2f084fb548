# SPDX-License-Identifier: GPL-3.0-or-later
"""Tiny random models, made and loaded once per test run, and helpers to look into a job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from server.diffusion import Output, Task, generate, load_model
from tests.tiny import make_file, make_model

Loaded = Callable[..., Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """diffusers' schedulers call numpy in a way that numpy 2 warns about, once for every scheduler made."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            for warning in ("__array__ implementation", "__array_wrap__ must accept"):
                item.add_marker(pytest.mark.filterwarnings(f"ignore:{warning}:DeprecationWarning"))


@pytest.fixture
def cell(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """cell(row, column, error=0.0) fills a cell of the contract's table; see tests.engine.cells."""
    return lambda row, column, error=0.0: record_property("contract", (row, column, float(error)))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the contract's table, of the cells that ran."""
    from tests.engine.cells import PROPERTY, table

    cells = [
        (*value, outcome == "passed")
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        for name, value in getattr(report, "user_properties", [])
        if name == PROPERTY and report.when == "call"
    ]
    if cells:
        terminalreporter.section("the contract: largest error against diffusers (cells)")
        for line in table(cells):
            terminalreporter.write_line(line)
        terminalreporter.write_line("-: not run here, or diffusers has none to compare with (docs/models.md)")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors: a second thread only costs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """folder_of(family, inpaint=...) -> a tiny diffusers folder, made once."""
    made: dict[Any, Path] = {}

    def get(family: str = "sd1", **kind: Any) -> Path:
        key = (family, tuple(sorted(kind.items())))
        if key not in made:
            made[key] = make_model(tmp_path_factory.mktemp("models") / "tiny", family, **kind)
        return made[key]

    return get


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A single file in the original layout of a tiny SD 1 model: tests must leave it as it was."""
    return make_file(tmp_path_factory.mktemp("files") / "tiny.safetensors")


@pytest.fixture(scope="session")
def model_of(folder_of: Loaded) -> Loaded:
    """model_of(family, inpaint=...) -> a loaded tiny model, shared: tests must leave it as it was."""
    loaded: dict[Any, Any] = {}

    def get(family: str = "sd1", **kind: Any) -> Any:
        key = (family, tuple(sorted(kind.items())))
        if key not in loaded:
            loaded[key] = load_model(folder_of(family, **kind), family)
        return loaded[key]

    return get


def picture(width: int = 64, height: int = 64, seed: int = 1) -> np.ndarray:
    """A smooth random picture, uint8 (height, width, 3)."""
    coarse = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    return (fine[0].permute(1, 2, 0) * 255).round().to(torch.uint8).contiguous().numpy()


def hard_mask(width: int = 64, height: int = 64) -> np.ndarray:
    """255 in a rectangle on whole latent cells, off the middle; 0 elsewhere."""
    mask = np.zeros((height, width), np.uint8)
    mask[16 : height // 2 + 8, 24 : width - 8] = 255
    return mask


def run(model: Any, task: Task, **listeners: Any) -> tuple[Output, torch.Tensor]:
    """generate(), and the latents that were decoded."""
    seen: list[torch.Tensor] = []
    decode = type(model).decode

    def recording(latents: torch.Tensor) -> torch.Tensor:
        seen.append(latents.clone())
        return decode(model, latents)

    model.decode = recording
    try:
        output = generate(model, task, **listeners)
    finally:
        del model.decode
    return output, seen[-1]
