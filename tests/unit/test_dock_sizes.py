# SPDX-License-Identifier: GPL-3.0-or-later
"""Nothing in the docker is cut where it is as narrow as it gets: every page, at 100 % and at 200 %, in German too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any

import pytest

from tests.unit.test_dock import INTERPRETERS, ROOT, Part, Recorder

OF_THE_PAINTER = ("_lora_name_", "_control_name_", "_style_place", "_left_out")
"""Names and paths may be of any length: those end in "..." and are whole in their tooltips."""

HEIGHT = 640


def _cut(widget: Any, area: Any) -> str:
    """How a visible text or button is cut; "" where it is not."""
    from krita_sd.dock.sentence import Sentence
    from krita_sd.qt import QtCore, QtWidgets

    style = widget.style()
    if area is not None and area.widget().isAncestorOf(widget):
        left = widget.mapTo(area.widget(), QtCore.QPoint(0, 0)).x()
        if left < 0 or left + widget.width() > area.viewport().width():
            return f"it ends at {left + widget.width()} of {area.viewport().width()}"
    if isinstance(widget, Sentence):
        return "it ends in dots" if widget.is_cut else ""
    metrics = widget.fontMetrics()
    if isinstance(widget, QtWidgets.QLabel):
        room, text = widget.contentsRect(), widget.text()
    elif isinstance(widget, QtWidgets.QPushButton):
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(widget)
        room, text = style.subElementRect(style.SubElement.SE_PushButtonContents, option, widget), widget.text()
    elif isinstance(widget, QtWidgets.QCheckBox):
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(widget)
        room, text = style.subElementRect(style.SubElement.SE_CheckBoxContents, option, widget), widget.text()
    elif isinstance(widget, QtWidgets.QComboBox):
        option = QtWidgets.QStyleOptionComboBox()
        option.initFrom(widget)
        parts = style.ComplexControl.CC_ComboBox, option, style.SubControl.SC_ComboBoxEditField
        room, text = style.subControlRect(*parts, widget), widget.currentText()
    elif isinstance(widget, QtWidgets.QAbstractSpinBox):
        room, text = widget.lineEdit().rect(), widget.text()
    elif isinstance(widget, QtWidgets.QToolButton):
        hint = widget.minimumSizeHint()
        small = widget.width() < hint.width() or widget.height() < hint.height()
        return f"{widget.width()} x {widget.height()} of {hint.width()} x {hint.height()}" if small else ""
    else:
        return ""
    if not text:
        return ""
    needed = metrics.horizontalAdvance(text.replace("&", ""))
    if needed > room.width():
        return f"{text!r} needs {needed} of {room.width()}"
    return f"{metrics.height()} high in {widget.height()}" if metrics.height() > widget.height() else ""


def inside(language: str) -> dict[str, Any]:
    """Runs in the other interpreter: what is cut on every page, and sizes at which a page does not come to rest."""
    from types import SimpleNamespace

    from krita_sd import text, view
    from krita_sd.translations import catalogue

    text.use(catalogue([language]))  # before the modules that keep sentences
    from krita_sd.controls import ControlItem, ControlLayer
    from krita_sd.download_text import FolderLine
    from krita_sd.live.view import LiveView
    from krita_sd.qt import QtCore, QtWidgets
    from krita_sd.settings import Settings
    from krita_sd.styles import NO_STYLE
    from krita_sd.view_lists import Choice, LoraItem

    application = QtWidgets.QApplication([])
    application.setStyle("fusion")
    from krita_sd.dock.panel import Panel

    types = (Choice("canny", "Canny edges"), Choice("depth", "Depth", "", "Needs a ControlNet for SD 1."))
    controls = (
        ControlItem(ControlLayer("{a}", "canny", 0.5, 0.1, 0.9), "Lines", True, ""),
        ControlItem(ControlLayer("{b}", "depth", 0.5, 0.1, 0.9), "Far", True, "Needs a ControlNet for SD 1."),
    )
    Part.known |= {
        ("controlling", "items"): controls,
        ("controlling", "types"): lambda: types,
        ("controlling", "makeable"): lambda: types,
        ("prompting", "history"): SimpleNamespace(search=lambda *_: ()),
        ("styling", "current"): lambda: NO_STYLE,
        ("collection", "folders"): lambda: (FolderLine("/own", True),),
    }

    class Actions(Recorder):
        live_view = LiveView(True, "320 ms behind the pen, 3.1 pictures per second", False, True, True, "25 pictures")

        def input_result(self) -> Any:
            return "one"

    panel = Panel(Actions())
    shown = view.View(
        button="Refine selection",
        note="No prompt: anything may come. Painted at 512 x 512, then refined at full size.",
        steps_text="runs 10 of 20 steps",
        results=(view.ResultItem("a:0", "", "", False),),
        selected="a:0",
        memory="Needs 23.4 GB of 7.9 GB free: parts of it wait in the memory of the machine, which is slow.",
        memory_warns=True,
        reading="12 of 77 tokens, 3 parts weighted, 1 LoRA. Ignored: a bracket that nobody closes.",
        reading_warns=True,
        status="Connected to this machine: NVIDIA GeForce RTX 4090, 20.1 of 24.0 GB free, Embedded model.",
        loras=(LoraItem("ink", "Ink", 0.5),),
    )
    settings = Settings(options_open=True)
    panel.show_view(shown, settings)
    panel.show()
    panel.resize(1, HEIGHT)
    out: dict[str, Any] = {"cut": {}, "seen": 0, "scale": panel.devicePixelRatioF()}

    def look(name: str) -> None:
        for _ in range(4):
            application.processEvents()
        shown = panel._stack.currentWidget()
        areas = getattr(shown, "areas", (shown,))
        for widget in panel.findChildren(QtWidgets.QWidget):
            own = widget.objectName()
            if widget.isVisible() and not any(part in own for part in OF_THE_PAINTER):
                out["seen"] += 1
                if problem := _cut(widget, next((area for area in areas if area.isAncestorOf(widget)), None)):
                    out["cut"][f"{name}: {own or type(widget).__name__}"] = problem

    for workspace in panel.workspaces:
        panel.show_view(shown, settings.replace(workspace=workspace))
        look(workspace)
    for page in panel.pages:
        panel.show_page(page)
        look(page)
    panel.show_page("")
    out["low"] = in_low_dockers(panel, application, shown, settings)
    panel.show_view(shown, settings)
    memory = panel.workspaces["generate"].memory
    out["heights"] = []
    for width in (1, 1200, 1):
        panel.resize(width, 900)
        for _ in range(4):
            application.processEvents()
        out["heights"].append(memory.height() // memory.fontMetrics().lineSpacing())

    class Count(QtCore.QObject):
        resized = 0

        def eventFilter(self, _: Any, event: Any) -> bool:  # noqa: N802 (Qt's name)
            self.resized += event.type() == QtCore.QEvent.Type.Resize
            return False

    count = Count()
    for area in panel._split.areas:
        area.widget().installEventFilter(count)
    out["restless"] = []
    for width in (1, 400):  # the scroll bar comes and goes, and with it the width of the sentences
        for height in range(400, 1100, 12):
            panel.resize(width, height)
            for _ in range(4):
                application.processEvents()
            count.resized = 0
            panel.workspaces["generate"].updateGeometry()
            for _ in range(3):
                application.processEvents()
            if count.resized:
                out["restless"].append([width, height, count.resized])
    return out


def in_low_dockers(panel: Any, application: Any, shown: Any, settings: Any) -> dict[str, Any]:
    """Which buttons are not whole at ever lower heights, and where those of the foot are in every state."""
    import dataclasses

    from krita_sd.live.view import LiveView

    generate, live = panel.workspaces["generate"], panel.workspaces["live"]
    pressed = {
        "generate": (generate.generate, generate.cancel, generate.keep, generate.results.apply),
        "live": (live.toggle, live.apply, live.record),
    }
    lives = panel._actions.live_view, LiveView(True, "Paused.", False, False, False, "")
    empty = dataclasses.replace(shown, results=())
    views = (shown, dataclasses.replace(empty, can_cancel=True), empty)
    states = {"generate": [(view, lives[0]) for view in views], "live": [(shown, live) for live in lives]}
    out: dict[str, Any] = {"hidden": [], "places": {}}
    for workspace, widgets in pressed.items():
        places = []
        for view, type(panel._actions).live_view in states[workspace]:
            for height in (900, 600, 480):
                panel.resize(1, height)
                panel.show_view(view, settings.replace(workspace=workspace))
                for _ in range(4):
                    application.processEvents()
                for widget in widgets:
                    if widget.visibleRegion().boundingRect() != widget.rect():
                        out["hidden"].append([workspace, height, widget.objectName()])
            places.append([widget.mapTo(panel, widget.rect().topLeft()).y() for widget in widgets])
        out["places"][workspace] = places
    panel.resize(1, 480)
    for is_open in (False, True):
        panel.show_view(shown, settings.replace(options_open=is_open))
        for _ in range(6):
            application.processEvents()
    seen = (generate.gear, generate.options.steps)
    out["opened"] = [widget.visibleRegion().boundingRect() == widget.rect() for widget in seen]
    return out


@pytest.fixture(scope="module", params=["1 en", "2 en", "1 de"])
def seen(request: pytest.FixtureRequest) -> dict[str, Any]:
    scale, language = request.param.split()
    code = f"import json; from tests.unit.test_dock_sizes import inside; print(json.dumps(inside({language!r})))"
    for python in filter(shutil.which, INTERPRETERS):
        if subprocess.run([python, "-c", "import PyQt5.QtWidgets"], capture_output=True, timeout=60).returncode == 0:
            break
    else:
        pytest.skip("no interpreter with PyQt5 here; the real Krita's tests cover the docker")
    stub = "import sys, types; stub = types.ModuleType('pytest'); sys.modules['pytest'] = stub; "
    stub += "stub.FixtureRequest = object; stub.fixture = lambda **_: (lambda function: function); "
    environ = {**os.environ, "QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": str(ROOT), "QT_SCALE_FACTOR": scale}
    done = subprocess.run(
        [python, "-c", stub + code], capture_output=True, text=True, cwd=ROOT, env=environ, timeout=120
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert result["scale"] == float(scale)
    return result


def test_no_text_and_no_button_is_cut_in_the_narrowest_docker(seen: dict[str, Any]) -> None:
    assert seen["seen"] > 100
    assert seen["cut"] == {}


def test_what_is_pressed_is_in_sight_also_in_a_low_docker_and_does_not_move(seen: dict[str, Any]) -> None:
    assert seen["low"]["hidden"] == []
    for places in seen["low"]["places"].values():
        assert all(place == places[0] for place in places)


def test_what_the_gear_opens_is_in_sight(seen: dict[str, Any]) -> None:
    assert seen["low"]["opened"] == [True, True]


def test_a_sentence_takes_as_many_lines_as_it_needs(seen: dict[str, Any]) -> None:
    narrow, wide, again = seen["heights"]
    assert narrow == again >= 3 and wide == 1


def test_sentences_that_follow_the_width_come_to_rest_beside_a_scroll_bar(seen: dict[str, Any]) -> None:
    assert seen["restless"] == []
