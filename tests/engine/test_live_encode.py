# SPDX-License-Identifier: GPL-3.0-or-later
"""The encoder that computes again only what changed: the same latents as from scratch, for less work."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from krita_sd.geometry import Bounds
from server.diffusion.live import LiveSession
from server.diffusion.live_encode import PatchedEncoder, patched_encoder
from tests.engine.conftest import Loaded, picture
from tests.engine.test_live import canvas_of, wish_of

PLACES = [
    Bounds(0, 0, 9, 9),
    Bounds(80, 56, 16, 24),
    Bounds(33, 17, 1, 1),
    Bounds(31, 40, 30, 8),
    Bounds(0, 79, 96, 1),
    Bounds(95, 0, 1, 80),
]
"""Corners, edges and the middle of 96 x 80 pixels, on and off the grid of strides."""


@pytest.fixture(scope="module")
def tiny() -> Any:
    """An AutoencoderTiny with a residual block at every size; random."""
    from diffusers import AutoencoderTiny

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    made = AutoencoderTiny(**sizes, num_encoder_blocks=(1, 2, 1, 1), num_decoder_blocks=(1, 1, 1, 1))
    return made.eval().requires_grad_(False)


def pixels_of(seed: int = 1, width: int = 96, height: int = 80) -> torch.Tensor:
    return torch.from_numpy(picture(width, height, seed).copy()).permute(2, 0, 1)[None].to(torch.float32) / 127.5 - 1.0


def painted_over(pixels: torch.Tensor, box: Bounds, value: float) -> torch.Tensor:
    out = pixels.clone()
    out[..., box.y : box.bottom, box.x : box.right] = value
    return out


def areas(module: Any) -> list[int]:
    """Filled with the pixels of every input that a convolution of `module` sees."""
    seen: list[int] = []
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d):
            part.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[2] * args[0].shape[3]))
    return seen


@torch.inference_mode()
def test_change_after_change_gives_the_latents_of_the_whole_picture(tiny: Any) -> None:
    encoder, pixels = PatchedEncoder(tiny), pixels_of()
    assert torch.equal(encoder(pixels), tiny.encode(pixels, return_dict=False)[0])
    for number, box in enumerate(PLACES):
        pixels = painted_over(pixels, box, number / len(PLACES))
        torch.testing.assert_close(encoder(pixels), tiny.encode(pixels, return_dict=False)[0], rtol=0, atol=1e-6)


@torch.inference_mode()
def test_other_sizes_and_large_changes_are_encoded_whole(tiny: Any) -> None:
    encoder = PatchedEncoder(tiny)
    for pixels in (pixels_of(1), pixels_of(2), pixels_of(3, 64, 72), pixels_of(4)):
        assert torch.equal(encoder(pixels), tiny.encode(pixels, return_dict=False)[0])


@torch.inference_mode()
def test_a_small_change_is_little_work_and_none_is_none(tiny: Any) -> None:
    module = copy.deepcopy(tiny)
    encoder, seen, pixels = PatchedEncoder(module), areas(module.encoder), pixels_of(1, 256, 256)
    encoder(pixels)
    whole = sum(seen)
    seen.clear()
    encoder(painted_over(pixels, Bounds(128, 64, 32, 32), 0.5))
    assert 0 < sum(seen) < whole / 4
    seen.clear()
    encoder(painted_over(pixels, Bounds(128, 64, 32, 32), 0.5))
    assert seen == []


@torch.inference_mode()
def test_earlier_latents_stay_as_they_were(tiny: Any) -> None:
    encoder, pixels = PatchedEncoder(tiny), pixels_of()
    first = encoder(pixels)
    before = first.clone()
    encoder(painted_over(pixels, PLACES[0], 1.0))
    assert torch.equal(first, before)


def test_encoders_with_other_layers_are_left_alone(tiny: Any) -> None:
    assert patched_encoder(None) is None
    wrapped, other = copy.deepcopy(tiny), copy.deepcopy(tiny)
    wrapped.encoder.layers[0].padding_mode = "circular"
    other.encoder.layers.append(torch.nn.GroupNorm(2, 4))
    assert patched_encoder(tiny) is not None
    assert patched_encoder(wrapped) is None and patched_encoder(other) is None


@pytest.mark.parametrize("wrap", ["", "xy"])
def test_a_session_sees_what_a_new_one_would(model_of: Loaded, wrap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.diffusion.live.live_autoencoder", lambda tiny: tiny)  # the same precision in both
    model = model_of("sd1", tiny_decoder=True)
    canvas, wish = canvas_of(128, 128), wish_of(wrap=wrap)

    def seen_by(session: LiveSession) -> torch.Tensor:
        frame = session.render(wish, canvas)
        session.park()
        assert frame is not None and session._latents is not None
        return session._latents[1]

    session = LiveSession(model)
    before = seen_by(session)
    canvas.patch({1: bytes([0, 200, 90, 255]) * 64 * 64})
    latents = seen_by(session)
    assert not torch.equal(latents, before)
    torch.testing.assert_close(latents, seen_by(LiveSession(model)), rtol=0, atol=1e-6)
