# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract as one table, printed at the end of a run: family x kind of task, with the error that was measured.

A test fills cells through the fixture `cell`; a table row is a tiny model, a column what was asked of it. Also what the
contract tests of all families share: soft masks by a callback in the pipelines, LoRAs by weights added by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from server.diffusion import Task
from tests.engine.conftest import run

COLUMNS = ("txt2img", "img2img", "inpaint", "soft mask", "LoRA", "control", "reference")
PROPERTY = "contract"
Cell = Callable[..., None]


def soft_mask(cell: int = 16) -> np.ndarray:
    """Columns of 0, 85, 170 and 255, each as wide as a cell: (64, 64)."""
    columns = np.repeat(np.array([0, 85, 170, 255], np.uint8), cell)
    return np.broadcast_to(columns, (64, len(columns))).copy()


def still_known(mask: np.ndarray, cell: int, done: int, steps: int) -> torch.Tensor:
    """Bool (rows, columns) of cells that hold the original when `done` of `steps` are done: their mask is not above
    the share of the steps that is left."""
    amount = torch.from_numpy(mask[::cell, ::cell].astype(np.int64))
    return amount * steps <= 255 * (steps - done)


def lora_by_hand(model: Any, root: Any, layer: str, prefix: str, task: Task, path: Path) -> float:
    """Largest difference between the job with a LoRA of one layer, in peft's names, and the same weights added by hand
    in the same model. Asserts that the LoRA changes the picture and leaves nothing behind."""
    plain = run(model, task)[1]
    module, generator = root.get_submodule(layer), torch.Generator().manual_seed(3)
    down = torch.randn(4, module.in_features, generator=generator) * 0.5
    up = torch.randn(module.out_features, 4, generator=generator) * 0.5
    save_file({f"{prefix}{layer}.lora_A.weight": down, f"{prefix}{layer}.lora_B.weight": up}, path)
    changed = run(model, replace(task, loras=((path, 0.5),)))[1]
    before = module.weight.detach().clone()
    module.weight.copy_(before + 0.5 * (up @ down))
    wanted = run(model, task)[1]
    module.weight.copy_(before)
    assert not torch.allclose(changed, plain, atol=1e-4)
    assert torch.equal(run(model, task)[1], plain)
    return float((changed - wanted).abs().max())


def table(cells: list[tuple[str, str, float, bool]]) -> list[str]:
    """Lines of the table for (row, column, largest error, passed)."""
    found: dict[str, dict[str, list[tuple[float, bool]]]] = {}
    for row, column, error, passed in cells:
        found.setdefault(row, {}).setdefault(column, []).append((error, passed))
    columns = [column for column in COLUMNS if any(column in row for row in found.values())]

    def say(entries: list[tuple[float, bool]] | None) -> str:
        if not entries:
            return "-"
        if not all(passed for _, passed in entries):
            return "FAILED"
        worst = max(error for error, _ in entries)
        return ("exact" if worst == 0.0 else f"{worst:.1e}") + (f" ({len(entries)})" if len(entries) > 1 else "")

    lines = [["", *columns]] + [[row, *(say(of.get(column)) for column in columns)] for row, of in found.items()]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns) + 1)]
    return ["  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in lines]
