# SPDX-License-Identifier: GPL-3.0-or-later
"""Buttons with a name for tests, one for screen readers, a tooltip, and Krita's own icon where there is one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from krita_sd.qt import Qt, QtCore, QtGui, QtWidgets


def push(name: str, text: str, tip: str, pressed: Callable[[], None]) -> Any:
    """A push button that calls `pressed`."""
    button = QtWidgets.QPushButton(text)
    _name(button, name, text, tip)
    button.setAutoDefault(False)
    button.clicked.connect(lambda _checked=False: pressed())
    return button


def tool(name: str, text: str, tip: str, icon: str = "") -> Any:
    """A small button with Krita's `icon`, or with `text` where there is none; a screen reader reads `tip`."""
    button = QtWidgets.QToolButton()
    _name(button, name, tip, tip)
    button.setText(text)
    button.setAutoRaise(True)
    button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    found = krita_icon(icon) if icon else None
    if found is not None:
        button.setIcon(found)
        side = button.style().pixelMetric(QtWidgets.QStyle.PixelMetric.PM_SmallIconSize)
        button.setIconSize(QtCore.QSize(side, side))
    return button


def _name(button: Any, name: str, accessible: str, tip: str) -> None:
    button.setObjectName(f"krita_sd_{name}")
    button.setAccessibleName(accessible)
    button.setToolTip(tip)
    button.setProperty("krita_sd_tip", tip)


def show_shortcuts(within: Any, actions: Mapping[str, str]) -> None:
    """Bring the tooltips of buttons below `within` up to date: {name of the button: name of the action}."""
    for name, action in actions.items():
        button = within.findChild(QtWidgets.QAbstractButton, f"krita_sd_{name}")
        if button is not None:
            set_tip(button, button.property("krita_sd_tip"), action)


def set_tip(button: Any, tip: str, action: str) -> None:
    """A tooltip that ends with the shortcut that the painter has given to Krita's `action`, if any."""
    keys = shortcut(action)
    text = f"{tip} ({keys})" if keys else tip
    if button.toolTip() != text:
        button.setToolTip(text)


def shortcut(action: str) -> str:
    """The shortcut of one of our actions as Krita shows it; "" without one, and outside Krita."""
    try:
        found = importlib.import_module("krita").Krita.instance().action(f"krita_sd_action_{action}")
    except (ImportError, AttributeError):
        return ""
    if found is None:
        return ""
    return str(found.shortcut().toString(QtGui.QKeySequence.SequenceFormat.NativeText))


def krita_icon(name: str) -> Any | None:
    """Krita's icon of that name in the colours of the current theme; None outside Krita or when it has none."""
    try:
        icon = importlib.import_module("krita").Krita.instance().icon(name)
    except (ImportError, AttributeError):
        return None
    return icon if isinstance(icon, QtGui.QIcon) and not icon.isNull() else None


BESIDE = Qt.ToolButtonStyle.ToolButtonTextBesideIcon
"""Icon and text next to each other."""
