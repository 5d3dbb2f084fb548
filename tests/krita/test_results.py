# SPDX-License-Identifier: GPL-3.0-or-later
"""Results in the real Krita: ways to apply, undo steps, recipes in layers, the history, many at once."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.krita.session import Session
from tests.krita.studio import Studio

TOOLS = """
from krita_sd.plugin import actions
from krita_sd import pictures, job_events as ev
from krita_sd.actions.results import ResultWithThumbnail
from krita_sd.shelf import Kept
from krita_sd.wire.frames import Picture
from krita_sd.wire.recipe import Recipe
A = actions()

def arrive(count, side, kind='txt2img', alpha=255):
    '''Results as the server would send them, for the active document, each of one colour.'''
    import uuid
    doc = K.activeDocument()
    job = uuid.uuid4().hex
    from krita_sd.canvas import host
    from krita_sd.geometry import Bounds
    recipe = Recipe(prompt=f'colour {side}', width=side, height=side, seed=1, kind=kind)
    A.results.stage.remember(host.document_id(doc), doc)
    A.feed(ev.Created(job, host.document_id(doc), Bounds(0, 0, side, side), recipe, count))
    A.feed(ev.Captured(job))
    for number in range(count):
        data = bytes([number * 3 % 256, 90, 200, alpha]) * (side * side)
        picture = Picture('bgra8', side, side, data)
        kept = Kept(job, number, recipe.replace(seed=1 + number), False, picture)
        A._receive(ResultWithThumbnail(kept, pictures.thumbnail(picture), -1))
    A.feed(ev.StateChanged(job, ev.Phase.DONE))
    return job
"""


@pytest.fixture
def studio(session: Session) -> Iterator[Studio]:
    studio = Studio(session)
    session.run(TOOLS)
    studio.document(64, 64)
    yield studio
    session.run("for key in list(A.table.results): A.feed(ev.Discarded(key))")
    session.wait("idle() and not A.table.stage", 20)


def undo_to(studio: Studio, session: Session, digest: str) -> int:
    """How many presses of Undo until the canvas shows `digest` again and no layer of ours is left."""
    for count in range(1, 5):
        studio.undo()
        if studio.digest() == digest and len(studio.layer_names()) == 1:
            return count
    raise AssertionError("Undo does not lead back")


@pytest.mark.parametrize("depth", ["U8", "U16"])
def test_ways_to_apply(studio: Studio, session: Session, depth: str) -> None:
    """Each is one undo step, into the layer two; what is outside the picture keeps its bytes."""
    session.run("close_all()")
    session.wait("not K.documents()")
    studio.document(64, 64, "RGBA", depth)
    session.run("d = K.activeDocument(); bottom = d.activeNode()")
    blank = studio.digest()
    session.run("n = d.createNode('above', 'paintlayer'); d.rootNode().addChildNode(n, None)")
    session.wait("idle() and d.activeNode() == d.nodeByName('above')")
    session.run("d.setActiveNode(bottom)")
    session.wait("d.activeNode() == bottom")
    before = len(studio.undo_steps())
    session.run("job = arrive(1, 64); A.apply_in('above')")
    session.wait("[n['name'] for n in layers()][1].startswith('colour') and not any(n['locked'] for n in layers())", 20)
    session.wait("idle()")
    names = studio.layer_names()
    assert names[0] == "Background" and names[2] == "above" and len(names) == 3, names
    assert session.eval("d.activeNode() == bottom")
    assert len(studio.undo_steps()) == before + 1
    studio.undo()
    assert studio.layer_names() == ["Background", "above"] and studio.digest() == blank

    session.run("job = arrive(1, 32); A.apply_in('into')")
    session.wait(
        "len(layers()) == 2 and A.table.current_result.applied and not A.results.stage._applying and idle()", 20
    )
    session.wait("d.activeNode() is not None and d.activeNode().name() == 'Background'")
    assert studio.layer_names() == ["Background", "above"]
    assert session.eval("d.topLevelNodes()[0].colorDepth()") == depth
    outside = "bytes(d.pixelData(32, 0, 32, 64)) + bytes(d.pixelData(0, 32, 64, 32))"
    session.run(f"touched = {outside}")
    assert studio.digest() != blank
    assert len(studio.undo_steps()) == before + 2
    studio.undo()
    studio.undo()
    assert studio.digest() == blank
    assert session.eval(f"touched == {outside}"), "outside the picture nothing has changed"

    session.run("d.setActiveNode(d.nodeByName('above')); d.nodeByName('above').setLocked(True)")
    session.wait("d.activeNode().name() == 'above'")
    session.run("job = arrive(1, 64); A.apply_in('into')")
    assert "locked" in session.eval("A._notice[0]")
    if session.eval("hasattr(d, 'createTransparencyMask')"):
        session.run("A.discard(); job = arrive(1, 64, alpha=100); A.apply_in('mask')")
        session.wait("len(layers()) == 3 and not A.results.stage._applying and idle()", 20)
        assert session.eval("[m.type() for m in d.topLevelNodes()[-1].childNodes()]") == ["transparencymask"]
        assert len(studio.undo_steps()) == before + 1
    else:
        session.run("A.apply_in('mask')")
        assert "5.2" in session.eval("A._notice[0]") and session.eval("A.settings.apply_way") == "into"
        assert not session.eval("A.view.can_mask")
    session.run("A.change(apply_way='top')")


def test_a_layer_and_its_file_give_the_recipe_back(studio: Studio, session: Session, tmp_path: Path) -> None:
    session.run("d = K.activeDocument(); job = arrive(2, 64); A.pick(job + ':1'); A.apply()")
    studio.applied()
    session.run("A.change(prompt='other', seed=9, seed_fixed=False)")
    session.run("d.setActiveNode([n for n in d.topLevelNodes() if n.name().startswith('colour')][0])")
    session.wait("d.activeNode().name().startswith('colour')")
    session.run("A.restore_layer()")
    assert session.eval("[A.settings.prompt, A.settings.seed, A.settings.seed_fixed]") == ["colour 64", 2, True]
    session.run("d.rootNode().addChildNode(d.activeNode().duplicate(), None)")
    session.wait("len(layers()) == 3 and idle()")
    session.run("A.change(prompt='other'); d.setActiveNode(d.topLevelNodes()[-1])")
    session.wait("d.activeNode() == d.topLevelNodes()[-1]")
    session.run("A.restore_layer()")
    assert session.eval("A.settings.prompt") == "colour 64", "also a copy of the layer"
    kra, png = session.work / "x.kra", session.work / "x.png"
    session.run(f"d.setBatchmode(True); d.saveAs({str(kra)!r}); A.change(prompt='other')")
    session.wait("idle()")
    with zipfile.ZipFile(kra) as archive:
        name = next(n for n in archive.namelist() if n.endswith("annotations/krita_sd/recipes.json"))
        assert len(json.loads(archive.read(name))["layers"]) == 1
    session.run(f"A.restore_file({str(kra)!r})")
    session.wait("A.settings.prompt == 'colour 64'", 20)
    session.run(f"A.pick(job + ':0'); A.save_result({str(png)!r}); A.change(prompt='other', seed=9)")
    session.wait(f"__import__('os').path.exists({str(png)!r})", 20)
    session.run(f"A.restore_file({str(png)!r})")
    session.wait("A.settings.prompt == 'colour 64' and A.settings.seed == 1", 20)
    session.run("A.change(prompt='', seed_fixed=False)")


def test_the_history_finds_shows_and_applies(studio: Studio, session: Session) -> None:
    session.run("d = K.activeDocument(); job = arrive(3, 64)")
    session.wait("not A.history._pending", 30)
    session.run("for key in list(A.table.results): A.feed(ev.Discarded(key))")
    paper = "list(bytes(d.pixelData(5, 5, 1, 1))) == [255, 255, 255, 255]"
    session.wait(f"not A.table.stage and len(layers()) == 1 and idle() and {paper}")
    blank = studio.digest()
    studio.click("krita_sd_show_history")
    session.wait("A.history.model.rowCount() >= 3", 20)
    studio.type_into("krita_sd_history_search", "colour 64")
    found = "A.history.model._filter[0] == 'colour 64' and A.history.model.total >= 3 and not A.history.model._waiting"
    session.wait(found, 20)
    session.wait("len(A.history.model._small) >= 3", 20)
    session.screenshot("history")
    session.run("page = widget('krita_sd_history'); page.setCurrentIndex(A.history.model.index(0, 0))")
    studio.click("krita_sd_history_apply")
    session.wait("len(layers()) == 2 and not any(n['locked'] for n in layers()) and idle()", 20)
    assert studio.undo_steps() == ["Add Layer"] and studio.digest() != blank
    colour = session.eval("list(bytes(d.pixelData(5, 5, 1, 1)))")
    assert colour == [6, 90, 200, 255], "the newest one, bit by bit"
    studio.click("krita_sd_show_history")


def resident(session: Session) -> int:
    """MiB that Krita has in memory, seen from outside: a Krita in a folder has no /proc."""
    assert session.krita is not None
    status = Path(f"/proc/{session.krita.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024


def test_many_results_stay_small(studio: Studio, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    """65 pictures of 1024 x 1024 are 260 MiB."""
    session.run("close_all()")
    session.wait("not K.documents()")
    studio.document(1024, 1024)
    session.run("job = arrive(1, 1024)")
    session.wait("idle() and not A.history._pending", 60)
    before = resident(session)
    for _ in range(13):
        session.run("arrive(5, 1024)")
        session.wait("len(A.history._pending) < 3", 120)
    session.wait("idle() and not A.history._pending", 60)
    after = resident(session)
    with capsys.disabled():
        print(f"\n65 results: {after - before} MiB more, strip {session.eval('len(A.table.results)')}")
    assert session.eval("sum(len(p.data) for p in A.results.shelf._pictures.values())") <= 64 * 1024 * 1024
    assert after - before < 200
    strip: dict[str, Any] = session.eval("widget_state('krita_sd_results')")
    assert strip["count"] >= 66
    session.run("first = next(iter(A.table.results)); A.pick(first)")
    session.wait("idle() and A.table.selected == first")
