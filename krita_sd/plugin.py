# SPDX-License-Identifier: GPL-3.0-or-later
"""What Krita sees: one extension (actions for menus and shortcuts) and one docker per window."""

from __future__ import annotations

import logging
import os
from typing import Any

from krita import DockWidget, DockWidgetFactory, DockWidgetFactoryBase, Extension

from krita_sd.actions import Actions
from krita_sd.canvas import aside, host, watch
from krita_sd.canvas.guard import Guard
from krita_sd.dock.live_picture import LivePicture
from krita_sd.dock.panel import Panel
from krita_sd.qt import Qt, QtCore, QtWidgets, tr

log = logging.getLogger(__name__)

DOCKER_ID = "krita_sd_docker"
LIVE_DOCKER_ID = "krita_sd_live_docker"
MENU = "krita_sd_menu"

ACTIONS = {
    "krita_sd_action_generate": ("Krita SD: Generate", "generate"),
    "krita_sd_action_expand_left": ("Krita SD: Continue beyond the left edge", "expand_left"),
    "krita_sd_action_expand_right": ("Krita SD: Continue beyond the right edge", "expand_right"),
    "krita_sd_action_expand_top": ("Krita SD: Continue beyond the top edge", "expand_top"),
    "krita_sd_action_expand_bottom": ("Krita SD: Continue beyond the bottom edge", "expand_bottom"),
    "krita_sd_action_expand_all": ("Krita SD: Continue on all sides", "expand_all"),
    "krita_sd_action_cancel": ("Krita SD: Cancel", "cancel"),
    "krita_sd_action_keep": ("Krita SD: Stop and keep", "keep"),
    "krita_sd_action_apply": ("Krita SD: Apply result", "apply"),
    "krita_sd_action_apply_above": ("Krita SD: Apply result above the active layer", "apply_above"),
    "krita_sd_action_apply_into": ("Krita SD: Apply result into the active layer", "apply_into"),
    "krita_sd_action_apply_mask": ("Krita SD: Apply result as layer with transparency mask", "apply_mask"),
    "krita_sd_action_discard": ("Krita SD: Discard result", "discard"),
    "krita_sd_action_discard_others": ("Krita SD: Discard the other results", "discard_others"),
    "krita_sd_action_next": ("Krita SD: Next result", "next_result"),
    "krita_sd_action_previous": ("Krita SD: Previous result", "previous_result"),
    "krita_sd_action_toggle": ("Krita SD: Show or hide result", "toggle_shown"),
    "krita_sd_action_star": ("Krita SD: Star result", "star"),
    "krita_sd_action_input": ("Krita SD: Use result as input", "use_as_input"),
    "krita_sd_action_clear_input": ("Krita SD: Start from the canvas again", "clear_input"),
    "krita_sd_action_vary": ("Krita SD: Vary result", "vary"),
    "krita_sd_action_same_seed": ("Krita SD: Same seed again", "same_seed"),
    "krita_sd_action_restore_result": ("Krita SD: Take over the recipe of the result", "restore_result"),
    "krita_sd_action_restore_layer": ("Krita SD: Take over the recipe of the active layer", "restore_layer"),
    "krita_sd_action_copy_prompt": ("Krita SD: Copy the prompt of the result", "copy_prompt"),
    "krita_sd_action_copy_seed": ("Krita SD: Copy the seed of the result", "copy_seed"),
    "krita_sd_action_copy_recipe": ("Krita SD: Copy the recipe of the result", "copy_recipe"),
    "krita_sd_action_save": ("Krita SD: Save result as...", "show_save"),
    "krita_sd_action_cancel_waiting": ("Krita SD: Cancel waiting jobs", "cancel_waiting"),
    "krita_sd_action_prompt": ("Krita SD: Edit prompt", "focus_prompt"),
    "krita_sd_action_options": ("Krita SD: Show or hide the settings behind the gear", "toggle_options"),
    "krita_sd_action_stronger": ("Krita SD: More strength", "stronger"),
    "krita_sd_action_weaker": ("Krita SD: Less strength", "weaker"),
    "krita_sd_action_keep_seed": ("Krita SD: Keep the seed, or draw a new one each time", "toggle_seed"),
    "krita_sd_action_exact_mask": ("Krita SD: Use the selection exactly as it is, or soften it", "toggle_exact_mask"),
    "krita_sd_action_leave_out": ("Krita SD: Leave the active layer out of the input", "leave_out"),
    "krita_sd_action_unmark": ("Krita SD: Unmark the active control layer", "unmark"),
    "krita_sd_action_control_add": ("Krita SD: Add a control layer", "add_control"),
    "krita_sd_action_workspace": ("Krita SD: Next workspace", "next_workspace"),
    "krita_sd_action_history": ("Krita SD: Show history", "show_history"),
    "krita_sd_action_grid": ("Krita SD: Show compare grid", "show_grid"),
    "krita_sd_action_queue": ("Krita SD: Show queue", "show_queue"),
    "krita_sd_action_models": ("Krita SD: Show models", "show_models"),
    "krita_sd_action_server": ("Krita SD: Show server", "show_server"),
    "krita_sd_action_prompts": ("Krita SD: Show used prompts", "show_prompts"),
    "krita_sd_action_style": ("Krita SD: Show the style's words and values", "show_style"),
    "krita_sd_action_folders": ("Krita SD: Show model folders", "show_folders"),
    "krita_sd_action_downloads": ("Krita SD: Show downloads", "show_downloads"),
    "krita_sd_action_rescan": ("Krita SD: Look for models again", "rescan"),
    "krita_sd_action_free_memory": ("Krita SD: Free the server's memory", "free_memory"),
    "krita_sd_action_report": ("Krita SD: Copy a report without secrets", "copy_report"),
    "krita_sd_action_live": ("Krita SD: Live on or off", "toggle_live"),
    "krita_sd_action_live_apply": ("Krita SD: Apply Live picture", "apply_live"),
    "krita_sd_action_live_record": ("Krita SD: Record Live pictures", "record_live"),
}
"""Krita's action name -> (English text, method of `Actions`). krita_sd.action declares the same names."""

_actions: Actions | None = None


def actions() -> Actions:
    """The one set of actions of this Krita, shared by the dockers of all windows."""
    global _actions
    if _actions is None:
        _actions = Actions()
    return _actions


class KritaSD(Extension):
    """Registers the actions; Krita calls `setup` once and `createActions` for every window."""

    def setup(self) -> None:
        application = QtWidgets.QApplication.instance()
        application.aboutToQuit.connect(_stop)

    def createActions(self, window: Any) -> None:  # noqa: N802
        # A menu of its own: so many lines would push those of other plugins out of sight.
        menu = QtWidgets.QMenu(MENU, window.qwindow())
        window.createAction(MENU, "Krita SD", "tools/scripts").setMenu(menu)
        for name, (text, method) in ACTIONS.items():
            action = window.createAction(name, tr(text), f"tools/scripts/{MENU}")
            action.triggered.connect(lambda _checked=False, method=method: getattr(actions(), method)())
        # After the window exists: documents given on the command line are opened with it.
        QtCore.QTimer.singleShot(0, _watch_documents)


_guard: Guard | None = None


def _watch_documents() -> None:
    global _guard
    try:
        if _guard is None:
            _guard = Guard()
            aside.aside()
            watch.pen()  # finding the canvases takes a moment, better now than at the first press of the button
    except Exception:  # Krita would show a modal dialog; without the guard everything else still works
        log.exception("guard")


def _stop() -> None:
    if _actions is not None:
        _actions.stop()


class Docker(DockWidget):
    """The docker of one window."""

    def __init__(self) -> None:
        super().__init__()
        self.setWindowTitle("Krita SD")
        self._actions = actions()
        self._panel = Panel(self._actions)
        self.setWidget(self._panel)
        self._actions.changed.connect(self._draw)
        # `install.py --open` asks for it once, also from a painter who has closed the docker.
        self._to_show = os.environ.pop("KRITA_SD_SHOW", None) is not None or not self._actions.settings.seen
        self._draw()

    def canvasChanged(self, canvas: Any) -> None:  # noqa: N802
        self._actions.document_changed()
        if self._to_show:
            QtCore.QTimer.singleShot(0, self._first_time)

    def showEvent(self, event: Any) -> None:  # noqa: N802
        super().showEvent(event)
        # Only a painter who sees the docker needs a server.
        self._actions.wake(self)

    def _first_time(self) -> None:
        try:
            # Before the first document Krita 6.0 shows none of the dockers that this one belongs to.
            if self._to_show and host.active_document() is not None:
                self._to_show = False
                self._actions.change(seen=True)
                self.come_forward()
        except Exception:  # a docker in a plain place is better than Krita's error dialog
            log.exception("first time")

    def come_forward(self) -> None:
        """On the first run: into the tabs of the brush presets, in front. As one more row in the column it would
        squeeze the others."""
        main = self.parentWidget()
        dockers = (docker for docker in host.krita().dockers() if docker.objectName() == "PresetDocker")
        presets = next((docker for docker in dockers if docker.parentWidget() is main), None)
        if presets is not None and not self.isFloating() and presets.isVisible():
            main.tabifyDockWidget(presets, self)
        self.show()
        QtCore.QTimer.singleShot(0, self.raise_)
        if main is not None and not self.isFloating():
            main.resizeDocks([self], [self._panel.wanted_height + 28], Qt.Orientation.Vertical)

    @property
    def has_attention(self) -> bool:
        """The painter's pointer or keyboard is in this docker."""
        focus = QtWidgets.QApplication.focusWidget()
        return bool(self.isVisible() and (self.underMouse() or (focus is not None and self.isAncestorOf(focus))))

    def show_page(self, name: str) -> None:
        """Show the docker with that page, or go back to the workspace when it shows already."""
        self.show()
        self.raise_()
        self._panel.show_page(name)
        self._panel.take_keyboard()

    def ask_where_to_save(self) -> None:
        """Open the window that asks where to save the shown result."""
        self._panel.workspaces["generate"].results.ask_where_to_save()

    def open_control_menu(self) -> None:
        """Show the docker with the menu of control layers open."""
        self.show()
        self.raise_()
        self._panel.show_workspace()
        self._panel.asking.controls.open_menu()

    def focus_prompt(self) -> None:
        """Show the docker and put the keyboard into the prompt."""
        self.show()
        self.raise_()
        self._panel.show_workspace()
        self._panel.prompt.setFocus()

    def _draw(self) -> None:
        try:
            self._panel.show_view(self._actions.view, self._actions.settings)
        except RuntimeError:  # the window of this docker is being destroyed
            log.debug("docker is gone")


class LiveDocker(DockWidget):
    """Live's picture beside the canvas. Hidden until the painter wants the picture there."""

    def __init__(self) -> None:
        super().__init__()
        self.setWindowTitle("Krita SD Live")
        self._actions = actions()
        self._picture = LivePicture()
        self.setWidget(self._picture)
        self._wanted = self._is_wanted()
        self._unasked = not self._actions.settings.seen
        self._actions.live.frame_changed.connect(self._show_image)
        self._actions.changed.connect(self._follow)
        self.visibilityChanged.connect(self._actions.live.docker_seen)

    def canvasChanged(self, canvas: Any) -> None:  # noqa: N802
        # Krita 5.1 and 5.2 show every docker that they have not seen before.
        if self._unasked and not self._wanted:
            QtCore.QTimer.singleShot(0, self.hide)
        self._unasked = False

    def _is_wanted(self) -> bool:
        return self._actions.settings.live.place in ("docker", "both")

    def _show_image(self, image: Any) -> None:
        try:
            self._picture.show_image(image)
        except RuntimeError:  # the window of this docker is being destroyed
            log.debug("docker is gone")

    def _follow(self) -> None:
        wanted = self._is_wanted()
        try:
            if wanted and not self._wanted:
                self.show()
                self.raise_()
        except RuntimeError:  # the window of this docker is being destroyed
            log.debug("docker is gone")
        self._wanted = wanted


def register(krita: Any) -> None:
    """Add extension and dockers to that Krita."""
    krita.addExtension(KritaSD(krita))
    right = DockWidgetFactoryBase.DockPosition.DockRight
    krita.addDockWidgetFactory(DockWidgetFactory(DOCKER_ID, right, Docker))
    krita.addDockWidgetFactory(DockWidgetFactory(LIVE_DOCKER_ID, right, LiveDocker))
