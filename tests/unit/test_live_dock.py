# SPDX-License-Identifier: GPL-3.0-or-later
"""The Live workspace without Krita, by keys and clicks, in an interpreter that has Qt."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_dock import INTERPRETERS, Recorder

ROOT = Path(__file__).resolve().parents[2]


def inside() -> dict[str, Any]:
    """Runs in the other interpreter: press keys, return what was called."""
    from krita_sd.dock.live_panel import LivePanel
    from krita_sd.dock.live_picture import LivePicture
    from krita_sd.live.settings import LiveSettings
    from krita_sd.live.view import LiveView
    from krita_sd.qt import QT6, Qt, QtGui, QtWidgets
    from krita_sd.settings import Settings
    from krita_sd.view import View

    press = importlib.import_module("PyQt6.QtTest" if QT6 else "PyQt5.QtTest").QTest
    application = QtWidgets.QApplication([])
    actions: Any = Recorder()
    actions.live_view = LiveView(on=True, status="<b>40 ms</b>", can_apply=True, record_text="3 pictures in /home/x")
    panel = LivePanel(actions)
    panel.show_view(View(), Settings(live=LiveSettings(strength=0.42, place="docker", steps=3, opacity=0.5)))
    panel.show()
    application.processEvents()
    out: dict[str, Any] = {"drawn": actions.take()}
    values = (panel.strength, panel.strength_box, panel.steps, panel.opacity_box)
    out["shown"] = [field.value() for field in values] + [panel.place.currentData(), panel.toggle.isChecked()]
    for button in (panel.toggle, panel.apply, panel.merge, panel.record):
        press.mouseClick(button, Qt.MouseButton.LeftButton)
    out["buttons"] = actions.take()
    panel.strength.setValue(0)
    panel.steps.setValue(0)
    panel.seed.setText("")
    press.keyClicks(panel.seed, str(2**63 - 1))
    out["changes"] = actions.take()
    actions.live_view = LiveView()
    panel.show_view(View(), Settings())
    out["off"] = [panel.toggle.isChecked(), panel.apply.isEnabled(), panel.merge.isEnabled()]
    fields = [field for field in panel.findChildren(QtWidgets.QWidget) if field.objectName().startswith("krita_sd_")]
    out["nameless"] = [field.objectName() for field in fields if not field.accessibleName()]
    names = [field.objectName() for field in fields]
    out["doubled"] = sorted({name for name in names if names.count(name) > 1})
    out["plain"] = panel.status.textFormat() == Qt.TextFormat.PlainText
    picture = LivePicture()
    picture.resize(200, 100)
    image = QtGui.QImage(50, 50, QtGui.QImage.Format.Format_RGB32)
    image.fill(0xFF0000)
    picture.show_image(image)
    drawn = picture.grab().toImage()
    out["picture"] = [drawn.pixelColor(x, 50).green() < 20 for x in (10, 100, 190)]
    from krita_sd.geometry import Bounds, Extent
    from krita_sd.live.develop import develop, whole
    from krita_sd.wire.frames import Picture

    raw = bytes([1, 2, 3, 255, 4, 5, 6, 255])
    small = Picture("bgra8", 2, 1, raw)
    opaque, copied = develop(small, True), develop(small, False)
    out["developed"] = [f"{made.pixel(1, 0):x}" for made in (opaque, copied)]
    out["shares"] = bytes(opaque.constBits().asstring(8)) == raw
    placed = whole(small, Extent(4, 3), Bounds(1, 1, 2, 1))
    out["placed"] = [placed.width, placed.height, placed.data == bytes(20) + raw + bytes(20)]
    enlarged = whole(small, Extent(4, 2), Bounds(0, 0, 4, 2))
    out["enlarged"] = [enlarged.width, enlarged.height, list(enlarged.data[:4]), list(enlarged.data[-4:])]
    picture.show_image(None)
    out["empty"] = picture.has_picture
    return out


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    for python in filter(shutil.which, INTERPRETERS):
        if subprocess.run([python, "-c", "import PyQt5.QtTest"], capture_output=True, timeout=60).returncode == 0:
            break
    else:
        pytest.skip("no interpreter with PyQt5 here; the real Krita's tests cover the docker")
    # The other interpreter has no pytest: this module's own imports of it are stubbed.
    stub = "import sys, types; stub = types.ModuleType('pytest'); sys.modules['pytest'] = stub; "
    stub += "stub.fixture = lambda **_: (lambda function: function); "
    code = stub + "import json; from tests.unit.test_live_dock import inside; print(json.dumps(inside()))"
    environ = {**os.environ, "QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environ, timeout=120)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_settings_are_drawn_and_drawing_wants_nothing(seen: dict[str, Any]) -> None:
    assert seen["drawn"] == [] and seen["shown"] == [42, 42, 3, 50, "docker", True]


def test_every_button_does_its_one_thing(seen: dict[str, Any]) -> None:
    assert seen["buttons"] == [["toggle_live"], ["apply_live"], ["apply_live", {"into_active": True}], ["record_live"]]


def test_zeros_and_large_seeds_survive(seen: dict[str, Any]) -> None:
    assert seen["changes"][:2] == [["change_live", {"strength": 0.0}], ["change_live", {"steps": None}]]
    assert seen["changes"][-1] == ["change_live", {"seed": 2**63 - 1}]


def test_without_a_picture_there_is_nothing_to_apply(seen: dict[str, Any]) -> None:
    assert seen["off"] == [False, False, False]


def test_names_and_plain_text(seen: dict[str, Any]) -> None:
    assert seen["nameless"] == [] and seen["doubled"] == [] and seen["plain"] is True


def test_the_docker_keeps_the_proportions_of_its_picture(seen: dict[str, Any]) -> None:
    assert seen["picture"] == [False, True, False] and seen["empty"] is False


def test_a_frame_becomes_an_image_and_a_picture_of_the_whole_region(seen: dict[str, Any]) -> None:
    """What is opaque is drawn from the bytes that came; what is smaller is enlarged, a part is put in its place."""
    assert seen["developed"] == ["ff060504", "ff060504"] and seen["shares"]
    assert seen["placed"] == [4, 3, True]
    assert seen["enlarged"] == [4, 2, [1, 2, 3, 255], [4, 5, 6, 255]]
