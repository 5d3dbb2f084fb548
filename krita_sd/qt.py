# SPDX-License-Identifier: GPL-3.0-or-later
"""The only import of PyQt5 / PyQt6, chosen by the Krita that runs us.

Krita 5 loads PyQt5 and Krita 6 loads PyQt6 before any plugin. Trying `import PyQt6` first would load a second Qt
into a Krita 5 where both are installed, so what is loaded already decides. Enums are used in their scoped form only:
it is valid in both.
"""

from __future__ import annotations

import os
import sys

from krita_sd.text import tr

try:
    import krita as _krita  # noqa: F401  # it loads the right Qt
except ImportError:
    pass

QT6 = "PyQt6.QtCore" in sys.modules

if QT6:
    from PyQt6 import QtCore, QtGui, QtWidgets  # type: ignore[import-not-found,unused-ignore]
else:
    from PyQt5 import QtCore, QtGui, QtWidgets  # type: ignore[import-not-found,no-redef,unused-ignore]

Qt = QtCore.Qt
Signal = QtCore.pyqtSignal
Slot = QtCore.pyqtSlot
# These moved from QtWidgets to QtGui in Qt 6.
QAction = QtGui.QAction if QT6 else QtWidgets.QAction
QActionGroup = QtGui.QActionGroup if QT6 else QtWidgets.QActionGroup
QShortcut = QtGui.QShortcut if QT6 else QtWidgets.QShortcut


def languages() -> list[str]:
    """The languages that the painter wants, the best first: Krita's own choice (it tells it by LANGUAGE), else the
    system's."""
    chosen = [language for language in os.environ.get("LANGUAGE", "").split(":") if language]
    return chosen or [str(language) for language in QtCore.QLocale().uiLanguages()]


__all__ = [
    "QT6",
    "QAction",
    "QActionGroup",
    "QShortcut",
    "Qt",
    "QtCore",
    "QtGui",
    "QtWidgets",
    "Signal",
    "Slot",
    "languages",
    "tr",
]
