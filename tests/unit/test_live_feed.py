# SPDX-License-Identifier: GPL-3.0-or-later
"""From what was read to what is sent: only what changed, at once, and nothing of a session that is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from krita_sd.geometry import Bounds
from krita_sd.live.desk import Desk, LiveReady
from krita_sd.live.feed import Feed, Look, Sent, Suspect, Unchanged, Wish
from krita_sd.wire.client import LiveFrame
from krita_sd.wire.frames import Picture
from krita_sd.wire.live import TILE, Live
from krita_sd.wire.recipe import Control, Recipe

SIDE = 4 * TILE
WHOLE = Bounds(0, 0, SIDE, SIDE)
BLANK = bytes(SIDE * SIDE * 4)
WISH = Wish(Recipe("img2img", width=SIDE, height=SIDE, strength=0.3))


class Core:
    """Remembers what would be sent."""

    def __init__(self) -> None:
        self.asked: list[tuple[Live, dict[str, Picture], list[int]]] = []
        self.stopped: list[str] = []

    def live(
        self, request: Live, pictures: dict[str, Picture], width: int, height: int, tiles: Mapping[int, bytes]
    ) -> None:
        assert (width, height) == (SIDE, SIDE) and all(len(tile) == TILE * TILE * 4 for tile in tiles.values())
        self.asked.append((request, pictures, sorted(tiles)))

    def live_stop(self, live: str) -> None:
        self.stopped.append(live)


@pytest.fixture
def core() -> Core:
    return Core()


@pytest.fixture
def told() -> list[Any]:
    return []


@pytest.fixture
def feed(core: Core, told: list[Any]) -> Feed:
    """A session that has sent its whole canvas as generation 1."""
    feed = Feed(core, told.append, clock=lambda: 7.0)
    feed.open("a", SIDE, SIDE, WISH)
    feed.look(Look("a", 1, ((WHOLE, BLANK),), always=True))
    return feed


def test_the_first_look_sends_everything_and_an_equal_one_nothing(core: Core, told: list[Any], feed: Feed) -> None:
    assert [(request.generation, tiles) for request, _, tiles in core.asked] == [(1, list(range(16)))]
    assert told == [Sent("a", 1, WHOLE, 16, 16 * TILE * TILE * 4, 7.0)]
    feed.look(Look("a", 2, ((WHOLE, BLANK),)))
    assert told[1:] == [Unchanged("a", 2)] and len(core.asked) == 1


def test_a_stroke_sends_only_its_tiles(core: Core, told: list[Any], feed: Feed) -> None:
    """64 px long and 20 px wide on tiles: at most 1/28 of a raw canvas of 1024 x 1024."""
    box = Bounds(TILE, TILE, 2 * TILE, TILE)
    stroke = bytearray(box.width * box.height * 4)
    for y in range(20):
        stroke[y * box.width * 4 + 32 * 4 : y * box.width * 4 + 96 * 4] = b"\xff" * 64 * 4
    feed.look(Look("a", 2, ((box, bytes(stroke)),)))
    assert core.asked[-1][2] == [5, 6] and told[-1].changed == box
    assert told[-1].bytes <= 1024 * 1024 * 4 / 28


def test_a_sample_outside_of_what_was_read_points_there(core: Core, told: list[Any], feed: Feed) -> None:
    row = bytearray(SIDE * 4)
    row[3 * TILE * 4] = 1
    feed.look(Look("a", 2, rows=((TILE, bytes(row)),)))
    assert told[1:] == [Suspect("a", Bounds(3 * TILE, TILE, TILE, TILE)), Unchanged("a", 2)]
    patch = bytearray(TILE * TILE * 4)
    patch[0] = 1
    feed.look(Look("a", 3, ((Bounds(3 * TILE, TILE, TILE, TILE), bytes(patch)),), ((TILE, bytes(row)),)))
    assert isinstance(told[-1], Sent) and told[-1].tiles == 1 and len(told) == 4, "a sample inside of it is known"


def test_another_wish_is_sent_without_pixels_and_a_lost_canvas_with_all(core: Core, feed: Feed) -> None:
    other = Wish(WISH.recipe.replace(prompt="dog"))
    feed.ask("a", 2, other)
    assert core.asked[-1][0].recipe.prompt == "dog" and core.asked[-1][2] == []
    feed.ask("a", 3, other, whole=True)
    assert core.asked[-1][2] == list(range(16))


def test_masks_and_controls_are_named_by_their_hashes(core: Core, feed: Feed) -> None:
    mask, pose = Picture("grey8", SIDE, SIDE, bytes(SIDE * SIDE)), Picture("bgra8", 2, 2, bytes(16))
    recipe = WISH.recipe.replace(kind="inpaint", controls=(Control("pose", "", 0.5),))
    feed.ask("a", 2, Wish(recipe, mask, (pose,)))
    request, pictures, _ = core.asked[-1]
    assert request.recipe.mask == mask.hash and request.recipe.controls == (Control("pose", pose.hash, 0.5),)
    assert pictures == {mask.hash: mask, pose.hash: pose} and set(request.recipe.blobs()) == set(pictures)


def test_a_wish_that_comes_before_the_pixels_waits_for_them(core: Core, told: list[Any]) -> None:
    feed = Feed(core, told.append)
    feed.open("a", SIDE, SIDE, WISH)
    feed.ask("a", 1, Wish(WISH.recipe.replace(prompt="dog")))
    half = Bounds(0, 0, SIDE, SIDE // 2)
    feed.look(Look("a", 2, ((half, BLANK[: len(BLANK) // 2]),), always=True))
    assert core.asked == [] and told == [Unchanged("a", 1), Unchanged("a", 2)]
    feed.look(Look("a", 3, ((Bounds(0, SIDE // 2, SIDE, SIDE // 2), BLANK[len(BLANK) // 2 :]),)))
    assert [(request.generation, request.recipe.prompt) for request, _, _ in core.asked] == [(3, "dog")]


def test_nothing_of_a_session_that_is_over_is_sent(core: Core, feed: Feed) -> None:
    feed.close("a")
    feed.look(Look("a", 2, ((WHOLE, b"\1" * len(BLANK)),)))
    feed.ask("a", 3, WISH, whole=True)
    feed.close("a")
    assert core.stopped == ["a"] and len(core.asked) == 1
    feed.open("b", SIDE, SIDE, WISH)
    feed.open("c", SIDE, SIDE, WISH)
    assert core.stopped == ["a", "b"], "another session ends the one before"


def test_a_selection_without_its_pixels_is_not_asked_for(core: Core, told: list[Any]) -> None:
    feed = Feed(core, told.append)
    recipe = WISH.recipe.replace(kind="inpaint")
    feed.open("a", SIDE, SIDE, Wish(recipe))
    feed.look(Look("a", 1, ((WHOLE, BLANK),), always=True))
    assert core.asked == [] and told == [Unchanged("a", 1)]
    feed.ask("a", 2, Wish(recipe, Picture("grey8", SIDE, SIDE, bytes(SIDE * SIDE))))
    assert [(request.generation, len(tiles)) for request, _, tiles in core.asked] == [(2, 16)]


def test_a_frame_arrives_with_its_place_in_the_region(core: Core) -> None:
    """And with none of a session that has ended meanwhile."""
    told: list[Any] = []
    desk = Desk(core, lambda work: work())
    desk.listen(told.append, lambda picture, opaque: (picture.width, opaque), lambda picture, _type: picture)
    desk.open("a", SIDE, SIDE, WISH)
    small = Picture("bgra8", 8, 8, bytes(256))

    def frame(live: str, **header: Any) -> LiveReady | None:
        assert desk.handle(LiveFrame(live, 3, small, header))
        return desk.take()

    placed, everywhere = frame("a", box=[16, 32, 40, 40]), frame("a", box=[0, 0, SIDE, SIDE], opaque=True)
    assert placed is not None and (placed.box, placed.image) == (Bounds(16, 32, 40, 40), (8, False))
    assert everywhere is not None and (everywhere.box, everywhere.image) == (WHOLE, (8, True))
    assert everywhere.extent == (SIDE, SIDE)
    told.clear()
    assert frame("b") is None and told == []


def test_whether_frames_may_be_smaller_is_part_of_the_wish(core: Core, feed: Feed) -> None:
    feed.ask("a", 2, replace(WISH, fit=False))
    assert [request.fit for request, _, _ in core.asked] == [True, False]
