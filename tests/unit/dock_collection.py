# SPDX-License-Identifier: GPL-3.0-or-later
"""The pages of folders and downloads by keys and clicks, for `test_dock`, inside the interpreter that has Qt."""

from __future__ import annotations

from typing import Any


def folders_and_downloads(panel: Any, actions: Any, press: Any, known: dict[Any, Any]) -> dict[str, Any]:
    """Both pages are reached from the models page; folders are added by keys; a download asks before it fetches."""
    from krita_sd.download_text import FolderLine
    from krita_sd.qt import Qt, QtWidgets

    out: dict[str, Any] = {}
    left, find = Qt.MouseButton.LeftButton, panel.findChild
    found = {"program": "ComfyUI", "models": 3, "unusable": 1}
    lines = (FolderLine("/own", True), FolderLine("/ui", False, found), FolderLine("/x", False, {"problem": "<b>"}))
    offer = {"id": "o", "title": "VAE", "kind": "vae", "phase": "offered", "bytes": 0, "note": "<b>good</b>"}
    known |= {("collection", "folders"): lambda: lines, ("collection", "offers"): (offer, {"id": "p"})}
    panel.show_page("models")
    actions.take()
    press.mouseClick(find(QtWidgets.QPushButton, "krita_sd_models_folders"), left)
    page = panel.pages["folders"]
    rows = [page.tree.topLevelItem(row) for row in range(3)]
    out["folders"] = [panel.page, [[row.text(0), row.text(1)] for row in rows], page.drop.isEnabled()]
    page.tree.setCurrentItem(rows[1])
    press.mouseClick(page.drop, left)
    press.mouseClick(page.open, left)
    press.keyClicks(page.path, "/new")
    press.keyClick(page.path, Qt.Key.Key_Return)
    out["folders used"] = actions.take()
    press.mouseClick(page.back, left)
    out["folders left"] = panel.page
    press.mouseClick(find(QtWidgets.QPushButton, "krita_sd_models_downloads"), left)
    page = panel.pages["downloads"]
    out["downloads"] = []
    for change in (
        {},
        {"bytes": 335_000_000},
        {"bytes": 335_000_000, "phase": "running", "done": 100_000_000, "rate": 1_000_000},
        {"bytes": 335_000_000, "phase": "checking", "done": 335_000_000},
        {"bytes": 335_000_000, "phase": "partial", "done": 300_000_000, "problem": "It broke."},
        {"phase": "partial", "done": 300_000_000},
        {"bytes": 335_000_000, "phase": "installed"},
    ):
        known["collection", "offers"] = ({**offer, **change}, {"id": "p"})
        panel.show_view(*panel._last)
        buttons = [page.go, page.stop, page.discard]
        enabled = "".join(str(int(button.isEnabled())) for button in buttons)
        row = page.tree.topLevelItem(0)
        bar = page.bar.format() if page.bar.isVisible() else ""
        out["downloads"].append([page.go.text(), enabled, row.text(2), row.text(3), bar, page.problem.text()])
        actions.take()
        for button in buttons:
            press.mouseClick(button, left)
        out["downloads"][-1].append([call[1] for call in actions.take()])
    return out
