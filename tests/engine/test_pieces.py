# SPDX-License-Identifier: GPL-3.0-or-later
"""Wrapping edges, variations of the noise, and pictures that are denoised in pieces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from krita_sd.wire.errors import Code, WireError
from server.diffusion import Cancelled, Task, generate
from server.diffusion.noise import slerp
from server.diffusion.pieces import PiecewiseAutoencoder
from tests.engine.conftest import Loaded, picture, run
from tests.tiny_flow import MAKERS, make_flow_model
from tests.tiny_flow2 import FAMILIES as LOOKING

MAKERS |= LOOKING

TASK = Task(prompt="a red boat", seed=3, total_steps=3, guidance=1.0, width=64, height=64)


@pytest.fixture
def rolled_noise(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """rolled_noise(down, across): from now on all noise is drawn as before and then rolled by so many cells."""
    from server.diffusion import model, picture

    honest = model.draw_noise

    def use(down: int, across: int) -> None:
        def rolled(*arguments: Any) -> torch.Tensor:
            return torch.roll(honest(*arguments), (down, across), (2, 3))

        monkeypatch.setattr(model, "draw_noise", rolled)
        monkeypatch.setattr(picture, "draw_noise", rolled)

    return use


@pytest.mark.parametrize(("wrap", "down", "across"), [("x", 0, 2), ("y", 4, 0), ("xy", 2, 4)])
@pytest.mark.parametrize("begin", ["noise", "picture"])
def test_a_wrapped_picture_has_no_edge(
    wrap: str, down: int, across: int, begin: str, model_of: Loaded, rolled_noise: Callable[[int, int], None]
) -> None:
    """Everything that goes in is moved round the torus; what comes out has moved with it, so no place is an edge."""
    model, start = model_of("sd1"), picture(seed=8)
    task = replace(TASK, wrap=wrap)
    if begin == "picture":
        task = replace(task, image=start, start_step=1)
    plain, plain_latents = run(model, replace(task, wrap=""))
    before, latents = run(model, task)
    rolled_noise(down, across)
    if begin == "picture":
        task = replace(task, image=np.roll(start, (8 * down, 8 * across), (0, 1)))
    moved, moved_latents = run(model, task)
    assert torch.allclose(moved_latents, torch.roll(latents, (down, across), (2, 3)), atol=1e-3)
    there = np.roll(before.image, (8 * down, 8 * across), (0, 1)).astype(int)
    assert np.abs(there - moved.image).max() <= 1
    # Without wrapping the same walk shows where the edges are; and nothing of it stays behind.
    unwrapped = run(model, replace(task, wrap=""))[1]
    assert not torch.allclose(unwrapped, torch.roll(plain_latents, (down, across), (2, 3)), atol=0.05)
    assert not torch.allclose(latents, plain_latents, atol=0.05)


def test_only_the_wrapped_axis_meets(model_of: Loaded, rolled_noise: Callable[[int, int], None]) -> None:
    model, task = model_of("sd1"), replace(TASK, wrap="x")
    before = run(model, task)[1]
    rolled_noise(2, 0)
    assert not torch.allclose(run(model, task)[1], torch.roll(before, (2, 0), (2, 3)), atol=0.05)


def test_wrapping_is_undone_also_by_a_cancel(model_of: Loaded) -> None:
    model = model_of("sd1")
    before = generate(model, TASK).image.tobytes()
    wrapped = generate(model, replace(TASK, wrap="xy")).image.tobytes()
    with pytest.raises(Cancelled):
        generate(model, replace(TASK, wrap="xy"), control=lambda: "cancel")
    assert generate(model, TASK).image.tobytes() == before != wrapped


@pytest.mark.parametrize("wrap", ["x", "y", "xy"])
def test_transformers_see_a_seamless_picture_from_another_place_at_every_step(wrap: str, tmp_path: Path) -> None:
    """They number their tokens. What they see is the picture rolled, and what they say is rolled back; with it the map
    of a control layer and the canvas that they look at."""
    from server.diffusion import load_model
    from server.diffusion.pieces import walk

    model: Any = load_model(make_flow_model(tmp_path / "kontext", "flux1-kontext"), "flux1-kontext")
    seen: list[Any] = []
    predict = type(model).predict

    def recording(inputs: torch.Tensor, timestep: Any, condition: Any, *rest: Any) -> torch.Tensor:
        found = predict(model, inputs, timestep, condition, *rest)
        seen.append((inputs, condition.references[0], found))
        return found

    task = replace(TASK, sampler="Euler", total_steps=4, image=picture(), begin="noise")
    run(model, task)
    model.predict = recording
    try:
        latents = run(model, replace(task, wrap=wrap))[1]
    finally:
        del model.predict
    schedule = model.schedule("Euler", 4, 0, 64, 64)
    canvas = torch.roll(seen[0][1], [-cells for cells in walk(0, (8, 8), wrap, 2)], (2, 3))
    now = torch.roll(seen[0][0], [-cells for cells in walk(0, (8, 8), wrap, 2)], (2, 3))
    shifts = [walk(call, (8, 8), wrap, 2) for call in range(4)]
    for index, (shift, (inputs, looked, found)) in enumerate(zip(shifts, seen)):
        assert torch.equal(inputs, torch.roll(now, shift, (2, 3)))
        assert torch.equal(looked, torch.roll(canvas, shift, (2, 3)))
        back = torch.roll(found, (-shift[0], -shift[1]), (2, 3))
        now = schedule.step(index, back, now, torch.Generator())[0]
    assert torch.equal(now, latents)
    assert all(cells % 2 == 0 for shift in shifts for cells in shift) and len(set(shifts)) > 2
    assert {down for down, _ in shifts} == {0} or "y" in wrap
    assert {across for _, across in shifts} == {0} or "x" in wrap


def test_variations_walk_along_the_sphere() -> None:
    one, two = (torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    two = two * (one.norm() / two.norm())  # on one sphere

    def angle(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(torch.arccos((a.double() * b.double()).sum() / (a.double().norm() * b.double().norm())))

    for share in (0.1, 0.5, 0.9):
        mixed = slerp(one, two, share)
        assert angle(one, mixed) == pytest.approx(share * angle(one, two), rel=1e-3)
        assert angle(mixed, two) == pytest.approx((1 - share) * angle(one, two), rel=1e-3)
        assert float(mixed.norm()) == pytest.approx(float(one.norm()), rel=1e-3)
        assert mixed.dtype == torch.float32
    assert torch.equal(slerp(one, two, 0.0), one) and torch.equal(slerp(one, two, 1.0), two)
    assert torch.allclose(slerp(one, one, 0.3), one, atol=1e-6)


def test_a_variation_lies_between_two_seeds(model_of: Loaded) -> None:
    model = model_of("sd1")

    def latents(**changes: Any) -> torch.Tensor:
        return run(model, replace(TASK, **changes))[1]

    start, end = latents(), latents(seed=9)
    assert torch.equal(latents(variation=0.0, variation_seed=9), start)
    assert torch.equal(latents(variation=1.0, variation_seed=9), end)
    little, much = (latents(variation=share, variation_seed=9) for share in (0.1, 0.6))
    assert 0 < float((little - start).norm()) < float((much - start).norm())


@pytest.mark.parametrize("change", [{"variation": 1.5}, {"variation_seed": -1}, {"wrap": "z"}, {"pieces": 60}], ids=str)
def test_impossible_values_are_refused(change: dict[str, Any], model_of: Loaded) -> None:
    with pytest.raises(WireError) as caught:
        generate(model_of("sd1"), replace(TASK, **change))
    assert caught.value.code is Code.BAD_REQUEST


LARGE = replace(TASK, width=160, height=88, image=picture(160, 88), total_steps=4, start_step=1)


def test_pieces_of_a_picture_that_fits_are_the_picture(model_of: Loaded) -> None:
    model = model_of("sd1")
    assert torch.equal(run(model, replace(TASK, pieces=64))[1], run(model, TASK)[1])


def test_pieces_blend_to_what_a_model_without_surroundings_gives(
    model_of: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prediction that looks at each cell alone is the same in pieces: nothing is lost, doubled or moved."""
    model = model_of("sd1")

    def alone(inputs: torch.Tensor, timestep: torch.Tensor, *_: Any) -> torch.Tensor:
        return torch.tanh(inputs[:, :4]) + 0.1 * inputs[:, :4]

    monkeypatch.setattr(model, "predict", alone)
    monkeypatch.setattr(model, "encode_pixels", lambda pixels, hole=None: ENCODED)
    whole, pieces = run(model, LARGE)[1], run(model, replace(LARGE, pieces=64))[1]
    assert torch.allclose(whole, pieces, atol=1e-4)


ENCODED = (torch.randn(1, 4, 11, 20, generator=torch.Generator().manual_seed(0)), torch.full((1, 4, 11, 20), 0.1))


def test_no_call_is_larger_than_a_piece_and_a_cancel_comes_between_two(model_of: Loaded) -> None:
    model = model_of("sd1")
    seen: list[tuple[str, tuple[int, ...]]] = []
    handles = [
        model.unet.register_forward_pre_hook(lambda _, inputs: seen.append(("unet", inputs[0].shape[-2:]))),
        model.vae.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(("decode", inputs[0].shape[-2:]))),
        model.vae.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(("encode", inputs[0].shape[-2:]))),
    ]
    task = replace(LARGE, pieces=64, seed=77, image=picture(160, 88, seed=77))
    try:
        output = generate(model, task)
        assert output.image.shape == (88, 160, 3) and output.steps_run == 3
        limits = {"unet": 8, "decode": 8, "encode": 64}
        assert all(max(shape) <= limits[kind] for kind, shape in seen)
        assert [kind for kind, _ in seen].count("unet") == 3 * 6  # three columns, two rows
        seen.clear()
        with pytest.raises(Cancelled):
            generate(model, task, control=lambda: "cancel" if len(seen) >= 4 else None)
        assert len(seen) == 4
    finally:
        for handle in handles:
            handle.remove()
    assert "encode" not in vars(model.vae) and "decode" not in vars(model.vae)
    assert torch.equal(run(model, replace(TASK, pieces=64))[1], run(model, TASK)[1])


def test_neighbouring_pieces_of_the_autoencoder_meet_without_a_seam(model_of: Loaded) -> None:
    model = model_of("sd1")
    latents = torch.randn(1, 4, 4, 20, generator=torch.Generator().manual_seed(1)).cumsum(-1) * 0.2
    with torch.inference_mode(), PiecewiseAutoencoder(model, 64):
        image = model.decode(latents)
    assert image.shape == (1, 3, 32, 160)
    jumps = (image[..., 1:] - image[..., :-1]).abs().mean(dim=(0, 1, 2))
    starts = {48, 96, 64, 112, 160}  # where pieces of 64 with 16 in common begin and end
    inside = torch.tensor([float(jumps[x - 1]) for x in range(8, 152) if x not in starts])
    assert all(float(jumps[x - 1]) < float(inside.max()) * 1.5 for x in starts if x < 160)


def test_control_layers_follow_the_pieces(model_of: Loaded) -> None:
    from server.diffusion.control_loading import ControlModel
    from server.diffusion.task import ControlLayer
    from tests.engine.test_control import make_net

    model = model_of("sd1")
    left, right = np.zeros((88, 160, 3), np.uint8), np.zeros((88, 160, 3), np.uint8)
    right[:, 140:] = 255
    control = ControlModel("net", "controlnet", make_net(model))
    task = replace(LARGE, pieces=64, total_steps=2)  # one step: later ones pass the change on to neighbours
    black, white = (run(model, replace(task, controls=(ControlLayer(control, image),)))[1] for image in (left, right))
    assert torch.equal(black[..., :6], white[..., :6]), "far pieces do not see the change"
    assert not torch.equal(black[..., 16:], white[..., 16:])
