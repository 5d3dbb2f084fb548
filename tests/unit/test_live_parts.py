# SPDX-License-Identifier: GPL-3.0-or-later
"""Small parts of Live: the rectangle around strokes, fresh paint, times, batteries, recordings."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from krita_sd import plan
from krita_sd.geometry import NATIVE, Bounds, Extent, NativeRange
from krita_sd.live import power, region
from krita_sd.live.fresh import Fresh
from krita_sd.live.machine import Aim, FrameCame, Machine, Phase, Said, Surroundings, Switched, Wished
from krita_sd.live.record import MAX_WAITING, Recorder
from krita_sd.live.settings import LiveSettings
from krita_sd.live.timing import PARTS, Timeline, Trip
from krita_sd.live.view import status
from krita_sd.settings import Settings
from krita_sd.wire.live import TILE
from krita_sd.wire.values import UNSET

SMALL = NativeRange(192, 384, 192 * 192, 320 * 320, 8, False, 256 * 256)
POCKET = {"native": dict(zip(NativeRange._fields, SMALL))}
CANVAS = Extent(1024, 768)

spots = st.tuples(st.integers(-50, 1100), st.integers(-50, 800), st.integers(1, 400), st.integers(1, 400))


@settings(max_examples=50, deadline=None)
@given(st.lists(spots.map(lambda box: Bounds(*box)), min_size=1, max_size=6), st.sampled_from([SMALL, NATIVE["sd1"]]))
def test_the_rectangle_lies_on_the_canvas_and_holds_the_newest_stroke(
    strokes: list[Bounds], native: NativeRange
) -> None:
    window = None
    for stroke in strokes:
        window = region.follow(window, stroke, CANVAS, native)
        assert Bounds.of(CANVAS).contains(window) and window.extent == region.window_extent(CANVAS, native)
        inside = stroke.intersect(Bounds.of(CANVAS))
        if (
            not inside.is_empty
            and inside.width <= window.width - 2 * TILE
            and inside.height <= window.height - 2 * TILE
        ):
            assert window.contains(inside)
        assert region.follow(window, stroke, CANVAS, native) == window, "the same stroke again moves nothing"


def test_a_stroke_in_the_middle_does_not_move_the_rectangle() -> None:
    window = region.follow(None, Bounds(500, 300, 10, 10), CANVAS, SMALL)
    assert region.follow(window, Bounds(520, 310, 30, 30), CANVAS, SMALL) == window
    assert region.follow(window, Bounds(900, 700, 10, 10), CANVAS, SMALL) != window


def planned(settings: Settings, live: LiveSettings, extent: Extent, selection: Bounds | None) -> plan.Plan:
    def ask(chosen: Settings) -> plan.Plan:
        return plan.make(chosen, POCKET, extent, selection, chosen.seed)

    return region.make(settings, live, SMALL, extent, selection, None, ask)


@pytest.mark.parametrize(
    "wanted, extent, expected",
    [
        ("automatic", Extent(300, 300), Bounds(0, 0, 300, 300)),
        ("automatic", Extent(1024, 1024), Bounds(384, 384, 256, 256)),
        ("canvas", Extent(1024, 1024), Bounds(0, 0, 1024, 1024)),
        ("strokes", Extent(300, 300), Bounds(0, 0, 256, 256)),
    ],
)
def test_which_part_of_the_canvas(wanted: str, extent: Extent, expected: Bounds) -> None:
    made = planned(Settings(seed=9), LiveSettings(region=wanted, seed=3), extent, None)
    assert made.bounds == expected and (made.recipe.width, made.recipe.height) == expected.extent
    assert (made.kind, made.recipe.strength, made.recipe.seed) == ("img2img", 0.3, 3)


def test_a_selection_goes_before_everything_and_is_repainted() -> None:
    selection = Bounds(100, 100, 200, 200)
    made = planned(Settings(strength=1.0), LiveSettings(region="strokes"), CANVAS, selection)
    assert made.kind == "inpaint" and made.bounds.contains(selection)


def test_zeros_of_live_survive() -> None:
    live = LiveSettings(strength=0.0, seed=0, guidance=0.0, opacity=0.0)
    made = planned(Settings(strength=0.7).with_params(steps=40, sampler="DDIM"), live, CANVAS, None)
    assert made.recipe.steps is UNSET and made.recipe.sampler is UNSET, "not those of Generate"
    assert (made.recipe.strength, made.recipe.seed, made.recipe.guidance) == (0.0, 0, 0.0)
    assert Settings.read(Settings(live=live).to_json()).live == live
    assert Settings.read({"live": {"strength": "much", "place": "moon", "steps": -1}}).live == LiveSettings()


def test_fresh_paint_is_seen_until_a_frame_contains_it() -> None:
    fresh = Fresh()
    fresh.painted(Bounds(0, 0, 10, 10))
    fresh.read(3, Bounds(0, 0, 10, 10))
    fresh.painted(Bounds(50, 0, 10, 10))
    fresh.shown(2)
    assert fresh.box == Bounds(0, 0, 60, 10)
    fresh.shown(3)
    assert fresh.box == Bounds(50, 0, 10, 10)
    fresh.read(4, Bounds(0, 0, 0, 0))
    fresh.unchanged(4, settled=False)
    assert fresh.box == Bounds(50, 0, 10, 10), "Krita may only be slower than the pen"
    fresh.read(5, Bounds(0, 0, 0, 0))
    fresh.unchanged(5, settled=True)
    assert fresh.box.is_empty


def test_a_latency_is_that_of_the_oldest_pen_event_and_its_parts_add_up() -> None:
    line = Timeline()
    line.begin(Trip(1, event=1.0, began=1.1, read=1.2))
    line.begin(Trip(2, event=1.5, began=1.6, read=1.7))
    line.note(2, sent=1.8, arrived=2.6, queue=0.1, model=0.5)
    line.end(2, 2.7)
    (trip,) = line.done
    assert trip.latency == pytest.approx(1.7), "the request of the older event was superseded"
    assert tuple(trip.parts()) == PARTS and sum(trip.parts().values()) == pytest.approx(1.7)
    line.end(1, 3.0)
    assert len(line.done) == 1
    assert line.summary() == (pytest.approx(1.7), 0.0)


def test_what_no_frame_has_answered_is_waited_for() -> None:
    line = Timeline()
    assert line.waiting(9.0) == 0.0
    for number in (1, 2, 3):
        line.begin(Trip(number, began=number))
    assert line.waiting(9.0) == 0.0, "nothing has left"
    line.note(2, sent=2.0)
    line.note(3, sent=3.0)
    assert line.waiting(9.0) == 7.0
    line.answered(2)
    assert line.waiting(9.0) == 6.0
    line.answered(3)  # also when it is not shown: it shows what the painter has undone
    assert line.waiting(9.0) == 0.0


def test_while_the_picture_stands_still_the_status_says_why() -> None:
    machine = Machine(lambda: "a")
    aim = Aim("doc", Bounds(0, 0, 8, 8))
    for event in (Switched(True), Wished("wish"), Surroundings(aim)):
        machine.feed(event)
    machine.feed(FrameCame("a", machine.generation))
    assert status(machine, 0.1, 0.0) == "100 ms behind the pen"
    machine.feed(Said("a", "loading"))
    assert machine.phase is Phase.ON and status(machine, 0.1, 0.0) == "The server loads the model ..."
    machine.feed(FrameCame("a", machine.number()))
    assert status(machine, 0.1, 0.0) == "100 ms behind the pen"


def test_the_status_says_how_far_behind() -> None:
    machine = Machine(lambda: "a")
    assert status(machine, 1.0, 1.0) == ""
    machine.wanted, machine.phase = True, Phase.ON
    assert status(machine, 0.12, 8.0) == "120 ms behind the pen, 8.0 pictures per second"
    assert status(machine, 1.52, 0.0) == "1.5 s behind the pen"
    assert status(machine, 0.12, 0.0, 2.9) == "120 ms behind the pen"
    assert status(machine, 0.12, 0.0, 3.1) == "Waiting for the picture for 3 s."
    assert status(machine, 2.0, 0.0, 5.9) == "2.0 s behind the pen", "as slow as ever"
    machine.phase, machine.text = Phase.PAUSED, "A job is running."
    assert status(machine, 0.12, 8.0) == "Paused. A job is running."


def supply(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text + "\n")


def test_batteries(tmp_path: Path) -> None:
    assert not power.on_battery("linux", tmp_path / "none")
    assert not power.on_battery("plan9", tmp_path)
    supply(tmp_path / "hid", type="Battery", scope="Device", status="Discharging")
    assert not power.on_battery("linux", tmp_path), "a mouse"
    supply(tmp_path / "BAT0", type="Battery", status="Discharging")
    assert power.on_battery("linux", tmp_path)
    supply(tmp_path / "AC", type="Mains", online="1")
    assert not power.on_battery("linux", tmp_path)


class Image:
    """Stands for a QImage."""

    def __init__(self, works: bool = True) -> None:
        self.works = works

    def save(self, path: str, kind: str, quality: int) -> bool:
        Path(path).write_bytes(kind.encode())
        return self.works


def test_a_recording_is_one_folder_of_numbered_files(tmp_path: Path) -> None:
    clock = time.struct_time((2026, 11, 21, 9, 30, 0, 5, 325, 0))
    (tmp_path / "2026-11-21 09-30-00").mkdir()
    recorder = Recorder(tmp_path / "new", clock)
    for _ in range(3):
        recorder.add(Image)
    recorder.close()
    names = sorted(path.name for path in recorder.folder.iterdir())
    assert names == [f"frame 0000{number}.png" for number in (1, 2, 3)] and recorder.written == 3
    assert Recorder(tmp_path, clock).folder.name == "2026-11-21 09-30-00 (2)"


def test_a_full_disk_ends_a_recording_with_a_sentence_and_a_slow_one_drops_pictures(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    recorder.add(lambda: Image(works=False))
    recorder.close()
    assert recorder.problem.startswith("Recording stopped") and recorder.written == 0

    class Slow(Image):
        def save(self, path: str, kind: str, quality: int) -> Any:
            time.sleep(0.05)
            return super().save(path, kind, quality)

    recorder = Recorder(tmp_path)
    for _ in range(MAX_WAITING + 8):
        recorder.add(Slow)
    recorder.close()
    assert recorder.left_out >= 5 and recorder.written == MAX_WAITING + 8 - recorder.left_out
