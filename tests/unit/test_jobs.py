# SPDX-License-Identifier: GPL-3.0-or-later
"""The job table: whatever order events come in, nothing stays busy, and the canvas shows only what it should."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from krita_sd.geometry import Bounds
from krita_sd.job_events import (
    Adopted,
    Applied,
    Bound,
    CancelPressed,
    Captured,
    Connected,
    Created,
    Discarded,
    Disconnected,
    DocumentClosed,
    Forget,
    Hidden,
    JobFailed,
    JobLost,
    KeepPressed,
    KnownJob,
    Phase,
    Picked,
    Prepare,
    PreviewArrived,
    Progress,
    Reordered,
    ResultArrived,
    ShowPreview,
    ShowResult,
    Starred,
    StateChanged,
    Withdraw,
)
from krita_sd.jobs import JobTable
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.recipe import Recipe

BOX = Bounds(0, 0, 8, 8)
RECIPE = Recipe(width=8, height=8)


def running(table: JobTable, job: str = "a", document: str = "d", count: int = 1) -> None:
    """A job that samples."""
    table.feed(Created(job, document, BOX, RECIPE, count))
    table.feed(Captured(job))
    for phase in (Phase.QUEUED, Phase.LOADING, Phase.ENCODING):
        table.feed(StateChanged(job, phase))
    table.feed(StateChanged(job, Phase.SAMPLING, 0, 0, 12))


def finished(table: JobTable, job: str = "a", document: str = "d", count: int = 1) -> None:
    running(table, job, document, count)
    for index in range(count):
        table.feed(ResultArrived(job, index, RECIPE))
    table.feed(StateChanged(job, Phase.DONE))


def test_a_job_runs_from_button_to_layer() -> None:
    table = JobTable()
    assert table.current is None
    assert table.feed(Created("a", "d", BOX, RECIPE)) == []
    assert table.feed(Captured("a")) == [Prepare("a")]
    assert table.feed(StateChanged("a", Phase.QUEUED)) == []
    assert table.feed(StateChanged("a", Phase.SAMPLING, 0, 0, 12)) == []
    assert table.feed(PreviewArrived("a", 0, 1, "p1")) == [ShowPreview("a", "p1")]
    assert table.feed(ResultArrived("a", 0, RECIPE)) == [ShowResult("a:0")]
    assert table.feed(StateChanged("a", Phase.DONE)) == [ShowResult("a:0")]
    assert table.current is None and table.selected == "a:0"
    assert table.feed(Applied("a:0")) == []
    assert table.results["a:0"].applied and table.stage == {}


def test_cancel_is_final_at_once_and_what_comes_late_is_dropped() -> None:
    table = JobTable()
    running(table)
    assert table.feed(CancelPressed("a")) == [Withdraw("a")]
    assert table.current is None
    assert table.feed(PreviewArrived("a", 0, 5, "late")) == []
    assert table.feed(ResultArrived("a", 0, RECIPE)) == []
    assert table.feed(StateChanged("a", Phase.DONE)) == []
    assert table.jobs["a"].phase is Phase.CANCELLED and table.results == {}


def test_cancelling_one_job_does_not_stop_another() -> None:
    table = JobTable()
    running(table, "a")
    table.feed(Created("b", "d", BOX, RECIPE))
    table.feed(Captured("b"))
    assert table.feed(CancelPressed("b")) == []
    assert table.current is table.jobs["a"]
    assert table.feed(PreviewArrived("a", 0, 1, "p")) == [ShowPreview("a", "p")]


def test_the_running_job_is_the_current_one_even_when_a_later_one_was_put_in_front() -> None:
    table = JobTable()
    table.feed(Created("a", "d", BOX, RECIPE))
    running(table, "b")
    assert table.current is table.jobs["b"]


def test_keep_before_the_first_step_leaves_nothing_to_keep() -> None:
    table = JobTable()
    table.feed(Created("a", "d", BOX, RECIPE))
    table.feed(KeepPressed("a"))
    assert table.jobs["a"].phase is Phase.CANCELLED


def test_keep_while_sampling_waits_for_the_partial_result() -> None:
    table = JobTable()
    running(table)
    assert table.jobs["a"].can_keep
    table.feed(KeepPressed("a"))
    assert table.jobs["a"].active and not table.jobs["a"].can_keep
    assert table.feed(ResultArrived("a", 0, RECIPE, partial=True)) == [ShowResult("a:0")]
    table.feed(StateChanged("a", Phase.DONE))
    assert table.results["a:0"].partial


def test_a_failure_takes_the_preview_away_and_keeps_its_sentence() -> None:
    table = JobTable()
    running(table)
    error = WireError(Code.OUT_OF_MEMORY, "No memory.", "Close something.")
    assert table.feed(JobFailed("a", error)) == [Withdraw("a")]
    assert table.jobs["a"].error is error


def test_pressing_the_button_again_takes_the_unapplied_result_off_the_canvas_first() -> None:
    table = JobTable()
    finished(table)
    assert table.feed(Created("b", "d", BOX, RECIPE)) == [Withdraw("a")]
    assert "a:0" in table.results


def test_a_batch_ends_with_the_newest_or_the_picked_result_on_the_canvas() -> None:
    table = JobTable()
    running(table, count=3)
    table.feed(ResultArrived("a", 0, RECIPE))
    assert table.feed(PreviewArrived("a", 1, 1, "p")) == [ShowPreview("a", "p")]
    assert table.feed(Picked("a:0")) == [ShowResult("a:0")]
    assert table.feed(PreviewArrived("a", 1, 2, "p")) == [], "the painter looks at a result"
    assert table.feed(ResultArrived("a", 1, RECIPE)) == []
    assert table.feed(StateChanged("a", Phase.DONE)) == []
    assert table.selected == "a:0"


def test_looking_at_an_older_result_is_not_disturbed_by_a_running_job() -> None:
    table = JobTable()
    finished(table, "a")
    running(table, "b")
    table.feed(PreviewArrived("b", 0, 1, "p"))
    assert table.feed(Picked("a:0")) == [Withdraw("b"), ShowResult("a:0")]
    assert table.feed(PreviewArrived("b", 0, 2, "p")) == []
    assert table.feed(ResultArrived("b", 0, RECIPE)) == [] and table.selected == "a:0"
    assert table.feed(StateChanged("b", Phase.DONE)) == []


def test_what_is_shown_is_what_apply_is_about() -> None:
    table = JobTable()
    running(table, "a", count=2)
    table.feed(ResultArrived("a", 0, RECIPE))
    assert table.feed(ResultArrived("a", 1, RECIPE)) == [ShowResult("a:1")]
    assert table.selected == "a:1"


def test_discarding_shows_the_neighbour_of_the_same_job_and_the_last_one_leaves_no_trace() -> None:
    table = JobTable()
    finished(table, count=2)
    table.feed(Picked("a:0"))
    assert table.feed(Discarded("a:0")) == [ShowResult("a:1"), Forget("a:0")]
    assert table.feed(Discarded("a:1")) == [Withdraw("a"), Forget("a:1")]
    assert table.selected is None and table.stage == {}


def test_discarding_an_applied_result_does_not_touch_the_layer() -> None:
    table = JobTable()
    finished(table)
    table.feed(Applied("a:0"))
    assert table.feed(Discarded("a:0")) == [Forget("a:0")]


def test_a_closed_document_parks_the_result() -> None:
    table = JobTable()
    running(table)
    assert table.feed(DocumentClosed("d")) == []
    assert table.feed(PreviewArrived("a", 0, 3, "p")) == []
    assert table.feed(ResultArrived("a", 0, RECIPE)) == []
    assert table.feed(StateChanged("a", Phase.DONE)) == []
    assert table.selected == "a:0"


def test_previews_of_two_documents_do_not_meet() -> None:
    table = JobTable()
    running(table, "a", "one")
    running(table, "b", "two")
    assert table.feed(PreviewArrived("a", 0, 1, "p")) == [ShowPreview("a", "p")]
    assert table.feed(PreviewArrived("b", 0, 1, "p")) == [ShowPreview("b", "p")]
    assert table.stage == {"one": "a", "two": "b"}


def test_progress_never_goes_back_but_a_reliable_state_may() -> None:
    table = JobTable()
    running(table)
    table.feed(Progress("a", Phase.SAMPLING, 0, 7, 12))
    table.feed(Progress("a", Phase.SAMPLING, 0, 3, 12))
    assert table.jobs["a"].step == 7
    table.feed(StateChanged("a", Phase.QUEUED))
    assert (table.jobs["a"].phase, table.jobs["a"].step) == (Phase.QUEUED, 0)


@pytest.mark.parametrize("phase", [Phase.CAPTURING, Phase.SENDING])
def test_a_job_the_server_never_saw_survives_a_server_that_knows_nothing(phase: Phase) -> None:
    table = JobTable()
    table.feed(Created("a", "d", BOX, RECIPE))
    if phase is Phase.SENDING:
        table.feed(Captured("a"))
    table.feed(Connected(resumed=False))
    assert table.jobs["a"].phase is phase


def test_a_restarted_server_says_which_jobs_are_lost() -> None:
    table = JobTable()
    running(table, "a")
    running(table, "b", "other")
    table.feed(Disconnected())
    assert table.feed(Connected(known=frozenset("b"), lost=frozenset("a"), resumed=True)) == [Withdraw("a")]
    error = table.jobs["a"].error
    assert error is not None and error.code is Code.INTERRUPTED
    assert table.jobs["b"].active
    table.feed(Connected(resumed=False))
    assert not table.active


def test_a_result_of_an_earlier_krita_comes_into_the_strip() -> None:
    table = JobTable()
    assert table.feed(ResultArrived("old", 0, RECIPE)) == []
    assert table.selected == "old:0"
    assert table.feed(Discarded("old:0")) == [Forget("old:0")]


def test_the_arrow_keys_stop_at_the_ends() -> None:
    table = JobTable()
    assert table.neighbour(1) is None
    finished(table, count=2)
    table.feed(Picked("a:0"))
    assert table.neighbour(1) == "a:1" and table.neighbour(-1) == "a:0"
    table.feed(Picked("a:1"))
    assert table.neighbour(1) == "a:1"


def test_the_queue_is_in_the_order_of_the_server_with_the_running_job_first() -> None:
    table = JobTable()
    for job in "abc":
        table.feed(Created(job, "d", BOX, RECIPE))
        table.feed(Captured(job))
        table.feed(StateChanged(job, Phase.QUEUED))
    table.feed(Created("new", "d", BOX, RECIPE))
    table.feed(Reordered(("c", "a", "b")))
    assert [job.id for job in table.queue] == ["c", "a", "b", "new"]
    table.feed(StateChanged("b", Phase.SAMPLING, 0, 1, 12))
    assert [job.id for job in table.queue] == ["b", "c", "a", "new"]
    assert table.current is table.jobs["b"]


def test_a_plugin_that_was_loaded_anew_learns_its_jobs_from_the_server() -> None:
    table = JobTable()
    known = (KnownJob("x", Phase.SAMPLING, RECIPE, 1, 3), KnownJob("y", Phase.QUEUED, RECIPE))
    table.feed(Connected(frozenset("xy"), jobs=known))
    assert [job.id for job in table.queue] == ["x", "y"] and table.jobs["x"].count == 3
    assert table.feed(PreviewArrived("x", 1, 1, "p")) == [], "nobody knows its document"
    table.feed(Bound("x", "d", BOX))
    assert table.feed(PreviewArrived("x", 1, 2, "p")) == [ShowPreview("x", "p")]
    table.feed(ResultArrived("y", 0, RECIPE))
    assert table.feed(StateChanged("y", Phase.DONE)) == [] and "y:0" in table.results
    assert table.feed(CancelPressed("x")) == [Withdraw("x")]
    table.feed(Connected(frozenset("x"), jobs=known[:1]))
    assert not table.active, "what was cancelled does not come back"


def test_a_picture_of_the_history_is_looked_at_without_disturbing_what_runs() -> None:
    table = JobTable()
    running(table, "a")
    table.feed(PreviewArrived("a", 0, 1, "p"))
    assert table.feed(Adopted("h", "d", BOX, RECIPE)) == [Withdraw("a")]
    assert table.feed(ResultArrived("h", 0, RECIPE)) == [ShowResult("h:0")]
    assert table.feed(PreviewArrived("a", 0, 2, "p")) == []
    assert table.current is table.jobs["a"] and table.selected == "h:0"
    table.feed(Applied("h:0"))
    assert table.feed(PreviewArrived("a", 0, 3, "p")) == [ShowPreview("a", "p")]


def test_a_star_stays_with_its_result() -> None:
    table = JobTable()
    finished(table)
    table.feed(Starred("a:0", True))
    table.feed(Starred("nothing", True))
    assert table.results["a:0"].starred


JOBS = st.sampled_from(["a", "b", "c"])
# The last two are unknown to this run of the plugin until something tells of them.
DOCUMENTS = {"a": "one", "b": "one", "c": "two", "h": "one", "k": "two"}
KEYS = st.builds("{}:{}".format, JOBS, st.integers(0, 2))
PHASES_ = list(Phase)[2:]
PHASES = st.sampled_from(PHASES_)
ERROR = WireError(Code.INTERNAL, "No.")
EVENTS = st.one_of(
    JOBS.map(lambda job: Created(job, DOCUMENTS[job], BOX, RECIPE, 3)),
    JOBS.map(Captured),
    st.builds(StateChanged, JOBS, PHASES, st.integers(0, 2), st.integers(0, 12), st.just(12)),
    st.builds(Progress, JOBS, PHASES, st.integers(0, 2), st.integers(0, 12), st.just(12)),
    st.builds(PreviewArrived, JOBS, st.integers(0, 2), st.integers(0, 12), st.just("p")),
    st.builds(ResultArrived, JOBS, st.integers(0, 2), st.just(RECIPE), st.booleans()),
    JOBS.map(lambda job: JobFailed(job, ERROR)),
    JOBS.map(JobLost),
    JOBS.map(CancelPressed),
    JOBS.map(KeepPressed),
    st.just(Disconnected()),
    st.builds(Connected, st.frozensets(JOBS), st.frozensets(JOBS), st.booleans()),
    st.sampled_from(PHASES_).map(lambda phase: Connected(frozenset("k"), jobs=(KnownJob("k", phase, RECIPE),))),
    st.just(Bound("k", "two", BOX)),
    st.just(Adopted("h", "one", BOX, RECIPE)),
    st.just(ResultArrived("h", 0, RECIPE)),
    st.builds(ResultArrived, st.just("k"), st.integers(0, 2), st.just(RECIPE)),
    st.just(PreviewArrived("k", 0, 1, "p")),
    st.builds(StateChanged, st.just("k"), PHASES),
    st.permutations(["a", "b", "k"]).map(lambda jobs: Reordered(tuple(jobs))),
    st.builds(Starred, KEYS, st.booleans()),
    st.sampled_from(["h:0", "k:0"]).flatmap(lambda key: st.sampled_from([Picked(key), Hidden(key), Applied(key)])),
    st.sampled_from(["one", "two"]).map(DocumentClosed),
    KEYS.map(Picked),
    KEYS.map(Hidden),
    KEYS.map(Applied),
    KEYS.map(Discarded),
)


class Canvas:
    """What would be seen: checks every effect against what the painter has asked for."""

    def __init__(self) -> None:
        self.shown: dict[str, str] = {}  # document -> job
        self.closed: set[str] = set()

    def perform(self, table: JobTable, effect: Any) -> None:
        if isinstance(effect, Forget):
            assert effect.key not in table.results
            return
        job_id = table.results[effect.key].job if isinstance(effect, ShowResult) else effect.job
        document = DOCUMENTS[job_id]
        assert document not in self.closed, "nothing happens to a closed document"
        if isinstance(effect, Withdraw):
            assert self.shown.pop(document) == job_id
            return
        assert self.shown.get(document, job_id) == job_id, "one job at a time is on a canvas"
        self.shown[document] = job_id
        if isinstance(effect, (ShowPreview, Prepare)):
            assert table.jobs[job_id].active, "no preview after the end"


@settings(max_examples=300, deadline=None)
@given(st.lists(EVENTS, max_size=60))
def test_no_order_of_events_leaves_the_table_busy_or_the_canvas_dirty(events: list[Any]) -> None:
    table, canvas = JobTable(), Canvas()
    ends: dict[str, Phase] = {}

    def feed(event: Any) -> None:
        for effect in table.feed(event):
            canvas.perform(table, effect)
        if isinstance(event, DocumentClosed):
            canvas.closed.add(event.document)
            canvas.shown.pop(event.document, None)
        if isinstance(event, Applied) and event.key in table.results:
            # What is on the canvas is the painter's layer now.
            document = DOCUMENTS[table.results[event.key].job]
            if canvas.shown.get(document) == table.results[event.key].job:
                del canvas.shown[document]
        for job in table.jobs.values():
            if job.phase.terminal:
                assert ends.setdefault(job.id, job.phase) is job.phase, "one terminal state"
                assert (job.error is not None) == (job.phase is Phase.FAILED)
        assert canvas.shown == table.stage
        assert table.selected is None or table.selected in table.results
        assert sorted(job.id for job in table.queue) == sorted(job.id for job in table.active)

    for event in events:
        # Ids of documents never come back: whoever feeds these events has just seen the document open.
        if not (isinstance(event, (Created, Adopted, Bound)) and event.document in canvas.closed):
            feed(event)
    # The server concludes every job, or is lost: either way the docker is idle.
    half = list(table.active)[::2]
    for job in half:
        feed(StateChanged(job.id, Phase.DONE))
    feed(Connected(lost=frozenset(table.jobs)))
    assert table.current is None
    for key in list(table.results):
        feed(Discarded(key))
    # What is left on a canvas can only be an unfinished job, and there is none.
    assert table.results == {} and table.selected is None
    assert canvas.shown == {}
