# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmarks' random models have the published sizes, counted on modules without values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from server.diffusion import load_model
from tests import tiny_flow
from tests.benchmarks import cards, models

COUNTS = {
    "sd1": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sdxl": {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
    "flux1": {
        "transformer": 11_901_408_320,
        "vae": 83_819_683,
        "text_encoder": 123_060_480,
        "text_encoder_2": 4_762_310_656,
    },
}


@pytest.mark.parametrize("family", COUNTS)
def test_sizes(family: str) -> None:
    if family == "flux1":
        with torch.device("meta"):
            parts = {name: make() for name, make in models.flux_parts().items()}
    else:
        parts = models.full_parts(family, "meta", torch.float16)
        assert parts["unet"].dtype == torch.float16 and parts["unet"].device.type == "meta"
    assert torch.get_default_dtype() == torch.float32
    found = {
        name: sum(one.numel() for one in part.parameters()) for name, part in parts.items() if name in COUNTS[family]
    }
    assert found == COUNTS[family]


def test_operations_are_counted() -> None:
    """A product of 2 x 3 by 3 x 5 is 30 multiplications and additions, two operations each."""
    assert cards.operations(lambda: torch.ones(2, 3) @ torch.ones(3, 5)) == 60


def test_the_written_flux_is_one_that_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its writer with tiny parts; the full ones are 34 GB."""
    made = tiny_flow.flux1()
    parts = {name: part for name, part in made.items() if isinstance(part, torch.nn.Module)}
    monkeypatch.setattr(models, "flux_parts", lambda: {name: lambda part=part: part for name, part in parts.items()})
    folder = models.write_model(tmp_path, "Flux", "full", "cpu", "bfloat16")
    model: Any = load_model(folder, "flux1", "cpu", torch.bfloat16)
    assert model.denoiser.dtype == torch.bfloat16 and len(model.tokenizer_2) == 32100
    assert torch.equal(model.denoiser.state_dict()["x_embedder.weight"], parts["transformer"].x_embedder.weight)
