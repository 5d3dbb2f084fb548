# SPDX-License-Identifier: GPL-3.0-or-later
"""The models that look themselves in full size, without values: parameters as published and as added up by hand."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder

KLEIN_4B = {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680}
KLEIN_9B = {"num_layers": 8, "num_single_layers": 24, "num_attention_heads": 32, "joint_attention_dim": 12288}
FLUX2: dict[str, tuple[dict[str, Any], int]] = {
    "dev": ({}, 32),
    "klein 4B": ({**KLEIN_4B, "guidance_embeds": False}, 4),
    "klein 9B": ({**KLEIN_9B, "guidance_embeds": False}, 9),
}


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", FLUX2)
def test_flux2(name: str) -> None:
    settings, billions = FLUX2[name]
    with torch.device("meta"):
        module = diffusers.Flux2Transformer2DModel(**settings)
    found, config = count(module), module.config
    width = 128 * config.num_attention_heads
    square = width * width
    # Attention of words and picture 2 x 4, feed-forward 2 x 9 (gated, three times as wide); both at once 9 + 4.
    blocks = config.num_layers * (26 * square + 4 * 128) + config.num_single_layers * (13 * square + 2 * 128)
    modulation, last = 15 * square, 2 * square + 128 * width
    times = (2 if config.guidance_embeds else 1) * (256 * width + square)
    assert found == blocks + modulation + times + (128 + config.joint_attention_dim) * width + last
    assert round(found / 1e9) == billions


def test_what_is_built_like_other_families() -> None:
    with torch.device("meta"):
        kontext = diffusers.FluxTransformer2DModel(guidance_embeds=True)
        edit = diffusers.QwenImageTransformer2DModel()
        vae = diffusers.AutoencoderKLFlux2()
        redux = ReduxImageEncoder()
    assert count(kontext) == 11_901_408_320 and count(edit) == 20_430_401_088
    assert count(vae) == 84_046_115
    assert count(redux) == 1152 * 12288 + 12288 + 12288 * 4096 + 4096 == 64_503_808
