# SPDX-License-Identifier: GPL-3.0-or-later
"""The Generate workspace: how much may change; in its foot the button, progress, results."""

from __future__ import annotations

from typing import Any

from krita_sd.dock import buttons
from krita_sd.dock.bar import STEPS, Bar
from krita_sd.dock.options import Options
from krita_sd.dock.results_section import ResultsSection
from krita_sd.dock.sentence import Sentence
from krita_sd.dock.split import bring_up
from krita_sd.qt import QActionGroup, Qt, QtCore, QtWidgets, tr
from krita_sd.settings import Settings
from krita_sd.text import mark
from krita_sd.view import View

_BEYOND = {
    "left": "Continue beyond the left edge",
    "right": "Continue beyond the right edge",
    "top": "Continue beyond the top edge",
    "bottom": "Continue beyond the bottom edge",
    "all": "Continue on all sides",
}

_REACHES = {
    "eighth": mark("By an eighth"),
    "quarter": mark("By a quarter"),
    "half": mark("By a half"),
    "64": mark("By 64 pixels"),
    "128": mark("By 128 pixels"),
    "256": mark("By 256 pixels"),
    "512": mark("By 512 pixels"),
}

_LABELS = ("Generate", "Refine", "Refine selection", "Fill", "Expand")


class GeneratePage(QtWidgets.QWidget):
    """`actions` offers: generate, cancel, keep, change, change_params, clear_input, input_result, and what the results
    need. `foot` is shown below it and does not scroll with it."""

    def __init__(self, actions: Any) -> None:
        super().__init__()
        self.setObjectName("krita_sd_generate_area")
        self._actions = actions
        column = QtWidgets.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addLayout(self._strength_row())
        self.options = Options(actions.change, actions.change_params)
        column.addWidget(self.options)
        self.note = Sentence("krita_sd_note", tr("What will run"), lines=4)
        self.memory = Sentence("krita_sd_memory", tr("Whether it fits into memory"), lines=4)
        column.addWidget(self.note)
        column.addWidget(self.memory)
        column.addStretch(0)
        self.foot = self._foot()

    def _foot(self) -> Any:
        foot = QtWidgets.QWidget()
        foot.setObjectName("krita_sd_generate_foot_area")
        column = QtWidgets.QVBoxLayout(foot)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addWidget(self._input_row())
        column.addLayout(self._button_row())
        column.addLayout(self._progress_row())
        self.results = ResultsSection(self._actions)
        column.addWidget(self.results)
        return foot

    def _input_row(self) -> Any:
        """Says that the next picture starts from a result; hidden otherwise."""
        self.input_area = QtWidgets.QWidget()
        self.input_area.setObjectName("krita_sd_input_area")
        row = QtWidgets.QHBoxLayout(self.input_area)
        row.setContentsMargins(0, 0, 0, 0)
        label = Sentence("krita_sd_input", tr("Where the next picture starts"), lines=3)
        label.say(tr("The next picture starts from a result, not from the canvas."))
        clear = buttons.tool("clear_input", "✕", tr("Start from the canvas again"))
        clear.clicked.connect(lambda _checked=False: self._actions.clear_input())
        row.addWidget(label, 1)
        row.addWidget(clear)
        return self.input_area

    def _strength_row(self) -> Any:
        row = QtWidgets.QHBoxLayout()
        tip = tr("How much may change. 100 % makes a new picture; less starts from what is there.")
        self.strength = QtWidgets.QSlider(Qt.Orientation.Horizontal)
        self.strength.setObjectName("krita_sd_strength")
        self.strength.setRange(0, 100)
        self.strength.setPageStep(10)
        self.strength_box = QtWidgets.QSpinBox()
        self.strength_box.setObjectName("krita_sd_strength_value")
        self.strength_box.setRange(0, 100)
        self.strength_box.setSuffix(" %")
        for widget in (self.strength, self.strength_box):
            widget.setAccessibleName(tr("Strength"))
            widget.setToolTip(tip)
            widget.valueChanged.connect(lambda value: self._actions.change(strength=value / 100))
        label = QtWidgets.QLabel(tr("Strength"))
        label.setBuddy(self.strength)
        self.gear = buttons.tool("options", "⚙", tr("Steps, guidance, sampler, seed, selection"), "settings-button")
        self.gear.setCheckable(True)
        self.gear.clicked.connect(lambda checked: self._actions.change(options_open=checked))
        row.addWidget(label)
        row.addWidget(self.strength, 1)
        row.addWidget(self.strength_box)
        row.addWidget(self.gear)
        return row

    def _button_row(self) -> Any:
        row = QtWidgets.QHBoxLayout()
        actions = self._actions
        self.generate = buttons.push("generate", tr("Generate"), "", actions.generate)
        bold = self.generate.font()
        bold.setBold(True)
        self.generate.setFont(bold)
        tip = tr("Enlarge the canvas and continue the picture there. The larger canvas is an undo step")
        self.beyond = buttons.tool("expand", "\u25be", tip)
        self.beyond.setPopupMode(QtWidgets.QToolButton.ToolButtonPopupMode.InstantPopup)
        menu = QtWidgets.QMenu(self.beyond)
        for side, text in _BEYOND.items():
            line = menu.addAction(tr(text))
            line.triggered.connect(lambda _checked=False, side=side: actions.enlarging.expand(side))
        menu.addSeparator()
        menu.addMenu(self._reach_menu(menu))
        self.beyond.setMenu(menu)
        self.cancel = buttons.push("cancel", tr("Cancel"), tr("Stop without a trace (Esc)"), actions.cancel)
        row.addWidget(self.generate, 2)
        row.addWidget(self.beyond)
        row.addWidget(self.cancel, 1)
        return row

    def _reach_menu(self, parent: Any) -> Any:
        """How far the canvas grows; the choice is remembered."""
        menu = QtWidgets.QMenu(tr("How far"), parent)
        self.reaches = {}
        group = QActionGroup(menu)
        for reach, text in _REACHES.items():
            line = menu.addAction(tr(text))
            line.setCheckable(True)
            group.addAction(line)
            line.triggered.connect(lambda _checked=False, reach=reach: self._actions.change(reach=reach))
            self.reaches[reach] = line
        return menu

    def _progress_row(self) -> Any:
        row = QtWidgets.QHBoxLayout()
        self.progress = Bar("progress", tr("Progress"))
        self.progress.setMinimumWidth(60)
        tip = tr("Stop here and keep what you see")
        self.keep = buttons.push("keep", tr("Stop and keep"), tip, self._actions.keep)
        row.addWidget(self.progress, 1)
        row.addWidget(self.keep)  # as wide as its text, where there is room
        return row

    def show_view(self, view: View, settings: Settings) -> None:
        """Draw; widgets that already show the right thing are not touched."""
        self.note.say(" \u00b7 ".join(filter(None, (view.steps_text, view.note))))
        percent = round(settings.strength * 100)
        for widget in (self.strength, self.strength_box):
            if widget.value() != percent:
                widget.blockSignals(True)
                widget.setValue(percent)
                widget.blockSignals(False)
        self.memory.say(view.memory)
        self.memory.warn(view.memory_warns)
        self.memory.setVisible(bool(view.memory) and view.memory_warns)
        self.reaches[settings.reach].setChecked(True)
        self.gear.setChecked(settings.options_open)
        self._open_options(settings.options_open)
        self.options.render_settings(settings, view)
        self._render_job(view)
        self.input_area.setVisible(self._actions.input_result() is not None)
        self.results.show_view(view, settings)

    def _open_options(self, on: bool) -> None:
        """In a low docker they would open out of sight: the line with the gear goes up as far as it can."""
        opened = on and self.isVisible() and not self.options.isVisible()
        self.options.setVisible(on)
        if opened:
            QtCore.QTimer.singleShot(0, lambda: bring_up(self.gear))

    def _render_job(self, view: View) -> None:
        text = tr(view.button)
        if self.generate.text() != text:
            self.generate.setText(text)
            self.generate.setAccessibleName(text)
        self.generate.setEnabled(view.can_generate)
        self.beyond.setEnabled(view.can_generate)
        buttons.set_tip(self.generate, view.button_tip or tr("Shift+Enter in the prompt"), "generate")
        self.cancel.setEnabled(view.can_cancel)
        self.keep.setEnabled(view.can_keep)
        busy = view.progress is None or view.progress >= 0
        # An indeterminate bar has no text in most styles, and the name of the phase says more than a moving bar.
        self.progress.setValue(round(STEPS * view.progress) if view.progress is not None and busy else 0)
        self.progress.say(view.progress_text)
