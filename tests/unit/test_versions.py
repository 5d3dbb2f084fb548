# SPDX-License-Identifier: GPL-3.0-or-later
"""The plugin is one for every Krita: Python 3.10 to 3.14, PyQt5 and PyQt6, the newer API only where it is there."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from krita_sd import versions
from server.setup.kritas import cache_folder

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = [path for path in sorted((ROOT / "krita_sd").rglob("*.py")) if "_vendor" not in path.parts]
PYTHONS = (10, 11, 12, 13, 14)
GONE = """aifc asynchat asyncore audioop cgi cgitb chunk crypt distutils imghdr imp lib2to3 mailcap msilib nis nntplib
ossaudiodev pipes sndhdr smtpd spwd sunau telnetlib uu xdrlib""".split()
"""Modules that 3.12 and 3.13 took out of the standard library."""

COMPILE = """
import json, sys, warnings
warnings.simplefilter("error")
for name, text in json.loads(sys.stdin.buffer.read()).items():
    compile(text, name, "exec")
print(sys.version_info[1])
"""


@pytest.mark.parametrize("minor", PYTHONS)
def test_the_plugin_has_the_grammar_of_every_python(minor: int) -> None:
    for path in PLUGIN:
        ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=(3, minor))


def pythons(minor: int) -> Iterator[list[str]]:
    """Commands that may start that Python here: this one, one on PATH, a version manager's, another Krita's."""
    if sys.version_info[:2] == (3, minor):
        yield [sys.executable]
    yield [f"python3.{minor}"]
    managed = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    yield from ([str(path)] for path in managed.glob(f"3.{minor}.*/bin/python3.{minor}"))
    for path in cache_folder(os.environ, Path.home()).glob(f"*/usr/bin/python3.{minor}"):
        yield ["chroot", str(path.parents[2]), f"/usr/bin/python3.{minor}"]


@pytest.mark.parametrize("minor", PYTHONS)
def test_the_plugin_compiles_without_a_warning(minor: int) -> None:
    """With that very Python where this machine has it. The real Krita's own does the same in test_smoke.py."""
    sources = json.dumps({str(path): path.read_text(encoding="utf-8") for path in PLUGIN}).encode()
    for command in pythons(minor):
        # A version manager has commands for versions that it then does not start.
        if shutil.which(command[0]) and not subprocess.run([*command, "-c", ""], capture_output=True).returncode:
            done = subprocess.run([*command, "-I", "-c", COMPILE], input=sources, capture_output=True)
            assert done.returncode == 0, done.stderr.decode()
            assert int(done.stdout) == minor
            return
    pytest.skip(f"no python3.{minor} on this machine")


def leaves_finally(node: ast.AST) -> Iterator[int]:
    """Lines of statements that leave a finally block and swallow what it was on the way: a warning from 3.14 on."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
        return
    if isinstance(node, ast.Return):
        yield node.lineno
    for child in ast.iter_child_nodes(node):
        yield from leaves_finally(child)


def test_nothing_that_newer_pythons_removed_or_warn_of() -> None:
    bad = []
    for path in PLUGIN:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Import):
                bad += [f"{path}:{node.lineno}" for alias in node.names if alias.name.partition(".")[0] in GONE]
            elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in GONE:
                bad.append(f"{path}:{node.lineno}")
            elif isinstance(node, ast.Try):
                bad += [f"{path}:{line}" for statement in node.finalbody for line in leaves_finally(statement)]
    assert bad == []


def test_the_search_for_returns_in_finally_finds_them() -> None:
    code = """
def f():
    try:
        g()
    finally:
        if a:
            return 1
        def h():
            return 2
"""
    (block,) = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Try)]
    assert [line for statement in block.finalbody for line in leaves_finally(statement)] == [7]


def chain(node: ast.Attribute) -> list[str]:
    """["QtCore", "QEvent", "Type", "Paint"] of QtCore.QEvent.Type.Paint; [] when it does not begin with a name."""
    parts: list[str] = []
    inner: ast.expr = node
    while isinstance(inner, ast.Attribute):
        parts.append(inner.attr)
        inner = inner.value
    return [inner.id, *reversed(parts)] if isinstance(inner, ast.Name) else []


def unscoped(module: ast.Module) -> list[str]:
    """Members of enums that are taken from their class, which PyQt6 and Krita 6 do not have: Qt.LeftButton."""
    nodes = list(ast.walk(module))
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    inside = {id(node.value) for node in attributes}
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    # A whole enum may get a shorter name, under which its members are then taken from it.
    bases = {node.value.id for node in attributes if isinstance(node.value, ast.Name)}
    renamed = {
        id(node.value)
        for node in nodes
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in bases
    }
    known, found = inside | called | renamed, []
    for node in attributes:
        if id(node) in known:
            continue
        names = [name for name in chain(node) if name not in ("QtCore", "QtGui", "QtWidgets", "QtNetwork")]
        if len(names) == 2 and re.fullmatch(r"Qt|Q[A-Z]\w+|_?\w*Base|Krita", names[0]):
            if re.match(r"[A-Z]", names[1]):
                found.append(".".join(chain(node)))
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def test_enums_are_scoped() -> None:
    """Krita 6.0 knows no others, in Qt's classes and in its own."""
    assert {str(path): found for path in PLUGIN if (found := unscoped(tree(path)))} == {}


def test_the_search_for_unscoped_enums_finds_them() -> None:
    code = """
a = Qt.LeftButton
b = QtCore.QEvent.MouseMove
c = QImage.Format_ARGB32
d = DockWidgetFactoryBase.DockRight
e = Qt.MouseButton.LeftButton, QtCore.QEvent.Type.MouseMove, QtGui.QImage.Format.Format_ARGB32, Qt.MouseButton(1)
f = QtWidgets.QApplication.mouseButtons(), event.Type
_Event = QtCore.QEvent.Type
g = _Event.MouseMove
"""
    assert unscoped(ast.parse(code)) == [
        *("Qt.LeftButton", "QtCore.QEvent.MouseMove", "QImage.Format_ARGB32"),
        "DockWidgetFactoryBase.DockRight",
    ]


GONE_IN_QT6 = {"exec_", "byteCount", "desktop", "setMargin"}


def test_no_call_that_qt_6_has_dropped() -> None:
    bad = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.func.attr}"
        for path in PLUGIN
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in GONE_IN_QT6
    ]
    assert bad == []


def test_nothing_depends_on_the_number_of_a_version_of_krita() -> None:
    """A feature is looked for itself; a number may be told to people, but says nothing of a build somebody patched."""
    asked = re.compile(r"version\(\)\s*(<|>|==|!=|\.startswith|\.split|\[)|qt_major_version")
    bad = [str(path) for path in PLUGIN if asked.search(path.read_text(encoding="utf-8"))]
    assert bad == []


def test_no_selection_of_a_document_is_set() -> None:
    """From Krita 5.3 on that ends the painter's stroke. What a mask holds is no selection of the document."""
    bad = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in PLUGIN
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr == "setSelection" and chain(node) != ["mask", "setSelection"]
    ]
    assert bad == []


def test_every_difference_is_told_in_the_documentation() -> None:
    """docs/krita-versions.md has the same list, word for word."""
    page = " ".join((ROOT / "docs" / "krita-versions.md").read_text(encoding="utf-8").split())
    for difference in versions.DIFFERENCES:
        for text in (difference.seen, difference.what, difference.coped):
            assert text in page


class Node:
    """A stand-in for what Krita's classes answer."""


def test_features_are_looked_for() -> None:
    assert not versions.refused(None) and not versions.refused(True) and versions.refused(False)
    assert versions.image_to_canvas(Node()) is None
    asked: list[tuple[object, ...]] = []
    old, new = Node(), Node()
    old.setAnnotation = lambda *args: asked.append(("set", *args))  # type: ignore[attr-defined]
    new.removeAnnotation = lambda *args: asked.append(("remove", *args))  # type: ignore[attr-defined]
    versions.remove_annotation(old, "n", b"[]")
    versions.remove_annotation(new, "n", b"[]")
    assert asked == [("set", "n", "", b"[]"), ("remove", "n")]
