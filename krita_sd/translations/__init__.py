# SPDX-License-Identifier: GPL-3.0-or-later
"""Our own translations: one gettext file per language here, read as it is.

Krita's i18n knows Krita's own sentences only, and has no place for those of a plugin. `krita_sd.pot` is the template;
`python -m krita_sd.translations.extract` makes it and brings every `<language>.po` up to date.
"""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
MAX_FILE = 4 * 1024**2
_ENGLISH = ("en", "c", "posix")


def catalogue(languages: Iterable[str], folder: Path = FOLDER) -> dict[str, str]:
    """English -> translated of the first language that there is; empty when English comes first or none is there.

    languages: "de", "de_DE.UTF-8", "pt-BR"; the most wanted first.
    """
    for language in languages:
        name = language.partition(".")[0].partition("@")[0].replace("-", "_")
        short = name.partition("_")[0].lower()
        if short in _ENGLISH:
            return {}
        for candidate in (name, short):
            path = folder / f"{candidate}.po"
            if candidate.replace("_", "").isalpha() and path.is_file():
                return read(path)
    return {}


def read(path: Path) -> dict[str, str]:
    """The translated entries of a .po file; what is empty or marked fuzzy is left out. A damaged file is empty."""
    try:
        if path.stat().st_size > MAX_FILE:
            raise ValueError("too large")
        return {text: translated for text, translated, is_fuzzy in entries(path) if translated and not is_fuzzy}
    except (OSError, ValueError, SyntaxError) as error:
        log.warning("the translation %s was not read (%s)", path.name, error)
        return {}


def entries(path: Path) -> Iterator[tuple[str, str, bool]]:
    """(English, translated, fuzzy) of every entry but the header. Raises OSError, ValueError, SyntaxError."""
    fields: dict[str, str] = {}
    key, fuzzy = "", False
    for line in [*path.read_text(encoding="utf-8").splitlines(), ""]:
        line = line.strip()
        word, _, rest = line.partition(" ")
        if line.startswith('"') and key:
            fields[key] += _unquoted(line)
        elif word in ("msgid", "msgstr"):
            key = word
            fields[key] = _unquoted(rest)
        elif line.startswith("#,"):
            fuzzy = "fuzzy" in line
        elif not line:
            if fields.get("msgid"):
                yield fields["msgid"], fields.get("msgstr", ""), fuzzy
            fields, key, fuzzy = {}, "", False


def _unquoted(text: str) -> str:
    value = ast.literal_eval(text)
    if not isinstance(value, str):
        raise ValueError("no text")
    return value
