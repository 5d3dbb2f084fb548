# SPDX-License-Identifier: GPL-3.0-or-later
"""The state machine of Live: whatever order events come in, nothing stale is shown and nothing is left running."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from krita_sd.geometry import Bounds
from krita_sd.live.machine import (
    Aim,
    Ask,
    Changed,
    Close,
    FrameCame,
    LookAgain,
    Machine,
    Open,
    Phase,
    Said,
    Same,
    Show,
    Surroundings,
    Switched,
    Undone,
    Wanted,
    Wished,
)

HERE, THERE = Aim("a", Bounds(0, 0, 64, 64)), Aim("b", Bounds(0, 0, 64, 64))


def make() -> Machine:
    numbers = itertools.count(1)
    return Machine(lambda: f"live{next(numbers)}")


def started() -> Machine:
    machine = make()
    machine.feed(Wished("cat"))
    machine.feed(Surroundings(HERE))
    assert machine.feed(Switched(True)) == [Open("live1", HERE, 1)]
    assert machine.phase is Phase.STARTING
    return machine


def test_on_and_off() -> None:
    machine = started()
    assert machine.feed(FrameCame("live1", 1)) == [Show("live1", 1)] and machine.phase is Phase.ON
    assert machine.feed(Switched(False)) == [Close("live1")] and machine.phase is Phase.OFF
    assert machine.feed(FrameCame("live1", 2)) == []


def test_something_in_the_way_pauses_and_says_what() -> None:
    machine = started()
    assert machine.feed(Surroundings(HERE, "A job is running.")) == [Close("live1")]
    assert (machine.phase, machine.text) == (Phase.PAUSED, "A job is running.")
    assert machine.feed(FrameCame("live1", 1)) == []
    assert machine.feed(Surroundings(HERE)) == [Open("live2", HERE, 2)]


def test_another_document_or_region_is_another_session() -> None:
    machine = started()
    assert machine.feed(Surroundings(THERE)) == [Close("live1"), Open("live2", THERE, 2)]
    assert machine.feed(FrameCame("live1", 1)) == [], "a frame of the first document"
    assert machine.feed(Surroundings(None)) == [Close("live2")] and machine.phase is Phase.PAUSED


def test_no_frame_from_before_an_undo_is_shown_after_it() -> None:
    machine = started()
    look, ask = machine.number(), machine.number()
    assert machine.feed(FrameCame("live1", look)) == [Show("live1", look)]
    assert machine.feed(Undone()) == [LookAgain("live1")]
    assert machine.feed(FrameCame("live1", ask)) == []
    assert machine.feed(FrameCame("live1", machine.number())) == [Show("live1", 4)]


def test_an_undo_that_changed_no_pixel_costs_no_frame() -> None:
    """As when a result is taken off the canvas: nothing else would ask for a picture until the painter paints."""
    machine = started()
    ask = machine.number()
    machine.feed(Undone())
    look = machine.number()
    assert machine.feed(FrameCame("live1", ask)) == [] and machine.phase is Phase.STARTING
    assert machine.feed(Same("live1", ask)) == [], "what was read before it says nothing"
    assert machine.feed(Same("live1", look)) == [Show("live1", ask)] and machine.phase is Phase.ON
    later = machine.number()
    machine.feed(Undone())
    assert machine.feed(Same("live1", machine.number())) == []
    assert machine.feed(FrameCame("live1", later)) == [Show("live1", later)], "it comes after the look"


def test_no_frame_older_than_the_shown_one() -> None:
    machine = started()
    first, second = machine.number(), machine.number()
    assert machine.feed(FrameCame("live1", second)) == [Show("live1", second)]
    assert machine.feed(FrameCame("live1", first)) == []
    assert machine.feed(FrameCame("live1", second)) == []


def test_another_wish_is_asked_for_at_once_and_the_same_one_is_not() -> None:
    machine = started()
    assert machine.feed(Wished("dog")) == [Ask("live1", 2)]
    assert machine.feed(Wished("dog")) == []
    assert machine.feed(Changed()) == [LookAgain("live1")]


def test_a_server_without_the_canvas_gets_all_of_it() -> None:
    assert started().feed(Wanted("live1")) == [Ask("live1", 2, whole=True)]


def test_a_failure_is_said_and_tried_again_when_the_painter_changes_something() -> None:
    machine = started()
    assert machine.feed(Said("live1", "loading", "Loading the model.")) == [] and machine.text == "Loading the model."
    assert machine.feed(Said("live1", "failed", "No memory.")) == [Close("live1")]
    assert (machine.phase, machine.text) == (Phase.FAILED, "No memory.")
    assert machine.feed(Surroundings(HERE)) == [], "looking at the document is no change"
    assert machine.feed(Wished("dog")) == [Open("live2", HERE, 2)]


lives = st.sampled_from(["live1", "live2", "live3", "nobody"])
events = st.one_of(
    st.builds(Switched, st.booleans()),
    st.builds(Surroundings, st.sampled_from([HERE, THERE, None]), st.sampled_from(["", "", "in the way"])),
    st.builds(Wished, st.sampled_from(["cat", "dog"])),
    st.just(Changed()),
    st.just(Undone()),
    st.builds(Wanted, lives),
    st.builds(FrameCame, lives, st.integers(0, 12)),
    st.builds(Same, lives, st.integers(0, 12)),
    st.builds(Said, lives, st.sampled_from(["loading", "ready", "failed"])),
)


@settings(max_examples=120, deadline=None)
@given(st.lists(events, max_size=40))
def test_any_order_of_events(order: list[Any]) -> None:
    machine = make()
    open_: str = ""
    known: set[str] = set()
    last_number = last_shown = 0
    floor = 0
    wish: Any = None
    around: Any = Surroundings(None)
    for event in order:
        before = machine.generation
        effects = machine.feed(event)
        wish = event.wish if isinstance(event, Wished) else wish
        around = event if isinstance(event, Surroundings) else around
        floor = before + 1 if isinstance(event, Undone) else floor
        if isinstance(event, Same) and event.live == open_ != "" and event.generation >= floor:
            floor = 0
        for effect in effects:
            if isinstance(effect, Close):
                assert effect.live == open_
                open_ = ""
            elif isinstance(effect, Open):
                assert open_ == "" and effect.live not in known, "one session at a time, each with its own id"
                assert wish is not None and effect.aim == around.aim and not around.obstacle
                open_ = effect.live
                known.add(open_)
            else:
                assert effect.live == open_ != ""
            if isinstance(effect, (Open, Ask)):
                assert effect.generation > last_number
                last_number = effect.generation
            if isinstance(effect, Show):
                assert effect.generation > last_shown and effect.generation >= floor
                last_shown = effect.generation
        assert machine.live == open_ and bool(open_) == (machine.phase in (Phase.STARTING, Phase.ON))
        assert machine.wanted or machine.phase is Phase.OFF
    closing = machine.feed(Switched(False))
    assert closing == ([Close(open_)] if open_ else []) and machine.phase is Phase.OFF
