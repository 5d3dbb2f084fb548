# SPDX-License-Identifier: GPL-3.0-or-later
"""What notices changes for Live, with and without the History docker, around a Krita that is played here."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_dock import INTERPRETERS

ROOT = Path(__file__).resolve().parents[2]


class Document:
    """A picture of 64 x 48 grey pixels in sRGB; it is idle."""

    busy = False

    def __getattr__(self, name: str) -> Any:
        answers = {"colorModel": "RGBA", "colorDepth": "U8", "colorProfile": "sRGB-elle-V2-srgbtrc.icc"}
        return lambda: answers.get(name)

    def rootNode(self) -> Any:  # noqa: N802 (Krita's name)
        return self

    def tryBarrierLock(self) -> bool:  # noqa: N802
        return not self.busy

    def pixelData(self, x: int, y: int, width: int, height: int) -> bytes:  # noqa: N802
        return bytes([128]) * (4 * width * height)


def inside() -> dict[str, Any]:
    """Runs in the interpreter that has Qt: what the lookout tells and how often it looks, by scenario."""
    import time

    from krita_sd.geometry import Bounds  # without a Krita the package has no plugin, which would want all of it
    from krita_sd.qt import QT6, Qt, QtCore, QtGui, QtWidgets

    krita: Any = types.ModuleType("krita")
    sys.modules["krita"] = krita
    document = Document()
    dockers: list[Any] = []

    class Application:
        def __getattr__(self, name: str) -> Any:
            if name in ("viewCreated", "windowCreated"):
                return types.SimpleNamespace(connect=lambda slot: None)
            lists = {"dockers": dockers, "documents": [document], "windows": [], "activeDocument": document}
            return lambda *_: lists.get(name, self)

        def brushSize(self) -> float:  # noqa: N802 (Krita's name; of the view)
            return 8.0

    application = Application()
    krita.Krita = types.SimpleNamespace(instance=lambda: application)

    app = QtWidgets.QApplication([])
    from krita_sd.canvas import host, live_watch

    canvas = QtWidgets.QWidget()
    canvas.resize(64, 48)
    canvas.show()
    host.canvas_widgets = lambda: [canvas]
    live_watch.image_to_canvas = lambda doc, canvas: QtGui.QTransform()  # type: ignore[assignment]
    press = importlib.import_module("PyQt6.QtTest" if QT6 else "PyQt5.QtTest").QTest

    def until(condition: Callable[[], Any]) -> bool:
        end = time.monotonic() + 10
        while not condition() and time.monotonic() < end:
            app.processEvents()
            time.sleep(0.002)
        return bool(condition())

    def heard(told: dict[str, list[Any]], name: str) -> bool:
        return until(lambda: told.get(name))

    def docker(model: Any) -> Any:
        made = QtWidgets.QDockWidget()
        made.setObjectName("History")
        view = QtWidgets.QListView(made)
        if model is not None:
            view.setModel(model)
            view.setCurrentIndex(model.index(model.rowCount() - 1, 0))
        made.setWidget(view)
        return made

    def watched(quick: bool = True) -> tuple[Any, dict[str, list[Any]]]:
        lookout = live_watch.Lookout()
        told: dict[str, list[Any]] = {}
        for name in ("glimpsed", "pen_moved", "settled", "undone"):
            getattr(lookout, name).connect(lambda *values, name=name: told.setdefault(name, []).append(values))
        lookout.start(document, Bounds(0, 0, 64, 48), quick)
        return lookout, told

    def stroke() -> None:
        left = Qt.MouseButton.LeftButton
        press.mousePress(canvas, left, Qt.KeyboardModifier.NoModifier, QtCore.QPoint(20, 20))
        press.mouseMove(canvas, QtCore.QPoint(24, 20))
        press.mouseRelease(canvas, left, Qt.KeyboardModifier.NoModifier, QtCore.QPoint(24, 20))

    out: dict[str, Any] = {}
    for name, found in {"no docker": [], "no model": [docker(None)]}.items():
        dockers[:] = found
        lookout, told = watched()
        sampled = heard(told, "glimpsed")
        rows = [y for y, _ in told["glimpsed"][0][0].rows] if sampled else []
        pixels = sum(len(row) for _, row in told["glimpsed"][0][0].rows) if sampled else 0
        stroke()
        out[name] = {
            "looks every": lookout._safety.interval(),
            "rows": rows,
            "bytes": pixels,
            "after a stroke": heard(told, "settled"),
            "where": [list(box) for (box,) in told.get("pen_moved", [])],
        }
        document.busy = True
        told.clear()
        lookout.look_again()
        app.processEvents()
        out[name]["while busy"] = "settled" in told
        document.busy = False
        out[name]["idle again"] = heard(told, "settled")
        lookout.stop()
        told.clear()
        stroke()
        app.processEvents()
        out[name]["stopped"] = [told, lookout._safety.isActive(), lookout._glimpses.isActive()]
    slow, _ = watched(quick=False)
    out["not quick"] = slow._safety.isActive()
    slow.stop()

    steps = QtCore.QStringListModel(["start", "line", "fill"])
    held = docker(steps)
    dockers[:] = [held]
    lookout, told = watched()
    out["with history"] = {"looks every": lookout._safety.interval()}
    steps.setStringList(["start", "line", "fill"])  # resets the model, and Krita then sets the row
    held.widget().setCurrentIndex(steps.index(1, 0))
    out["with history"]["undone"] = heard(told, "undone") and heard(told, "settled")
    told.clear()
    view, held_view = held.widget(), QtCore.QPointer if False else None  # noqa: F841
    importlib.import_module("PyQt6.sip" if QT6 else "PyQt5.sip").delete(held.widget())
    steps.setStringList(["start"])
    out["docker closed"] = {
        "noticed": heard(told, "settled"),
        "looks every": lookout._safety.interval(),
        "still looks": lookout._safety.isActive(),
    }
    lookout.stop()
    return out


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    for python in filter(shutil.which, INTERPRETERS):
        check = subprocess.run([python, "-c", "import PyQt5.QtTest"], capture_output=True, timeout=60)
        if check.returncode == 0:
            break
    else:
        pytest.skip("no interpreter with PyQt5 here; the real Krita's tests cover it")
    # The other interpreter has no pytest: this module's own imports of it are stubbed.
    stub = "import sys, types; stub = types.ModuleType('pytest'); sys.modules['pytest'] = stub; "
    stub += "stub.fixture = lambda **_: (lambda function: function); "
    stub += "stub.mark = types.SimpleNamespace(parametrize=lambda *_: (lambda function: function)); "
    code = stub + "import json; from tests.unit.test_live_watch import inside; print(json.dumps(inside()))"
    environ = {**os.environ, "QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environ, timeout=120)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("missing", ["no docker", "no model"])
def test_without_the_history_rows_are_sampled_faster_and_strokes_still_tell(seen: dict[str, Any], missing: str) -> None:
    told = seen[missing]
    assert told["looks every"] == 250 and told["rows"] == [0, 16, 32] and told["bytes"] == 3 * 64 * 4
    assert told["after a stroke"] is True
    assert told["where"] == [[4, 4, 33, 33]]  # around where the pen was put down: the brush of 8 px and a margin
    assert told["while busy"] is False and told["idle again"] is True


@pytest.mark.parametrize("missing", ["no docker", "no model"])
def test_a_stopped_lookout_tells_nothing(seen: dict[str, Any], missing: str) -> None:
    assert seen[missing]["stopped"] == [{}, False, False]


def test_with_only_a_layer_as_input_nothing_is_sampled(seen: dict[str, Any]) -> None:
    assert seen["not quick"] is False


def test_with_the_history_it_tells_of_changes_and_the_sampling_is_slow(seen: dict[str, Any]) -> None:
    assert seen["with history"] == {"looks every": 1000, "undone": True}


def test_a_docker_that_is_closed_meanwhile_loses_no_change(seen: dict[str, Any]) -> None:
    assert seen["docker closed"] == {"noticed": True, "looks every": 250, "still looks": True}
