# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs over the real websocket: states, results, batches, zeros, repeats, and stopping in every state."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from krita_sd.wire.client import JobState, is_over
from krita_sd.wire.errors import Code
from krita_sd.wire.frames import Picture
from krita_sd.wire.messages import PreviewWish
from tests.server.harness import LONG, Painter, ServerProcess, tiny

ORDER = ["queued", "loading", "encoding", "sampling", "decoding", "done"]


def canvas(width: int = 64, height: int = 64, seed: int = 0) -> Picture:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)
    pixels[..., 3] = 255
    return Picture("bgra8", width, height, pixels.tobytes())


def selection(width: int = 64, height: int = 64) -> Picture:
    pixels = np.zeros((height, width), np.uint8)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = 255
    pixels[height // 2, width // 4 : width // 2] = 100
    return Picture("grey8", width, height, pixels.tobytes())


async def test_a_job_passes_all_states_once_and_delivers_its_picture(painter: Painter) -> None:
    outcome = await painter.ended(painter.submit(tiny()))
    assert outcome.names == ORDER
    (result,) = outcome.results
    assert (result.picture.format, result.picture.width, result.picture.height) == ("bgra8", 64, 64)
    assert set(result.picture.data[3::4]) == {255}
    assert result.picture.hash == result.result.picture["id"]
    assert result.result.steps_run == 3 and not result.result.partial
    assert {"queued", "loading", "encoding", "sampling", "decoding"} <= set(result.result.ms)
    assert all(value >= 0 for value in result.result.ms.values())


async def test_a_result_carries_its_whole_recipe(painter: Painter) -> None:
    recipe = tiny(seed=0)
    outcome = await painter.ended(painter.submit(recipe))
    resolved = outcome.results[0].result.recipe
    assert resolved.seed == 0 and resolved.steps == 3 and resolved.guidance == 2.0
    assert resolved.sampler == "Euler" and resolved.min_steps == 1  # the model's own defaults
    assert resolved.model.startswith("tiny-")


async def test_same_recipe_same_bytes_and_batch_image_i_is_seed_plus_i(painter: Painter) -> None:
    batch = painter.submit(tiny(), count=3)
    single = painter.submit(tiny(seed=7))
    await painter.ended(batch, single)
    results = painter.outcome(batch).results
    assert [(item.result.index, item.result.count, item.result.recipe.seed) for item in results] == [
        (0, 3, 5),
        (1, 3, 6),
        (2, 3, 7),
    ]
    assert results[2].picture.data == painter.outcome(single).results[0].picture.data
    assert results[0].picture.data != results[1].picture.data
    assert painter.outcome(batch).names.count("done") == 1


async def test_the_seed_wraps_at_its_end(painter: Painter) -> None:
    outcome = await painter.ended(painter.submit(tiny(seed=2**63 - 1), count=2))
    assert [item.result.recipe.seed for item in outcome.results] == [2**63 - 1, 0]


async def test_zeros_are_values(painter: Painter) -> None:
    zero = painter.submit(tiny(guidance=0.0, seed=0, negative=""))
    one = painter.submit(tiny(guidance=1.0, seed=0))
    two = painter.submit(tiny(guidance=2.0, seed=0))
    picture, mask = canvas(), selection()
    still = painter.submit(
        tiny(kind="img2img", strength=0.0, image=picture.hash), (picture,), previews=PreviewWish("rgb")
    )
    hard = painter.submit(tiny(kind="inpaint", feather=0, grow=0, image=picture.hash, mask=mask.hash), (picture, mask))
    await painter.ended(zero, one, two, still, hard)
    assert painter.outcome(zero).results[0].result.recipe.guidance == 0.0
    # Guidance 0 and 1 both run without the negative prompt; 2 does not.
    assert painter.outcome(one).results[0].picture.data != painter.outcome(two).results[0].picture.data
    assert painter.outcome(still).results[0].picture.data == picture.data
    assert painter.outcome(still).results[0].result.steps_run == 0
    resolved = painter.outcome(hard).results[0].result.recipe
    assert resolved.feather == 0 and resolved.grow == 0


async def test_inpainting_is_transparent_outside_and_never_above_the_selection(painter: Painter) -> None:
    picture, mask = canvas(100, 80), selection(100, 80)
    recipe = tiny(kind="inpaint", width=100, height=80, image=picture.hash, mask=mask.hash)
    outcome = await painter.ended(painter.submit(recipe, (picture, mask)))
    alpha = np.frombuffer(outcome.results[0].picture.data[3::4], np.uint8)
    selected = np.frombuffer(mask.data, np.uint8)
    assert (alpha <= selected).all() and alpha.max() > 200
    resolved = outcome.results[0].result.recipe
    assert isinstance(resolved.feather, int) and isinstance(resolved.grow, int)


@pytest.mark.parametrize("width, height", [(1, 1), (400, 20), (37, 91), (200, 200)])
async def test_any_size_comes_back_in_that_size(painter: Painter, width: int, height: int) -> None:
    picture = canvas(width, height)
    recipe = tiny(kind="img2img", width=width, height=height, strength=0.5, image=picture.hash)
    outcome = await painter.ended(painter.submit(recipe, (picture,)))
    assert outcome.names[-1] == "done", outcome.last.error
    assert (outcome.results[0].picture.width, outcome.results[0].picture.height) == (width, height)


async def test_an_empty_selection_is_one_sentence_and_the_next_job_works(painter: Painter) -> None:
    picture = canvas()
    mask = Picture("grey8", 64, 64, bytes(64 * 64))
    recipe = tiny(kind="inpaint", image=picture.hash, mask=mask.hash)
    outcome = await painter.ended(painter.submit(recipe, (picture, mask)))
    assert outcome.last.error is not None and outcome.last.error.code is Code.BAD_REQUEST
    assert "selection is empty" in outcome.last.error.message
    assert (await painter.ended(painter.submit(tiny()))).names[-1] == "done"


async def test_a_picture_of_another_size_than_the_recipe_is_refused(painter: Painter) -> None:
    picture = canvas(32, 64)
    outcome = await painter.ended(painter.submit(tiny(kind="img2img", image=picture.hash), (picture,)))
    assert outcome.last.error is not None and "32 x 64" in outcome.last.error.message


async def test_reliable_previews_come_after_every_step(painter: Painter) -> None:
    wish = PreviewWish(level="full", reliable=True)
    outcome = await painter.ended(painter.submit(tiny(steps=7), previews=wish, count=2))
    assert [(item.index, item.step, item.total) for item in outcome.previews] == [
        (index, step, 7) for index in range(2) for step in range(1, 8)
    ]
    assert all((item.picture.width, item.picture.height) == (64, 64) for item in outcome.previews)


async def test_previews_respect_their_bound_and_come_before_the_result(painter: Painter) -> None:
    job = painter.submit(tiny(steps=20), previews=PreviewWish(level="rgb", max_pixels=40))
    outcome = await painter.ended(job)
    assert outcome.previews
    assert all(item.picture.width * item.picture.height <= 40 for item in outcome.previews)
    kinds = [type(event).__name__ for event in painter.events]
    assert max(i for i, kind in enumerate(kinds) if kind == "PreviewReady") < kinds.index("ResultReady")


async def test_progress_counts_executed_steps_and_never_goes_back(painter: Painter) -> None:
    picture = canvas()
    recipe = tiny(kind="img2img", steps=40, strength=0.5, image=picture.hash)
    outcome = await painter.ended(painter.submit(recipe, (picture,)))
    sampled = [item for item in outcome.progress if item.state == "sampling"]
    steps = [item.step for item in sampled]
    assert steps and steps == sorted(steps) and all(item.total == 20 for item in sampled)
    assert all(item.eta_s is not None and item.eta_s >= 0 for item in outcome.progress)
    assert outcome.results[0].result.steps_run == 20


async def test_a_repeated_submit_is_the_same_job(painter: Painter) -> None:
    job = painter.submit(tiny(steps=30))
    await painter.reaches(job, "loading")
    painter.submit(tiny(steps=30), job=job)
    await painter.ended(job)
    painter.submit(tiny(steps=30), job=job)
    await painter.quiet()
    assert len(painter.outcome(job).results) == 1 and len(painter.outcome(job).terminals) == 1


@pytest.mark.parametrize("state", ["queued", "loading", "encoding", "sampling", "decoding", "done"])
async def test_cancel_in_every_state_ends_the_job_once(painter: Painter, state: str) -> None:
    job = painter.submit(tiny())
    await painter.reaches(job, state)
    painter.cancel(job)
    painter.cancel(job)
    after = painter.submit(tiny(seed=1))
    await painter.ended(job, after)
    await painter.quiet(0.2)
    assert len(painter.outcome(job).terminals) == 1
    assert painter.outcome(after).names[-1] == "done"


async def test_cancel_before_anything_is_sent(painter: Painter) -> None:
    job = painter.submit(tiny())
    painter.cancel(job)
    await painter.ended(job)
    await painter.quiet(0.2)
    assert painter.outcome(job).names in (["cancelled"], ["queued", "cancelled"])


async def test_cancelling_one_job_never_stops_another(painter: Painter) -> None:
    first = painter.submit(tiny(steps=LONG["steps"]), count=LONG["count"])
    second = painter.submit(tiny(seed=1))
    third = painter.submit(tiny(seed=2))
    await painter.reaches(first, "sampling")
    painter.cancel(second)
    await painter.ended(second)
    assert not painter.outcome(first).terminals
    painter.cancel(first)
    await painter.ended(first, third)
    assert painter.outcome(first).names[-1] == "cancelled"
    assert painter.outcome(second).names == ["queued", "cancelled"]
    assert painter.outcome(third).names[-1] == "done"


async def test_the_same_recipe_gives_the_same_bytes_after_a_cancel(painter: Painter) -> None:
    before = await painter.ended(painter.submit(tiny()))
    job = painter.submit(tiny(steps=LONG["steps"]), count=LONG["count"])
    await painter.reaches(job, "sampling")
    painter.cancel(job)
    after = await painter.ended(painter.submit(tiny()))
    assert after.results[0].picture.data == before.results[0].picture.data


async def test_a_cancel_that_overtakes_its_submit_is_not_lost(painter: Painter) -> None:
    job = str(uuid.uuid4())
    painter.cancel(job)
    await painter.until(lambda: bool(painter.outcome(job).refused))
    assert painter.outcome(job).refused[0].error.code is Code.UNKNOWN_JOB
    painter.submit(tiny(), job=job)
    outcome = await painter.ended(job)
    await painter.quiet(0.2)
    assert outcome.names == ["cancelled"]


async def test_stop_and_keep_delivers_what_there_is(painter: Painter) -> None:
    job = painter.submit(tiny(steps=LONG["steps"]), count=LONG["count"])
    await painter.until(
        lambda: any(item.step >= 3 and item.state == "sampling" for item in painter.outcome(job).progress)
    )
    painter.finish(job)
    outcome = await painter.ended(job)
    assert outcome.names[-1] == "done" and outcome.results[-1].result.partial
    assert 3 <= outcome.results[-1].result.steps_run < LONG["steps"]


@pytest.mark.parametrize("state", ["loading", "encoding", "sampling", "decoding", "done"])
async def test_stop_and_keep_in_every_state_ends_the_job_once(painter: Painter, state: str) -> None:
    job = painter.submit(tiny(steps=10), count=2)
    await painter.reaches(job, state)
    painter.finish(job)
    painter.finish(job)
    after = painter.submit(tiny(seed=1))
    await painter.ended(job, after)
    await painter.quiet(0.2)
    outcome = painter.outcome(job)
    assert len(outcome.terminals) == 1
    assert outcome.names[-1] == ("done" if outcome.results else "cancelled")
    assert outcome.results or state in ("loading", "encoding")
    assert painter.outcome(after).names[-1] == "done"


async def test_a_cancel_after_stop_and_keep_wins(painter: Painter) -> None:
    job = painter.submit(tiny(steps=LONG["steps"]), count=LONG["count"])
    await painter.reaches(job, "sampling")
    painter.finish(job)
    painter.cancel(job)
    outcome = await painter.ended(job)
    assert len(outcome.terminals) == 1 and outcome.names[-1] in ("cancelled", "done")


async def test_stop_and_keep_before_the_start_is_a_cancel(painter: Painter) -> None:
    running = painter.submit(tiny(steps=LONG["steps"]), count=LONG["count"])
    waiting = painter.submit(tiny())
    await painter.reaches(waiting, "queued")
    painter.finish(waiting)
    await painter.ended(waiting)
    painter.cancel(running)
    await painter.ended(running)
    assert painter.outcome(waiting).names == ["queued", "cancelled"]


async def test_front_runs_before_what_waits_and_replace_cancels_it(painter: Painter) -> None:
    running = painter.submit(tiny(steps=25))
    await painter.reaches(running, "loading")
    back = painter.submit(tiny(seed=1))
    front = painter.submit(tiny(seed=2), place="front")
    await painter.ended(running, back, front)
    ends = [event.state for event in painter.events if isinstance(event, JobState) and is_over(event.state)]
    order = [state.job for state in ends]
    assert order == [running, front, back]
    running = painter.submit(tiny(steps=25))
    await painter.reaches(running, "loading")
    waiting = painter.submit(tiny(seed=3))
    instead = painter.submit(tiny(seed=4), place="replace")
    await painter.ended(running, waiting, instead)
    assert painter.outcome(waiting).names == ["queued", "cancelled"]
    assert painter.outcome(running).names[-1] == painter.outcome(instead).names[-1] == "done"


async def test_two_windows_take_turns_and_get_their_own_results(server: ServerProcess) -> None:
    async with server.client() as one, server.client() as two:
        first, second = Painter(one), Painter(two)
        batch = first.submit(tiny(steps=12), count=5)
        await first.reaches(batch, "sampling")
        single = second.submit(tiny(seed=9))
        await second.ended(single)
        assert not first.outcome(batch).terminals, "a batch in one window kept the other waiting"
        await first.ended(batch)
        assert {result.result.job for result in first.outcome(batch).results} == {batch}
        assert single not in first.jobs and batch not in second.jobs


async def test_an_input_the_server_has_is_not_sent_again(painter: Painter) -> None:
    picture = canvas(seed=77)
    recipe = tiny(kind="img2img", strength=0.5, image=picture.hash)
    await painter.ended(painter.submit(recipe, (picture,)))
    # No bytes are given this time: the server still has them under their hash.
    outcome = await painter.ended(painter.submit(recipe.replace(seed=6)))
    assert outcome.names[-1] == "done"


async def test_a_result_can_be_an_input_without_being_sent(painter: Painter) -> None:
    result = (await painter.ended(painter.submit(tiny()))).results[0]
    recipe = tiny(kind="img2img", strength=0.5, image=result.picture.hash)
    assert (await painter.ended(painter.submit(recipe))).names[-1] == "done"
