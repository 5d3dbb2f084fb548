# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m krita_sd.translations.extract`: find every text, write the template, bring the translations up to date.

A text is what `tr` or `mark` is given; in a module that gives variables to `tr`, also every text that reads like words
outside of comparisons, logs and errors for developers: those are the tables whose rows are translated when shown.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from krita_sd.translations import FOLDER, entries

ROOT = FOLDER.parent
TEMPLATE = FOLDER / "krita_sd.pot"
WORDS = re.compile(r"^[A-Z][a-z]+([ ./,-].*)?$|[A-Za-z]{2,} [A-Za-z(]")
"""What reads like words for a painter."""

_TAKING = ("tr", "mark")
_HIDDEN = (
    "ValueError", "TypeError", "RuntimeError", "NotImplementedError", "getLogger", "field", "krita_icon",
    "setObjectName", "import_module", "getattr", "hasattr", "compile",
)  # fmt: skip
_HEADER = """# Texts of Krita SD.
# SPDX-License-Identifier: GPL-3.0-or-later
msgid ""
msgstr ""
"Project-Id-Version: krita-sd\\n"
"Content-Type: text/plain; charset=UTF-8\\n"
"Content-Transfer-Encoding: 8bit\\n"
"""


def modules() -> list[Path]:
    """The plugin's modules that may speak to a painter: not what the server shares, nor what was fetched."""
    return [path for path in sorted(ROOT.rglob("*.py")) if not {"_vendor", "wire", "translations"} & set(path.parts)]


def texts() -> dict[str, list[str]]:
    """Every text with the places where it stands, in the order of the modules."""
    found: dict[str, list[str]] = {}
    for path in modules():
        for line, text in texts_of(ast.parse(path.read_text(encoding="utf-8"))):
            found.setdefault(text, []).append(f"{path.relative_to(ROOT.parent).as_posix()}:{line}")
    return found


def texts_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, text) of one module."""
    is_table = any(_is_variable(node) for node in ast.walk(tree))
    yield from sorted(set(_walk(tree, is_table, False)))


def called(node: ast.AST) -> str:
    """The last name of what is called; "" for no call."""
    function = node.func if isinstance(node, ast.Call) else None
    if isinstance(function, ast.Name):
        return function.id
    return function.attr if isinstance(function, ast.Attribute) else ""


def is_log(node: ast.AST) -> bool:
    """Whether this is `log.info(...)` or the like."""
    function = node.func if isinstance(node, ast.Call) else None
    return (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and function.value.id in ("log", "re")
    )


def _is_variable(node: ast.AST) -> bool:
    """Whether `tr` is given something else than texts."""
    if called(node) != "tr" or not isinstance(node, ast.Call) or not node.args:
        return False
    given = node.args[0]
    choices = [given.body, given.orelse] if isinstance(given, ast.IfExp) else [given]
    return not all(isinstance(choice, ast.Constant) for choice in choices)


def _walk(node: ast.AST, is_table: bool, is_taken: bool) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        if node.value and (is_taken or (is_table and WORDS.search(node.value))):
            yield node.lineno, node.value
        return
    if isinstance(node, (ast.JoinedStr, ast.Expr)) and not isinstance(getattr(node, "value", None), ast.Call):
        # Docstrings; and f-strings, of which only what is inside the braces can be a text.
        for inner in ast.walk(node):
            if called(inner) in _TAKING:
                yield from _walk(inner, is_table, False)
        return
    if is_log(node) or called(node) in _HIDDEN:
        return
    if isinstance(node, ast.Call) and called(node) in _TAKING:
        yield from _walk(node.args[0], is_table, True)
        for keyword in node.keywords:
            yield from _walk(keyword.value, is_table, False)
        return
    if isinstance(node, ast.IfExp):
        yield from _walk(node.test, is_table, False)
        yield from _walk(node.body, is_table, is_taken)
        yield from _walk(node.orelse, is_table, is_taken)
        return
    compares = isinstance(node, (ast.Compare, ast.Subscript))
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, is_table and not compares, False)


def quoted(text: str) -> str:
    """As gettext writes it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def rendered(translations: dict[str, str], header: str = _HEADER) -> str:
    """The file with all texts; those without a translation have an empty one. Places without lines: they would change
    with every edit."""
    blocks = [header]
    for text, places in sorted(texts().items()):
        where = " ".join(sorted({place.rpartition(":")[0] for place in places}))
        blocks.append(f"#: {where}\nmsgid {quoted(text)}\nmsgstr {quoted(translations.get(text, ''))}\n")
    return "\n".join(blocks)


def main() -> int:
    """Write the template and every translation. Exit status: 0."""
    TEMPLATE.write_text(rendered({}), encoding="utf-8")
    for path in sorted(FOLDER.glob("*.po")):
        known = {text: translated for text, translated, _ in entries(path)}
        header = path.read_text(encoding="utf-8").partition("\n\n")[0] + "\n"
        path.write_text(rendered(known, header), encoding="utf-8")
        missing = sum(not known.get(text) for text in texts())
        sys.stdout.write(f"{path.name}: {missing} texts are not translated\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
