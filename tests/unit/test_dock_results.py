# SPDX-License-Identifier: GPL-3.0-or-later
"""Strip, history and queue without Krita, by keys and clicks, in an interpreter that has Qt (PyQt5 or PyQt6)."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
INTERPRETERS = (sys.executable, "/usr/bin/python3")


class Recorder:
    """Stands for the actions, or a part of them: remembers what the painter wanted."""

    def __init__(self, calls: list[list[Any]], name: str = "", **known: Any) -> None:
        self.__dict__.update(known)
        self._calls, self._name = calls, name

    def __getattr__(self, name: str) -> Any:
        full = f"{self._name}.{name}" if self._name else name
        return lambda *given, **named: self._calls.append([full, *given, *([named] if named else [])])


def _green(image: Any, x: int, y: int) -> bool:
    return bool(image.pixelColor(x, y).green() > 200 and image.pixelColor(x, y).red() < 60)


def inside() -> dict[str, Any]:
    """Runs in the other interpreter: press keys, return what was called."""
    from krita_sd import pictures, view
    from krita_sd.dock.history import HistoryPage
    from krita_sd.dock.queue import QueuePage
    from krita_sd.dock.results_section import ResultsSection
    from krita_sd.history.model import PAGE, HistoryModel
    from krita_sd.history.store import Entry
    from krita_sd.qt import QT6, Qt, QtGui, QtWidgets
    from krita_sd.settings import Settings
    from krita_sd.wire.frames import Picture

    press = importlib.import_module("PyQt6.QtTest" if QT6 else "PyQt5.QtTest").QTest
    application = QtWidgets.QApplication([])
    calls: list[list[Any]] = []
    out: dict[str, Any] = {}

    def take() -> list[list[Any]]:
        application.processEvents()
        found = [[getattr(x, "key", x) for x in call] for call in calls]
        calls.clear()
        return found

    key, mods = Qt.Key, Qt.KeyboardModifier
    # The strip -------------------------------------------------------------------------------------------------------
    image = QtGui.QImage(96, 48, QtGui.QImage.Format.Format_ARGB32)
    image.fill(0xFF204060)
    drawn: list[str] = []

    def thumbnail(name: str) -> Any:
        drawn.append(name)
        return image

    actions = Recorder(calls, thumbnail=thumbnail, input_result=lambda: None)
    section = ResultsSection(actions)
    items = tuple(view.ResultItem(f"a:{n}", "", "<b>tip</b>", n == 0, n == 1) for n in range(200))
    shown = view.View(results=items, selected="a:0", can_apply=True, can_discard=True)
    section.resize(300, 120)
    section.show_view(shown, Settings())
    section.show()
    application.processEvents()

    def explained(shown_list: Any) -> str:
        """What the list says of its emptiness."""
        (label,) = shown_list.findChildren(QtWidgets.QLabel)
        return str(label.text()) if label.speaks and label.isVisible() and label.width() > 100 else ""

    out["strip drawn"] = take()
    out["thumbnails"] = len(set(drawn))
    strip = section.strip
    out["tip"] = strip.item(0).toolTip()
    for code, modifier in ((key.Key_Right, mods.NoModifier), (key.Key_Right, mods.ShiftModifier)):
        press.keyClick(strip, code, modifier)
    out["several"] = take()
    for code in (key.Key_S, key.Key_Return, key.Key_Space, key.Key_Delete, key.Key_Escape):
        press.keyClick(strip, code)
    out["strip keys"] = take()
    section.way_actions["into"].trigger()
    for action in section.more.menu().actions():
        if action.text() not in ("Save as...", "Save with recipe") and not action.isSeparator():
            action.trigger()
    section.with_metadata.trigger()
    out["menu"] = take()
    section.show_view(dataclasses.replace(shown, can_mask=False), Settings(apply_way="into"))
    out["ways"] = [way for way, action in section.way_actions.items() if action.isEnabled()]
    out["two steps said"] = "two undo steps" in section.apply.toolTip()
    strip.item(1).setSelected(True)
    take()
    section.show_view(view.View(results=items[1:], selected="a:3"), Settings())
    out["after"] = [strip.count(), strip.currentRow(), take()]
    out["explained"] = [explained(strip)]
    section.show_view(view.View(), Settings())
    out["explained"].append(explained(strip))
    take()
    # The history -----------------------------------------------------------------------------------------------------
    asked: list[Any] = []
    model = HistoryModel(lambda *wanted: asked.append(wanted), lambda entry: asked.append(entry.key))
    actions = Recorder(calls, history=Recorder(calls, "history", model=model))
    page = HistoryPage(actions)
    page.resize(300, 300)
    page.show_view(view.View(), Settings())
    page.show_view(view.View(), Settings())
    out["asked once"] = [list(asked.pop(0)), list(asked)]
    details = json.dumps({"recipe": {"prompt": "<b>x", "seed": 7}})
    found = [Entry(f"h:{n}", f"{n}.png", 1.0, n == 2, 4, 4, details) for n in range(PAGE)]
    model.page(1, found, PAGE + 5)
    page.show()
    application.processEvents()
    out["explained"].append(explained(page.list))
    out["small asked"] = 0 < len([x for x in asked if isinstance(x, str)]) < PAGE
    model.thumbnail_came("h:0", image)
    page.list.setCurrentIndex(model.index(0, 0))
    for code in (key.Key_S, key.Key_Return, key.Key_Delete):
        press.keyClick(page.list, code)
    for action in page.more.menu().actions()[:-1]:
        action.trigger()
    page.apply.click()
    out["history keys"] = [[item for item in call if not callable(item)] for call in take()]
    asked.clear()
    model.page(99, found, 1)  # an answer to a search that is over
    blue = page.palette().highlight().color()

    def marked(pictures_of: Any, index: Any) -> float:
        """The share of a cell that has the colour of what is selected."""
        shot, cell = pictures_of.viewport().grab().toImage(), pictures_of.visualRect(index)
        dots = [(x, y) for x in range(cell.left(), cell.right(), 2) for y in range(cell.top(), cell.bottom(), 2)]
        return sum(shot.pixelColor(x, y) == blue for x, y in dots) / len(dots)

    section.show_view(view.View(results=items[:4], selected="a:1"), Settings())
    cells = [(strip, strip.model().index(row, 0)) for row in (1, 2)]
    cells += [(page.list, model.index(row, 0)) for row in (0, 1)]
    out["marked"] = [marked(*cell) for cell in cells]
    take()
    out["rows"] = model.rowCount()
    if model.canFetchMore(None):
        model.fetchMore(None)
    out["more"] = list(asked[-1]) if asked else None
    model.page(1, [Entry("h:x", "x.png", 0.0, False, 4, 4, "{"), found[0]], PAGE + 5)
    model.added()
    out["added"] = list(asked.pop())
    model.page(1, [Entry("h:new", "n.png", 9.0, False, 4, 4, details), *found[:3]], PAGE + 5)
    out["selected"] = page.list.currentIndex().row()
    model.removed(["h:new"])
    model.removed(["h:0", "h:5"])
    model.starred(["h:1"], True)
    image.fill(0xFF00FF00)
    model.thumbnail_came("h:3", image)
    page.list.clearSelection()
    application.processEvents()
    page.list.scrollToTop()
    shot = page.list.viewport().grab().toImage()
    green = [(x, y) for x in range(0, shot.width(), 2) for y in range(0, shot.height(), 2) if _green(shot, x, y)]
    out["thumbnail area"] = len(green) * 4
    out["rows now"] = [model.rowCount(), model.entry(model.index(0, 0)).starred, model.total]  # type: ignore[union-attr]
    out["damaged"] = model.data(model.index(model.rowCount() - 1, 0), Qt.ItemDataRole.ToolTipRole)
    asked.clear()
    page.list.setCurrentIndex(model.index(2, 0))
    wanted = page.entries()[0]
    page.field.setText("boat")
    page._search()
    number = asked[-1][0]
    model.page(number, [found[9], wanted], 2)
    out["still selected"] = [[entry.key for entry in page.entries()] == [wanted.key], page.apply.isEnabled()]
    model._restart()
    model.page(asked.pop()[0], [found[9]], 1)
    out["not found"] = [page.entries(), page.apply.isEnabled()]
    page.starred.setChecked(True)
    out["searches"] = [list(wanted) for wanted in asked if isinstance(wanted, tuple)]
    # The queue -------------------------------------------------------------------------------------------------------
    lines = [SimpleNamespace(job=f"j{n}", text=f"<i>{n}", state="queued", can_move=n > 0) for n in range(3)]
    actions = Recorder(calls, queue=Recorder(calls, "queue", items=lambda: list(lines)))
    queue = QueuePage(actions)
    queue.show_view(view.View(), Settings(place="front"))
    queue.show()
    queue.list.setCurrentRow(2)
    press.keyClick(queue.list, key.Key_Up, mods.ControlModifier)
    lines[1], lines[2] = lines[2], lines[1]
    queue.show_view(view.View(), Settings(place="front"))
    press.keyClick(queue.list, key.Key_Delete)
    queue.clear.click()
    out["queue"] = [queue.list.currentRow(), queue.place.currentData(), take()]
    queue.list.setCurrentRow(0)
    out["running"] = [queue.up.isEnabled(), queue.cancel.isEnabled()]
    out["explained"].append(explained(queue.list))
    lines.clear()
    queue.show_view(view.View(), Settings())
    out["explained"].append(explained(queue.list))
    # Names -----------------------------------------------------------------------------------------------------------
    ours = [
        field
        for widget in (section, page, queue)
        for field in widget.findChildren(QtWidgets.QWidget)
        if field.objectName().startswith("krita_sd_")
    ]
    names = [field.objectName() for field in ours]
    out["nameless"] = [w.objectName() for w in ours if not w.accessibleName() and "area" not in w.objectName()]
    out["doubled"] = sorted({name for name in names if names.count(name) > 1})
    # Files of pictures -----------------------------------------------------------------------------------------------
    data = bytes(range(256)) * 16
    picture = Picture("bgra8", 32, 32, data)
    png = Path(os.environ["PICTURE"])
    png.write_bytes(pictures.encoded(picture, "png"))
    out["lossless"] = pictures.read_file(str(png)) == picture
    out["jpeg"] = pictures.encoded(picture, "jpg")[:2].hex()
    out["small"] = pictures.small_image(pictures.small_file(picture)).width()  # type: ignore[union-attr]
    clear, red = Picture("bgra8", 1, 2, bytes(8)), Picture("bgra8", 1, 2, bytes([9, 8, 7, 255, 0, 0, 255, 255]))
    half = Picture("bgra8", 1, 2, bytes([0, 0, 0, 0, 255, 0, 0, 255]))
    out["over"] = [list(pictures.over(red, clear).data), list(pictures.over(red, half).data)]
    try:
        pictures.encoded(picture, "exe")
    except Exception as error:
        out["refused"] = str(error)
    return out


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    code = "import json; from tests.unit.test_dock_results import inside; print(json.dumps(inside()))"
    for python in filter(shutil.which, INTERPRETERS):
        check = subprocess.run([python, "-c", "import PyQt5.QtTest"], capture_output=True, timeout=60)
        if check.returncode == 0:
            break
    else:
        pytest.skip("no interpreter with PyQt5 here; the real Krita's tests cover the docker")
    # The other interpreter has no pytest: this module's own imports of it are stubbed.
    stub = "import sys, types; stub = types.ModuleType('pytest'); sys.modules['pytest'] = stub; "
    stub += "stub.fixture = lambda **_: (lambda function: function); "
    picture = str(tmp_path_factory.mktemp("picture") / "x.png")
    environ = {**os.environ, "QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": str(ROOT), "PICTURE": picture}
    done = subprocess.run(
        [python, "-c", stub + code], capture_output=True, text=True, cwd=ROOT, env=environ, timeout=120
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_two_hundred_results_draw_only_the_thumbnails_in_sight(seen: dict[str, Any]) -> None:
    assert seen["strip drawn"] == [["choose_results", ["a:0"]]]
    assert 1 <= seen["thumbnails"] < 12 and "&lt;b&gt;tip" in seen["tip"]


def test_shift_selects_several_and_every_key_does_its_one_thing(seen: dict[str, Any]) -> None:
    assert seen["several"] == [
        ["choose_results", ["a:1"]],
        ["pick", "a:1"],
        ["pick", "a:2"],
        ["choose_results", ["a:1", "a:2"]],
    ]
    assert seen["strip keys"] == [["star"], ["apply"], ["toggle_shown"], ["discard"], ["cancel"]]


def test_an_empty_list_says_what_comes_there(seen: dict[str, Any]) -> None:
    strip, no_result, history, queue, no_job = seen["explained"]
    assert (strip, history, queue) == ("", "", "")
    assert (no_result, no_job) == ("Results appear here.", "Nothing is running or waiting.")


def test_a_selected_picture_is_seen_to_be_so(seen: dict[str, Any]) -> None:
    result, other_result, picture, other_picture = seen["marked"]
    assert result > 0.1 and picture > 0.1 and other_result == other_picture == 0


def test_a_way_that_this_krita_has_not_is_grey(seen: dict[str, Any]) -> None:
    assert seen["ways"] == ["top", "above", "into"]


def test_the_menus_offer_the_ways_and_the_rounds(seen: dict[str, Any]) -> None:
    assert seen["menu"] == [
        ["apply_in", "into"],
        ["use_as_input"],
        ["vary"],
        ["same_seed"],
        ["restore_result"],
        ["star"],
        ["discard_others"],
        ["copy", "prompt"],
        ["copy", "seed"],
        ["copy", "recipe"],
        ["change", {"save_metadata": False}],
    ]
    assert seen["two steps said"] is True


def test_the_strip_follows_the_table_without_answering_it(seen: dict[str, Any]) -> None:
    assert seen["after"][:2] == [199, 2] and seen["after"][2] == [["choose_results", ["a:3"]]]


def test_the_history_is_asked_page_by_page_and_old_answers_are_ignored(seen: dict[str, Any]) -> None:
    assert seen["asked once"] == [[1, "", False, 0, 60], []]
    assert seen["small asked"] is True and seen["rows"] == 60
    assert seen["more"] == [1, "", False, 60, 60]
    assert seen["added"] == [1, "", False, 0, 60] and seen["selected"] == 1, "new ones do not move the selection away"
    assert seen["rows now"] == [59, True, 62]
    assert seen["thumbnail area"] > 1500, "72 x 36 pixels"
    assert seen["searches"] == [[2, "boat", False, 0, 60], [4, "boat", True, 0, 60]]
    assert "no prompt" in seen["damaged"]
    assert seen["still selected"] == [True, True] and seen["not found"] == [[], False]


def test_a_picture_of_the_history_can_do_what_a_result_can(seen: dict[str, Any]) -> None:
    assert seen["history keys"] == [
        ["history.star", ["h:0"], True],
        ["history.show", "h:0"],
        ["history.delete", ["h:0"]],
        ["history.show", "h:0"],
        ["history.restore", "h:0"],
        ["history.copy", "h:0", "prompt"],
        ["history.copy", "h:0", "seed"],
        ["history.copy", "h:0", "recipe"],
        ["history.show", "h:0"],
    ]


def test_the_queue_keeps_its_selection_when_the_order_changes(seen: dict[str, Any]) -> None:
    assert seen["queue"] == [1, "front", [["queue.move_up", "j2"], ["queue.cancel", "j2"], ["queue.cancel_waiting"]]]
    assert seen["running"] == [False, True], "what runs can be cancelled, not moved"


def test_every_field_has_one_name_for_tests_and_one_for_screen_readers(seen: dict[str, Any]) -> None:
    assert seen["nameless"] == [] and seen["doubled"] == []


def test_pictures_are_written_losslessly_and_laid_over_each_other(seen: dict[str, Any]) -> None:
    assert seen["lossless"] is True and seen["jpeg"] == "ffd8" and seen["small"] == 96
    assert seen["over"] == [[9, 8, 7, 255, 0, 0, 255, 255], [9, 8, 7, 255, 255, 0, 0, 255]]
    assert "cannot write exe" in seen["refused"]
