# SPDX-License-Identifier: GPL-3.0-or-later
"""Labels for plain sentences: prompts and messages are shown as they are, never as markup."""

from __future__ import annotations

from krita_sd.qt import Qt, QtWidgets

_LINES = 6


class Sentence(QtWidgets.QLabel):
    """`wrap`: over up to six lines, the whole text in the tooltip; otherwise one line that is cut where it must be.

    A wrapping one must not be inside a scroll area: its height depends on the width, the width on whether there is a
    scroll bar, and that on the height; Qt would go round in that circle for ever.
    """

    def __init__(self, name: str, accessible: str, wrap: bool) -> None:
        super().__init__()
        self.setObjectName(name)
        self.setAccessibleName(accessible)
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.setWordWrap(wrap)
        if wrap:
            self.setMaximumHeight(self.fontMetrics().lineSpacing() * _LINES)
        else:
            policy = QtWidgets.QSizePolicy.Policy
            self.setSizePolicy(policy.Ignored, policy.Fixed)

    def say(self, text: str) -> None:
        """Show `text`."""
        if self.text() != text:
            self.setText(text)
            self.setAccessibleDescription(text)
            escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            self.setToolTip(f"<qt>{escaped}</qt>" if text else "")
