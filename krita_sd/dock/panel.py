# SPDX-License-Identifier: GPL-3.0-or-later
"""The content of the docker: a row that chooses what it shows, that, and the status line. Runs without Krita.

A workspace scrolls, but for its `foot`: the buttons that start and end something, and what came of it.
"""

from __future__ import annotations

from typing import Any

from krita_sd.dock import buttons, pages
from krita_sd.dock.prompt_section import PromptSection
from krita_sd.dock.results_drop import RecipeDrop
from krita_sd.dock.sentence import Sentence
from krita_sd.dock.split import Split, scrolled
from krita_sd.dock.wheel import WheelGuard
from krita_sd.qt import Qt, QtWidgets, tr
from krita_sd.settings import Settings
from krita_sd.view import View

_NARROW = 44  # points

_SHORTCUTS = {
    **{f"show_{entry.name}": entry.name for entry in pages.PAGES},
    **dict.fromkeys(("show_generate", "show_live"), "workspace"),
    **{name: name for name in ("prompts", "rescan", "options", "cancel", "keep", "discard", "clear_input")},
    "control_add": "control_add",
    "edit_style": "style",
    "free_memory": "free_memory",
    "diagnostics": "report",
    "queue_clear": "cancel_waiting",
}
"""Buttons whose tooltips tell the shortcut of an action. Those whose text changes tell it where it changes."""


class Panel(QtWidgets.QWidget):
    """`actions` is `krita_sd.actions.Actions` or stands for it. `show_view` is called by whoever owns the panel when
    anything has changed. `workspaces` and `pages` hold the widgets by name."""

    def __init__(self, actions: Any) -> None:
        super().__init__()
        self.setObjectName("krita_sd_panel")
        self._actions = actions
        self._last: tuple[View, Settings] | None = None
        outer = QtWidgets.QVBoxLayout(self)
        outer.setContentsMargins(4, 4, 4, 4)
        outer.setSpacing(4)
        body = QtWidgets.QWidget()
        column = QtWidgets.QVBoxLayout(body)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        self.asking = PromptSection(actions)
        self.workspaces = {entry.name: entry.make(actions) for entry in pages.WORKSPACES}
        column.addWidget(self.asking, 1)
        foot = QtWidgets.QWidget()
        foot.setObjectName("krita_sd_foot_area")
        buttons_below = QtWidgets.QVBoxLayout(foot)
        buttons_below.setContentsMargins(0, 0, 0, 0)
        for widget in self.workspaces.values():
            column.addWidget(widget, 0)
            buttons_below.addWidget(widget.foot)
        self._stack = QtWidgets.QStackedWidget()
        self._split = Split(body, foot)
        self._stack.addWidget(self._split)
        self.pages = {entry.name: entry.make(actions) for entry in pages.PAGES}
        for widget in self.pages.values():
            self._stack.addWidget(scrolled(widget))
            if hasattr(widget, "done"):
                widget.done.connect(lambda: self.show_page(""))
            if hasattr(widget, "page_wanted"):
                widget.page_wanted.connect(self.show_page)
        self.asking.page_wanted.connect(self.show_page)
        self.status = Sentence("krita_sd_status", tr("Status"), lines=6)
        outer.addLayout(self._header())
        outer.addWidget(self._stack, 1)
        outer.addWidget(self.status)
        self._calm_wheel()
        self._narrow()
        self._drop = RecipeDrop(self, actions.restore_file)

    @property
    def prompt(self) -> Any:
        """The field that "Edit prompt" puts the keyboard into."""
        return self.asking.prompt

    @property
    def wanted_height(self) -> int:
        """Pixels that show everything without scrolling, with the results that the first picture brings."""
        generate = self.workspaces["generate"]
        later = generate.results.sizeHint().height() if not generate.results.isVisible() else 0
        lines = 2 * self.fontMetrics().lineSpacing()  # the sentences may become longer
        return int(self._split.sizeHint().height() + later + self.status.sizeHint().height() + lines + 48)

    def _header(self) -> Any:
        """Workspaces on the left, pages on the right; one of all is pressed. A page without a button has a way back."""
        row = QtWidgets.QHBoxLayout()
        row.setSpacing(2)
        self._switch: dict[str, Any] = {}
        for entry in pages.WORKSPACES:
            button = self._choice(entry)
            button.setText(tr(entry.title))
            button.clicked.connect(lambda _checked=False, name=entry.name: self._choose_workspace(name))
            row.addWidget(button)
        row.addStretch(1)
        for entry in (entry for entry in pages.PAGES if entry.has_button):
            button = self._choice(entry)
            button.clicked.connect(lambda _checked=False, name=entry.name: self.show_page(name))
            row.addWidget(button)
        return row

    def _choice(self, entry: pages.Entry) -> Any:
        button = buttons.tool(f"show_{entry.name}", entry.text or entry.title, tr(entry.tip), entry.icon)
        button.setAccessibleName(tr(entry.title))
        button.setCheckable(True)
        self._switch[entry.name] = button
        return button

    def _choose_workspace(self, name: str) -> None:
        self.show_page("")
        self._actions.change(workspace=name)

    def show_page(self, name: str) -> None:
        """Show that page; "", or the page that shows already, goes back to the workspace."""
        row = 1 + list(self.pages).index(name) if name in self.pages else 0
        was_here = self.isAncestorOf(QtWidgets.QApplication.focusWidget() or self.window())
        self._stack.setCurrentIndex(0 if row == self._stack.currentIndex() else row)
        if self._last is not None:
            self.show_view(*self._last)
        if was_here:
            self.take_keyboard()

    def show_workspace(self) -> None:
        """Leave the page, if one shows."""
        if self.page:
            self.show_page("")

    def take_keyboard(self) -> None:
        """Put the keyboard into the first field of what shows."""
        if not self.page:
            self.prompt.setFocus()
            return
        for widget in self.pages[self.page].findChildren(QtWidgets.QWidget):
            if widget.focusPolicy() & Qt.FocusPolicy.TabFocus and widget.isVisible() and widget.isEnabled():
                widget.setFocus()
                return

    @property
    def page(self) -> str:
        """Name of the page that shows; "" for the workspace."""
        row = self._stack.currentIndex()
        return list(self.pages)[row - 1] if row else ""

    def _calm_wheel(self) -> None:
        """The wheel scrolls the docker; it changes a value only in a field that has the keyboard."""
        self._wheel = WheelGuard(self)
        for kind in (QtWidgets.QAbstractSpinBox, QtWidgets.QComboBox, QtWidgets.QAbstractSlider):
            for widget in self.findChildren(kind):
                if not isinstance(widget, QtWidgets.QScrollBar):
                    widget.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
                    widget.installEventFilter(self._wheel)

    def _narrow(self) -> None:
        """Texts may be cut where the docker is narrow: one long translation must not push a page out of reach."""
        for kind in (QtWidgets.QPushButton, QtWidgets.QCheckBox, QtWidgets.QComboBox):
            for widget in self.findChildren(kind):
                widget.setMinimumWidth(widget.minimumWidth() or _NARROW)

    def showEvent(self, event: Any) -> None:  # noqa: N802
        super().showEvent(event)
        # They may have been changed since.
        buttons.show_shortcuts(self, _SHORTCUTS)

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802
        # Keys that no field wanted come here.
        if event.key() == Qt.Key.Key_Escape:
            if self.page:
                self.show_page("")
            else:
                self._actions.cancel()
        else:
            super().keyPressEvent(event)

    def show_view(self, view: View, settings: Settings) -> None:
        """Draw what shows; widgets that already show the right thing are not touched."""
        self._last = view, settings
        chosen = settings.workspace if settings.workspace in self.workspaces else next(iter(self.workspaces))
        page = self.page
        for name, button in self._switch.items():
            button.setChecked(name == (page or chosen))
        if page:
            self.pages[page].show_view(view, settings)
        else:
            self.asking.show_view(view, settings)
            for name, widget in self.workspaces.items():
                for part in (widget, widget.foot):
                    part.setVisible(name == chosen)
            self.workspaces[chosen].show_view(view, settings)
        self._render_status(view)

    def _render_status(self, view: View) -> None:
        self.status.say(view.status)
        if self.status.property("error") != view.status_is_error:
            self.status.setProperty("error", view.status_is_error)
            self.status.warn(view.status_is_error)
