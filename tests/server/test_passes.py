# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture larger than the model's native size takes two passes, which to the painter are one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from krita_sd.wire.recipe import Recipe
from server.worker.job import Execution
from server.worker.models import ModelCache
from tests.tiny import make_model

NATIVE = {"min_side": 32, "max_side": 64, "min_pixels": 32 * 32, "max_pixels": 48 * 48, "multiple": 8}


class Free:
    """Nobody stops the job and every preview is wanted."""

    def cancelled(self) -> bool:
        return False

    def poll(self) -> str | None:
        return None

    def take_credit(self) -> bool:
        return True


def test_phases_never_go_back_and_steps_count_through_both_passes(tmp_path: Path) -> None:
    path = make_model(tmp_path / "tiny", extra={"native": NATIVE, "second_pass": True})
    events: list[tuple[str, dict[str, Any]]] = []
    recipe = Recipe(prompt="x", width=96, height=80, steps=5, guidance=2.0, min_steps=2)
    order = {
        "job": "job",
        "first": True,
        "model": {"id": "tiny", "path": str(path), "family": "sd1", "loras": {}, "prompt_loras": [], "controls": []},
        "words": {"prompt": "x", "negative": ""},
        "recipe": recipe.to_json(),
        "previews": {"level": "rgb", "reliable": True, "max_pixels": 10**6},
    }

    def emit(kind: str, payload: bytes = b"", **data: Any) -> None:
        events.append((kind, data))

    data, raw = Execution(ModelCache("cpu")).run(order, {}, Free(), emit)  # type: ignore[arg-type]
    assert (data["picture"]["width"], data["picture"]["height"]) == (96, 80) and len(raw) == 96 * 80 * 4
    assert [data["state"] for kind, data in events if kind == "state"] == ["encoding", "sampling", "decoding"]
    ran = [data for kind, data in events if kind == "step" and data["state"] == "sampling"]
    steps = [(data["step"], data["total"]) for data in ran]
    assert steps == [(number, 7) for number in range(1, 8)]  # five, and two of the second pass
    assert data["steps_run"] == 7
