# SPDX-License-Identifier: GPL-3.0-or-later
"""What painters do to a document while a job shows its previews in it: nothing gets stuck, nothing is left behind.

The job is played by events, so that it lasts exactly as long as the test wants.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.krita.session import Session
from tests.krita.studio import Studio

TOOLS = """
import uuid
from krita_sd.plugin import actions
from krita_sd import pictures, job_events as ev
from krita_sd.actions.results import ResultWithThumbnail
from krita_sd.canvas import host, previews
from krita_sd.geometry import Bounds
from krita_sd.shelf import Kept
from krita_sd.wire.frames import Picture
from krita_sd.wire.recipe import Recipe
A = actions()
RED = bytes([0, 0, 255, 255])

def begin(x=16, y=16, side=32):
    '''A job that samples, and shows a red square.'''
    global d, box, recipe, job
    d, job = K.activeDocument(), uuid.uuid4().hex
    box, recipe = Bounds(x, y, side, side), Recipe(prompt='red', width=side, height=side)
    A.results.stage.remember(host.document_id(d), d)
    A.feed(ev.Created(job, host.document_id(d), box, recipe))
    A.feed(ev.Captured(job))
    A.feed(ev.StateChanged(job, ev.Phase.SAMPLING, 0, 1, 9))
    preview()

def preview(colour=RED):
    A.feed(ev.PreviewArrived(job, 0, 1, Picture('bgra8', box.width, box.height, colour * (box.width * box.height))))

def finish(colour=RED):
    picture = Picture('bgra8', box.width, box.height, colour * (box.width * box.height))
    A._receive(ResultWithThumbnail(Kept(job, 0, recipe, False, picture), pictures.thumbnail(picture), -1))
    A.feed(ev.StateChanged(job, ev.Phase.DONE))

def at(x, y, doc=None):
    return list(bytes((doc or d).pixelData(x, y, 1, 1)))

def quiet():
    '''The docker is idle and no document has a preview.'''
    return not A.table.active and not A.table.stage and not previews._entries and not A.results.stage._placements
"""


@pytest.fixture
def studio(session: Session) -> Iterator[Studio]:
    studio = Studio(session)
    session.run(TOOLS)
    studio.document(64, 64)
    session.run("begin()")
    session.wait("at(20, 20) == [0, 0, 255, 255] and idle()", 20)
    yield studio
    session.run("for j in list(A.table.active): A.generating.cancel_job(j.id)")
    session.run("for key in list(A.table.results): A.feed(ev.Discarded(key))")
    session.wait("quiet()", 20, "no preview to be left")


def ended_by_cancel(session: Session) -> None:
    session.run("A.cancel()")
    session.wait("quiet() and (not host.is_open(d) or idle(d))", 20)


def colours(path: str) -> set[str]:
    """Every colour of a picture file."""
    text = subprocess.run(["convert", path, "txt:"], capture_output=True, text=True, check=True, timeout=30).stdout
    return {line.split()[2][:7] for line in text.splitlines()[1:]}


def test_saving_a_png_in_the_middle_of_a_job_holds_no_preview(studio: Studio, session: Session) -> None:
    """The first save, by a script, shows what happens when nothing steps aside."""
    path = str(session.work / "mid.png")
    session.run(f"d.setBatchmode(True); d.saveAs({path!r})")
    session.wait("idle() and at(20, 20) == [0, 0, 255, 255]", 20)
    assert "#FF0000" in colours(path), "a script's own save cannot be seen coming"
    session.wait("'mid.png was saved by a script' in A._notice[0]", 10, "the docker to say so")
    studio.brush(6)
    studio.drag((5, 5), (55, 5))
    session.wait("len(undo_rows()['rows']) == 3 and idle()", 20)
    stamp = f"__import__('os').stat({path!r}).st_mtime_ns"
    session.run(f"before = {stamp}")
    studio.focus_canvas()
    studio.key("ctrl+s")
    session.wait(f"{stamp} != before and idle()", 30, "the file")
    assert colours(path) and "#FF0000" not in colours(path)
    session.wait("at(20, 20) == [0, 0, 255, 255]", 20, "the preview to come back")
    ended_by_cancel(session)
    assert session.eval("at(20, 20)") == [255, 255, 255, 255]


def test_flattening_in_the_middle_of_a_job_leaves_no_preview_in_the_picture(studio: Studio, session: Session) -> None:
    studio.focus_canvas()
    studio.key("ctrl+shift+e")
    session.wait("len(layers()) == 1 and idle()", 20, "the flattened picture")
    assert session.eval("at(20, 20)") == [255, 255, 255, 255]
    session.run("preview(); finish()")
    session.wait("not A.table.active")
    session.run("A.apply()")
    session.wait("len(layers()) == 2 and at(20, 20) == [0, 0, 255, 255] and not any(n['locked'] for n in layers())", 20)


def test_a_cropped_or_enlarged_canvas_takes_the_preview_along(studio: Studio, session: Session) -> None:
    session.run("d.crop(8, 4, 56, 60)")
    session.wait("d.width() == 56 and idle()", 20)
    session.run("preview(bytes([0, 255, 0, 255]))")
    session.wait("at(9, 13) == [0, 255, 0, 255] and at(39, 43) == [0, 255, 0, 255] and idle()", 20)
    assert session.eval("at(7, 13) == at(40, 43) == [255, 255, 255, 255]")
    session.run("finish(); A.apply()")
    session.wait("at(8, 12) == [0, 0, 255, 255] and not any(n['locked'] for n in layers()) and idle()", 20)
    assert session.eval("[at(7, 12), at(40, 44), at(39, 43)]") == [
        [255, 255, 255, 255],
        [255, 255, 255, 255],
        [0, 0, 255, 255],
    ]


def test_a_deleted_preview_layer_comes_back_as_the_result(studio: Studio, session: Session) -> None:
    session.run("[n for n in d.topLevelNodes() if n.locked()][0].remove()")
    session.wait("len(layers()) == 1 and idle()")
    session.run("preview(); finish(); A.apply()")
    session.wait("len(layers()) == 2 and at(20, 20) == [0, 0, 255, 255] and not any(n['locked'] for n in layers())", 20)
    session.wait("not A.table.stage and not previews._entries")


def test_undo_and_redo_in_the_middle_of_a_job(studio: Studio, session: Session) -> None:
    studio.undo()
    session.wait("len(layers()) == 1 and at(20, 20) == [255, 255, 255, 255]", 20)
    session.run("preview(bytes([0, 255, 0, 255]))")
    studio.redo()
    session.wait("at(20, 20) == [0, 255, 0, 255]", 20, "the newest preview")
    ended_by_cancel(session)
    assert session.eval("at(20, 20)") == [255, 255, 255, 255] and studio.layer_names() == ["Background"]


def test_a_copy_of_the_document_holds_no_preview(studio: Studio, session: Session) -> None:
    session.run("c = d.clone(); K.activeWindow().addView(c)")
    session.wait("K.activeDocument() == c and len(layers(c)) == 1 and idle()", 20, "the copy to be clean")
    assert session.eval("at(20, 20, c)") == [255, 255, 255, 255]
    session.run("preview(bytes([0, 255, 0, 255]))")
    session.wait("at(20, 20, d) == [0, 255, 0, 255]", 20)
    assert session.eval("at(20, 20, c)") == [255, 255, 255, 255], "previews go to their own document only"
    session.run("finish(); A.apply()")
    session.wait("len(layers(d)) == 2 and not any(n['locked'] for n in layers(d))", 20)
    assert session.eval("len(layers(c))") == 1


def test_closing_the_document_parks_the_result(studio: Studio, session: Session) -> None:
    session.run("d.setModified(False); d.close()")
    session.wait("not K.documents()")
    session.run("preview(); finish()")
    session.wait("not A.table.active and A.table.current_result is not None")
    session.run("A.apply()")
    session.wait("K.activeDocument() is not None and K.activeDocument().width() == 32", 20)
    assert session.eval("at(3, 3, K.activeDocument())") == [0, 0, 255, 255]
