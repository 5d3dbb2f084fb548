# SPDX-License-Identifier: GPL-3.0-or-later
"""Control maps: each finds what it is for, in the right place, at every size, and nothing in an empty picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.recipe import CONTROL_MAPS
from server.diffusion.preprocess import LEARNED, MAKERS, control_map
from server.diffusion.preprocess.lines import canny

LINES = ("canny", "line_art", "soft_edge", "scribble")


def square(side: int = 128, dark: int = 30, light: int = 220) -> np.ndarray:
    """A light square in the middle half of a dark picture."""
    picture = np.full((side, side, 3), dark, np.uint8)
    picture[side // 4 : -side // 4, side // 4 : -side // 4] = light
    return picture


def distance_to_border(side: int) -> np.ndarray:
    """Pixels from each pixel to the outline of the square."""
    y, x = np.mgrid[:side, :side] + 0.5
    a, b = side / 4, side * 3 / 4
    outside = np.hypot(np.maximum(np.maximum(a - x, x - b), 0), np.maximum(np.maximum(a - y, y - b), 0))
    inside = np.minimum(np.minimum(x - a, b - x), np.minimum(y - a, b - y))
    return np.where(outside > 0, outside, np.maximum(inside, 0))


def test_every_type_of_the_wire_is_made_or_refused() -> None:
    assert set(MAKERS) | set(LEARNED) == set(CONTROL_MAPS)


@pytest.mark.parametrize("type", MAKERS)
@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 3), (130, 67)])
def test_maps_have_the_size_of_the_picture_and_the_same_bytes_again(type: str, width: int, height: int) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (height, width, 3)).astype(np.uint8)
    before = picture.copy()
    made = control_map(picture, type)
    assert made.shape == (height, width, 3) and made.dtype == np.uint8 and made.flags.c_contiguous
    assert np.array_equal(made, control_map(picture, type)) and np.array_equal(picture, before)


@pytest.mark.parametrize("type", LINES)
@pytest.mark.parametrize("side", [128, 512])
def test_lines_are_where_the_edges_are(type: str, side: int) -> None:
    made = control_map(square(side), type)[..., 0]
    away = distance_to_border(side)
    near = max(3.0, side / 64)
    assert made[away < 1.5].mean() > (120 if type != "canny" else 60)
    assert (made[away > 4 * near] < 8).all()
    # The outline is closed: every row through the square crosses it twice.
    for row in range(side // 4 + side // 16, side * 3 // 4 - side // 16):
        bright = np.flatnonzero(made[row] > 100)
        assert bright.size and bright.min() < side / 2 < bright.max()


@pytest.mark.parametrize("type", LINES)
def test_a_flat_picture_has_no_lines(type: str) -> None:
    assert control_map(np.full((96, 64, 3), 130, np.uint8), type).max() == 0


def test_canny_is_thin_and_keeps_weak_edges_only_with_strong_ones() -> None:
    edges = canny(square())[..., 0]
    assert set(np.unique(edges)) == {0, 255}
    row = edges[64]
    assert (row > 0).sum() == 2, "one pixel per edge"
    # A ramp of contrast along one edge: the weak end stays because it continues the strong one.
    picture = np.full((60, 60, 3), 100, np.uint8)
    picture[:, 30:] = (100 + np.linspace(29, 100, 60)[:, None, None]).astype(np.uint8)
    alone = picture.copy()
    alone[20:] = alone[:1]
    assert canny(picture)[5, 25:35].max() == 255
    assert canny(alone)[5, 25:35].max() == 0


def test_line_art_turns_pen_strokes_into_white_lines() -> None:
    image = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(image).line([(40, 40), (200, 180)], fill="black", width=3)
    made = control_map(np.asarray(image), "line_art")[..., 0]
    assert made[110, 120] > 200 and made[200, 60] == 0 and made[20, 230] == 0
    assert 300 < (made > 128).sum() < 3000


def test_scribbles_are_thicker_than_edges() -> None:
    picture = square(512)
    assert (control_map(picture, "scribble") > 128).sum() > 2 * (control_map(picture, "canny") > 128).sum()


def test_depth_is_brightness_stretched() -> None:
    made = control_map(square(dark=90, light=130), "depth")[..., 0]
    assert made[64, 64] == 255 and made[2, 2] == 0
    flat = control_map(np.full((40, 40, 3), 77, np.uint8), "depth")
    assert (flat == 77).all(), "noise of a flat layer is not stretched"


def test_tile_and_blur_keep_colours_and_lose_detail() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    spread = [control_map(noise, type).std() for type in ("tile", "blur")]
    assert noise.std() > 1.5 * spread[0] > 1.5 * spread[1]
    for type in ("tile", "blur"):
        assert np.allclose(control_map(noise, type).mean((0, 1)), noise.mean((0, 1)), atol=3)
        assert (control_map(np.full((30, 30, 3), (10, 200, 90), np.uint8), type) == (10, 200, 90)).all()


@pytest.mark.parametrize("type", LEARNED)
def test_learned_maps_are_refused_in_a_sentence(type: str) -> None:
    with pytest.raises(WireError) as caught:
        control_map(square(), type)
    assert caught.value.code is Code.UNSUPPORTED and caught.value.hint
