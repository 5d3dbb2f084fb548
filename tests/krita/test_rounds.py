# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture goes round again, in the real Krita with the real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.krita.session import Session
from tests.krita.studio import Studio

SERVER = True
TOOLS = """
from krita_sd.plugin import actions
from krita_sd import job_events as ev
A = actions()

def result():
    return A.table.current_result

def data(key):
    return A.results.pixels(A.table.results[key]).data
"""


@pytest.fixture(scope="module")
def opened(session: Session) -> Studio:
    studio = Studio(session)
    session.run(TOOLS)
    studio.document(256, 256)
    studio.connected()
    session.run("A.change_params(steps=2); A.change(prompt='a red house', seed=5, seed_fixed=True, count=1)")
    session.run("close_all()")
    session.wait("not K.documents()")
    return studio


@pytest.fixture
def studio(opened: Studio) -> Iterator[Studio]:
    opened.document(256, 256)
    yield opened
    opened.session.run("for j in list(A.table.active): A.generating.cancel_job(j.id)")
    opened.session.run("A.clear_input(); [A.feed(ev.Discarded(key)) for key in list(A.table.results)]")
    opened.session.wait("not A.table.active and not A.table.stage and idle()", 30)


def test_a_result_goes_round_with_another_strength(studio: Studio, session: Session) -> None:
    """At strength 0 the picture comes back as it was: the start is the result, not the white canvas."""
    studio.click("krita_sd_generate")
    session.wait("result() is not None and not A.table.active", 120)
    session.run("first = result().key; A.use_as_input()")
    session.wait("widget_state('krita_sd_generate')['text'] == 'Refine result'")
    assert session.eval("A.settings.strength") == 0.6
    session.run("A.change(strength=0.0)")
    studio.click("krita_sd_generate")
    session.wait("result() is not None and result().key != first and not A.table.active", 120)
    assert session.eval("data(result().key) == data(first)")
    assert session.eval("result().recipe.kind") == "img2img"
    session.run("A.clear_input(); A.change(strength=1.0, seed=6); A.pick(first); A.same_seed()")
    assert session.eval("A.settings.seed") == 5
