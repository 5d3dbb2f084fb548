# SPDX-License-Identifier: GPL-3.0-or-later
"""Actions of the plugin: what Krita's file of actions declares is what the plugin makes; steps of values."""

from __future__ import annotations

import ast
import xml.etree.ElementTree as ElementTree

from krita_sd.translations.extract import ROOT

MODULE = ast.parse((ROOT / "plugin.py").read_text(encoding="utf-8"))
PANEL = ast.parse((ROOT / "dock" / "panel.py").read_text(encoding="utf-8"))


def table() -> dict[str, tuple[str, str]]:
    """ACTIONS of the plugin, which can be imported in Krita only."""
    for node in MODULE.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ACTIONS":
            found: dict[str, tuple[str, str]] = ast.literal_eval(node.value)
            return found
    raise AssertionError("plugin.py has no ACTIONS")


def test_krita_knows_every_action_by_the_same_words() -> None:
    """Without its entry in the file an action has no line in Krita's dialog of shortcuts."""
    declared = {
        entry.attrib["name"]: entry.findtext("text")
        for entry in ElementTree.parse(ROOT / "krita_sd.action").getroot().iter("Action")
    }
    assert declared == {name: text for name, (text, _method) in table().items()}


def test_tooltips_name_actions_that_there_are() -> None:
    names = {name.removeprefix("krita_sd_action_") for name in table()}
    own = next(
        node.value
        for node in PANEL.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_SHORTCUTS"
    )
    words = {node.value for node in ast.walk(own) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    told = words - {"show_", "show_generate", "show_live", "edit_style", "diagnostics", "queue_clear", ""}
    assert told <= names
