# SPDX-License-Identifier: GPL-3.0-or-later
"""Rectangles and the region planner: which part of the document is rendered, and at which size. Pure functions.

Four spaces: document pixels (what the painter sees), region pixels (the captured rectangle, same scale as the
document), render pixels (what the model paints, near its native size) and latent pixels (the engine's own matter).
A region is mapped to render pixels by ONE uniform scale: nothing is stretched; what is missing up to the required
multiple is padded beyond the right and bottom edge and cropped back exactly.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

MIN_CONTEXT = 64
"""Document pixels: the smallest side of the context around a selection, canvas permitting."""

REFINE_STRENGTH = 0.4
"""Strength of the second pass that brings a native-size picture to a larger target."""


class Extent(NamedTuple):
    """Width and height in pixels."""

    width: int
    height: int

    @property
    def pixels(self) -> int:
        return self.width * self.height

    @property
    def longest(self) -> int:
        return max(self.width, self.height)

    @property
    def shortest(self) -> int:
        return min(self.width, self.height)

    def rounded_up(self, multiple: int) -> Extent:
        """The smallest extent of that multiple that contains this one."""
        return Extent(-(-self.width // multiple) * multiple, -(-self.height // multiple) * multiple)


class Bounds(NamedTuple):
    """A rectangle in document pixels; x and y may be negative (off the canvas)."""

    x: int
    y: int
    width: int
    height: int

    @property
    def extent(self) -> Extent:
        return Extent(self.width, self.height)

    @property
    def right(self) -> int:
        return self.x + self.width

    @property
    def bottom(self) -> int:
        return self.y + self.height

    @property
    def is_empty(self) -> bool:
        return self.width <= 0 or self.height <= 0

    @staticmethod
    def of(extent: Extent) -> Bounds:
        """The rectangle of that extent at the origin."""
        return Bounds(0, 0, extent.width, extent.height)

    def intersect(self, other: Bounds) -> Bounds:
        """The common part; width or height 0 when there is none."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        return Bounds(x, y, max(0, min(self.right, other.right) - x), max(0, min(self.bottom, other.bottom) - y))

    def union(self, other: Bounds) -> Bounds:
        """The smallest rectangle that contains both; an empty one counts for nothing."""
        if self.is_empty:
            return other
        if other.is_empty:
            return self
        x, y = min(self.x, other.x), min(self.y, other.y)
        return Bounds(x, y, max(self.right, other.right) - x, max(self.bottom, other.bottom) - y)

    def pad(self, by: int) -> Bounds:
        """Grown (or shrunk) by so many pixels on every side, never below an empty rectangle."""
        return Bounds(self.x - by, self.y - by, max(0, self.width + 2 * by), max(0, self.height + 2 * by))

    def contains(self, other: Bounds) -> bool:
        return self.x <= other.x and self.y <= other.y and other.right <= self.right and other.bottom <= self.bottom

    def moved_into(self, outer: Bounds) -> Bounds:
        """Moved, then cut if it is larger, so that it lies inside `outer`."""
        width, height = min(self.width, outer.width), min(self.height, outer.height)
        x = min(max(self.x, outer.x), outer.right - width)
        y = min(max(self.y, outer.y), outer.bottom - height)
        return Bounds(x, y, width, height)

    def relative_to(self, origin: Bounds) -> Bounds:
        """The same rectangle in coordinates whose zero is the corner of `origin`."""
        return Bounds(self.x - origin.x, self.y - origin.y, self.width, self.height)


class NativeRange(NamedTuple):
    """Sizes at which a model paints well: sides and areas in pixels, `multiple` its sides must have.

    second_pass: whether a larger target is reached by a second pass at full size; otherwise it is only resampled.
    pixels: the area it was trained on, to which too small a region is enlarged; 0 = max_pixels.
    """

    min_side: int
    max_side: int
    min_pixels: int
    max_pixels: int
    multiple: int = 8
    second_pass: bool = True
    pixels: int = 0


NATIVE: dict[str, NativeRange] = {
    "sd1": NativeRange(512, 768, 512 * 512, 512 * 768, 8, pixels=512 * 512),
    "sd2": NativeRange(512, 768, 512 * 512, 768 * 768, 8, pixels=768 * 768),
    "sdxl": NativeRange(640, 1280, 800 * 800, 1024 * 1024, 8, pixels=1024 * 1024),
    "sd3": NativeRange(512, 1536, 512 * 512, 1536 * 1536, 16, pixels=1024 * 1024),
}
"""Native sizes by family, for models that do not say their own."""

LARGE_NATIVE = NativeRange(256, 2048, 512 * 512, 2048 * 2048, 16, pixels=1024 * 1024)
"""Native sizes of the larger families (Flux and later)."""


def stated_native(
    family: str, sample_size: int | None, factor: int, given: dict[str, Any] | None, second_pass: bool = True
) -> NativeRange:
    """The native range of a model folder: what it states, else `sample_size` (latent pixels) times the autoencoder's
    `factor` and half as much again at most, else the family's. Raises ValueError when a stated size is impossible."""
    if sample_size is None and given is None:
        return NATIVE[family]
    side = NATIVE[family].min_side if sample_size is None else sample_size * factor
    area = side * side
    sizes = {"min_side": side, "max_side": side * 3 // 2, "min_pixels": area, "max_pixels": area * 3 // 2}
    sizes |= {"pixels": 0 if given is not None else area, "multiple": factor}
    sizes |= {key: given[key] for key in sizes if given is not None and key in given}
    if any(not isinstance(size, int) or not 0 <= size <= 2**32 for size in sizes.values()):
        raise ValueError("a native size must be a whole number of pixels")
    if sizes["multiple"] < 1 or sizes["multiple"] % factor:
        raise ValueError(f"the sides must be multiples of {factor}")
    return NativeRange(**sizes, second_pass=second_pass)


class RenderPlan(NamedTuple):
    """How a region becomes a render and back.

    target: the region in document pixels. scale: render pixels per document pixel. extent: the padded render size.
    second: padded extent of the second pass at scale 1, or None.
    """

    target: Extent
    scale: float
    extent: Extent
    second: Extent | None = None

    @property
    def content(self) -> tuple[float, float]:
        """Width and height of the region inside `extent`, in (fractional) render pixels; the rest is padding."""
        return self.target.width * self.scale, self.target.height * self.scale

    @property
    def source(self) -> tuple[float, float]:
        """Width and height in document pixels that `extent` covers: the region and its padding."""
        return self.extent.width / self.scale, self.extent.height / self.scale

    @property
    def is_exact(self) -> bool:
        """Whether nothing is resampled."""
        return self.scale == 1.0


def plan_render(target: Extent, native: NativeRange) -> RenderPlan:
    """Plan the render of a region of any size and shape within what the model paints well.

    A target inside the range is rendered as it is. A larger one is rendered at the largest native size (then a second
    pass brings it to full size, if the model has one); a smaller one is rendered at the size the model was trained on.
    Where an extreme shape makes the rules contradict each other, the upper bounds win and the short side is padded up
    to `min_side`.
    """
    if target.width < 1 or target.height < 1:
        raise ValueError(f"a region of {target.width} x {target.height} pixels cannot be rendered")
    lower = max(math.sqrt(native.min_pixels / target.pixels), native.min_side / target.shortest)
    upper = min(math.sqrt(native.max_pixels / target.pixels), native.max_side / target.longest)
    if lower > 1.0:
        lower = max(lower, math.sqrt((native.pixels or native.max_pixels) / target.pixels))
    scale = min(max(1.0, lower), upper)
    content = Extent(_whole(target.width * scale), _whole(target.height * scale))
    padded = Extent(max(content.width, native.min_side), max(content.height, native.min_side))
    second = None
    if scale < 1.0 and native.second_pass:
        second = Extent(max(target.width, native.min_side), max(target.height, native.min_side))
        second = second.rounded_up(native.multiple)
    return RenderPlan(target, scale, padded.rounded_up(native.multiple), second)


def _whole(length: float) -> int:
    # 1e-6: a side that is whole but for rounding (320.00000000000006) must not gain a row of padding.
    return max(1, math.ceil(length - 1e-6))


def feather_and_grow(selection: Bounds, strength: float) -> tuple[int, int]:
    """Default feather and grow of the denoise mask in document pixels: feather is a tenth of the selection's diagonal
    and at least 32 px, both times strength; grow is 4 px and half the feather."""
    diagonal = math.hypot(selection.width, selection.height)
    feather = round(max(0.1 * diagonal, 32.0) * strength)
    return feather, 4 + feather // 2


def context_bounds(selection: Bounds, canvas: Extent, native: NativeRange, feather: int, grow: int) -> Bounds:
    """The rectangle around `selection` that the model sees, inside the canvas.

    Room for grow and feather, at least an eighth and at most half of the selection's longer side on each side of it:
    so the selection keeps at least half of the native detail however small it is (a 64 px selection is painted with
    512 of SDXL's 1024 px). Never thinner than the model's native shapes, so that little is padding.
    Raises ValueError when nothing of the selection lies on the canvas.
    """
    whole = Bounds.of(canvas)
    inner = selection.intersect(whole)
    if inner.is_empty:
        raise ValueError("the selection lies outside the canvas")
    side = inner.extent.longest
    padding = min(max(grow + feather, side // 8, 1), max(side // 2, 1))
    context = inner.pad(padding)
    shortest = max(MIN_CONTEXT, math.ceil(context.extent.longest * native.min_side / native.max_side))
    context = _at_least(context, shortest)
    return context.moved_into(whole)


def _at_least(bounds: Bounds, side: int) -> Bounds:
    # Grown about its centre, so that the selection stays in the middle of what the model sees.
    extra_x, extra_y = max(0, side - bounds.width), max(0, side - bounds.height)
    return Bounds(bounds.x - extra_x // 2, bounds.y - extra_y // 2, bounds.width + extra_x, bounds.height + extra_y)
