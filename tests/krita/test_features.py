# SPDX-License-Identifier: GPL-3.0-or-later
"""Every page and menu of the docker once, by mouse and keyboard in the real Krita with the real server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.krita.session import Session
from tests.krita.studio import Studio

SERVER = True
TOOLS = """
from krita_sd.plugin import ACTIONS, actions
from krita_sd import job_events as ev, settings as stored
A = actions()
TIDY = stored.Settings()

def result():
    return A.table.current_result

def data(key):
    return A.results.pixels(A.table.results[key]).data

def prompts():
    '''Of the results, oldest first.'''
    return [r.recipe.prompt for r in A.table.results.values()]

def waiting():
    return [item.text for item in A.queue.items() if item.can_move]

def difference(one, other):
    return sum(abs(a - b) for a, b in zip(one[::97], other[::97])) / len(one[::97])
"""
SIDE = 192


@pytest.fixture(scope="module")
def opened(session: Session) -> Studio:
    studio = Studio(session)
    session.run(TOOLS)
    studio.document(SIDE, SIDE)
    studio.connected()
    session.run("close_all()")
    session.wait("not K.documents()")
    return studio


@pytest.fixture
def studio(opened: Studio, session: Session) -> Iterator[Studio]:
    session.run("A.change_params(steps=2); A.change(seed=5, seed_fixed=True, count=1, prompt='', strength=1.0)")
    opened.document(SIDE, SIDE)
    yield opened
    session.run("for j in list(A.table.active): A.generating.cancel_job(j.id)")
    session.run("A.clear_input(); [A.feed(ev.Discarded(key)) for key in list(A.table.results)]")
    session.run("[docker.show_page('') for docker in A.dockers()]")
    session.wait("not A.table.active and not A.table.stage and idle()", 30)


def one(studio: Studio, words: str, timeout: float = 60) -> None:
    """Type and press; wait for the picture."""
    before = studio.session.eval("len(A.table.results)")
    studio.prompt(words)
    studio.click("krita_sd_generate")
    studio.session.wait(f"len(A.table.results) > {before} and not A.table.active", timeout, "the picture")


def test_the_queue_is_reordered_and_jobs_of_it_are_cancelled(studio: Studio, session: Session) -> None:
    session.run("A.change_params(steps=150); A.change(count=20)")
    studio.prompt("long")
    studio.click("krita_sd_generate")
    session.wait("A.table.current is not None and A.table.current.step > 0", 90, "the long job to run")
    session.run("A.change_params(steps=2); A.change(count=1)")
    for words in ("first", "second", "third"):
        studio.prompt(words)
        studio.key("shift+Return")
        session.wait(f"waiting()[-1:] == [{words!r}]", 20)
    studio.click("krita_sd_show_queue")
    studio.choose("krita_sd_queue_place", "New jobs go first")
    session.run("A.change(prompt='fourth'); A.generate()")
    session.wait("waiting() == ['fourth', 'first', 'second', 'third']", 20)
    studio.click_row("krita_sd_queue", "third")
    studio.click("krita_sd_queue_up")
    session.wait("waiting() == ['fourth', 'first', 'third', 'second']", 20)
    studio.key("ctrl+Up")
    session.wait("waiting() == ['fourth', 'third', 'first', 'second']", 20)
    session.screenshot("docker-queue")
    studio.click_row("krita_sd_queue", "fourth")
    studio.click("krita_sd_queue_down")
    session.wait("waiting() == ['third', 'fourth', 'first', 'second']", 20)
    studio.click_row("krita_sd_queue", "first")
    studio.click("krita_sd_queue_cancel")
    session.wait("waiting() == ['third', 'fourth', 'second']", 20)
    assert session.eval("A.table.current.recipe.prompt") == "long", "the running one runs on"
    studio.click_row("krita_sd_queue", "long")
    studio.key("Delete")
    session.wait("not A.table.active", 60, "the rest to be made")
    assert [words for words in session.eval("prompts()") if words != "long"] == ["third", "fourth", "second"]
    session.run("A.change(prompt='kept', count=20); A.change_params(steps=150); A.generate(); A.change(count=1)")
    studio.choose("krita_sd_queue_place", "New jobs replace those that wait")
    session.wait("A.table.current is not None and A.table.current.step > 0", 60)
    session.run("A.change(prompt='old'); A.generate(); A.change(prompt='new'); A.generate()")
    session.wait("waiting() == ['new']", 20)
    studio.click("krita_sd_queue_clear")
    session.wait("waiting() == [] and A.table.current.recipe.prompt == 'kept'", 20)
    session.run("A.change(place='back')")


def test_a_compare_grid_becomes_a_sheet_and_a_group_and_its_cells_are_ordinary_pictures(
    studio: Studio, session: Session
) -> None:
    studio.prompt("a red circle")
    studio.click("krita_sd_show_grid")
    studio.choose("krita_sd_grid_x", "Steps")
    studio.type_into("krita_sd_grid_x_values", "1, 2")
    studio.choose("krita_sd_grid_y", "Guidance")
    studio.type_into("krita_sd_grid_y_values", "1, 4")
    session.wait("widget_state('krita_sd_grid_note')['text'] == '2 x 2 = 4 pictures'", 10)
    studio.click("krita_sd_grid_start")
    session.wait("A.comparing.progress() == (4, 4) and not A.table.active", 60, "four pictures")
    session.screenshot("docker-grid")
    session.run("d = K.activeDocument()")
    assert studio.undo_steps() == ["Add Layer"], "what is shown of four jobs is one step"
    studio.click("krita_sd_grid_layers")
    session.wait("len(d.topLevelNodes()[-1].childNodes()) == 4 and idle() and not A.table.stage", 20, "the group")
    names = session.eval("[n.name() for n in d.topLevelNodes()[-1].childNodes()]")
    assert len(names) == 4 and all("teps" in name and "uidance" in name for name in names)
    assert studio.undo_steps() == ["Add Layer"]
    session.run("cells = [data(job + ':0') for job in A.comparing.run.jobs]")
    inside = "[bytes(n.pixelData(0, 0, 192, 192)) for n in d.topLevelNodes()[-1].childNodes()]"
    assert session.eval(f"sorted(map(digest, {inside})) == sorted(map(digest, cells)) and len(set(cells)) == 4")
    studio.click("krita_sd_grid_sheet")
    session.wait("K.activeDocument() is not None and K.activeDocument().name().startswith('Grid: a red')", 20)
    session.wait("idle()")
    session.screenshot("contact-sheet")
    session.run("s = K.activeDocument(); w, h = s.width(), s.height(); sheet = bytes(s.pixelData(0, 0, w, h))")
    assert session.eval("w > 2 * 192 and h > 2 * 192")
    # The first row of the last cell stands somewhere in the sheet as it is.
    assert session.eval("cells[3][: 192 * 4] in sheet")
    # A cell's recipe, alone.
    session.run("s.setModified(False); s.close(); A.pick(A.comparing.run.jobs[2] + ':0'); A.change(prompt='no')")
    session.wait("K.activeDocument() == d")
    studio.click("krita_sd_show_grid")
    studio.choose("krita_sd_result_more", "Take over the recipe")
    session.wait("A.settings.prompt == 'a red circle' and A.settings.params.guidance == 4.0", 10)
    session.run("before = len(A.table.results)")
    studio.click("krita_sd_generate")
    session.wait("len(A.table.results) > before and not A.table.active", 60)
    assert session.eval("data(result().key) == cells[2]")
    session.run("A.change_params(guidance=None)")


def test_the_menu_of_a_result(studio: Studio, session: Session) -> None:
    """Vary, same seed, star, the clipboard, and Save in a window that holds nothing up."""
    one(studio, "a red circle")
    session.run("first = result().key; one = data(first)")
    studio.choose("krita_sd_result_more", "Vary")
    session.wait("len(A.table.results) == 2 and not A.table.active", 60, "the variation")
    session.run("varied = data(result().key); A.change(seed=77)")
    assert session.eval("(result().recipe.variation, result().recipe.seed)") == [0.2, 5]
    one(studio, "a red circle")
    session.run("other = data(result().key)")
    assert session.eval("varied != one and difference(one, varied) < difference(one, other)")
    session.run("A.change(seed_fixed=False); A.pick(first)")
    studio.choose("krita_sd_result_more", "Same seed")
    session.wait("(A.settings.seed, A.settings.seed_fixed) == (5, True)", 10)
    clip = "QtWidgets.QApplication.clipboard().text()"
    for line, text in (("Copy prompt", "a red circle"), ("Copy seed", "5")):
        studio.choose("krita_sd_result_more", line)
        session.wait(f"{clip} == {text!r}", 10, line)
    studio.choose("krita_sd_result_more", "Copy recipe")
    session.wait(f"'Steps: 2' in {clip} and 'Seed: 5' in {clip}", 10)
    studio.choose("krita_sd_result_more", "Star")
    session.wait("A.table.results[first].starred", 10)
    path = str(session.work / "saved.png")
    studio.choose("krita_sd_result_more", "Save as...")
    session.wait("any(x['title'] == 'Save the picture' for x in dialogs())", 10)
    session.screenshot("docker-save")
    assert session.eval("QtWidgets.QApplication.activeModalWidget() is None"), "the painter can go on"
    session.wait("QtWidgets.QApplication.activeWindow().objectName() == 'krita_sd_save'", 10)
    studio._xdotool("key", "ctrl+a", "type", "--delay", "8", path)
    studio.key("Return")
    session.wait(f"__import__('os').path.exists({path!r}) and not dialogs()", 20, "the file")
    studio.choose("krita_sd_result_more", "Use as input")
    session.wait("widget_state('krita_sd_generate')['text'] == 'Refine result'", 10)
    studio.click("krita_sd_clear_input")
    session.wait("A.input_result() is None", 10)


def test_several_results_become_several_layers(studio: Studio, session: Session) -> None:
    session.run("A.change(count=3, prompt='a tree')")
    studio.click("krita_sd_generate")
    session.wait("len(A.table.results) == 3 and not A.table.active", 60)
    session.run("strip = widget('krita_sd_results'); keys = list(A.table.results)")
    place = "[widget('krita_sd_results').visualItemRect(widget('krita_sd_results').item({})).center()]"
    corner = "widget('krita_sd_results').viewport().mapToGlobal(p)"
    studio.widget("krita_sd_results")
    for row, keys in ((0, ()), (2, ("shift",))):
        point = session.eval(f"[[{corner}.x(), {corner}.y()] for p in {place.format(row)}][0]")
        for key in keys:
            studio._xdotool("keydown", key)
        studio.click_at(*point)
        for key in keys:
            studio._xdotool("keyup", key)
        session.wait("idle()")
    session.wait("len(strip.selectedItems()) == 3", 10)
    session.run("del strip")
    studio.key("Return")
    session.wait("all(r.applied for r in A.table.results.values()) and not A.results.stage._applying and idle()", 20)
    session.wait("len(layers()) == 4 and not any(n['locked'] for n in layers())", 20)
    assert studio.undo_steps() == ["Add Layer"] * 3
    assert session.eval(
        "sorted(digest(layer.pixelData(0, 0, 192, 192)) for layer in "
        "K.activeDocument().topLevelNodes()[1:]) == sorted(digest(data(key)) for key in keys)"
    )
    session.screenshot("several-applied")
    session.wait("widget_state('krita_sd_results')['focus']", 10)
    studio.key("Left", "ctrl+a")
    session.wait("len(A.results.targets()) == 3 and K.activeDocument().selection() is None", 10, "Ctrl+A in the strip")
    studio.key("Left", "shift+Right")
    session.wait("len(A.results.targets()) == 2", 10)
    kept = session.eval("A.results.targets()")
    studio.choose("krita_sd_result_more", "Discard the others")
    session.wait(f"sorted(A.table.results) == sorted({kept})", 10, "the two to be left")


DROP = """
def drop(path, name):
    '''As a file manager does, over that widget.'''
    mime = QtCore.QMimeData()
    mime.setUrls([QtCore.QUrl.fromLocalFile(path)])
    w = widget(name)
    w = getattr(w, 'viewport', lambda: w)()
    Qt = QtCore.Qt
    copy, left, none = Qt.DropAction.CopyAction, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    point = w.rect().center()
    enter = QtGui.QDragEnterEvent(point, copy, mime, left, none)
    QtWidgets.QApplication.sendEvent(w, enter)
    event = QtGui.QDropEvent(QtCore.QPointF(point), copy, mime, left, none)
    if enter.isAccepted():
        QtWidgets.QApplication.sendEvent(w, event)
    return enter.isAccepted() and event.isAccepted()
"""


def test_a_dropped_picture_or_document_gives_its_recipe(studio: Studio, session: Session) -> None:
    session.run(DROP)
    ours, foreign, kra = (str(session.work / name) for name in ("ours.png", "foreign.png", "ours.kra"))
    one(studio, "a red circle")
    session.run(f"A.save_result({ours!r}); A.apply()")
    studio.applied()
    session.run(f"d = K.activeDocument(); d.setBatchmode(True); d.saveAs({kra!r})")
    text = "a blue house\nNegative prompt: fog\nSteps: 7, Sampler: Euler a, CFG scale: 3.5, Seed: 42, Size: 64x64"
    subprocess.run(["convert", "-size", "64x64", "xc:red", "-set", "parameters", text, foreign], check=True, timeout=30)
    session.wait(f"idle() and __import__('os').path.exists({ours!r})", 20)
    now = "[A.settings.prompt, A.settings.seed, A.settings.seed_fixed, A.settings.params.steps]"
    for path, target, expected in (
        (ours, "krita_sd_generate", ["a red circle", 5, True, 2]),
        (foreign, "krita_sd_prompt", ["a blue house", 42, True, 7]),
        (kra, "krita_sd_prompt", ["a red circle", 5, True, 2]),
    ):
        session.run("A.change(prompt='other', negative='', seed=9, seed_fixed=False); A.change_params(steps=3)")
        session.wait("widget_state('krita_sd_prompt')['toPlainText'] == 'other'", 10)
        assert session.eval(f"drop({path!r}, {target!r})") is True
        session.wait(f"{now} == {expected!r}", 20, f"the recipe of {path}")
        session.wait(f"widget_state('krita_sd_prompt')['toPlainText'] == {expected[0]!r}", 10)
    assert session.eval("len(K.documents())") == 1, "it is not opened"
    session.run("A.change_params(guidance=None, sampler=None)")


def test_shortcuts_reach_every_action(studio: Studio, session: Session) -> None:
    """First all of them while there is nothing to act on: a sentence at most, never an error or a dialog."""
    assert session.eval("[name for name in ACTIONS if K.action(name) is None]") == []
    session.run("close_all()")
    session.wait("not K.documents()")
    found = "[m for m in K.activeWindow().qwindow().findChildren(QtWidgets.QMenu) if top in m.actions()]"
    session.run(f"top = K.action('krita_sd_menu'); menus = {found}")
    menu = session.eval("[a.text() for m in menus for a in m.actions() if 'Krita SD' in a.text()]")
    assert menu == ["Krita SD"], "one line, whose menu has the others"
    assert session.eval("len(top.menu().actions()) == len(ACTIONS)")
    session.run("del top, menus")
    apart = ("live", "workspace", "control_add")
    quiet = f"[K.action(name).trigger() for name in ACTIONS if not any(part in name for part in {apart})]"
    session.run(quiet)
    session.wait("not A.table.active and not dialogs()", 20)
    assert session.eval("ERRORS") == []
    session.run(
        "A.change(seed_fixed=True, seed=5, exact_mask=False, options_open=False, strength=1.0, apply_way='top')"
    )
    session.run("[docker.show_page('') for docker in A.dockers()]; A.change(prompt='a red circle')")
    studio.document(SIDE, SIDE)
    session.run("K.action('krita_sd_action_generate').setShortcut(QtGui.QKeySequence('Ctrl+F9'))")
    session.run("K.action('krita_sd_action_apply').setShortcut(QtGui.QKeySequence('Ctrl+F10'))")
    studio.focus_canvas()
    studio.key("ctrl+F9")
    session.wait("len(A.table.results) == 1 and not A.table.active", 60, "the shortcut to generate")
    session.wait("'Ctrl+F9' in widget_state('krita_sd_generate')['tip']", 10)
    studio.focus_canvas()
    studio.key("ctrl+F10")
    studio.applied()
    for name in ("krita_sd_action_generate", "krita_sd_action_apply"):
        session.run(f"K.action({name!r}).setShortcut(QtGui.QKeySequence())")
    trigger = "K.action('krita_sd_action_{}').trigger()"
    for name, after in (
        ("weaker", "A.settings.strength == 0.95"),
        ("stronger", "A.settings.strength == 1.0"),
        ("keep_seed", "not A.settings.seed_fixed"),
        ("exact_mask", "A.settings.exact_mask"),
        ("options", "widget_state('krita_sd_steps')['visible']"),
        ("copy_prompt", "QtWidgets.QApplication.clipboard().text() == 'a red circle'"),
        ("control_add", "isinstance(QtWidgets.QApplication.activePopupWidget(), QtWidgets.QMenu)"),
    ):
        session.run(trigger.format(name))
        session.wait(after, 10, name)
    session.screenshot("docker-control-menu")
    studio.key("Escape")
    session.wait("QtWidgets.QApplication.activePopupWidget() is None", 10)
    session.run("A.change(exact_mask=False, options_open=False)")
    session.run("K.action('krita_sd_action_save').trigger()")
    session.wait("any(x['title'] == 'Save the picture' for x in dialogs())", 10)
    session.run("[w.close() for w in QtWidgets.QApplication.topLevelWidgets() if w.objectName() == 'krita_sd_save']")
    session.wait("not dialogs()", 10)
    session.run("K.action('krita_sd_action_prompt').trigger()")
    session.wait("widget_state('krita_sd_prompt')['focus']", 10)
    session.run("K.action('krita_sd_action_queue').trigger()")
    session.wait("widget_state('krita_sd_queue_area')['visible']", 10)
    studio.key("Escape")
    session.wait("widget_state('krita_sd_generate')['visible']", 10)


def test_the_picture_is_continued_beyond_its_edge(studio: Studio, session: Session) -> None:
    """The canvas is enlarged, the empty strip selected, and only that strip is painted."""
    session.run(
        "d = K.activeDocument(); n = d.topLevelNodes()[0]; n.setPixelData(bytes([200, 120, 40, 255]) * 192 * 192, "
        "0, 0, 192, 192); d.resizeImage(-64, 0, 256, 192)"
    )
    session.wait("idle() and d.width() == 256")
    session.run("n.setPixelData(bytes(64 * 192 * 4), 0, 0, 64, 192); d.refreshProjection()")
    session.run("select(d, -20, -20, 84, 300); old = bytes(d.pixelData(64, 0, 192, 192))")
    session.wait("widget_state('krita_sd_generate')['text'] == 'Expand'", 10)
    studio.prompt("blue sky")
    studio.click("krita_sd_generate")
    session.wait("len(A.table.results) == 1 and not A.table.active", 60)
    studio.click("krita_sd_apply")
    studio.applied()
    session.screenshot("docker-expanded")
    assert session.eval("bytes(d.pixelData(64, 0, 192, 192)) == old"), "what was there stays as it is"
    alpha = "bytes(d.pixelData(0, 0, 60, 192))[3::4]"
    assert session.eval(f"sum({alpha}) / len({alpha})") > 240, "the strip is full"
    session.run("d.setSelection(None)")


def test_one_press_enlarges_the_canvas_and_continues_the_picture_there(studio: Studio, session: Session) -> None:
    """Without a selection, whatever the strength is; one step enlarges, one is the picture."""
    session.run(
        "d = K.activeDocument(); n = d.topLevelNodes()[0]; n.setPixelData(bytes([200, 120, 40, 255]) * 192 * 192, "
        "0, 0, 192, 192); d.refreshProjection(); A.change(strength=0.5, reach='64'); "
        "old = bytes(d.pixelData(0, 0, 176, 192))"
    )
    session.wait("idle()")
    studio.prompt("blue sky")
    before = len(studio.undo_steps())
    studio.choose("krita_sd_expand", "Continue beyond the right edge")
    session.wait("d.width() == 256 and len(A.table.results) == 1 and not A.table.active", 60)
    studio.click("krita_sd_apply")
    studio.applied()
    session.screenshot("docker-beyond")
    assert session.eval("bytes(d.pixelData(0, 0, 176, 192)) == old"), "what was there stays as it is"
    strip = session.eval("[list(bytes(d.topLevelNodes()[-1].pixelData(196, y, 40, 1))[3::4]) for y in (0, 96, 191)]")
    assert all(min(row) > 250 for row in strip), "the new part is full"
    assert session.eval("d.selection()") is None and session.eval("A.settings.strength") == 0.5
    assert len(studio.undo_steps()) == before + 2


def test_prompts_come_back_weights_by_keys_and_a_style_of_ones_own(studio: Studio, session: Session) -> None:
    one(studio, "a green tree")
    studio.prompt("a red circle")
    studio.key("Left", "Left", "ctrl+Up")
    session.wait("A.settings.prompt == 'a red (circle:1.1)'", 10)
    studio.key("ctrl+Down")
    session.wait("A.settings.prompt == 'a red circle'", 10)
    studio.click("krita_sd_prompts")
    studio.type_into("krita_sd_prompts_search", "green")
    studio.click_row("krita_sd_prompts_list", "a green tree")
    studio.click("krita_sd_prompts_star")
    session.wait("widget('krita_sd_prompts_list').item(0).text().startswith('\u2605')", 10)
    session.screenshot("docker-prompts")
    studio.click("krita_sd_prompts_use")
    session.wait("widget_state('krita_sd_prompt')['toPlainText'] == 'a green tree'", 10)
    studio.click("krita_sd_edit_style")
    studio.type_into("krita_sd_style_name", "Mine")
    studio.type_into("krita_sd_style_prompt", "{prompt}, at night")
    session.screenshot("docker-style")
    studio.click("krita_sd_style_save_new")
    session.wait("A.style.name == 'Mine' and widget_state('krita_sd_generate')['visible']", 10)
    one(studio, "a moon")
    assert session.eval("result().recipe.prompt") == "a moon, at night"
    studio.click("krita_sd_edit_style")
    studio.click("krita_sd_style_delete")
    session.wait("A.style.name != 'Mine'", 10)


def test_server_and_models_pages_work(studio: Studio, session: Session) -> None:
    studio.click("krita_sd_rescan")
    session.wait("A.connection.kind == 'connected' and A.models", 20)
    studio.click("krita_sd_show_server")
    studio.click("krita_sd_free_memory")
    session.wait("'unloads its models' in widget_state('krita_sd_status')['text']", 20)
    studio.type_into("krita_sd_server", "ws://127.0.0.1:9/v1")
    studio.click("krita_sd_connect")
    session.wait("A.settings.server_uri and A.connection.kind != 'connected'", 20)
    studio.widget("krita_sd_server")
    studio.click("krita_sd_server")
    studio.key("ctrl+a", "Delete")
    studio.click("krita_sd_connect")
    session.wait("not A.settings.server_uri and A.connection.kind == 'connected'", 40)
    studio.click("krita_sd_show_server")
    one(studio, "a red circle")


def test_the_whole_way_by_keyboard(studio: Studio, session: Session) -> None:
    """From the canvas to the applied layer without the pointer."""
    session.run("K.action('krita_sd_action_prompt').setShortcut(QtGui.QKeySequence('Ctrl+F8')); A.change(count=2)")
    studio.focus_canvas()
    studio.key("ctrl+F8")
    session.wait("widget_state('krita_sd_prompt')['focus']", 10)
    studio._xdotool("type", "--delay", "8", "a red circle")
    studio.key("shift+Return")
    session.wait("len(A.table.results) == 2 and not A.table.active", 60)
    focus = "QtWidgets.QApplication.focusWidget().objectName()"
    passed: list[str] = []
    while (name := session.eval(focus)) != "krita_sd_results":
        assert name not in passed and len(passed) < 40, passed
        passed.append(name)
        studio.key("Tab")
        session.wait(f"{focus} != {name!r}", 10, f"Tab to leave {name}")
    assert "krita_sd_generate" in passed, passed
    last = session.eval("A.table.selected")
    studio.key("Left")
    session.wait(f"A.table.selected not in (None, {last!r})", 10)
    studio.key("space")
    session.wait("not A.table.stage", 10, "nothing on the canvas")
    studio.key("space")
    session.wait("A.table.stage", 10, "the picture again")
    studio.key("Return")
    studio.applied()
    session.run("K.action('krita_sd_action_prompt').setShortcut(QtGui.QKeySequence())")
