# SPDX-License-Identifier: GPL-3.0-or-later
"""What reaches the server is what the painter sees, whatever the document is made of."""

from __future__ import annotations

from typing import Any

import pytest

from tests.krita.session import Session

SPACES = [
    ("RGBA", "U8"),
    ("RGBA", "U16"),
    ("RGBA", "F16"),
    ("RGBA", "F32"),
    ("GRAYA", "U8"),
    ("GRAYA", "U16"),
    ("CMYKA", "U8"),
    ("LABA", "U16"),
]

INSIDE = """
from krita_sd.canvas import capture, colour, previews
from krita_sd.geometry import Bounds

def start_capture(doc, bounds, source="visible", mask=False):
    global got, trouble
    got = trouble = None
    def done(picture, grey):
        global got
        got = (picture, grey)
    def failed(text):
        global trouble
        trouble = text
    capture.Capture(doc, Bounds(*bounds), source, mask).start(done, failed)

def painted(model, depth, colour_name, w=64, h=48, profile=""):
    '''A document of that space whose right half has `colour_name`, put there by an 8-bit layer.'''
    d = new_document(w, h, model, depth, profile)
    s = new_document(w, h, show=False)
    n = s.createNode("half", "paintlayer")
    c = QtGui.QColor(colour_name)
    n.setPixelData(bytes((c.blue(), c.green(), c.red(), c.alpha())) * (w // 2 * h), w // 2, 0, w // 2, h)
    d.rootNode().addChildNode(n, None)
    s.setModified(False)
    s.close()
    return d
"""


@pytest.fixture(autouse=True)
def inside(session: Session) -> None:
    session.run(INSIDE)


def captured(session: Session, code: str) -> tuple[bytes, bytes | None]:
    session.run(code)
    session.wait("got is not None or trouble is not None")
    assert session.eval("trouble") is None
    picture, mask = session.eval("[got[0].hex(), got[1].hex() if got[1] is not None else None]")
    return bytes.fromhex(picture), bytes.fromhex(mask) if mask is not None else None


def pixel(picture: bytes, width: int, x: int, y: int) -> tuple[int, ...]:
    at = (y * width + x) * 4
    return tuple(picture[at : at + 4])


@pytest.mark.parametrize("model, depth", SPACES)
@pytest.mark.parametrize("source", ["visible", "active layer"])
def test_every_colour_space_arrives_as_srgb(session: Session, model: str, depth: str, source: str) -> None:
    session.run(f"d = painted({model!r}, {depth!r}, '#505050'); d.refreshProjection()")
    session.wait("idle()")
    session.run("d.setActiveNode(d.nodeByName('half'))")
    session.wait("d.activeNode().name() == 'half'")
    picture, mask = captured(session, f"start_capture(d, (0, 0, 64, 48), {source!r})")
    assert mask is None and len(picture) == 64 * 48 * 4
    left, right = pixel(picture, 64, 3, 3), pixel(picture, 64, 60, 40)
    assert left == ((0, 0, 0, 0) if source == "active layer" else (255, 255, 255, 255)) or min(left) >= 253
    # CMYK has no exact #505050; everything else may differ by rounding only.
    slack = 12 if model == "CMYKA" else 1
    assert all(abs(v - 0x50) <= slack for v in right[:3]) and right[3] == 255, right


def test_a_foreign_rgb_profile_is_converted(session: Session) -> None:
    session.run("d = painted('RGBA', 'U8', '#c04020', profile='LargeRGB-elle-V2-g22.icc'); d.refreshProjection()")
    session.wait("idle()")
    picture, _ = captured(session, "start_capture(d, (0, 0, 64, 48))")
    assert all(abs(a - b) <= 3 for a, b in zip(pixel(picture, 64, 60, 40), (0x20, 0x40, 0xC0, 255)))


@pytest.mark.essential
def test_plain_documents_arrive_byte_for_byte_in_bands(session: Session) -> None:
    """More rows than a band, an odd width, and every pixel different."""
    session.run("""
import random
d = new_document(61, 1100)
data = random.Random(3).randbytes(61 * 1100 * 4)
d.topLevelNodes()[0].setPixelData(data, 0, 0, 61, 1100)
d.refreshProjection()
""")
    captured(session, "start_capture(d, (0, 0, 61, 1100))")
    assert session.eval("got[0] == bytes(d.pixelData(0, 0, 61, 1100))")
    assert session.eval("len(set(got[0]))") == 256
    captured(session, "start_capture(d, (7, 513, 13, 21))")
    assert session.eval("got[0] == bytes(d.pixelData(7, 513, 13, 21))")


def test_the_area_may_reach_over_the_canvas(session: Session) -> None:
    session.run("d = new_document(40, 30)")
    picture, _ = captured(session, "start_capture(d, (-10, -5, 60, 40))")
    assert pixel(picture, 60, 0, 0) == (0, 0, 0, 0)
    assert pixel(picture, 60, 10, 5) == (255, 255, 255, 255)
    assert pixel(picture, 60, 59, 39) == (0, 0, 0, 0)


def selection(session: Session, code: str) -> None:
    session.run(f"d = new_document(200, 100); select(d, {code})")
    session.wait("idle()")


def scene(session: Session) -> Any:
    return session.eval("(lambda s: [s.selection, s.selection_empty])(capture.describe(d))")


@pytest.mark.essential
def test_soft_selection_partly_off_canvas(session: Session) -> None:
    selection(session, "-30, 20, 100, 40, feather=8")
    box, empty = scene(session)
    assert not empty and box[0] == 0 and box[0] + box[2] > 70 and box[1] < 20
    _, mask = captured(session, "start_capture(d, (0, 0, 200, 100), mask=True)")
    assert mask is not None and len(mask) == 200 * 100
    assert mask[40 * 200] == 255 and mask[40 * 200 + 150] == 0
    edge = [mask[40 * 200 + x] for x in range(55, 85)]
    assert edge == sorted(edge, reverse=True) and any(0 < v < 255 for v in edge)


def test_inverted_selection_covers_the_rest(session: Session) -> None:
    selection(session, "50, 20, 100, 40, invert=True")
    assert scene(session) == [[0, 0, 200, 100], False]
    _, mask = captured(session, "start_capture(d, (0, 0, 200, 100), mask=True)")
    assert mask is not None
    assert mask.count(b"\xff") == 200 * 100 - 100 * 40 and mask[30 * 200 + 60] == 0


def test_no_selection_and_one_that_misses_the_canvas(session: Session) -> None:
    session.run("d = new_document(200, 100)")
    assert scene(session) == [None, False]
    assert captured(session, "start_capture(d, (0, 0, 200, 100), mask=True)")[1] is None
    selection(session, "-90, 20, 50, 40")
    assert scene(session) == [None, True]


@pytest.mark.essential
def test_local_selection_of_the_active_layer_counts(session: Session) -> None:
    session.run("""
d = new_document(200, 100)
def local():
    s = krita.Selection(); s.select(30, 10, 50, 60, 255)
    m = d.createSelectionMask("local"); m.setSelection(s)
    d.topLevelNodes()[0].addChildNode(m, None)
local()
""")
    session.wait("idle()")
    session.run("d.setActiveNode(d.topLevelNodes()[0])")
    session.wait("d.activeNode().name() == 'Background'")
    assert scene(session) == [[30, 10, 50, 60], False]
    _, mask = captured(session, "start_capture(d, (0, 0, 200, 100), mask=True)")
    assert mask is not None and mask.count(b"\xff") == 50 * 60 and mask[10 * 200 + 30] == 255


@pytest.mark.parametrize("kind", ["group", "hidden", "locked", "clone", "vector", "filter mask"])
def test_unusual_active_layers_are_read(session: Session, kind: str) -> None:
    session.run(f"""
d = new_document(64, 48)
base = d.createNode("ink", "paintlayer")
base.setPixelData(bytes((10, 20, 200, 255)) * (32 * 48), 0, 0, 32, 48)
kind = {kind!r}
if kind == "group":
    active = d.createGroupLayer("g"); d.rootNode().addChildNode(active, None); active.addChildNode(base, None)
else:
    d.rootNode().addChildNode(base, None)
    active = base
    if kind == "hidden": base.setVisible(False)
    if kind == "locked": base.setLocked(True)
    if kind == "clone":
        active = d.createCloneLayer("c", base); d.rootNode().addChildNode(active, None)
    if kind == "vector":
        active = d.createVectorLayer("v"); d.rootNode().addChildNode(active, None)
        rect = '<rect x="0" y="0" width="32" height="48" fill="#c8140a"/>'
        active.addShapesFromSvg('<svg width="64px" height="48px" viewBox="0 0 64 48">' + rect + '</svg>')
    if kind == "filter mask":
        active = d.createFilterMask("f", K.filter("invert"), krita.Selection()); base.addChildNode(active, None)
""")
    session.wait("idle() and (kind != 'vector' or active.bounds().width() == 32)")  # shapes are drawn a little later
    session.run("d.refreshProjection(); d.setActiveNode(active)")
    session.wait("d.activeNode() == active")
    picture, _ = captured(session, "start_capture(d, (0, 0, 64, 48), 'active layer')")
    assert pixel(picture, 64, 60, 24)[3] == 0
    assert pixel(picture, 64, 10, 24)[3] == 255
    if kind != "filter mask":
        assert all(abs(a - b) <= 2 for a, b in zip(pixel(picture, 64, 10, 24), (10, 20, 200, 255)))


def test_closing_the_document_ends_the_capture_with_a_sentence(session: Session) -> None:
    session.run("d = new_document(64, 2000); start_capture(d, (0, 0, 64, 2000)); d.close()")
    session.wait("trouble is not None")
    assert "closed" in session.eval("trouble")
    assert session.eval("got") is None
