# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules that no behaviour shows: who may import whom, and what every module owes its reader."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE_END = 500
COMMAND_LINES = ("install.py", "server/__main__.py", "server/client.py", "server/cli/", "server/pocket/training/")
HEAVY = ("torch", "diffusers", "transformers", "accelerate", "peft")


@dataclass(frozen=True)
class Rule:
    """No module under `where` imports anything under `forbidden`, except under `allowed`."""

    where: str
    forbidden: tuple[str, ...]
    allowed: tuple[str, ...] = ()


RULES = [
    Rule("krita_sd/wire", ("krita_sd", "server"), ("krita_sd.wire",)),
    Rule("krita_sd/geometry.py", ("krita_sd", "server")),
    Rule("krita_sd/tls.py", ("krita_sd", "server"), ("krita_sd.wire", "krita_sd.text")),
    Rule("krita_sd", ("server", "tests", "install")),
    # dock -> actions -> {canvas, jobs, link}; the three meet nowhere but in actions.
    Rule("krita_sd/dock", ("krita_sd.canvas", "krita_sd.link")),
    Rule("krita_sd/actions", ("krita_sd.dock",)),
    Rule("krita_sd/canvas", ("krita_sd.dock", "krita_sd.actions", "krita_sd.jobs", "krita_sd.link")),
    Rule("krita_sd/jobs.py", ("krita_sd.dock", "krita_sd.actions", "krita_sd.canvas", "krita_sd.link")),
    Rule("krita_sd/link.py", ("krita_sd.dock", "krita_sd.actions", "krita_sd.canvas", "krita_sd.jobs")),
    # Pure or Qt-free parts of the plugin.
    Rule("krita_sd/jobs.py", ("krita_sd.qt", "krita")),
    Rule("krita_sd/link.py", ("krita_sd.qt", "krita")),
    Rule("krita_sd/live", tuple(f"krita_sd.{name}" for name in ("dock", "actions", "canvas", "jobs", "link"))),
    *(Rule(f"krita_sd/live/{name}.py", ("krita_sd.qt", "krita")) for name in ("desk", "feed", "machine", "tiles")),
    Rule("server", ("krita_sd",), ("krita_sd.wire", "krita_sd.geometry", "krita_sd.tls")),
    Rule("server/front", (*HEAVY, "numpy", "server.diffusion", "server.worker")),
    Rule("server/library", (*HEAVY, "server.front", "server.diffusion", "server.worker")),
    Rule("server/diffusion", ("server.front", "server.pool", "server.worker", "krita_sd.wire.client", "websockets")),
    Rule("server/worker", ("server.front",)),
    # A worker hides it from the libraries that would import it at every start (server.worker.loop.UNUSED).
    *(Rule(where, ("peft",)) for where in ("server/worker", "server/diffusion")),
]


def modules(*folders: str) -> list[Path]:
    """Our modules below these folders (or these files), without what was fetched."""
    found: list[Path] = []
    for folder in folders:
        path = ROOT / folder
        candidates = [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))
        found += [p for p in candidates if p.exists() and not {"_vendor", "output"} & set(p.relative_to(ROOT).parts)]
    return found


SOURCES = modules("install.py", "krita_sd", "server")
EVERYTHING = [*SOURCES, *modules("tests")]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, absolute module) of every import in a module, wherever it stands.

    `from package import name` yields the package and package.name, as `name` may be a module.
    """
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            if not all(_is_module(f"{origin}.{alias.name}") for alias in node.names):
                yield node.lineno, origin
            for alias in node.names:
                yield node.lineno, f"{origin}.{alias.name}"


def _is_module(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def under(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def violations(rule: Rule, path: Path) -> list[str]:
    return [
        f"{name_of(path)}:{line} imports {name}"
        for line, name in imports(path)
        if under(name, rule.forbidden) and not under(name, rule.allowed)
    ]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.where}-not-{rule.forbidden[0]}")
def test_imports_keep_their_direction(rule: Rule) -> None:
    assert [text for path in modules(rule.where) for text in violations(rule, path)] == []


def test_import_reader_sees_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules above are worth what `imports` sees: relative, aliased and late imports included."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    package = tmp_path / "server" / "front"
    package.mkdir(parents=True)
    (tmp_path / "server" / "worker.py").touch()
    path = package / "x.py"
    path.write_text("from .. import worker as w\nfrom . import a\nimport torch.nn as n\ndef f():\n    import numpy\n")
    assert {name for _, name in imports(path)} >= {"server.worker", "server.front.a", "torch.nn", "numpy"}
    assert len(violations(Rule("server/front", ("torch", "numpy", "server.worker")), path)) == 3


def test_the_plugin_needs_only_python_qt_and_krita() -> None:
    """Krita's Python has nothing else: no numpy, no PIL, no websockets but our private copy."""
    allowed = set(sys.stdlib_module_names) | {"krita_sd", "krita"}
    bad = []
    for path in modules("krita_sd"):
        qt = {"PyQt5", "PyQt6"} if name_of(path) == "krita_sd/qt.py" else set()
        bad += [
            f"{name_of(path)}:{line} {name}"
            for line, name in imports(path)
            if name.partition(".")[0] not in allowed | qt
        ]
    assert bad == []


def test_wire_is_without_sockets_threads_and_clocks() -> None:
    effects = ("socket", "asyncio", "threading", "time", "ssl", "selectors", "multiprocessing")
    bad = [
        f"{name_of(path)}:{line} {name}"
        for path in modules("krita_sd/wire", "krita_sd/geometry.py")
        for line, name in imports(path)
        if under(name, effects)
    ]
    assert bad == []


@pytest.mark.parametrize("path", modules("krita_sd"), ids=name_of)
def test_the_plugin_is_valid_python_3_10(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=(3, 10))


def test_the_vendored_library_is_valid_python_3_10() -> None:
    vendored = sorted((ROOT / "krita_sd" / "_vendor").rglob("*.py"))
    if not vendored:
        pytest.skip("websockets has not been fetched; install.py --test does")
    for path in vendored:
        ast.parse(path.read_text(encoding="utf-8"), filename=str(path), feature_version=(3, 10))


def test_async_functions_of_the_front_wait_for_something() -> None:
    """An async function without an await only looks as if it let others run."""
    waits = (ast.Await, ast.AsyncFor, ast.AsyncWith)
    bad = []
    for path in modules("server/front"):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.AsyncFunctionDef) and not any(isinstance(inner, waits) for inner in ast.walk(node)):
                bad.append(f"{name_of(path)}:{node.lineno} {node.name}")
    assert bad == []


def test_no_exception_is_swallowed_without_a_reason() -> None:
    bad = []
    for path in SOURCES:
        lines = path.read_text(encoding="utf-8").splitlines()
        for node in ast.walk(tree_of(path)):
            if not isinstance(node, ast.ExceptHandler):
                continue
            if node.type is None:
                bad.append(f"{name_of(path)}:{node.lineno} bare except")
                continue
            if any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node)):
                continue  # cleaned up and passed on
            caught = {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)}
            # The reason stands on the line, in the line above, or opens the handler.
            near = lines[max(0, node.lineno - 2) : node.lineno + 1]
            if caught & {"Exception", "BaseException"} and not any("#" in line for line in near):
                bad.append(f"{name_of(path)}:{node.lineno} except {sorted(caught)} without a reason beside it")
    assert bad == []


def test_only_command_lines_print() -> None:
    bad = [
        f"{name_of(path)}:{node.lineno}"
        for path in SOURCES
        if not name_of(path).startswith(COMMAND_LINES)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert bad == []


@pytest.mark.parametrize("path", EVERYTHING, ids=name_of)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if text.strip():
        lines = text.splitlines()
        first = lines[1] if lines[0].startswith("#!") else lines[0]
        assert first == "# SPDX-License-Identifier: GPL-3.0-or-later"
        assert ast.get_docstring(tree_of(path)), "no docstring"
    assert text.count("\n") <= MODULE_END, "a module ends at 500 lines: look for its second reason"
