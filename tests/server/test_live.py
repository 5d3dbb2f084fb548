# SPDX-License-Identifier: GPL-3.0-or-later
"""Live over the real websocket with a real worker: the newest request always completes, nothing stale comes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from krita_sd.wire.client import LiveCanvasWanted, LiveFrame, LiveStatus, Refused, ResultReady
from krita_sd.wire.errors import Code
from krita_sd.wire.frames import Picture
from krita_sd.wire.live import TILE, Live, Patch
from krita_sd.wire.recipe import Recipe
from tests.server.harness import PATIENCE, Painter, ServerProcess, running, tiny

SIDE = 64


class Pen:
    """A painter with Live on: a canvas of `side` pixels, requests, and what came back."""

    def __init__(self, painter: Painter, side: int = SIDE, name: str = "pen", **recipe: Any) -> None:
        self.painter = painter
        self.core = painter.client.core
        self.side, self.name = side, name
        self.columns = -(-side // TILE)
        self.tiles = {index: tile(index) for index in range(self.columns**2)}
        self.generation = 0
        self.recipe = live_recipe(painter, side, **recipe)

    def ask(self, tiles: dict[int, bytes] | None = None, pictures: tuple[Picture, ...] = (), **change: Any) -> int:
        self.tiles.update(tiles or {})
        if change:
            self.recipe = self.recipe.replace(**change)
        sent = self.tiles if tiles is None else tiles
        self.generation += 1
        request = Live(self.name, self.generation, 0, self.recipe)
        named = {picture.hash: picture for picture in pictures}
        self.core.live(request, named, self.side, self.side, sent)
        self.painter.client.flush()
        return self.generation

    def stop(self) -> None:
        self.core.live_stop(self.name)
        self.painter.client.flush()

    @property
    def frames(self) -> list[LiveFrame]:
        return [event for event in self.painter.events if isinstance(event, LiveFrame) and event.live == self.name]

    @property
    def statuses(self) -> list[LiveStatus]:
        return [event for event in self.painter.events if isinstance(event, LiveStatus)]

    async def frame(self, generation: int) -> LiveFrame:
        """Until the frame of that request, the newest there is, has come."""
        known = sum(status.state.state == "failed" for status in self.statuses)

        def done() -> bool:
            failed = [status.state for status in self.statuses if status.state.state == "failed"][known:]
            assert not failed, failed
            return bool(self.frames) and self.frames[-1].generation >= generation

        await self.painter.until(done, "the frame")
        return self.frames[-1]

    async def told(self, kind: type, count: int = 1) -> list[Any]:
        def found() -> list[Any]:
            return [event for event in self.painter.events if isinstance(event, kind)]

        await self.painter.until(lambda: len(found()) >= count, kind.__name__)
        return found()


def tile(value: int) -> bytes:
    return bytes([value * 40 % 256, value * 90 % 256, 128, 255]) * (TILE * TILE)


def live_recipe(painter: Painter, side: int, **changes: Any) -> Recipe:
    recipe = Recipe(kind="img2img", prompt="a red circle", width=side, height=side, steps=4, strength=0.5, seed=5)
    return recipe.replace(model=painter.tiny_model(), sampler="LCM", guidance=1.0).replace(**changes)


def pixels(frame: LiveFrame) -> np.ndarray:
    picture = frame.picture
    return np.frombuffer(picture.data, np.uint8).reshape(picture.height, picture.width, 4)


async def test_a_frame_of_the_canvas_comes_and_says_what_it_took(painter: Painter) -> None:
    pen = Pen(painter, 100)
    frame = await pen.frame(pen.ask())
    assert (frame.picture.format, frame.picture.width, frame.picture.height) == ("bgra8", 100, 100)
    assert set(pixels(frame)[..., 3].ravel()) == {255}
    assert {"queued", "patch", "prepare", "encode", "sample", "decode", "pack", "total"} <= set(frame.header["ms"])
    assert frame.header["steps"] == 2


async def test_what_stays_is_computed_once(painter: Painter) -> None:
    """On an unchanged wish: no text encoder, no schedule, no noise, no session; an encode only for changed pixels."""
    pen = Pen(painter)
    await pen.frame(pen.ask())
    before = Counter((await pen.frame(pen.ask({}))).header["counts"])
    again = Counter((await pen.frame(pen.ask({}))).header["counts"])
    changed = Counter((await pen.frame(pen.ask({0: tile(3)}))).header["counts"])
    assert again - before == Counter(frames=1, steps=2, decodes=1)
    assert changed - again == Counter(frames=1, steps=2, decodes=1, encodes=1)
    other = Counter((await pen.frame(pen.ask({}, seed=6))).header["counts"])
    assert other - changed == Counter(frames=1, steps=2, decodes=1, noises=1)
    prompt = Counter((await pen.frame(pen.ask({}, prompt="a blue square"))).header["counts"])
    assert prompt - other == Counter(frames=1, steps=2, decodes=1, conditions=1)


async def test_the_same_canvas_gives_the_same_bytes_and_another_one_others(painter: Painter) -> None:
    pen = Pen(painter)
    first = await pen.frame(pen.ask())
    second = await pen.frame(pen.ask({}))
    third = await pen.frame(pen.ask({0: tile(5)}))
    assert first.picture == second.picture != third.picture


async def test_a_burst_of_200_requests_runs_few_and_the_last_completes(painter: Painter) -> None:
    """J8. One may run already, one more is not superseded in favour of a third, then the last."""
    pen = Pen(painter)
    before = (await pen.frame(pen.ask())).generation
    for number in range(200):
        pen.ask({0: tile(number)})
    assert (await pen.frame(pen.generation)).generation == pen.generation
    shown = [frame.generation for frame in pen.frames if frame.generation > before]
    assert len(shown) <= 3 and shown == sorted(shown)


async def test_200_requests_one_by_one_are_overwritten_where_they_wait(painter: Painter) -> None:
    """Each request leaves the client by itself; the mailboxes behind it hold one at most."""
    pen = Pen(painter, 192, steps=12, strength=1.0)
    start = (await pen.frame(pen.ask())).header["counts"]
    for number in range(200):
        pen.ask({0: tile(number)})
        await asyncio.sleep(0.002)  # the sender's turn
    last = await pen.frame(pen.generation)
    counts = Counter(last.header["counts"]) - Counter(start)
    assert last.generation == pen.generation
    assert counts["frames"] + counts["superseded"] < 60
    generations = [frame.generation for frame in pen.frames]
    assert generations == sorted(set(generations))


async def test_bytes_up_for_a_stroke(painter: Painter, monkeypatch: pytest.MonkeyPatch) -> None:
    pen = Pen(painter, 1024)
    sent: list[int] = []
    await pen.frame(pen.ask())
    outgoing = pen.core.outgoing

    def counted() -> Any:
        message = outgoing()
        sent.append(len(message) if message is not None else 0)
        return message

    monkeypatch.setattr(pen.core, "outgoing", counted)
    await pen.frame(pen.ask({index: tile(9) for index in (0, 1, 2, 16, 17, 18)}))
    assert 0 < sum(sent) <= 4 * 1024**2 / 28


async def test_a_selection_shows_only_itself(painter: Painter) -> None:
    mask = np.zeros((SIDE * 2, SIDE * 2), np.uint8)
    mask[32:96, 40:80] = 255
    chosen = Picture("grey8", SIDE * 2, SIDE * 2, mask.tobytes())
    pen = Pen(painter, SIDE * 2, kind="inpaint", mask=chosen.hash, exact_mask=True)
    frame = await pen.frame(pen.ask(pictures=(chosen,)))
    assert np.array_equal(pixels(frame)[..., 3], mask)
    assert (await pen.frame(pen.ask({}, pictures=(chosen,)))).picture == frame.picture


async def test_strength_0_is_the_canvas_itself(painter: Painter) -> None:
    pen = Pen(painter, strength=0.0)
    frame = await pen.frame(pen.ask())
    assert frame.picture.data == tile(0) and frame.header["steps"] == 0


async def test_after_stop_nothing_comes_and_the_name_can_be_used_again(painter: Painter) -> None:
    pen = Pen(painter)
    await pen.frame(pen.ask())
    pen.ask({0: tile(1)})
    pen.stop()
    seen = len(pen.frames)
    await painter.quiet(0.3)
    assert len(pen.frames) == seen
    pen.tiles[0] = tile(2)
    assert (await pen.frame(pen.ask())).generation == pen.generation


async def test_a_reconnect_wants_the_canvas_again(painter: Painter) -> None:
    pen = Pen(painter)
    first = await pen.frame(pen.ask())
    painter.client.drop()
    await pen.told(LiveCanvasWanted)
    assert (await pen.frame(pen.ask())).picture == first.picture


async def test_a_patch_on_another_version_is_answered_lost(painter: Painter) -> None:
    pen = Pen(painter)
    await pen.frame(pen.ask())
    # What a client with a defect would send; its core believes that the server has the canvas.
    wrong = Patch(pen.name, 41, 42, SIDE, SIDE, {0: tile(1)})
    pen.core._texts.extend(wrong.frames())  # type: ignore[arg-type]
    painter.client.flush()
    assert len(await pen.told(LiveCanvasWanted)) == 1
    frame = await pen.frame(pen.ask({0: tile(7)}))
    assert frame.generation == pen.generation


async def test_live_waits_for_a_picture_and_says_so_then_goes_on(painter: Painter) -> None:
    pen = Pen(painter)
    await pen.frame(pen.ask())
    job = painter.submit(tiny(width=192, height=192, steps=150))
    await painter.reaches(job, "sampling")
    asked = pen.ask({0: tile(4)})
    await painter.until(lambda: any("Waiting" in status.state.text for status in pen.statuses), "the sentence")
    assert pen.frames[-1].generation < asked
    painter.cancel(job)
    assert (await pen.frame(asked)).generation == asked
    await painter.ended(job)


async def test_a_batch_and_live_take_turns(painter: Painter) -> None:
    """Between two pictures of a batch a waiting frame comes; live in its turn does not hold up the batch."""
    pen = Pen(painter)
    await pen.frame(pen.ask())
    job = painter.submit(tiny(), count=6)
    order: list[str] = []
    seen = len(painter.events)

    def more_than(count: int) -> bool:
        return len(painter.events) > count

    while not painter.outcome(job).terminals:
        pen.ask({0: tile(len(painter.events))})
        await painter.until(partial(more_than, seen), "anything")
        for event in painter.events[seen:]:
            order += ["frame"] * isinstance(event, LiveFrame) + ["picture"] * isinstance(event, ResultReady)
        seen = len(painter.events)
    inner = order[order.index("picture") : len(order) - order[::-1].index("picture")]
    assert inner.count("picture") == 6 and inner.count("frame") >= 3


async def test_generate_gives_the_same_bytes_with_and_without_live_before_it(painter: Painter) -> None:
    before = await painter.ended(painter.submit(tiny()))
    pen = Pen(painter)
    await pen.frame(pen.ask())
    after = await painter.ended(painter.submit(tiny()))
    assert before.results[0].picture == after.results[0].picture


async def test_what_live_does_without_is_told_once_and_frames_come(painter: Painter) -> None:
    pen = Pen(painter)
    wished: dict[str, Any] = {"variation": 0.5, "variation_seed": 3}
    for _ in range(2):
        await pen.frame(pen.ask(**wished))
    texts = [status.state.text for status in pen.statuses if status.state.text]
    assert texts == ["Live does without variations."]


@pytest.mark.parametrize(
    "change, code",
    [
        ({"model": "nobody"}, Code.MODEL_MISSING),
        ({"kind": "txt2img"}, Code.BAD_REQUEST),
        ({"width": 32}, Code.BAD_REQUEST),
    ],
)
async def test_what_cannot_be_done_fails_with_a_sentence_and_the_next_request_works(
    painter: Painter, change: dict[str, Any], code: Code
) -> None:
    pen = Pen(painter)
    good = pen.recipe
    pen.ask(**change)
    (status,) = await pen.told(LiveStatus)
    assert status.state.state == "failed" and status.state.error is not None and status.state.error.code is code
    assert not [event for event in painter.events if isinstance(event, Refused)]
    pen.recipe = good
    assert (await pen.frame(pen.ask({}))).generation == pen.generation


async def test_two_windows_have_their_own_live(server: ServerProcess, painter: Painter) -> None:
    async with server.client() as second:
        one, two = Pen(painter), Pen(Painter(second))
        two.tiles = {0: tile(3)}
        first, other = one.ask(), two.ask()
        assert (await one.frame(first)).picture != (await two.frame(other)).picture


async def test_a_killed_worker_costs_a_frame_not_the_session(tmp_path: Path, models: Path) -> None:
    with running(tmp_path / "state", "--models", models) as server:
        async with server.client() as client:
            painter = Painter(client)
            pen = Pen(painter)
            first = await pen.frame(pen.ask())
            (worker,) = server.children()
            os.kill(worker, signal.SIGKILL)
            await asyncio.wait_for(pen.told(LiveCanvasWanted), PATIENCE)
            again = (await pen.frame(pen.ask())).picture
            # Not byte by byte: the new worker measures anew in which format the tiny autoencoder is fastest.
            before, after = (np.frombuffer(picture.data, np.uint8).astype(int) for picture in (first.picture, again))
            assert np.abs(before - after).max() <= 3
