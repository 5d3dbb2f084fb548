# SPDX-License-Identifier: GPL-3.0-or-later
"""The content of the docker: draws a `View`, passes every press on to actions. Runs without Krita."""

from __future__ import annotations

from typing import Any

from krita_sd.dock.options import Options
from krita_sd.dock.prompt_edit import PromptEdit
from krita_sd.dock.results import ResultStrip
from krita_sd.dock.sentence import Sentence
from krita_sd.dock.wheel import WheelGuard
from krita_sd.qt import Qt, QtWidgets, tr
from krita_sd.settings import Settings
from krita_sd.view import View

_LABELS = ("Generate", "Refine", "Refine selection", "Fill", "Expand")


def _button(name: str, text: str, tip: str, pressed: Any) -> Any:
    button = QtWidgets.QPushButton(text)
    button.setObjectName(f"krita_sd_{name}")
    button.setAccessibleName(text)
    button.setToolTip(tip)
    button.setAutoDefault(False)
    button.clicked.connect(lambda _checked=False: pressed())
    return button


class Panel(QtWidgets.QWidget):
    """`actions` offers: generate, cancel, keep, apply, discard, pick, toggle_shown, change, change_params, rescan,
    thumbnail. `show_view` is called by whoever owns the panel when anything has changed."""

    def __init__(self, actions: Any) -> None:
        super().__init__()
        self.setObjectName("krita_sd_panel")
        self._actions = actions
        self._settings: Settings | None = None
        outer = QtWidgets.QVBoxLayout(self)
        outer.setContentsMargins(4, 4, 4, 4)
        outer.setSpacing(4)
        body = QtWidgets.QWidget()
        column = QtWidgets.QVBoxLayout(body)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        column.addLayout(self._model_row())
        self.prompt = PromptEdit("krita_sd_prompt", tr("Prompt"), tr("What do you want to see?"), 4)
        self.negative = PromptEdit("krita_sd_negative", tr("Negative prompt"), tr("What should not be there"), 1)
        for field, setting in ((self.prompt, "prompt"), (self.negative, "negative")):
            field.textChanged.connect(lambda field=field, name=setting: self._typed(name, field.toPlainText()))
            field.generate.connect(actions.generate)
            field.cancel.connect(actions.cancel)
        column.addWidget(self.prompt, 2)
        column.addWidget(self.negative, 0)
        column.addLayout(self._strength_row())
        column.addLayout(self._note_row())
        self.options = Options(actions.change, actions.change_params)
        column.addWidget(self.options, 3)
        column.addLayout(self._button_row())
        column.addLayout(self._progress_row())
        self.results = ResultStrip(actions.thumbnail)
        self.results.picked.connect(actions.pick)
        self.results.apply.connect(actions.apply)
        self.results.discard.connect(actions.discard)
        self.results.toggle.connect(actions.toggle_shown)
        self.results.cancel.connect(actions.cancel)
        column.addWidget(self.results)
        column.addLayout(self._result_row())
        column.addStretch(0)
        # Without it the height of our widgets would make the whole Krita window taller than a small screen.
        area = QtWidgets.QScrollArea()
        area.setWidgetResizable(True)
        area.setFrameShape(QtWidgets.QFrame.Shape.NoFrame)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setMinimumSize(200, 130)
        area.setWidget(body)
        self.status = Sentence("krita_sd_status", tr("Status"), wrap=True)
        outer.addWidget(area, 1)
        outer.addWidget(self.status)
        self._body = body
        self._calm_wheel()

    @property
    def wanted_height(self) -> int:
        """Pixels that show everything without scrolling."""
        return int(self._body.sizeHint().height() + self.status.sizeHint().height() + 16)

    def _model_row(self) -> Any:
        row = QtWidgets.QHBoxLayout()
        self.model = QtWidgets.QComboBox()
        self.model.setObjectName("krita_sd_model")
        self.model.setAccessibleName(tr("Model"))
        policy = QtWidgets.QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        self.model.setSizeAdjustPolicy(policy)
        self.model.setMinimumContentsLength(8)
        self.model.activated.connect(lambda _row: self._actions.change(model=self.model.currentData()))
        self.rescan = self._tool("rescan", "↻", tr("Look for models again"))
        self.rescan.clicked.connect(lambda _checked=False: self._actions.rescan())
        self.gear = self._tool("options", "⚙", tr("Steps, guidance, sampler, seed, selection, server"))
        self.gear.setCheckable(True)
        self.gear.clicked.connect(lambda checked: self._actions.change(options_open=checked))
        row.addWidget(self.model, 1)
        row.addWidget(self.rescan)
        row.addWidget(self.gear)
        return row

    def _tool(self, name: str, text: str, tip: str) -> Any:
        button = QtWidgets.QToolButton()
        button.setObjectName(f"krita_sd_{name}")
        button.setText(text)
        button.setAccessibleName(tip)
        button.setToolTip(tip)
        return button

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
        row.addWidget(label)
        row.addWidget(self.strength, 1)
        row.addWidget(self.strength_box)
        return row

    def _note_row(self) -> Any:
        row = QtWidgets.QHBoxLayout()
        self.steps_label = Sentence("krita_sd_steps_label", tr("Steps that will run"), wrap=False)
        self.steps_label.setSizePolicy(QtWidgets.QSizePolicy.Policy.Fixed, QtWidgets.QSizePolicy.Policy.Fixed)
        self.note = Sentence("krita_sd_note", tr("Note"), wrap=False)
        row.addWidget(self.steps_label)
        row.addWidget(self.note, 1)
        return row

    def _button_row(self) -> Any:
        row = QtWidgets.QHBoxLayout()
        actions = self._actions
        self.generate = _button("generate", tr("Generate"), "", actions.generate)
        bold = self.generate.font()
        bold.setBold(True)
        self.generate.setFont(bold)
        self.cancel = _button("cancel", tr("Cancel"), tr("Stop without a trace (Esc)"), actions.cancel)
        row.addWidget(self.generate, 2)
        row.addWidget(self.cancel, 1)
        return row

    def _progress_row(self) -> Any:
        row = QtWidgets.QHBoxLayout()
        self.progress = QtWidgets.QProgressBar()
        self.progress.setObjectName("krita_sd_progress")
        self.progress.setAccessibleName(tr("Progress"))
        self.progress.setMinimumWidth(60)
        tip = tr("Stop here and keep what you see")
        self.keep = _button("keep", tr("Stop and keep"), tip, self._actions.keep)
        row.addWidget(self.progress, 2)
        row.addWidget(self.keep, 1)
        return row

    def _result_row(self) -> Any:
        row = QtWidgets.QHBoxLayout()
        tip = tr("Make the shown result a layer, one undo step (Enter)")
        self.apply = _button("apply", tr("Apply"), tip, self._actions.apply)
        self.discard = _button("discard", tr("Discard"), tr("Drop the shown result (Delete)"), self._actions.discard)
        row.addWidget(self.apply, 1)
        row.addWidget(self.discard, 1)
        return row

    def _calm_wheel(self) -> None:
        """The wheel scrolls the docker; it changes a value only in a field that has the keyboard."""
        self._wheel = WheelGuard(self)
        for kind in (QtWidgets.QAbstractSpinBox, QtWidgets.QComboBox, QtWidgets.QAbstractSlider):
            for widget in self.findChildren(kind):
                if not isinstance(widget, QtWidgets.QScrollBar):
                    widget.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
                    widget.installEventFilter(self._wheel)

    def _typed(self, name: str, text: str) -> None:
        if self._settings is not None and getattr(self._settings, name) != text:
            self._actions.change(**{name: text})

    def keyPressEvent(self, event: Any) -> None:  # noqa: N802
        # Keys that no field wanted come here.
        if event.key() == Qt.Key.Key_Escape:
            self._actions.cancel()
        else:
            super().keyPressEvent(event)

    def show_view(self, view: View, settings: Settings) -> None:
        """Draw; widgets that already show the right thing are not touched."""
        self._settings = settings
        self._render_models(view)
        self.prompt.show_text(settings.prompt)
        self.negative.show_text(settings.negative)
        self.note.say(view.note)
        percent = round(settings.strength * 100)
        for widget in (self.strength, self.strength_box):
            if widget.value() != percent:
                widget.blockSignals(True)
                widget.setValue(percent)
                widget.blockSignals(False)
        self.steps_label.say(view.steps_text)
        self.gear.setChecked(settings.options_open)
        self.options.setVisible(settings.options_open)
        self.options.render_settings(settings, view)
        self._render_job(view)
        self.results.render_items(view.results, view.selected)
        self.results.setVisible(bool(view.results))
        for button, on in ((self.apply, view.can_apply), (self.discard, view.can_discard)):
            button.setEnabled(on)
            button.setVisible(bool(view.results))
        self._render_status(view)

    def _render_models(self, view: View) -> None:
        wanted = [(choice.text, choice.id, choice.problem) for choice in view.models]
        if wanted != getattr(self, "_models", None):
            self._models = wanted
            self.model.clear()
            for row, (text, value, problem) in enumerate(wanted):
                self.model.addItem(text, value)
                if problem:
                    self.model.model().item(row).setEnabled(False)
                    self.model.setItemData(row, problem, Qt.ItemDataRole.ToolTipRole)
        row = self.model.findData(view.model)
        if row >= 0 and row != self.model.currentIndex():
            self.model.setCurrentIndex(row)

    def _render_job(self, view: View) -> None:
        text = tr(view.button)
        if self.generate.text() != text:
            self.generate.setText(text)
            self.generate.setAccessibleName(text)
        self.generate.setEnabled(view.can_generate)
        self.generate.setToolTip(view.button_tip or tr("Shift+Enter in the prompt"))
        self.cancel.setEnabled(view.can_cancel)
        self.keep.setEnabled(view.can_keep)
        busy = view.progress is None or view.progress >= 0
        # An indeterminate bar has no text in most styles, and the name of the phase says more than a moving bar.
        self.progress.setRange(0, 1000)
        self.progress.setValue(round(1000 * view.progress) if view.progress is not None and busy else 0)
        self.progress.setFormat(view.progress_text.replace("%", "%%"))
        self.progress.setTextVisible(bool(view.progress_text))
        self.progress.setAccessibleDescription(view.progress_text)

    def _render_status(self, view: View) -> None:
        self.status.say(view.status)
        if self.status.property("error") != view.status_is_error:
            self.status.setProperty("error", view.status_is_error)
            # Readable on Krita's dark and light themes.
            self.status.setStyleSheet("color: #e07060;" if view.status_is_error else "")
