# SPDX-License-Identifier: GPL-3.0-or-later
"""Masks, fills and resampling of the worker: the rules of PAINTER.md as properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from krita_sd.geometry import Extent, NativeRange, plan_render
from krita_sd.wire.frames import Picture
from server.cli.images import composited
from server.worker import masks, pixels
from server.worker.fill import fill

SIZES = st.tuples(st.integers(1, 70), st.integers(1, 70))


@st.composite
def selections(draw: st.DrawFn) -> np.ndarray:
    """Empty, full, one pixel, rectangles, rings, ramps and noise."""
    height, width = draw(SIZES)
    kind = draw(st.sampled_from(["empty", "full", "pixel", "box", "ring", "ramp", "noise"]))
    mask = np.zeros((height, width), np.uint8)
    y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    if kind == "full":
        mask[:] = 255
    elif kind == "pixel":
        mask[y, x] = draw(st.integers(1, 255))
    elif kind in ("box", "ring"):
        mask[y : y + height // 2 + 1, x : x + width // 2 + 1] = 255
        if kind == "ring":
            mask[y + 1 : y + height // 2, x + 1 : x + width // 2] = 0
    elif kind == "ramp":
        mask[:] = np.linspace(0, 255, width).astype(np.uint8)
    elif kind == "noise":
        mask = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, (height, width), np.uint8)
    return mask


@settings(max_examples=150, deadline=None)
@given(selections(), st.integers(0, 200))
def test_the_composite_mask_is_never_above_the_selection_nor_empty(selection: np.ndarray, feather: int) -> None:
    composite = masks.composite_mask(selection, feather)
    assert composite.shape == selection.shape and composite.dtype == np.uint8
    assert (composite <= selection).all()
    # Fading inwards must not eat what was selected: thin shapes keep most of themselves.
    assert composite.sum(dtype=int) >= masks.KEPT * selection.sum(dtype=int) - 1e-6


@settings(max_examples=150, deadline=None)
@given(selections(), st.integers(0, 60), st.integers(0, 120))
def test_the_denoise_mask_is_never_below_the_selection(selection: np.ndarray, grow: int, feather: int) -> None:
    denoise = masks.denoise_mask(selection, grow, feather)
    assert denoise.shape == selection.shape and (denoise >= selection).all()
    if not selection.any():
        assert not denoise.any()
    if grow == 0 and feather == 0:
        assert (denoise == selection).all()


def test_grow_and_feather_reach_as_far_as_they_say() -> None:
    selection = np.zeros((200, 200), np.uint8)
    selection[80:120, 80:120] = 255
    grown = masks.denoise_mask(selection, 10, 0)
    assert grown[70, 100] == grown[129, 100] == grown[100, 70] == grown[100, 129] == 255
    assert not grown[:70].any() and not grown[:, 130:].any() and grown[70, 70] == 0
    point = np.zeros((101, 101), np.uint8)
    point[50, 50] = 255
    y, x = np.ogrid[-50:51, -50:51]
    round_one = masks.denoise_mask(point, 30, 0) > 0
    assert round_one[np.hypot(y, x) <= 30].all() and not round_one[np.hypot(y, x) > 34].any()
    soft = masks.denoise_mask(selection, 0, 20)
    assert 0 < soft[75, 100] < 255 and soft[40, 100] == 0
    ramp = soft[40:81, 100].astype(int)
    assert (np.diff(ramp) >= 0).all(), "the edge is monotone"


def test_a_large_selection_fades_in_from_its_edge() -> None:
    selection = np.zeros((200, 200), np.uint8)
    selection[20:180, 20:180] = 255
    composite = masks.composite_mask(selection, 60)
    assert composite[100, 100] == 255 and composite[20, 100] < 128 and composite[19, 100] == 0
    assert (np.diff(composite[20:60, 100].astype(int)) >= 0).all()
    # A selection that goes on beyond the region is not faded at the region's edge.
    assert (masks.composite_mask(np.full((200, 200), 255, np.uint8), 60) == 255).all()


@pytest.mark.parametrize("mode", ["neutral", "blur", "border", "original"])
def test_fills_leave_what_is_not_masked(mode: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (41, 57, 3), np.uint8)
    mask = np.zeros((41, 57), np.uint8)
    mask[10:30, 10:40] = 255
    filled = fill(image, mask, mode)
    assert (filled[mask == 0] == image[mask == 0]).all()
    assert (filled == image).all() == (mode == "original")


@pytest.mark.parametrize("mode", ["blur", "border"])
@pytest.mark.parametrize("shape", [(40, 60), (1, 30), (31, 1), (17, 16)])
def test_fills_continue_a_flat_colour(mode: str, shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    image[:] = (200, 90, 10)
    mask = np.zeros(shape, np.uint8)
    mask[shape[0] // 3 :, shape[1] // 3 :] = 255
    image[mask > 0] = 0
    if (mask == 0).any():
        assert np.abs(fill(image, mask, mode).astype(int) - (200, 90, 10)).max() <= 1


@pytest.mark.parametrize("mode", ["neutral", "blur", "border", "original"])
def test_fills_survive_a_full_mask(mode: str) -> None:
    image = np.full((9, 9, 3), 50, np.uint8)
    assert fill(image, np.full((9, 9), 255, np.uint8), mode).shape == image.shape


NATIVE = NativeRange(192, 384, 192 * 192, 320 * 320, 8, second_pass=False)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 900), st.integers(1, 900))
def test_there_and_back_keeps_extent_and_place(width: int, height: int) -> None:
    """A smooth picture survives the way to render size and back: nothing is stretched or shifted."""
    plan = plan_render(Extent(width, height), NATIVE)
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    image = np.stack([across, down, np.full_like(across, 128)], axis=-1).astype(np.uint8)
    render = pixels.to_render(image, plan)
    assert render.shape == (plan.extent.height, plan.extent.width, 3)
    back = pixels.from_render(render, plan)
    assert back.shape == image.shape
    # Half a pixel of shift would show as this much on the steepest ramp that is resampled.
    steep = max(255 / max(min(width, plan.content[0]) - 1, 1), 255 / max(min(height, plan.content[1]) - 1, 1))
    assert np.abs(back.astype(int) - image).mean() <= 2 + steep / 4


def test_an_exact_plan_changes_no_pixel() -> None:
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    plan = plan_render(Extent(300, 200), NATIVE)
    assert plan.is_exact
    assert (pixels.from_render(pixels.to_render(image, plan), plan) == image).all()


@settings(max_examples=100, deadline=None)
@given(SIZES, st.integers(1, 5000), st.integers(1, 5000))
def test_previews_stay_in_bounds_and_shape(size: tuple[int, int], bound: int, divisor: int) -> None:
    plan = plan_render(Extent(*size), NATIVE)
    available = Extent(max(1, plan.extent.width // divisor), max(1, plan.extent.height // divisor))
    got = pixels.preview_size(plan, available, bound)
    assert 1 <= got.pixels <= max(bound, max(got)) and got.width <= size[0] and got.height <= size[1]


def test_transparent_input_lies_on_paper() -> None:
    picture = Picture("bgra8", 2, 1, bytes([10, 20, 30, 255, 10, 20, 30, 0]))
    assert pixels.rgb_of(picture).tolist() == [[[30, 20, 10], [255, 255, 255]]]
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert (pixels.rgb_of(pixels.picture_of(rgb)) == rgb).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 99))
def test_compositing_follows_the_over_operator(seed: int) -> None:
    source = np.random.default_rng(seed)
    base, layer = (source.integers(0, 256, (8, 8, 4), np.uint8) for _ in range(2))
    layer[:2, :, 3], layer[2:4, :, 3] = 0, 255
    base[4:6, :, 3] = 255
    from krita_sd.geometry import Bounds

    out = composited(base, layer, Bounds(0, 0, 8, 8))
    assert (out[:2] == base[:2]).all() and (out[2:4] == layer[2:4]).all()
    expected = np.asarray(Image.alpha_composite(Image.fromarray(base), Image.fromarray(layer)))
    assert np.abs(out[4:6].astype(int) - expected[4:6]).max() <= 1
