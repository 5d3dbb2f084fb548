# SPDX-License-Identifier: GPL-3.0-or-later
"""The region planner keeps its promises for every size and shape."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krita_sd.geometry import (
    NATIVE,
    Bounds,
    Extent,
    NativeRange,
    context_bounds,
    feather_and_grow,
    plan_render,
)

POCKET = NativeRange(192, 384, 192 * 192, 320 * 320, 64, second_pass=False, pixels=256 * 256)
RANGES = [POCKET, *NATIVE.values()]
extents = st.builds(Extent, st.integers(1, 8192), st.integers(1, 8192))
natives = st.sampled_from(RANGES)
rectangles = st.builds(
    Bounds, st.integers(-3000, 3000), st.integers(-3000, 3000), st.integers(1, 3000), st.integers(1, 3000)
)


def test_a_target_in_the_native_range_is_rendered_as_it_is() -> None:
    plan = plan_render(Extent(512, 640), NATIVE["sd1"])
    assert plan.is_exact and plan.extent == (512, 640) and plan.second is None


def test_a_large_target_is_rendered_native_then_refined_at_full_size() -> None:
    plan = plan_render(Extent(2048, 2048), NATIVE["sdxl"])
    assert plan.extent == (1024, 1024) and plan.scale == 0.5
    assert plan.second == (2048, 2048)


def test_the_embedded_model_never_refines() -> None:
    plan = plan_render(Extent(1024, 1024), POCKET)
    assert plan.extent == (320, 320) and plan.second is None


def test_a_small_target_is_rendered_larger() -> None:
    plan = plan_render(Extent(64, 64), NATIVE["sd1"])
    assert plan.extent == (512, 512) and plan.scale == 8


@given(extents, natives)
def test_every_plan_is_uniform_within_bounds_and_padded_to_the_multiple(target: Extent, native: NativeRange) -> None:
    plan = plan_render(target, native)
    width, height = plan.content
    assert plan.extent.width % native.multiple == 0 and plan.extent.height % native.multiple == 0
    assert plan.extent.width >= width - 1e-6 and plan.extent.height >= height - 1e-6
    assert width * height <= native.max_pixels * (1 + 1e-9) and max(width, height) <= native.max_side * (1 + 1e-9)
    assert plan.extent.shortest >= native.min_side
    # One scale for both axes: the shape of the content is the shape of the target.
    assert math.isclose(width / height, target.width / target.height, rel_tol=1e-9)


@given(extents, natives)
def test_padding_is_less_than_a_multiple_unless_the_shape_is_extreme(target: Extent, native: NativeRange) -> None:
    plan = plan_render(target, native)
    for padded, content in zip(plan.extent, plan.content, strict=True):
        assert padded - content < native.multiple + 1 or content < native.min_side


@pytest.mark.parametrize("extent", [Extent(1, 1), Extent(2000, 100), Extent(100, 2000), Extent(8191, 3)])
@pytest.mark.parametrize("native", RANGES)
def test_extreme_shapes_have_a_plan(extent: Extent, native: NativeRange) -> None:
    assert plan_render(extent, native).extent.pixels <= 4 * native.max_pixels


def test_an_empty_target_is_refused() -> None:
    with pytest.raises(ValueError, match="0 x 5"):
        plan_render(Extent(0, 5), POCKET)


def test_a_small_selection_gets_native_detail() -> None:
    """64 px selected on a 1024^2 SDXL canvas are painted with at least 512 px."""
    selection = Bounds(300, 300, 64, 64)
    feather, grow = feather_and_grow(selection, 1.0)
    context = context_bounds(selection, Extent(1024, 1024), NATIVE["sdxl"], feather, grow)
    plan = plan_render(context.extent, NATIVE["sdxl"])
    assert 64 * plan.scale >= 512


@pytest.mark.parametrize(
    ("selection", "strength", "expected"),
    [
        (Bounds(0, 0, 300, 400), 1.0, (50, 29)),
        (Bounds(0, 0, 300, 400), 0.5, (25, 16)),
        (Bounds(0, 0, 30, 40), 1.0, (32, 20)),
        (Bounds(0, 0, 30, 40), 0.0, (0, 4)),
    ],
)
def test_default_feather_and_grow(selection: Bounds, strength: float, expected: tuple[int, int]) -> None:
    assert feather_and_grow(selection, strength) == expected


@given(rectangles, st.builds(Extent, st.integers(1, 5000), st.integers(1, 5000)), natives, st.floats(0, 1))
def test_context_contains_the_selection_and_stays_on_the_canvas(
    selection: Bounds, canvas: Extent, native: NativeRange, strength: float
) -> None:
    visible = selection.intersect(Bounds.of(canvas))
    feather, grow = feather_and_grow(selection, strength)
    if visible.is_empty:
        with pytest.raises(ValueError, match="outside the canvas"):
            context_bounds(selection, canvas, native, feather, grow)
        return
    context = context_bounds(selection, canvas, native, feather, grow)
    assert Bounds.of(canvas).contains(context) and context.contains(visible)
    assert context.width >= min(64, canvas.width) and context.height >= min(64, canvas.height)


@given(rectangles, rectangles)
def test_bounds_algebra(a: Bounds, b: Bounds) -> None:
    both = a.intersect(b)
    assert both.is_empty or (a.contains(both) and b.contains(both))
    assert a.union(b).contains(a) and a.union(b).contains(b)
    moved = a.moved_into(b)
    assert b.contains(moved)
    assert a.pad(7).pad(-7) == a
    assert a.relative_to(a)[:2] == (0, 0)
