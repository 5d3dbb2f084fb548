# SPDX-License-Identifier: GPL-3.0-or-later
"""Every sentence that a painter reads can be translated: found in the sources, in the template, and used when shown."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

from krita_sd import text
from krita_sd.text import tr
from krita_sd.translations import FOLDER, catalogue, entries, extract, read
from krita_sd.translations.extract import ROOT, TEMPLATE, WORDS, called, is_log, modules, texts, texts_of

SHOWING = {
    "say": (0,), "setText": (0, 1), "setToolTip": (0, 1), "setAccessibleName": (0,), "setPlaceholderText": (0,),
    "setFormat": (0,), "addItem": (0,), "QLabel": (0,), "QPushButton": (0,), "QCheckBox": (0,), "addAction": (0,),
    "Sentence": (1,), "push": (1, 2), "tool": (2,), "WireError": (1, 2), "bad_request": (0, 1), "LinkState": (1, 2),
}  # fmt: skip
"""What shows its arguments to a painter: name -> positions. The first of `setText` and `setToolTip` may be a column."""

SENTENCE = re.compile(r"^[A-Z0].* .*(\.|\.\.\.)$")
NOT_FOR_PAINTERS = {
    "krita_sd/diagnostics.py": "a report for those who help, in English",
    "krita_sd/versions.py": "programs' words",
    "krita_sd/history/store.py": "the program's own errors are caught before a painter sees them",
}
_FOR_DEVELOPERS = ("ValueError", "TypeError", "RuntimeError", "NotImplementedError", "AssertionError")
FORMATTER = string.Formatter()


def words_of(node: ast.AST) -> str:
    """The text of a constant or an f-string, its values as 0."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "0" for part in node.values)
    return ""


def bare(node: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, text) of texts below a node that no `tr` and no `mark` holds."""
    if called(node) in ("tr", "mark"):
        return
    if words := words_of(node):
        yield getattr(node, "lineno", 0), words
        return
    if isinstance(node, (ast.IfExp, ast.BoolOp, ast.BinOp)):
        for child in ast.iter_child_nodes(node):
            yield from bare(child)


def untranslated(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Texts that are shown as they are: given to what shows them, or sentences wherever they stand."""
    is_table = {words for _, words in texts_of(tree)}
    quiet: set[int] = set()
    for node in ast.walk(tree):
        if is_log(node) or called(node) in ("tr", "mark", *_FOR_DEVELOPERS) or isinstance(node, ast.Expr):
            inner = node.value if isinstance(node, ast.Expr) else node
            if not isinstance(node, ast.Expr) or isinstance(inner, ast.Constant):
                quiet |= {id(child) for child in ast.walk(inner)}
        if isinstance(node, ast.JoinedStr):
            quiet |= {id(child) for child in ast.walk(node) if child is not node}
        if isinstance(node, ast.Call) and called(node) in SHOWING:
            for position in SHOWING[called(node)]:
                for line, words in bare(node.args[position]) if position < len(node.args) else ():
                    if WORDS.search(words) and id(node) not in quiet:
                        yield line, words
    for node in ast.walk(tree):
        words = words_of(node)
        if words and id(node) not in quiet and SENTENCE.search(words) and words not in is_table:
            yield getattr(node, "lineno", 0), words


def test_every_sentence_of_the_plugin_can_be_translated() -> None:
    bad = []
    for path in modules():
        name = path.relative_to(ROOT.parent).as_posix()
        if name not in NOT_FOR_PAINTERS:
            found = sorted(set(untranslated(ast.parse(path.read_text(encoding="utf-8")))))
            bad += [f"{name}:{line} {words!r}" for line, words in found if words != "Krita SD"]
    assert bad == [], "give these to tr(), with {names} for their values"


@pytest.mark.parametrize(
    "source",
    [
        'label.setText("Not ready")', 'self.say(f"{count} pictures deleted.")', 'x = "The server is gone."',
        'raise WireError(Code.X, tr("Fine."), "Try again." if retry else "")', 'say(text or "Nothing here")',
        'x = f"The file {name} is gone."',
    ],
)  # fmt: skip
def test_a_sentence_without_tr_is_noticed(source: str) -> None:
    assert len(set(untranslated(ast.parse(source)))) == 1


@pytest.mark.parametrize(
    "source",
    [
        'label.setText(tr("Not ready"))', 'self.say(tr("{count} deleted.", count=5))', 'log.info("It is gone.")',
        '"A docstring is no text."', 'raise ValueError("It is no number.")', 'x = mark("The server is gone.")',
        'label.setText(tr("A b") if x else tr("C d"))', 'ROWS = {"x": "The first row."}\nlabel.setText(tr(ROWS[x]))',
    ],
)  # fmt: skip
def test_what_is_translated_or_not_shown_is_left_alone(source: str) -> None:
    assert list(untranslated(ast.parse(source))) == []


def test_values_have_their_names_in_the_sentence() -> None:
    """tr("{count} pictures", number=5) would show braces."""
    bad = []
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if called(node) == "tr" and isinstance(node, ast.Call) and isinstance(node.args[0], ast.Constant):
                given = {keyword.arg for keyword in node.keywords}
                if given and given != names(str(node.args[0].value)):
                    bad.append(f"{path.name}:{node.lineno} {node.args[0].value!r}")
    assert bad == []


def names(sentence: str) -> set[str]:
    """The {names} in a sentence."""
    return {name.partition(".")[0] for _, name, _, _ in FORMATTER.parse(sentence) if name is not None}


def test_the_extraction_finds_tables_choices_and_nested_texts() -> None:
    source = '''
"""Doc."""
ROWS = {"a": "First row", "b": mark("second")}
show(tr(ROWS[key]), tr("One" if x else "Two"), tr("{a} of b", a=tr("Inner")), f"{tr('Deep')} x")
log.info("Not this one")
if ROWS["Not that"] == "Nor this one": raise ValueError("Never this")
'''
    found = {words for _, words in texts_of(ast.parse(source))}
    assert found == {"First row", "second", "One", "Two", "{a} of b", "Inner", "Deep"}


LAG = 0.05
"""Share of the texts that a file may miss: a new sentence does not wait for its translators."""


def test_the_template_is_current_enough() -> None:
    listed = {english for english, _, _ in entries(TEMPLATE)}
    missing = set(texts()) - listed
    assert len(missing) <= LAG * len(listed), "run python -m krita_sd.translations.extract"


def test_the_template_is_what_the_command_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what a translation had is kept, and what no longer exists is dropped."""
    monkeypatch.setattr(extract, "FOLDER", tmp_path)
    monkeypatch.setattr(extract, "TEMPLATE", tmp_path / "krita_sd.pot")
    header = 'msgid ""\nmsgstr ""\n"Language: xx\\n"\n\n'
    (tmp_path / "xx.po").write_text(header + 'msgid "Strength"\nmsgstr "Kraft"\n\nmsgid "gone"\nmsgstr "weg"\n')
    assert extract.main() == 0
    assert read(tmp_path / "xx.po") == {"Strength": "Kraft"}
    assert {english for english, _, _ in entries(tmp_path / "krita_sd.pot")} == set(texts())
    assert '"Language: xx' in (tmp_path / "xx.po").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.po")), ids=lambda path: path.name)
def test_a_translation_is_nearly_complete_and_keeps_the_names(path: Path) -> None:
    translated = {english: words for english, words, fuzzy in entries(path) if words and not fuzzy}
    missing = set(texts()) - set(translated)
    assert len(missing) <= LAG * len(translated), f"run python -m krita_sd.translations.extract; translate {missing}"
    assert [english for english, words in translated.items() if names(english) != names(words)] == []
    ends = [english for english, words in translated.items() if english.endswith(" ") != words.endswith(" ")]
    assert ends == [], "a text that ends with a space is put before something"


PO = """# comment
msgid ""
msgstr ""
"Language: xx\\n"

#: krita_sd/x.py
msgid "a \\"b\\""
msgstr ""
"eins "
"zwei"

#, fuzzy
msgid "c"
msgstr "unsicher"

msgid "d"
msgstr ""
"""


def test_a_gettext_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "xx.po").write_text(PO, encoding="utf-8")
    assert read(tmp_path / "xx.po") == {'a "b"': "eins zwei"}


@pytest.mark.parametrize(
    "damage", [b"\xff\xfe", b'msgid "a\nmsgstr "b"\n', b"msgid 5\nmsgstr 6\n", b'msgid "a" + "b"\n']
)
def test_a_damaged_file_translates_nothing(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "xx.po").write_bytes(damage)
    assert read(tmp_path / "xx.po") == {} and read(tmp_path / "missing.po") == {}


@pytest.mark.parametrize(
    "languages, found",
    [
        (["xx"], True), (["xx_YY.UTF-8"], True), (["xx-YY"], True), (["yy", "xx"], True), (["yy"], False), ([], False),
        (["en_GB", "xx"], False), (["C.UTF-8", "xx"], False), (["../xx"], False), (["/tmp/xx"], False),
    ],
)  # fmt: skip
def test_the_first_language_that_there_is_counts(tmp_path: Path, languages: list[str], found: bool) -> None:
    (tmp_path / "xx.po").write_text(PO, encoding="utf-8")
    assert bool(catalogue(languages, tmp_path)) is found


def test_a_catalogue_translates_and_a_lost_name_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_catalogue", {"one {a}": "eins {a}", "two {a}": "zwei {b}"})
    assert (tr("one {a}", a=1), tr("two {a}", a=2), tr("three")) == ("eins 1", "two 2", "three")
