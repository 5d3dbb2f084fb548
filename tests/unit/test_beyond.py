# SPDX-License-Identifier: GPL-3.0-or-later
"""Continuing a picture beyond its edge: the canvas, what is painted, and the mask."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krita_sd.beyond import MAX_OVERLAP, REACHES, SIDES, beyond, mask
from krita_sd.geometry import Bounds, Extent
from krita_sd.wire.errors import WireError
from krita_sd.wire.limits import MAX_SIDE
from tests.unit.test_dock import INTERPRETERS, ROOT


def test_a_quarter_more_to_the_left() -> None:
    made = beyond(Extent(1024, 768), "left")
    assert made.canvas == Bounds(-256, 0, 1280, 768)
    assert made.painted == Bounds(0, 0, 256 + 64, 768) and made.kept == Bounds(320, 0, 960, 768)


@pytest.mark.parametrize(("reach", "width"), [("eighth", 112), ("half", 448), ("64", 64), ("512", 512)])
def test_as_far_as_the_painter_chose(reach: str, width: int) -> None:
    assert beyond(Extent(900, 700), "right", reach).canvas == Bounds(0, 0, 900 + width, 700)
    assert beyond(Extent(900, 700), "all", "64").canvas == Bounds(-64, -64, 900 + 128, 700 + 128)


@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from(SIDES), st.sampled_from(list(REACHES)))
def test_new_and_old_are_the_canvas_and_the_new_part_is_painted_whole(
    width: int, height: int, side: str, reach: str
) -> None:
    made = beyond(Extent(width, height), side, reach)
    whole, kept = Bounds(0, 0, made.canvas.width, made.canvas.height), made.kept
    old = Bounds(-made.canvas.x, -made.canvas.y, width, height)
    assert whole.extent.pixels > width * height
    assert kept.width > 0 and kept.height > 0 and kept.intersect(old) == kept, "only what was there is kept"
    grown = [end for end in SIDES[:4] if side in (end, "all")]
    overlaps = {
        "left": kept.x - old.x,
        "top": kept.y - old.y,
        "right": old.x + old.width - kept.x - kept.width,
        "bottom": old.y + old.height - kept.y - kept.height,
    }
    assert all(0 <= overlap <= MAX_OVERLAP for overlap in overlaps.values())
    assert all(overlap == 0 for end, overlap in overlaps.items() if end not in grown)
    if side != "all":
        assert made.painted.extent.pixels + kept.extent.pixels == whole.extent.pixels


@pytest.mark.parametrize("side", SIDES)
def test_the_mask_is_white_where_the_picture_is_painted_and_nowhere_else(side: str) -> None:
    made = beyond(Extent(40, 24), side)
    region = Bounds(0, 0, made.canvas.width, made.canvas.height)
    for cut in (region, Bounds(3, 2, region.width - 7, region.height - 5)):
        data, kept = mask(made, cut), made.kept
        assert len(data) == cut.extent.pixels
        for y in range(cut.height):
            for x in range(cut.width):
                inside = kept.x <= x + cut.x < kept.x + kept.width and kept.y <= y + cut.y < kept.y + kept.height
                assert data[y * cut.width + x] == (0 if inside else 255)


def test_a_canvas_that_would_be_too_large_is_refused() -> None:
    with pytest.raises(WireError, match="too large"):
        beyond(Extent(MAX_SIDE, 100), "right")


def inside() -> list[Any]:
    """Runs in an interpreter that has Qt, with a Krita that does nothing: what is said as jobs end."""
    import sys
    from types import SimpleNamespace
    from unittest.mock import MagicMock

    sys.modules["krita"] = MagicMock()
    from krita_sd.actions.enlarging import Enlarging
    from krita_sd.job_events import CancelPressed, Created, Phase, StateChanged
    from krita_sd.jobs import JobTable
    from krita_sd.wire.recipe import Recipe

    table = JobTable()
    said: list[Any] = []
    core: Any = SimpleNamespace(table=table, say=lambda text, is_error=False: said.append(text))
    begun = iter(("one", "two"))
    part = Enlarging(core, MagicMock(), SimpleNamespace(begin=lambda *_: next(begun)))  # type: ignore[arg-type]
    for name in ("other", "one", "two"):
        table.feed(Created(name, "doc", Bounds(0, 0, 8, 8), Recipe(width=8, height=8)))
        if name != "other":
            part._begin(MagicMock(), MagicMock(), b"")
    for event in (
        CancelPressed("other"),
        StateChanged("one", Phase.SAMPLING, 0, 1, 4),
        CancelPressed("one"),
        CancelPressed("one"),
        StateChanged("two", Phase.DONE),
    ):
        table.feed(event)
        part.fed(event)
        said.append(len(part._jobs))
    return said


def test_a_cancelled_one_says_that_the_canvas_stays_larger() -> None:
    """Another job, a second press and a finished one say nothing."""
    code = "import json; from tests.unit.test_beyond import inside; print(json.dumps(inside()))"
    # The other interpreter has neither pytest nor hypothesis.
    stub = "import sys; from unittest.mock import MagicMock; sys.modules |= {name: MagicMock() for name in "
    stub += "('pytest', 'hypothesis')}; "
    environ = {**os.environ, "QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": str(ROOT)}
    for python in filter(shutil.which, INTERPRETERS):
        if subprocess.run([python, "-c", "import PyQt5.QtWidgets"], capture_output=True, timeout=60).returncode == 0:
            break
    else:
        pytest.skip("no interpreter with PyQt5 here")
    done = subprocess.run([python, "-c", stub + code], capture_output=True, text=True, cwd=ROOT, env=environ)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == [2, 2, "Cancelled. The canvas stays larger; Undo takes that back.", 1, 1, 0]
