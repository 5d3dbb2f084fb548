# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists with columns, as the pages of models, folders and downloads show them."""

from __future__ import annotations

from typing import Any

from krita_sd.qt import QtWidgets


def table(name: str, accessible: str, headers: list[str], height: int) -> Any:
    """An empty QTreeWidget without branches, at least `height` pixels high."""
    tree = QtWidgets.QTreeWidget()
    tree.setObjectName(f"krita_sd_{name}")
    tree.setAccessibleName(accessible)
    tree.setHeaderLabels(headers)
    tree.setRootIsDecorated(False)
    tree.setUniformRowHeights(True)
    tree.setMinimumHeight(height)
    return tree
