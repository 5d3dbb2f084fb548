# SPDX-License-Identifier: GPL-3.0-or-later
"""Live in the engine: the canvas on the device, windows, what is kept, when a frame is given up, what is put back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from krita_sd.geometry import Bounds, Extent, NativeRange
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.live import TILE
from server.diffusion import Task, generate
from server.diffusion.few_step import FewStep
from server.diffusion.live import LiveSession
from server.diffusion.live_canvas import DeviceCanvas, painted, paste, resized
from server.diffusion.live_format import fastest
from server.diffusion.live_graph import Steps, Traced
from server.diffusion.live_window import MARGIN, edit_window, feather, whole_window
from server.diffusion.live_wish import Selection, Wish
from server.diffusion.model import Condition
from tests.engine.conftest import Loaded, picture
from tests.tiny import make_parts

CPU = torch.device("cpu")
NATIVE = NativeRange(512, 768, 512 * 512, 512 * 768, 8, pixels=512 * 512)


def tiles_of(bgra: np.ndarray) -> dict[int, bytes]:
    """A canvas cut as it travels; filled up with 7s beyond its edges."""
    height, width = bgra.shape[:2]
    rows, columns = -(-height // TILE), -(-width // TILE)
    full = np.full((rows * TILE, columns * TILE, 4), 7, np.uint8)
    full[:height, :width] = bgra
    return {
        row * columns + column: full[row * TILE :, column * TILE :][:TILE, :TILE].tobytes()
        for row in range(rows)
        for column in range(columns)
    }


def canvas_of(width: int = 64, height: int = 64, seed: int = 1) -> DeviceCanvas:
    bgra = np.full((height, width, 4), 255, np.uint8)
    bgra[..., :3] = picture(width, height, seed)
    canvas = DeviceCanvas(width, height, CPU)
    canvas.patch(tiles_of(bgra))
    return canvas


def wish_of(strength: float = 0.5, **changes: Any) -> Wish:
    task = Task(prompt="a red circle", seed=3, total_steps=4, start_step=2, guidance=1.0, sampler="LCM")
    return Wish(replace(task, **changes), strength)


@pytest.fixture
def session(model_of: Loaded) -> LiveSession:
    return LiveSession(model_of("sd1", tiny_decoder=True))


# Canvas ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extent", [(64, 64), (130, 70), (1, 200)])
def test_patches_give_the_canvas_byte_for_byte(extent: tuple[int, int]) -> None:
    width, height = extent
    dice = np.random.default_rng(0)
    bgra = dice.integers(0, 256, (height, width, 4), np.uint8)
    canvas = DeviceCanvas(width, height, CPU)
    canvas.patch(tiles_of(bgra))
    bgra[0, 0] = 1, 2, 3, 4
    last = tiles_of(bgra)
    canvas.patch({0: last[0]})
    assert np.array_equal(canvas.pixels.numpy(), bgra)
    assert canvas.serial == 2


def test_opacity_is_known_without_reading_the_device() -> None:
    canvas = canvas_of(100, 70)
    assert canvas.opaque
    hole = np.full((70, 100, 4), 255, np.uint8)
    hole[69, 99, 3] = 254
    canvas.patch({3: tiles_of(hole)[3]})
    assert not canvas.opaque


def test_what_is_transparent_is_seen_on_white_paper() -> None:
    canvas = DeviceCanvas(64, 64, CPU)
    canvas.patch({0: bytes([0, 0, 200, 0]) * 4096})
    window = whole_window(canvas.extent, NativeRange(64, 64, 4096, 4096))
    assert torch.equal(canvas.read(window.source, window.plan), torch.ones(1, 3, 64, 64))


def test_reading_and_writing_are_each_others_inverse() -> None:
    canvas = canvas_of(100, 70)
    window = whole_window(canvas.extent, NativeRange(64, 256, 4096, 65536, 8))
    assert window.plan.extent == (104, 72)
    frame = torch.zeros(70, 100, 4, dtype=torch.uint8)
    paste(frame, window.source, painted(canvas.read(window.source, window.plan), window.plan), None)
    assert torch.equal(frame[..., :3], canvas.pixels[..., :3])


# Windows --------------------------------------------------------------------------------------------------------------


def test_a_small_edit_on_a_large_canvas_gets_a_window_on_the_grid() -> None:
    canvas = Extent(1024, 1024)
    changed = Bounds(640, 128, 64, 64)
    window = edit_window(changed, canvas, NATIVE, 0.3)
    assert window is not None and not window.whole
    assert window.source.extent == (512, 512) and window.plan.is_exact
    assert window.source.x % TILE == window.source.y % TILE == 0
    assert window.source.contains(changed.pad(MARGIN))


@pytest.mark.parametrize(
    "changed, canvas, strength",
    [
        (Bounds(0, 0, 900, 64), (1024, 1024), 0.3),  # too long for a window
        (Bounds(0, 0, 64, 64), (512, 512), 0.3),  # the canvas is no larger than a window
        (Bounds(0, 0, 64, 64), (4096, 4096), 0.3),  # a window would be a detail of it
        (Bounds(0, 0, 64, 64), (1024, 1024), 0.9),  # nothing of the surroundings would remain
        (Bounds(0, 0, 0, 0), (1024, 1024), 0.3),
    ],
)
def test_otherwise_the_whole_canvas_is_painted(changed: Bounds, canvas: tuple[int, int], strength: float) -> None:
    assert edit_window(changed, Extent(*canvas), NATIVE, strength) is None


def test_a_window_fades_into_what_is_around_it_but_not_at_the_canvas_edge() -> None:
    share = feather(Bounds(0, 512, 512, 512), Extent(1024, 1024), CPU)[..., 0]
    assert float(share[256, 0]) == 1.0 and float(share[511, 256]) == 1.0
    assert float(share[0, 256]) < 0.02 and float(share[256, 511]) < 0.02
    assert float(share[256, 256]) == 1.0


# Frames ---------------------------------------------------------------------------------------------------------------


def test_only_what_changed_is_computed_again(session: LiveSession) -> None:
    canvas, wish = canvas_of(), wish_of()
    first = session.render(wish, canvas)
    before = session.counts.copy()
    second = session.render(wish, canvas)
    assert first is not None and second is not None and first.data == second.data
    assert session.counts - before == {"frames": 1, "steps": 2, "decodes": 1}
    before = session.counts.copy()
    canvas.patch({0: bytes([9, 9, 9, 255]) * 4096})
    third = session.render(wish, canvas)
    assert third is not None and third.data != first.data
    assert session.counts - before == {"frames": 1, "steps": 2, "decodes": 1, "encodes": 1}


def test_the_text_encoder_is_not_called_again(session: LiveSession, monkeypatch: pytest.MonkeyPatch) -> None:
    canvas, wish = canvas_of(), wish_of()
    session.render(wish, canvas)
    monkeypatch.setattr(type(session._model), "condition", lambda *_: pytest.fail("called"))
    for seed in range(3):
        assert session.render(wish_of(seed=seed), canvas) is not None


def test_a_frame_that_is_superseded_stops_between_steps_and_its_changes_are_not_lost(session: LiveSession) -> None:
    canvas = canvas_of()
    asked: list[float] = []

    def newer(done: float) -> bool:
        asked.append(done)
        return done >= 0.5

    assert session.render(wish_of(), canvas, newer) is None
    assert asked == [0.0, 0.5] and session.counts["steps"] == 1
    assert session._changed == {0}
    assert session.render(wish_of(), canvas) is not None
    assert session._changed == set()


def test_a_window_changes_only_its_part_of_the_last_frame(model_of: Loaded) -> None:
    session = LiveSession(model_of("sd1", tiny_decoder=True))
    before = session._model.native
    try:
        session._model.native = NativeRange(128, 128, 128 * 128, 128 * 128, 8)
        canvas, wish = canvas_of(256, 256), wish_of(0.3)
        first = session.render(wish, canvas)
        canvas.patch({0: bytes([0, 0, 0, 255]) * 4096})
        second = session.render(wish, canvas)
        assert first is not None and second is not None
        one, two = (np.frombuffer(frame.data, np.uint8).reshape(256, 256, 4) for frame in (first, second))
        changed = (one != two).any(axis=2)
        assert changed[:64, :64].any()
        assert not changed[128:].any() and not changed[:, 128:].any()
    finally:
        session._model.native = before


def test_a_selection_is_composited_and_its_outside_is_transparent(session: LiveSession) -> None:
    mask = np.zeros((128, 128), np.uint8)
    mask[40:80, 30:90] = 255
    chosen = Selection("one", Bounds(30, 40, 60, 40), 0, 0, mask, mask)
    frame = session.render(replace(wish_of(), selection=chosen), canvas_of(128, 128))
    assert frame is not None
    assert np.array_equal(np.frombuffer(frame.data, np.uint8).reshape(128, 128, 4)[..., 3], mask)


def test_a_picture_smaller_than_the_canvas_is_sent_at_its_own_size(model_of: Loaded) -> None:
    """Enlarged where it is shown it is what would have been sent otherwise; a window is sent at the canvas's size."""
    session = LiveSession(model_of("sd1", tiny_decoder=True))
    before = session._model.native
    try:
        session._model.native = NativeRange(128, 128, 128 * 128, 128 * 128, 8)
        canvas, wish = canvas_of(256, 256), wish_of(0.3)
        small, full = session.render(wish, canvas, fit=True), session.render(wish, canvas)
        assert small is not None and full is not None
        assert (small.extent, small.box, small.opaque) == (Extent(128, 128), Bounds(0, 0, 256, 256), True)
        assert full.extent == (256, 256) and len(small.data) * 4 == len(full.data)
        sent = torch.frombuffer(bytearray(small.data), dtype=torch.uint8).reshape(1, 128, 128, 4).permute(0, 3, 1, 2)
        assert resized(sent, Extent(256, 256))[0].permute(1, 2, 0).numpy().tobytes() == full.data
        canvas.patch({0: bytes([0, 0, 0, 255]) * 4096})
        window = session.render(wish, canvas, fit=True)
        assert window is not None and window.extent == (256, 256)
        one, two = (np.frombuffer(frame.data, np.uint8).reshape(256, 256, 4) for frame in (full, window))
        changed = (one != two).any(axis=2)
        assert changed[:64, :64].any() and not changed[128:].any() and not changed[:, 128:].any()
    finally:
        session._model.native = before


def test_of_a_selection_only_its_rectangle_is_sent(session: LiveSession) -> None:
    mask = np.zeros((128, 128), np.uint8)
    mask[40:80, 30:90] = 255
    mask[40, 30] = 7
    chosen = Selection("one", Bounds(30, 40, 60, 40), 0, 0, mask, mask)
    wish, canvas = replace(wish_of(), selection=chosen), canvas_of(128, 128)
    part, full = session.render(wish, canvas, fit=True), session.render(wish, canvas)
    assert part is not None and full is not None
    assert part.box == (30, 40, 60, 40) and part.extent == part.box.extent and not part.opaque
    everything = np.frombuffer(full.data, np.uint8).reshape(128, 128, 4)
    assert everything[40:80, 30:90].tobytes() == part.data and everything[40, 30, 3] == 7


def test_parking_puts_the_model_back(session: LiveSession, model_of: Loaded) -> None:
    model = model_of("sd1", tiny_decoder=True)
    task = Task(prompt="x", seed=1, total_steps=3, width=64, height=64, guidance=1.0)
    before = generate(model, task).image
    session.render(wish_of(), canvas_of())
    session.park()
    assert np.array_equal(before, generate(model, task).image)


def test_a_model_without_tiny_autoencoder_works_too(model_of: Loaded) -> None:
    frame = LiveSession(model_of("sd1")).render(wish_of(), canvas_of())
    assert frame is not None and len(frame.data) == 64 * 64 * 4


def test_invalid_numbers_are_an_error_not_a_black_picture(
    session: LiveSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_decode", lambda *_: torch.full((1, 3, 64, 64), float("nan")))
    with pytest.raises(WireError) as error:
        session.render(wish_of(), canvas_of())
    assert error.value.code is Code.NAN_OUTPUT


def test_models_that_cannot_are_refused_in_a_sentence(model_of: Loaded) -> None:
    with pytest.raises(WireError) as error:
        LiveSession(model_of("sd1", inpaint=True))
    assert error.value.code is Code.MODEL_UNSUPPORTED and error.value.hint


# The device -----------------------------------------------------------------------------------------------------------


def test_no_step_waits_for_the_device(model_of: Loaded) -> None:
    """On the meta device reading any value raises, as it would wait on a graphics card."""
    from types import SimpleNamespace

    from server.diffusion.families.sd import StableDiffusion

    model: Any = SimpleNamespace(
        unet=make_parts("sd1")["unet"].to("meta"), embeds_guidance=False, conditioning=lambda *_: {}
    )
    condition = Condition(torch.empty(1, 77, 32, device="meta"))
    table = FewStep("LCM", model_of("sd1").schedule_config, 4, 1, "meta")
    draws = torch.empty(table.draws, 4, 8, 8, device="meta")

    def step(index: int, latents: torch.Tensor) -> torch.Tensor:
        inputs = table.model_input(index, latents)
        out = StableDiffusion.predict(model, inputs, table.timestep(index), condition, 1.0)
        return table.step(index, out, latents, draws)

    latents = torch.empty(1, 4, 8, 8, device="meta")
    steps = Steps(step, 1, 4, latents)
    for index in range(1, 4):
        latents = steps(index, latents)
    assert latents.device.type == "meta" and steps.captured == 0 and not steps.advance()


def test_the_model_is_traced_while_nobody_waits_and_computes_the_same(session: LiveSession) -> None:
    canvas, wish, another = canvas_of(), wish_of(), wish_of(prompt="a blue square")
    first, eager = session.render(wish, canvas), session.render(another, canvas)
    assert session._running is not None and not session._running[1].ready
    turns = 0
    while session.advance():
        turns += 1
    second = session.render(wish, canvas)
    assert turns == 2 and session._running[1].ready
    assert first is not None and second is not None and first.data == second.data
    other = session.render(another, canvas)
    assert session._running[1].ready, "another prompt needs no other trace"
    assert other is not None and eager is not None and other.data == eager.data != first.data


def test_a_model_that_cannot_be_traced_goes_on_as_it_is() -> None:
    traced = Traced(lambda x: x + len(x.tolist()), (torch.ones(2, device=CPU),))
    failing = Traced(lambda x: [][1], (torch.ones(2, device=CPU),))
    assert not failing.advance() and not failing.ready
    while traced.advance():
        pass
    assert torch.equal(traced(torch.zeros(2)), torch.full((2,), 2.0))


def test_another_format_must_be_clearly_faster() -> None:
    own = (torch.float32, torch.contiguous_format)
    other = (torch.bfloat16, torch.channels_last)
    assert fastest({own: 100.0, other: 110.0}, own) == own
    assert fastest({own: 100.0, other: 150.0}, own) == other
    assert fastest({}, own) == own
