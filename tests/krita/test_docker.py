# SPDX-License-Identifier: GPL-3.0-or-later
"""The docker around a picture, in the real Krita: what the button says, documents, control layers, pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.krita.session import Session
from tests.krita.studio import Studio

SERVER = True


@pytest.fixture(scope="module")
def opened(session: Session) -> Studio:
    studio = Studio(session)
    studio.document(192, 160)
    studio.connected()
    session.run("A = __import__('krita_sd.plugin', fromlist=['x']).actions()")
    return studio


@pytest.fixture
def studio(opened: Studio, session: Session) -> Iterator[Studio]:
    if not session.eval("len(K.documents())"):
        opened.document(192, 160)
    yield opened


def button(session: Session, text: str) -> None:
    session.wait(f"widget_state('krita_sd_generate')['text'] == {text!r}", 10, f"the button to say {text}")


def test_the_button_says_expand_over_empty_area_and_the_mask_is_drawn_before_running(
    studio: Studio, session: Session
) -> None:
    studio.strength(100)
    button(session, "Generate")
    session.run("select(K.activeDocument(), 60, 50, 60, 40)")
    button(session, "Fill")
    state = studio.widget("krita_sd_generate")
    studio._xdotool("mousemove", state["x"] + 8, state["y"] + 8)
    session.wait("(widget_state('krita_sd_overlay') or {}).get('visible')", 10, "the frame over the canvas")
    session.screenshot("docker-context-frame")
    session.run(
        "d = K.activeDocument(); n = d.nodeByName('Background'); "
        "n.setPixelData(bytes(192 * 160 * 4), 0, 0, 192, 160); d.refreshProjection(); d.setSelection(None)"
    )
    button(session, "Generate")
    session.run("select(K.activeDocument(), 20, 20, 60, 40)")
    button(session, "Expand")
    session.run("K.activeDocument().setSelection(None)")
    # From Krita 5.3 on the selections that this test sets leave steps without a name.
    assert not any(studio.undo_steps())


def test_wrap_around_mode_makes_pictures_seamless(studio: Studio, session: Session) -> None:
    """A canvas without OpenGL has no such mode in Krita 5.1: then the docker must say so too."""
    session.run("c = K.activeWindow().activeView().canvas(); c.setWrapAroundMode(True)")
    session.wait("A.wrap == ('xy' if c.wrapAroundMode() else '')", 10)
    session.run("c.setWrapAroundMode(False); del c")
    session.wait("A.wrap == ''", 10)


def test_every_document_keeps_its_own_prompt_and_the_kra_remembers_it(
    studio: Studio, session: Session, tmp_path: object
) -> None:
    session.run("close_all()")
    session.wait("not K.documents()")
    studio.document(64, 64, name="one")
    studio.prompt("first words")
    studio.document(64, 48, name="two")
    studio.prompt("second words")
    view = "[v for v in K.activeWindow().views() if v.document().name() == {!r}][0]"
    session.run(f"K.activeWindow().activate(); v = {view.format('one')}; v.setVisible(); del v")
    session.wait("widget_state('krita_sd_prompt')['toPlainText'] == 'first words'", 10)
    path = f"{tmp_path}/one.kra"
    session.wait("bytes(K.activeDocument().annotation('krita_sd/docker.json')).find(b'first words') > 0", 10)
    session.run(f"d = K.activeDocument(); d.setBatchmode(True); d.saveAs({path!r}); d.waitForDone(); close_all()")
    session.wait("not K.documents()")
    studio.document(64, 32, name="three")
    studio.prompt("third words")
    session.run(f"K.activeWindow().addView(K.openDocument({path!r}))")
    session.wait("widget_state('krita_sd_prompt')['toPlainText'] == 'first words'", 10)


def test_a_marked_layer_is_listed_shown_and_never_part_of_the_input(studio: Studio, session: Session) -> None:
    session.run(
        "d = K.activeDocument(); n = d.createNode('Lines', 'paintlayer'); d.rootNode().addChildNode(n, None); "
        "n.setPixelData(b'\\x00\\x00\\xff\\xff' * 400, 10, 10, 20, 20); d.refreshProjection()"
    )
    session.wait("idle() and K.activeDocument().activeNode().name() == 'Lines'")
    session.run("A.controlling.mark_active('scribble')")
    session.wait("(widget_state('krita_sd_control_area_0') or {}).get('visible')", 10)
    session.wait("widget_state('krita_sd_control_show_0')['isChecked']", 10)
    session.screenshot("docker-control-layer")
    session.run("""
from krita_sd.canvas import capture, nodes
from krita_sd.geometry import Bounds
got = []
d = K.activeDocument()
doc_id = A.scene.doc_id
b = Bounds(0, 0, d.width(), d.height())
reader = capture.Capture(d, b, without=nodes.uuids(A.controlling.not_read(doc_id)))
reader.start(lambda picture, mask: got.append(picture), got.append)
""")
    session.wait("len(got)")
    assert session.eval("isinstance(got[0], bytes) and b'\\x00\\x00\\xff\\xff' not in got[0]") is True
    assert session.eval("b'\\x00\\x00\\xff\\xff' in bytes(d.pixelData(0, 0, d.width(), d.height()))") is True
    studio.click("krita_sd_control_show_0")
    session.wait("not layer('Lines').visible()", 10)
    studio.click("krita_sd_control_drop_0")
    session.wait("not widget_state('krita_sd_control_area_0')['visible']", 10)


def test_pages_open_from_the_header_and_escape_comes_back(studio: Studio, session: Session) -> None:
    for page in ("models", "server"):
        studio.click(f"krita_sd_show_{page}")
        session.wait(f"widget_state('krita_sd_{page}_area')['visible']", 10)
        session.screenshot(f"docker-{page}")
    session.wait("'--- server.log ---' in widget_state('krita_sd_log')['toPlainText']", 10, "the log")
    studio.click("krita_sd_diagnostics")
    session.wait("'clipboard' in widget_state('krita_sd_status')['text']", 10)
    text = session.eval("QtWidgets.QApplication.clipboard().text()")
    assert "Krita SD" in text and session.eval("A.settings.session") not in text
    studio.key("Escape")
    session.wait("widget_state('krita_sd_generate')['visible']", 10)


def test_a_control_layer_is_made_from_the_canvas_in_one_undo_step(studio: Studio, session: Session) -> None:
    session.run("close_all()")
    session.wait("not K.documents()")
    studio.document(192, 160)
    session.run(
        "n = layer('Background'); n.setPixelData(b'\\x00\\x00\\x00\\xff' * 1200, 60, 60, 60, 20); "
        "K.activeDocument().refreshProjection(); A.controlling.make('line_art')"
    )
    session.wait("(widget_state('krita_sd_control_area_0') or {}).get('visible')", 90, "the control layer")
    session.wait("idle() and not widget_state('krita_sd_cancel')['enabled']", 30)
    assert session.eval("[(n['name'], n['visible'], n['locked']) for n in layers()]") == [
        ["Background", True, False],
        ["Line art", False, False],
    ]
    assert studio.undo_steps() == ["Add Layer"] and studio.look()["results"] == 0
    assert session.eval("[i.control.type for i in A.controlling.items]") == ["line_art"]
    lit = "sum(1 for v in bytes(layer('Line art').pixelData(0, 0, 192, 160))[::4] if v > 127)"
    assert 50 < session.eval(lit) < 6000, "lines, white on black"
    session.screenshot("docker-line-art")
