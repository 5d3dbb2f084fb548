# SPDX-License-Identifier: GPL-3.0-or-later
"""The docker's widgets without Krita, by keys and clicks, in an interpreter that has Qt (PyQt5 or PyQt6)."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
INTERPRETERS = (sys.executable, "/usr/bin/python3")


class Recorder:
    """Stands for the actions: remembers what the painter wanted."""

    def __init__(self) -> None:
        self.calls: list[list[Any]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *given, **named: self.calls.append([name, *given, *([named] if named else [])])

    def thumbnail(self, key: str) -> None:
        return None

    def take(self) -> list[list[Any]]:
        calls, self.calls = self.calls, []
        return calls


def inside() -> dict[str, Any]:
    """Runs in the other interpreter: press keys, return what was called."""
    from krita_sd import view
    from krita_sd.dock.panel import Panel
    from krita_sd.qt import QT6, Qt, QtWidgets
    from krita_sd.settings import Settings

    press = importlib.import_module("PyQt6.QtTest" if QT6 else "PyQt5.QtTest").QTest
    application = QtWidgets.QApplication([])
    actions = Recorder()
    panel = Panel(actions)
    items = tuple(view.ResultItem(f"a:{number}", "", "<b>tip</b>", number == 0) for number in range(3))
    shown = view.View(
        results=items,
        selected="a:0",
        can_cancel=True,
        can_keep=True,
        can_apply=True,
        can_discard=True,
        status="<b>status</b> & more",
        progress=0.5,
        progress_text="50 %",
        models=(view.ModelChoice("", "Default"), view.ModelChoice("b", "Bad", "It is not safe to load.")),
    )
    page, strip = panel.workspaces["generate"], panel.workspaces["generate"].results.strip
    panel.show_view(shown, Settings(prompt="<i>x</i>", options_open=True))
    panel.show()
    application.processEvents()
    out: dict[str, Any] = {"drawn": actions.take()}
    key, no, shift, control = (
        Qt.Key,
        *(getattr(Qt.KeyboardModifier, f"{n}Modifier") for n in ("No", "Shift", "Control")),
    )
    for code, modifier in ((key.Key_Return, shift), (key.Key_Enter, control), (key.Key_Escape, no)):
        press.keyClick(panel.prompt, code, modifier)
    out["prompt keys"] = actions.take()
    press.keyClick(panel.prompt, key.Key_Return, no)
    press.keyClicks(panel.prompt, "hi")
    out["typed"] = actions.take()[-1]
    for code in (key.Key_Right, key.Key_Space, key.Key_Return, key.Key_Delete, key.Key_Escape):
        press.keyClick(strip, code)
    out["strip keys"] = actions.take()
    for button in (page.generate, page.keep, page.cancel, page.results.apply, page.results.discard):
        press.mouseClick(button, Qt.MouseButton.LeftButton)
    press.keyClick(page.generate, key.Key_Escape)
    out["buttons"] = actions.take()
    page.options.seed.setText("")
    press.keyClicks(page.options.seed, str(2**63 - 1))
    out["seed"] = actions.take()[-1]
    page.options.guidance.setValue(0.0)
    page.options.feather.setValue(0)
    page.strength.setValue(0)
    out["zeros"] = actions.take()
    page.options.server.setText("ws://other:1/v1")
    page.options.server.editingFinished.emit()
    out["server"] = actions.take()
    fields = panel.findChildren(QtWidgets.QWidget)
    ours = [field for field in fields if field.objectName().startswith("krita_sd_")]
    out["nameless"] = [
        field.objectName() for field in ours if not field.accessibleName() and "area" not in field.objectName()
    ]
    names = [field.objectName() for field in ours]
    out["doubled"] = sorted({name for name in names if names.count(name) > 1})
    formats = (panel.status.textFormat(), page.note.textFormat())
    out["plain"] = all(text == Qt.TextFormat.PlainText for text in formats)
    out["bad model"] = panel.asking.model.model().item(1).isEnabled()
    return out


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    code = "import json; from tests.unit.test_dock import inside; print(json.dumps(inside()))"
    for python in filter(shutil.which, INTERPRETERS):
        check = subprocess.run([python, "-c", "import PyQt5.QtTest"], capture_output=True, timeout=60)
        if check.returncode == 0:
            break
    else:
        pytest.skip("no interpreter with PyQt5 here; the real Krita's tests cover the docker")
    # The other interpreter has no pytest: this module's own imports of it are stubbed.
    stub = "import sys, types; stub = types.ModuleType('pytest'); sys.modules['pytest'] = stub; "
    stub += "stub.fixture = lambda **_: (lambda function: function); "
    environ = {**os.environ, "QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [python, "-c", stub + code], capture_output=True, text=True, cwd=ROOT, env=environ, timeout=120
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_drawing_wants_nothing(seen: dict[str, Any]) -> None:
    assert seen["drawn"] == []


def test_the_prompt_generates_and_cancels_and_keeps_its_line_breaks(seen: dict[str, Any]) -> None:
    assert seen["prompt keys"] == [["generate"], ["generate"], ["cancel"]]
    assert seen["typed"] == ["change", {"prompt": "\nhi<i>x</i>"}]


def test_the_strip_is_driven_by_keys(seen: dict[str, Any]) -> None:
    assert seen["strip keys"] == [["pick", "a:1"], ["toggle_shown"], ["apply"], ["discard"], ["cancel"]]


def test_every_button_does_its_one_thing(seen: dict[str, Any]) -> None:
    assert seen["buttons"] == [["generate"], ["keep"], ["cancel"], ["apply"], ["discard"], ["cancel"]]


def test_large_seeds_and_zeros_survive_the_widgets(seen: dict[str, Any]) -> None:
    assert seen["seed"] == ["change", {"seed": 2**63 - 1, "seed_fixed": True}]
    assert seen["zeros"] == [
        ["change_params", {"guidance": 0.0}],
        ["change", {"feather": 0}],
        ["change", {"strength": 0.0}],
    ]


def test_another_server_is_not_told_the_token_of_the_first(seen: dict[str, Any]) -> None:
    assert seen["server"] == [["change", {"server_uri": "ws://other:1/v1", "server_token": ""}]]


def test_every_field_has_one_name_for_tests_and_one_for_screen_readers(seen: dict[str, Any]) -> None:
    assert seen["nameless"] == [] and seen["doubled"] == []


def test_text_is_never_markup_and_an_unusable_model_cannot_be_chosen(seen: dict[str, Any]) -> None:
    assert seen["plain"] is True and seen["bad model"] is False
