# SPDX-License-Identifier: GPL-3.0-or-later
"""Live in the real Krita, against a scripted server whose pictures are the inverted canvas: so every shown frame says
which pixels it was made of."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from krita_sd.wire.live import Live
from tests.krita.live_peer import Peer
from tests.krita.live_pen import Pen, wave
from tests.krita.session import Session


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    started = Peer()
    yield started
    started.close()


@pytest.fixture(scope="module")
def desk(session: Session, peer: Peer) -> Pen:
    pen = Pen(session)
    session.run(f"A.change(server_uri={peer.uri!r}, server_token='t', workspace='live'); A.start()")
    session.wait("A.table.connected", 30, "the connection")
    return pen


@pytest.fixture
def pen(desk: Pen, peer: Peer, session: Session) -> Iterator[Pen]:
    peer.delay = 0.0
    session.run("A.change_live(place='canvas', region='canvas', opacity=1.0, strength=0.3, see_through=True)")
    yield desk
    session.run("L.switch(False)")
    session.wait("sheets() == []")


def on(session: Session) -> None:
    """Turn Live on and wait for its first picture."""
    session.run("L.timeline.done.clear(); L.switch(True)")
    session.wait("L.view.status and L.frame is not None and len(L.timeline.done) > 0", 20, "the first frame")


def caught_up(session: Session, peer: Peer) -> None:
    """Wait until the newest request has been answered and shown."""
    session.wait("L._reader is None and not L._lookout._settling.isActive()")
    last = peer.requests[-1].generation
    session.wait(f"L.timeline.done[-1].generation >= {last}", 20, f"generation {last} to be shown")


def asked(peer: Peer, like: Callable[[Live], bool]) -> None:
    """Wait until the newest request that arrived is like that."""
    end = time.monotonic() + 10
    while not (peer.requests and like(peer.requests[-1])):
        assert time.monotonic() < end, peer.requests[-1:]
        time.sleep(0.02)


def test_the_stroke_is_the_same_and_frames_follow_it(pen: Pen, peer: Peer, session: Session) -> None:
    """Would fail with a refresh of the projection for every frame (Krita 5.2 and later), without glimpses (no frame
    while the pen is down), and with a layer instead of the widget (an undo step of ours)."""
    path = wave(120, 400, 900)
    pen.document(1024, 1024)
    pen.stroke(path)
    alone, steps = pen.ink(), pen.steps()
    session.run("close_all()")
    session.wait("not K.documents()")

    pen.document(1024, 1024)
    peer.patches.clear()
    on(session)
    first = len(peer.patches[-1].tiles)
    blank = session.eval("doc_digest()")
    pen.begin(path, hold=10**9)
    session.wait("len(R.times) == len(R.points)", 60)
    x, y = map(round, path[-10])
    session.wait(f"doc_pixel({x}, {y}) != [255, 255, 255]", 10, "Krita to paint the stroke")
    session.wait(f"shown_pixel({x}, {y}) == [255 - v for v in doc_pixel({x}, {y})]", 20, "a frame with it")
    during = [trip for trip in pen.trips() if trip[4] < 256]
    assert session.eval("watch.pen().pen_down")
    pen.lift()
    caught_up(session, peer)
    session.screenshot("live-stroke")
    assert first == 256 and during, "frames come while the pen is down"
    assert pen.ink() == alone, "the stroke is the painter's, to the last byte"
    assert pen.steps() == steps, "no undo step of ours"
    numbers = [trip[0] for trip in pen.trips()]
    assert numbers == sorted(set(numbers)), "never an older frame"
    stroke_bytes = [trip[5] for trip in pen.trips() if trip[5] < 256 * 16384]
    assert stroke_bytes and max(stroke_bytes) <= 64 * 16384, "only dirty tiles travel"
    for x, y in [map(round, point) for point in path[::10]]:
        there = session.eval(f"doc_pixel({x}, {y})")
        assert session.eval(f"shown_pixel({x}, {y})") == [255 - value for value in there]
    assert session.eval("doc_digest()") != blank and len(session.eval("layers()")) == 1


def test_off_leaves_nothing(pen: Pen, session: Session) -> None:
    pen.document(512, 512)
    pen.stroke(wave(100, 200, 400, 20))
    before, steps = session.eval("doc_digest()"), pen.steps()
    on(session)
    session.wait("len(sheets()) == 1")
    session.run("L.switch(False)")
    session.wait("sheets() == []")
    assert session.eval("doc_digest()") == before and pen.steps() == steps
    assert session.eval("len(layers()) == 1 and bytes(K.activeDocument().annotation('krita_sd/previews.json')) == b''")


def test_nothing_stale_after_undo(pen: Pen, peer: Peer, session: Session) -> None:
    """A slow server answers what it was asked before the Undo."""
    pen.document(512, 512)
    on(session)
    peer.delay = 0.6
    pen.stroke(wave(100, 200, 400, 20))
    session.wait("len(L.timeline._open) > 0")
    sent = len(peer.requests)
    pen.undo()
    session.run("undone_at = time.monotonic(); since = len(L.timeline.done)")
    session.wait("len(L.timeline.done) > since", 20, "a frame after the Undo")
    caught_up(session, peer)
    assert len(peer.requests) > sent
    late = session.eval("[t.began - undone_at for t in L.timeline.done if t.shown > undone_at + 0.2]")
    assert late and min(late) > -0.5, late
    assert session.eval("shown_pixel(250, 200)") == [0, 0, 0], "white paper, inverted"


def test_an_undo_that_changes_no_pixel_costs_no_frame(pen: Pen, peer: Peer, session: Session) -> None:
    """What was asked for before it is still a picture of what is there, and nothing else would ask again."""
    pen.document(300, 300)
    session.run("K.action('add_new_paint_layer').trigger()")
    session.wait("len(layers()) == 2 and idle()")
    on(session)
    caught_up(session, peer)
    peer.delay = 0.6
    session.run("A.change(prompt='a windmill')")
    session.wait("any(trip.sent for trip in L.timeline._open.values())")
    session.run("asked = max(L.timeline._open)")
    pen.undo()
    assert session.eval("len(layers())") == 1
    session.wait("L._machine.shown >= asked", 10, "the picture that was asked for before the Undo")


def test_prompt_strength_and_seed_are_followed_without_sending_pixels(pen: Pen, peer: Peer, session: Session) -> None:
    pen.document(512, 512)
    on(session)
    caught_up(session, peer)
    peer.patches.clear()
    session.run("A.change(prompt='a lighthouse')")
    session.wait("len(L.timeline.done) > 1")
    session.run("A.change_live(strength=0.6, seed=77)")
    session.wait("len(L.timeline.done) > 2")
    recipe = peer.requests[-1].recipe
    assert (recipe.prompt, recipe.strength, recipe.seed) == ("a lighthouse", 0.6, 77)
    assert peer.patches == []


def test_a_selection_is_the_region(pen: Pen, peer: Peer, session: Session) -> None:
    pen.document(512, 512)
    session.run("select(K.activeDocument(), 100, 120, 200, 160, feather=6)")
    on(session)
    caught_up(session, peer)
    recipe = peer.requests[-1].recipe
    assert recipe.kind == "inpaint" and recipe.mask is not None
    box = session.eval("list(L._machine.aim.bounds)")
    assert box[0] < 100 and box[1] < 120 and [recipe.width, recipe.height] == box[2:]
    before = recipe.mask
    session.run("select(K.activeDocument(), 110, 130, 140, 120, feather=6)")
    session.wait("L._machine.aim.bounds is not None")
    session.wait(f"L._machine.wish.mask is not None and L._machine.wish.mask.hash != {before!r}", 10, "the new mask")
    session.run("K.activeDocument().setSelection(None)")
    session.wait("L._machine.aim is not None and list(L._machine.aim.bounds) == [0, 0, 512, 512]", 10)


def test_pauses_for_another_document_and_goes_on(pen: Pen, peer: Peer, session: Session) -> None:
    pen.document(300, 300, "first")
    on(session)
    session.run("first = K.activeDocument()")
    pen.document(300, 300, "second")
    session.wait("L._machine.phase.value == 'paused' and sheets() == []", 10)
    stopped = len(peer.stopped)
    assert stopped and "Another document" in session.eval("L.view.status")
    session.run("for v in K.activeWindow().views():\n    if v.document() == first: v.setVisible()")
    session.wait("L._machine.phase.value == 'on' and len(sheets()) == 1", 10)
    session.run("first.setModified(False); first.close(); del first")
    session.wait("not L.view.on", 10, "Live to end with its document")


def test_apply_is_one_step_and_live_goes_on(pen: Pen, peer: Peer, session: Session) -> None:
    pen.document(400, 300)
    pen.stroke(wave(60, 150, 340, 20))
    steps = pen.steps()
    on(session)
    caught_up(session, peer)
    session.run("A.apply_live()")
    session.wait("len(layers()) == 2 and not any(n['locked'] for n in layers()) and idle()", 20)
    assert pen.steps() == [*steps, "Add Layer"]
    assert session.eval("doc_pixel(5, 5)") == [0, 0, 0], "the applied picture is the inverted paper"
    session.wait("shown_pixel(5, 5) == [255, 255, 255]", 10, "Live to follow what was applied")
    pen.undo()
    session.wait("shown_pixel(5, 5) == [0, 0, 0]", 10)
    assert pen.steps() == steps


def test_as_a_locked_layer_the_picture_is_not_its_own_input(pen: Pen, peer: Peer, session: Session) -> None:
    """If the layer were captured too, the picture would invert itself for ever."""
    session.run("A.change_live(place='layer')")
    pen.document(400, 300)
    on(session)
    session.wait("len(layers()) == 2 and doc_pixel(5, 5) == [0, 0, 0]", 20, "the layer to show the frame")
    pen.stroke(wave(60, 150, 340, 20))
    caught_up(session, peer)
    session.wait("idle()")
    assert session.eval("shown_pixel(5, 5)") == [0, 0, 0] and session.eval("shown_pixel(200, 10)") == [0, 0, 0]
    session.screenshot("live-layer")
    session.run("L.switch(False)")
    session.wait("len(layers()) == 1 and idle()", 20, "the layer to be gone")


def test_the_picture_follows_zoom_and_rotation(pen: Pen, session: Session) -> None:
    pen.document(400, 300)
    on(session)
    for change in ("c.setZoomLevel(0.5 * c.zoomLevel())", "c.setRotation(30)", "c.setMirror(True)"):
        session.run(f"c = K.activeWindow().activeView().canvas(); {change}")
        session.wait("idle()")
        session.wait(
            "(lambda s, t: s.transform == t * QtGui.QTransform.fromTranslate(-s.x(), -s.y()))"
            "(sheets()[0], overlay.image_to_canvas(K.activeDocument(), host.active_canvas_widget()))",
            5,
            f"the picture to follow {change}",
        )
    session.screenshot("live-turned")


def test_a_server_that_lost_the_canvas_gets_it_again(pen: Pen, peer: Peer, session: Session) -> None:
    pen.document(512, 512)
    on(session)
    caught_up(session, peer)
    peer.forget()
    peer.patches.clear()
    pen.stroke(wave(100, 200, 400, 20))
    session.wait("shown_pixel(5, 5) == [0, 0, 0]")
    caught_up(session, peer)
    assert any(len(patch.tiles) == 64 for patch in peer.patches)


def test_a_filter_that_tells_nobody_is_noticed(pen: Pen, peer: Peer, session: Session) -> None:
    """Pixels that a script writes leave no undo step and no pen event."""
    pen.document(512, 512)
    on(session)
    caught_up(session, peer)
    session.run("d = K.activeDocument(); n = d.nodeByName('Background')")
    session.run("n.setPixelData(bytes([0, 0, 255, 255]) * 900, 300, 300, 30, 30); d.refreshProjection()")
    session.wait("shown_pixel(315, 315) == [255, 255, 0]", 10, "the change to be followed")


def test_recording_writes_what_was_shown(pen: Pen, peer: Peer, session: Session) -> None:
    folder = session.work / "recorded"
    session.run(f"A.change_live(record_folder={str(folder)!r})")
    pen.document(300, 300)
    on(session)
    session.run("A.record_live()")
    pen.stroke(wave(60, 150, 240, 20))
    caught_up(session, peer)
    session.run("A.record_live()")
    session.wait(f"'pictures in' in L.view.record_text and {str(folder)!r} in L.view.record_text")
    files = sorted(folder.rglob("*.png"))
    assert files and files[0].name == "frame 00001.png"


def test_control_layers_and_parameters_are_followed(pen: Pen, peer: Peer, session: Session) -> None:
    pen.document(400, 300)
    session.run("d = K.activeDocument(); n = d.createNode('lines', 'paintlayer'); d.rootNode().addChildNode(n, None)")
    session.run("n.setPixelData(bytes([0, 0, 0, 255]) * 900, 50, 50, 30, 30); d.refreshProjection()")
    on(session)
    session.run("A.change_live(steps=3, sampler='TCD', guidance=0.0)")
    session.run("d.setActiveNode(n); A.controlling.mark_active('scribble')")
    asked(peer, lambda request: bool(request.recipe.controls))
    caught_up(session, peer)
    recipe = peer.requests[-1].recipe
    assert (recipe.steps, recipe.sampler, recipe.guidance) == (3, "TCD", 0.0)
    (control,) = recipe.controls
    assert control.type == "scribble" and control.image in peer.pictures
    assert session.eval("shown_pixel(60, 60)") == [0, 0, 0], "what steers is no part of the input"
    session.run("n.setPixelData(bytes([0, 0, 0, 255]) * 900, 150, 150, 30, 30); L._lookout.look_again()")
    asked(peer, lambda request: [entry.image for entry in request.recipe.controls] not in ([], [control.image]))
    (again,) = peer.requests[-1].recipe.controls
    assert again.image in peer.pictures, "what is drawn on it is followed"
    session.run("A.change_live(steps=None, sampler=None, guidance=None); del d, n")


def test_the_rectangle_around_strokes_is_shown_and_goes_along(pen: Pen, peer: Peer, session: Session) -> None:
    session.run("A.change_live(region='strokes')")
    pen.document(1024, 768)
    on(session)
    first = session.eval("L._machine.live")
    pen.stroke(wave(700, 600, 800, 20, 20.0))
    session.wait(f"L._machine.live != {first!r} and L.frame is not None", 10, "the rectangle to move")
    caught_up(session, peer)
    x, y, width, height = session.eval("list(L._machine.aim.bounds)")
    assert (width, height) == (256, 256) and x < 700 and y < 580 and x + 256 > 800 and y + 256 > 620
    recipe = peer.requests[-1].recipe
    assert (recipe.width, recipe.height) == (256, 256)
    assert session.eval("[(s.outline, list(s.bounds)) for s in sheets()]") == [[True, [x, y, width, height]]]
    there = session.eval("doc_pixel(750, 600)")
    session.wait(f"shown_pixel(750, 600) == {[255 - value for value in there]}", 10)
    session.screenshot("live-rectangle")


def test_what_is_in_the_way_is_said_and_goes_on_when_it_is_gone(pen: Pen, session: Session) -> None:
    """A closed docker, a hidden window, a battery: nothing is read or asked for meanwhile."""
    pen.document(300, 300)
    on(session)
    session.run("docker = [d for d in K.dockers() if d.windowTitle() == 'Krita SD Live'][0]")
    session.run("main = K.activeWindow().qwindow()")
    session.run("from krita_sd.actions import live_around; live_around.on_battery = lambda: True")
    for begin, sentence, end in (
        (
            "A.change_live(place='docker'); docker.hide()",
            "The Live docker is closed.",
            "docker.show(); docker.raise_()",
        ),
        ("main.showMinimized()", "Krita's window is hidden.", "main.showNormal()"),
        ("A.change_live(battery=True)", "This machine runs on battery.", "A.change_live(battery=False)"),
    ):
        session.run(begin)
        session.wait(f"L.view.status == 'Paused. ' + {sentence!r}", 10, sentence)
        assert session.eval("L._machine.live == '' and sheets() == [] and L._lookout._doc is None")
        session.run(end)
        session.wait("L._machine.phase.value == 'on' and L.frame is not None", 10, f"no more: {sentence}")
    session.wait("docker.widget().has_picture")
    assert session.eval("sheets()") == [], "the picture is beside the canvas, nothing over it"
    drawn = "docker.widget().grab().toImage().pixelColor(docker.widget().rect().center()).getRgb()[:3]"
    session.wait(f"list({drawn}) == [0, 0, 0]", 5, "white paper, inverted, in the docker")
    session.run("A.change_live(place='both')")
    session.wait("len(sheets()) == 1 and L.frame is not None", 10, "the picture in both places")
    session.run("docker.hide(); del docker, main")


def test_opacity_and_fresh_strokes_seen_through(pen: Pen, peer: Peer, session: Session) -> None:
    """How opaque the widget itself is, at a point of the document."""
    session.run(
        "def cover(x, y):\n"
        "    s = sheets()[0]; p = s.transform.map(QtCore.QPointF(x, y)).toPoint()\n"
        "    i = QtGui.QImage(s.size(), QtGui.QImage.Format.Format_ARGB32_Premultiplied); i.fill(0)\n"
        "    f = QtWidgets.QWidget.RenderFlag.DrawChildren\n"
        "    s.render(i, QtCore.QPoint(), QtGui.QRegion(), f)\n"
        "    return i.pixelColor(p).alpha()\n"
    )
    pen.document(512, 512)
    on(session)
    caught_up(session, peer)
    assert session.eval("cover(250, 200)") == 255
    session.run("A.change_live(opacity=0.5)")
    session.wait("abs(cover(250, 200) - 128) <= 1", 5, "half of it")
    session.run("A.change_live(opacity=1.0)")
    peer.delay = 1.5  # no frame contains the stroke yet
    pen.begin(wave(100, 200, 400, 20), hold=10**9)
    session.wait("not L._showing.fresh.box.is_empty and abs(cover(250, 200) - 64) <= 1", 5, "the stroke to be seen")
    assert session.eval("cover(250, 450)") == 255, "elsewhere the picture stays as it is"
    peer.delay = 0.0
    pen.lift()
    session.wait("L._showing.fresh.box.is_empty and cover(250, 200) == 255", 10, "a frame with the stroke")


def test_apply_into_the_active_layer_takes_two_steps(pen: Pen, peer: Peer, session: Session) -> None:
    pen.document(400, 300)
    pen.stroke(wave(60, 150, 340, 20))
    before, steps = pen.ink(), pen.steps()
    on(session)
    caught_up(session, peer)
    session.run("A.apply_live(into_active=True)")
    session.wait(f"len(undo_rows()['rows']) == {len(steps)} + 3 and len(layers()) == 1 and idle()", 20, "the two steps")
    assert session.eval("doc_pixel(5, 5)") == [0, 0, 0], "the applied picture is the inverted paper"
    pen.undo()
    pen.undo()
    session.wait("len(layers()) == 1 and idle()")
    assert pen.steps() == steps and pen.ink() == before


def test_nothing_reads_all_of_the_picture_by_the_clock(pen: Pen, peer: Peer, session: Session) -> None:
    """While nothing happens some rows are sampled, and while the pen paints what is near it is read; the whole picture
    only when the pen is up again."""
    pen.document(1024, 1024)
    on(session)
    caught_up(session, peer)
    session.run(
        "from krita_sd.actions import live as acts; from krita_sd.canvas import live_watch\n"
        "read, whole, real, Real = [], [], live_watch.Lookout._pixels, acts.Reading\n"
        "live_watch.Lookout._pixels = lambda self, box: (read.append(tuple(box)), real(self, box))[1]\n"
        "acts.Reading = lambda *a: (whole.append(watch.pen().pen_down), Real(*a))[1]\n"
    )
    try:
        session.wait("len(read) >= 128", 10, "two rounds of samples")
        assert session.eval("whole == [] and all(w == 1024 and h == 1 for x, y, w, h in read)")
        assert session.eval("len(read)") <= 4 * 64, "a sixteenth of the rows per second"
        session.run("read.clear()")
        pen.begin(wave(300, 400, 700, 30), hold=10**9)
        session.wait("len(R.times) == len(R.points) and len([b for b in read if b[3] > 1]) > 3", 20, "glimpses")
        assert session.eval("max(w * h for x, y, w, h in read)") < 1024 * 1024 // 4
        assert session.eval("whole") == []
        pen.lift()
        caught_up(session, peer)
        assert session.eval("whole and not any(whole)")
    finally:
        session.run("live_watch.Lookout._pixels, acts.Reading = real, Real")
