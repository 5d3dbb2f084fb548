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
from typing import Any, ClassVar

import pytest

from tests.unit.dock_collection import folders_and_downloads
from tests.unit.dock_prompt import dimmed, prompt_keys

ROOT = Path(__file__).resolve().parents[2]
INTERPRETERS = (sys.executable, "/usr/bin/python3")


class Part:
    """A part of the actions, or one action: `actions.styling.choose("x")` is remembered as "styling.choose"."""

    known: ClassVar[dict[tuple[str, str], Any]] = {
        ("controlling", "items"): (),
        ("controlling", "left_out"): (),
        ("controlling", "types"): tuple,
        ("controlling", "makeable"): tuple,
        ("serving", "log"): "a log",
        ("collection", "folders"): tuple,
        ("collection", "is_elsewhere"): False,
        ("collection", "can_download"): True,
        ("collection", "offers"): (),
        ("collection", "free"): 5_000_000_000,
    }
    """What parts tell: (part, name) -> value."""

    def __init__(self, calls: list[list[Any]], name: str) -> None:
        self._calls, self._name = calls, name

    def __call__(self, *given: Any, **named: Any) -> None:
        self._calls.append([self._name, *given, *([named] if named else [])])

    def __getattr__(self, name: str) -> Any:
        if (self._name, name) in self.known:
            return self.known[self._name, name]
        if self._name == "prompting" and name == "offer":
            return self.offer
        if (self._name, name) == ("history", "model"):
            from krita_sd.history.model import HistoryModel

            return HistoryModel(lambda *_: None, lambda _: None)
        if (self._name, name) == ("queue", "items"):
            return list
        if self._name == "comparing" and name in ("wish", "describe", "progress"):
            from krita_sd.grid import Wish

            return {"wish": Wish(), "describe": lambda: ("1 x 1", True), "progress": lambda: (0, 0)}[name]
        return Part(self._calls, f"{self._name}.{name}")

    def offer(self, typed: Any) -> Any:
        from krita_sd.vocabulary import Tags, Vocabulary

        tags = Tags(("blue sky", "blur"), (("blue sky", "blue sky", 9), ("blur", "blur", 1)))
        return Vocabulary(("ink",), ("animals",), (("own/x", "Blueprint"),), tags).complete(typed)


class Recorder:
    """Stands for the actions: remembers what the painter wanted."""

    def __init__(self) -> None:
        self.calls: list[list[Any]] = []

    def __getattr__(self, name: str) -> Any:
        return Part(self.calls, name)

    models: ClassVar[tuple[dict[str, Any], ...]] = (
        {"id": "m", "name": "dream", "kind": "checkpoint", "family": "sd1", "bytes": 2_000_000_000},
        {"id": "l", "name": "ink", "kind": "lora", "family": "sd1", "bytes": 37_000_000},
        {
            "id": "x",
            "name": "old.ckpt",
            "kind": "unknown",
            "usable": False,
            "problem": "<b>It is not safe to load.</b>",
        },
    )
    device: ClassVar[dict[str, Any]] = {"name": "GPU", "free": 3_000_000_000, "memory": 8_000_000_000}

    def thumbnail(self, key: str) -> None:
        return None

    def input_result(self) -> None:
        return None

    def choose_results(self, keys: tuple[str, ...]) -> None:
        """Of interest to test_dock_results."""

    def take(self) -> list[list[Any]]:
        calls = list(self.calls)
        self.calls.clear()  # the parts hold the same list
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
        progress_text="loading model 60 %, 2 waiting",
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
    page.reaches["64"].trigger()
    panel.show_view(shown, Settings(prompt="<i>x</i>", options_open=True, reach="half"))
    out["reach"] = [actions.take(), [name for name, line in page.reaches.items() if line.isChecked()]]
    page.options.seed.setText("")
    press.keyClicks(page.options.seed, str(2**63 - 1))
    out["seed"] = actions.take()[-1]
    page.options.guidance.setValue(0.0)
    page.options.feather.setValue(0)
    page.strength.setValue(0)
    out["zeros"] = actions.take()
    fields = panel.findChildren(QtWidgets.QWidget)
    ours = [field for field in fields if field.objectName().startswith("krita_sd_")]
    out["nameless"] = [
        field.objectName() for field in ours if not field.accessibleName() and "area" not in field.objectName()
    ]
    names = [field.objectName() for field in ours]
    out["doubled"] = sorted({name for name in names if names.count(name) > 1})
    formats = (panel.status.textFormat(), page.note.textFormat())
    out["plain"] = all(text == Qt.TextFormat.PlainText for text in formats)
    page.progress.resize(600, 22)
    out["progress"] = [page.progress.text(), page.progress.value()]
    page.progress.resize(90, 22)
    out["progress"].append(page.progress.text()[-1])
    out["bad model"] = panel.asking.model.model().item(1).isEnabled()
    out |= prompt_keys(panel, actions, press)
    out["dimmed"] = dimmed(panel)
    out |= lists(panel, actions, press)
    out |= pages(panel, actions, press)
    return out


def lists(panel: Any, actions: Recorder, press: Any) -> dict[str, Any]:
    """Styles and LoRAs are chosen, weighed and dropped; what does not fit says why."""
    from krita_sd import view
    from krita_sd.qt import Qt, QtWidgets
    from krita_sd.settings import Settings
    from krita_sd.view_lists import Choice, LoraItem

    shown = view.View(
        styles=(Choice("", "No style"), Choice("own/x", "Mine"), Choice("built-in/y", "Other", "", "For SDXL")),
        loras=(LoraItem("a", "Ink", 0.5), LoraItem("b", "Gone", 1.0, "It is gone.")),
        lora_choices=(Choice("c", "Clay"), Choice("d", "Wrong", "", "For SDXL")),
    )
    panel.show_view(shown, Settings(style="own/x"))
    QtWidgets.QApplication.processEvents()
    out: dict[str, Any] = {"lists drawn": [call for call in actions.take() if call[0] != "change"]}
    asking = panel.asking
    out["style shown"] = [asking.style_box.currentText(), asking.style_box.model().item(2).isEnabled()]
    asking.style_box.activated.emit(2)
    asking.loras.add.activated.emit(0)
    row = panel.findChild(QtWidgets.QDoubleSpinBox, "krita_sd_lora_weight_0")
    row.setValue(-0.25)
    press.mouseClick(panel.findChild(QtWidgets.QToolButton, "krita_sd_lora_drop_1"), Qt.MouseButton.LeftButton)
    out["lists used"] = actions.take()
    out["loras visible"] = asking.loras.isVisible()
    panel.show_view(view.View(), Settings())
    out["loras empty"] = asking.loras.isVisible()
    return out


def pages(panel: Any, actions: Recorder, press: Any) -> dict[str, Any]:
    """Control layers, models and server."""
    from krita_sd import view
    from krita_sd.controls import ControlItem, ControlLayer
    from krita_sd.qt import Qt, QtWidgets
    from krita_sd.settings import Settings
    from krita_sd.view_lists import Choice

    out: dict[str, Any] = {}
    left = Qt.MouseButton.LeftButton
    types = (Choice("canny", "Canny edges"), Choice("depth", "Depth", "", "Needs a ControlNet."))
    item = ControlItem(ControlLayer("{id}", "canny", 0.5, 0.1, 0.9), "Lines", True, "")
    Part.known |= {("controlling", "items"): (item,), ("controlling", "types"): lambda: types}
    Part.known[("controlling", "makeable")] = lambda: types
    settings = Settings(server_uri="ws://a/v1", server_token="secret", leave_free=2.0)
    panel.show_view(view.View(memory="Too big.", memory_warns=True), settings)
    QtWidgets.QApplication.processEvents()
    out["pages drawn"] = [call for call in actions.take() if call[0] != "change"]
    find = panel.findChild
    find(QtWidgets.QDoubleSpinBox, "krita_sd_control_weight_0").setValue(1.25)
    find(QtWidgets.QSpinBox, "krita_sd_control_end_0").setValue(50)
    find(QtWidgets.QComboBox, "krita_sd_control_type_0").activated.emit(0)
    press.mouseClick(find(QtWidgets.QCheckBox, "krita_sd_control_on_0"), left)
    press.mouseClick(find(QtWidgets.QToolButton, "krita_sd_control_show_0"), left)
    press.mouseClick(find(QtWidgets.QToolButton, "krita_sd_control_drop_0"), left)
    panel.asking.controls._fill_menu()
    entries = {entry.objectName(): entry for entry in panel.asking.controls.add.menu().actions() if entry.objectName()}
    out["greyed"] = {name: entry.toolTip() for name, entry in entries.items() if not entry.isEnabled()}
    entries["krita_sd_control_make_canny"].trigger()
    entries["krita_sd_control_mark_canny"].trigger()
    out["controls used"] = actions.take()
    panel.show_page("models")
    page = panel.pages["models"]
    rows = [page.tree.topLevelItem(row) for row in range(page.tree.topLevelItemCount())]
    out["models"] = [[row.text(column) for column in range(4)] for row in rows]
    usable = []
    for row in rows:
        page.tree.setCurrentItem(row)
        usable.append(page.use.isEnabled())
        press.mouseClick(page.use, left)
    out["models used"] = [usable, page.about.text(), actions.take()]
    page.search.setText("INK")
    out["models found"] = [page.tree.topLevelItem(row).text(0) for row in range(page.tree.topLevelItemCount())]
    panel.show_page("server")
    QtWidgets.QApplication.processEvents()
    page = panel.pages["server"]
    out["server shown"] = [page.device.text(), page.memory.text(), page.log.toPlainText(), page.leave.value()]
    actions.take()
    page.server.setText("other:1")
    press.mouseClick(page.connect_it, left)
    press.mouseClick(page.free, left)
    press.mouseClick(page.copy, left)
    out["server"] = actions.take()
    out |= folders_and_downloads(panel, actions, press, Part.known)
    panel.show_page("models")
    panel.activateWindow()
    panel.take_keyboard()
    focused = panel.focusWidget().objectName()
    press.keyClick(panel.focusWidget(), Qt.Key.Key_Escape)
    out["page left"] = [focused, panel.page, actions.take()]
    panel.resize(1, 700)  # it becomes as narrow as its header lets it be
    out["too wide"] = {}
    for row, name in enumerate(["", *panel.pages]):
        panel._stack.setCurrentIndex(row)
        for workspace in panel.workspaces if not name else ("",):
            for other, widget in panel.workspaces.items():
                for part in (widget, widget.foot):
                    part.setVisible(other == workspace)
            QtWidgets.QApplication.processEvents()
            shown = panel._stack.currentWidget()
            areas = getattr(shown, "areas", (shown,))
            out["too wide"][name or workspace] = max(area.widget().width() - area.viewport().width() for area in areas)
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


def test_how_far_the_canvas_grows_is_chosen_in_the_menu_of_the_button(seen: dict[str, Any]) -> None:
    assert seen["reach"] == [[["change", {"reach": "64"}]], ["half"]]


def test_large_seeds_and_zeros_survive_the_widgets(seen: dict[str, Any]) -> None:
    assert seen["seed"] == ["change", {"seed": 2**63 - 1, "seed_fixed": True}]
    assert seen["zeros"] == [
        ["change_params", {"guidance": 0.0}],
        ["change", {"feather": 0}],
        ["change", {"strength": 0.0}],
    ]


def test_another_server_is_not_told_the_token_of_the_first(seen: dict[str, Any]) -> None:
    assert seen["server"] == [
        ["serving.use_server", "other:1", ""],
        ["serving.free_memory"],
        ["serving.copy_diagnostics"],
    ]
    assert seen["server shown"] == ["Device: GPU", "Memory: 3.0 GB free, 8.0 GB in all", "a log", 2.0]


def test_every_field_has_one_name_for_tests_and_one_for_screen_readers(seen: dict[str, Any]) -> None:
    assert seen["nameless"] == [] and seen["doubled"] == []


def test_text_is_never_markup_and_an_unusable_model_cannot_be_chosen(seen: dict[str, Any]) -> None:
    assert seen["plain"] is True and seen["bad model"] is False


def test_the_bar_says_what_happens_as_it_is_and_as_much_as_fits(seen: dict[str, Any]) -> None:
    assert seen["progress"] == ["loading model 60 %, 2 waiting", 500, "\u2026"]


def test_no_page_is_wider_than_the_narrowest_docker(seen: dict[str, Any]) -> None:
    """There is no horizontal scroll bar: what is too wide is out of reach."""
    assert {name: width for name, width in seen["too wide"].items() if width > 0} == {}


def test_a_word_is_weighed_and_coloured_also_behind_an_emoji(seen: dict[str, Any]) -> None:
    assert seen["weighed"] == ["\U0001f600 a (red:1.2) house", "red"]
    assert seen["coloured"] == ["(red:1.2)"]
    assert seen["coloured all"] == ["[fog]", "<lora:ink:0.5>", "__animals__", "# note", "("]
    assert seen["drawn in its colour"] == [True, True, True]
    assert seen["weight undone"] == "\U0001f600 a (red:1.1) house"


def test_marks_and_warnings_are_readable_in_dark_and_in_light_themes(seen: dict[str, Any]) -> None:
    for theme in seen["contrast"]:
        assert len(theme) >= 9 and min(theme.values()) >= 4.5, theme


def test_a_negative_prompt_without_effect_says_so(seen: dict[str, Any]) -> None:
    ignored, usual = "Ignored at guidance 1 or less", "What should not be there"
    assert seen["dimmed"] == [[ignored, ignored, False], [usual, "", True], [usual, "", True]]


def test_words_loras_wildcards_and_styles_complete(seen: dict[str, Any]) -> None:
    assert seen["completed"] == ["a, blue sky", "a blu\n", "x <lora:ink:1>", "__animals__", "blur"]
    assert seen["style completed"] == ["", [["styling.choose", "own/x"]]]


def test_escape_closes_the_list_before_it_cancels(seen: dict[str, Any]) -> None:
    assert seen["escape"] == [False, [["cancel"]]]


def test_styles_and_loras_are_drawn_without_wishes_and_used_by_their_ids(seen: dict[str, Any]) -> None:
    assert seen["lists drawn"] == []
    assert seen["style shown"] == ["Mine", True]
    assert seen["lists used"] == [
        ["styling.choose", "built-in/y"],
        ["styling.add_lora", "c"],
        ["styling.weigh_lora", "a", -0.25],
        ["styling.drop_lora", "b"],
    ]
    assert seen["loras visible"] is True and seen["loras empty"] is False


def test_control_layers_are_changed_shown_unmarked_and_added(seen: dict[str, Any]) -> None:
    assert seen["pages drawn"] == []
    assert seen["controls used"] == [
        ["controlling.change_layer", "{id}", {"weight": 1.25}],
        ["controlling.change_layer", "{id}", {"end": 0.5}],
        ["controlling.change_layer", "{id}", {"type": "canny"}],
        ["controlling.change_layer", "{id}", {"on": False}],
        ["controlling.show_layer", "{id}", False],
        ["controlling.unmark", "{id}"],
        ["controlling.make", "canny"],
        ["controlling.mark_active", "canny"],
    ]
    assert seen["greyed"] == {
        "krita_sd_control_make_depth": "<qt>Needs a ControlNet.</qt>",
        "krita_sd_control_mark_depth": "<qt>Needs a ControlNet.</qt>",
    }


def test_folders_say_what_was_found_and_are_added_and_taken_out(seen: dict[str, Any]) -> None:
    asked = ["/own", "The server has not looked into it yet."]
    found = ["/ui", "ComfyUI: 3 models, 1 of them cannot be used"]
    assert seen["folders"] == ["folders", [asked, found, ["/x", "<b>"]], False]
    assert [call for call in seen["folders used"] if call[0].startswith("collection")] == [
        ["collection.drop_folder", "/ui"],
        ["collection.open_folder", "/ui"],
        ["collection.add_folder", "/new"],
    ]
    assert seen["folders left"] == "models"


def test_a_download_asks_for_the_size_and_is_stopped_continued_and_thrown_away(seen: dict[str, Any]) -> None:
    assert seen["downloads"] == [
        ["Ask for the size", "100", "", "", "", "", ["ask"]],
        ["Download 335 MB", "100", "335 MB", "", "", "", ["start"]],
        ["Download 335 MB", "010", "335 MB", "29 %", "100 MB of 335 MB, 1 MB per second, 4 min left", "", ["stop"]],
        ["Download 335 MB", "010", "335 MB", "100 %", "Comparing with the checksum ...", "", ["stop"]],
        ["Download the other 35 MB", "101", "335 MB", "300 MB are here", "", "It broke.", ["start", "discard"]],
        ["Go on", "101", "", "300 MB are here", "", "", ["start", "discard"]],
        ["Download 335 MB", "000", "335 MB", "installed", "", "", []],
    ]


def test_models_are_listed_with_their_problems_found_and_used(seen: dict[str, Any]) -> None:
    assert seen["models"] == [
        ["dream", "Model", "sd1", "2.0 GB"],
        ["ink", "LoRA", "sd1", "37 MB"],
        ["old.ckpt", "unknown", "", ""],
    ]
    usable, about, calls = seen["models used"]
    assert usable == [True, True, False] and about == "<b>It is not safe to load.</b>"
    assert calls == [["change", {"model": "m"}], ["styling.add_lora", "l"]]
    assert seen["models found"] == ["ink"]


def test_escape_leaves_a_page_before_it_cancels(seen: dict[str, Any]) -> None:
    assert seen["page left"] == ["krita_sd_models_search", "", []]
