# SPDX-License-Identifier: GPL-3.0-or-later
"""Live with control layers, reference pictures, another VAE and seamless edges; afterwards the model is as before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from krita_sd.geometry import Bounds, Extent, NativeRange
from krita_sd.wire.errors import Code, WireError
from server.diffusion import Task, generate
from server.diffusion.control_loading import ControlModel
from server.diffusion.features.looks import OwnEyes
from server.diffusion.live import LiveSession
from server.diffusion.live_guides import Guides, LiveControl, _seen
from server.diffusion.live_window import selection_window, whole_window
from server.diffusion.live_wish import Wish
from server.diffusion.reference_loading import load_reference
from tests.engine.conftest import Loaded, picture
from tests.engine.test_control import make_net
from tests.engine.test_live import canvas_of, wish_of
from tests.engine.test_reference import make_adapter
from tests.tiny import make_parts


@pytest.fixture
def session(model_of: Loaded) -> Iterator[LiveSession]:
    """Whatever a test does: parked, the model paints what it painted before."""
    model = model_of("sd1", tiny_decoder=True)
    task = Task(prompt="x", seed=1, total_steps=2, width=64, height=64, guidance=1.0)
    before = generate(model, task).image
    session = LiveSession(model)
    yield session
    session.park()
    assert np.array_equal(before, generate(model, task).image)


def net_for(session: LiveSession) -> ControlModel:
    return ControlModel("net", "controlnet", make_net(session._model))


def drawn(session: LiveSession, wish: Wish, side: int = 64) -> bytes:
    frame = session.render(wish, canvas_of(side, side))
    assert frame is not None
    return frame.data


def test_a_control_layer_steers_in_its_share_of_the_steps(session: LiveSession) -> None:
    net = net_for(session)
    layer = LiveControl("a", net, picture(seed=21), 1.0, 0.0, 1.0, "line_art")
    plain = drawn(session, wish_of())
    steered = drawn(session, replace(wish_of(), controls=(layer,)))
    assert steered != plain and drawn(session, replace(wish_of(), controls=(layer,))) == steered
    other = replace(layer, key="b", image=picture(seed=22))
    assert drawn(session, replace(wish_of(), controls=(other,))) not in (plain, steered)
    half = drawn(session, replace(wish_of(), controls=(replace(layer, end=0.5),)))
    assert half not in (plain, steered)
    assert drawn(session, replace(wish_of(), controls=(replace(layer, weight=0.0),))) == plain
    assert drawn(session, wish_of()) == plain


def test_a_control_picture_is_cut_and_sized_with_the_window() -> None:
    image, canvas = picture(256, 256, seed=21), Extent(256, 256)
    detail = selection_window(Bounds(40, 50, 20, 20), canvas, NativeRange(64, 64, 64 * 64, 64 * 64, 8), 0, 0)
    source = detail.source
    assert detail.plan.is_exact and source.extent == (64, 64)
    assert np.array_equal(_seen(image, detail), image[source.y : source.bottom, source.x : source.right])
    small = _seen(image, whole_window(canvas, NativeRange(64, 64, 64 * 64, 64 * 64, 8)))
    assert small.shape == (64, 64, 3) and abs(int(small.mean()) - int(image.mean())) <= 1


def test_a_reference_picture_stays_in_the_model_between_frames(session: LiveSession, tmp_path: Path) -> None:
    adapter = load_reference(make_adapter(tmp_path, session._model))
    layer = LiveControl("a", adapter, picture(48, 40, seed=21), 0.8, type="reference")
    plain = drawn(session, wish_of())
    seen = drawn(session, replace(wish_of(), controls=(layer,)))
    weights = session.counts["weights"]
    assert seen != plain and drawn(session, replace(wish_of(), controls=(layer,))) == seen
    assert session.counts["weights"] == weights, "not loaded again"
    assert drawn(session, wish_of()) == plain


def test_a_chosen_vae_is_seen(session: LiveSession, tmp_path: Path) -> None:
    save_file(dict(make_parts("sd1", seed=9)["vae"].state_dict()), tmp_path / "other.safetensors")
    canvas, wish = canvas_of(), wish_of(vae=tmp_path / "other.safetensors")
    own = session.render(wish_of(), canvas)
    chosen, again = session.render(wish, canvas), session.render(wish, canvas)
    assert own is not None and chosen is not None and again is not None
    assert chosen.data == again.data != own.data
    back = session.render(wish_of(), canvas)
    assert back is not None and back.data == own.data


def test_seamless_edges_see_the_opposite_side(session: LiveSession) -> None:
    """What is painted at the right edge reaches the left one through the model only if edges wrap."""
    native = session._model.native
    try:
        session._model.native = NativeRange(128, 128, 128 * 128, 128 * 128, 8)
        frames: dict[str, list[np.ndarray]] = {}
        for wrap in ("", "x"):
            for ink in (0, 255):
                canvas = canvas_of(128, 128)
                canvas.patch({index: bytes([ink, ink, ink, 255]) * 4096 for index in (1, 3)})
                canvas._tiles[:, :, 1, :48] = 128  # only the last 16 columns differ
                frame = session.render(wish_of(wrap=wrap, start_step=3), canvas)
                assert frame is not None
                frames.setdefault(wrap, []).append(np.frombuffer(frame.data, np.uint8).reshape(128, 128, 4))
        reach = {wrap: np.abs(a.astype(int) - b)[:, :8].sum() for wrap, (a, b) in frames.items()}
        assert reach["x"] > 2 * reach[""], reach
    finally:
        session._model.native = native


def test_a_seamless_canvas_is_not_padded() -> None:
    window = whole_window(canvas_of(100, 64).extent, NativeRange(64, 128, 4096, 16384, 64), wrap=True)
    assert window.plan.extent == window.plan.target == (128, 64)


def test_a_canvas_with_control_layers_that_cannot_be_used_is_refused_in_a_sentence(session: LiveSession) -> None:
    model: Any = OwnEyes()
    layer = LiveControl("a", model, picture())
    with pytest.raises(WireError) as error:
        session.render(replace(wish_of(), controls=(layer,)), canvas_of())
    assert error.value.code is Code.MODEL_UNSUPPORTED and error.value.hint


def test_steps_with_control_layers_are_not_captured(session: LiveSession) -> None:
    """A graph would read maps that may have been let go of."""
    layer = LiveControl("a", net_for(session), picture(seed=21), type="line_art")
    session.render(replace(wish_of(), controls=(layer,)), canvas_of())
    assert session._running is None and not session.advance()
    assert (
        isinstance(next(iter(session._guides._values.values())), Guides) and torch.is_inference_mode_enabled() is False
    )
