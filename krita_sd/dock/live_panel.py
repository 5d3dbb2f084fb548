# SPDX-License-Identifier: GPL-3.0-or-later
"""The Live workspace: how far the picture may go, where it shows; in its foot on and off, keeping it."""

from __future__ import annotations

from typing import Any

from krita_sd import plan
from krita_sd.dock import buttons
from krita_sd.dock.sentence import Sentence
from krita_sd.live.settings import PLACES, REGIONS
from krita_sd.qt import Qt, QtWidgets, tr
from krita_sd.settings import Settings
from krita_sd.view import View
from krita_sd.wire.limits import MAX_STEPS
from krita_sd.wire.recipe import SAMPLERS

_PLACES = {
    "canvas": "Over the canvas",
    "layer": "As a locked layer",
    "docker": "In its own docker",
    "both": "Canvas and docker",
}
_REGIONS = {"automatic": "Automatic", "canvas": "The whole canvas", "strokes": "Around recent strokes"}


class LivePanel(QtWidgets.QWidget):
    """`actions` offers: toggle_live, change_live, apply_live, record_live, and `live_view`, a LiveView."""

    def __init__(self, actions: Any) -> None:
        super().__init__()
        self.setObjectName("krita_sd_live_area")
        self._actions = actions
        column = QtWidgets.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        self._form = QtWidgets.QFormLayout()
        self._form.setVerticalSpacing(3)
        column.addLayout(self._form)
        self._build_strength()
        self._build_seed()
        self._build_sampling()
        self._build_place()
        self._build_switches()
        column.addStretch(1)
        self.foot = self._foot(actions)

    def _foot(self, actions: Any) -> Any:
        """Its sentences come and go above the buttons, which do not move then."""
        foot = QtWidgets.QWidget()
        foot.setObjectName("krita_sd_live_foot_area")
        column = QtWidgets.QVBoxLayout(foot)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        self.status = Sentence("krita_sd_live_status", tr("Live status"), lines=3)
        self.recorded = Sentence("krita_sd_live_recorded", tr("Recording"), lines=3)
        column.addWidget(self.status)
        column.addWidget(self.recorded)
        column.addWidget(self._switch_on(actions))
        column.addLayout(self._keeping_row(actions))
        return foot

    def _switch_on(self, actions: Any) -> Any:
        tip = tr("The picture follows the pen until this is pressed again")
        self.toggle = buttons.push("live", tr("Live"), tip, actions.toggle_live)
        self.toggle.setCheckable(True)
        bold = self.toggle.font()
        bold.setBold(True)
        self.toggle.setFont(bold)
        return self.toggle

    def _add(self, name: str, text: str, widget: Any, tip: str, field: Any = None) -> Any:
        """A labelled row; `field` is the widget that the row holds when `widget` is only its main part."""
        widget.setObjectName(f"krita_sd_live_{name}")
        widget.setAccessibleName(tr(text))
        widget.setToolTip(tr(tip))
        widget.setMinimumWidth(70)
        label = QtWidgets.QLabel(tr(text))
        label.setBuddy(widget)
        self._form.addRow(label, field or widget)
        return widget

    def _percent(self, name: str, text: str, tip: str) -> tuple[Any, Any]:
        box = QtWidgets.QWidget()
        line = QtWidgets.QHBoxLayout(box)
        line.setContentsMargins(0, 0, 0, 0)
        slider = QtWidgets.QSlider(Qt.Orientation.Horizontal)
        number = QtWidgets.QSpinBox()
        number.setSuffix(" %")
        number.setObjectName(f"krita_sd_live_{name}_value")
        number.setAccessibleName(tr(text))
        number.setToolTip(tr(tip))
        line.addWidget(slider, 1)
        line.addWidget(number)
        for widget in (slider, number):
            widget.setRange(0, 100)
            widget.valueChanged.connect(lambda value: self._actions.change_live(**{name: value / 100}))
        self._add(name, text, slider, tip, box)
        return slider, number

    def _build_strength(self) -> None:
        tip = "How far the picture may leave what is painted."
        self.strength, self.strength_box = self._percent("strength", "Strength", tip)

    def _build_seed(self) -> None:
        box = QtWidgets.QWidget()
        line = QtWidgets.QHBoxLayout(box)
        line.setContentsMargins(0, 0, 0, 0)
        self.seed = QtWidgets.QLineEdit()
        self.another = buttons.tool("live_another", "⚄", tr("Another seed, another picture"), "view-refresh")
        self.another.clicked.connect(lambda _checked=False: self._actions.change_live(seed=plan.draw_seed()))
        line.addWidget(self.seed, 1)
        line.addWidget(self.another)
        self._add("seed", "Seed", self.seed, "It stays while you paint, so that the picture does not flicker.", box)
        self.seed.textEdited.connect(self._seed_edited)

    def _seed_edited(self, text: str) -> None:
        seed = plan.read_seed(text)
        if seed is not None:
            self._actions.change_live(seed=seed)

    def _build_sampling(self) -> None:
        self.steps = self._add("steps", "Steps", QtWidgets.QSpinBox(), "Fewer are faster.")
        self.steps.setRange(0, MAX_STEPS)
        self.steps.setSpecialValueText(tr("automatic"))
        self.steps.valueChanged.connect(lambda value: self._actions.change_live(steps=value or None))
        self.sampler = self._add("sampler", "Sampler", QtWidgets.QComboBox(), "LCM is made for few steps.")
        self.sampler.addItem(tr("automatic"), "")
        for name in SAMPLERS:
            self.sampler.addItem(name, name)
        self.sampler.activated.connect(
            lambda _row: self._actions.change_live(sampler=self.sampler.currentData() or None)
        )

    def _choice(self, name: str, text: str, values: tuple[str, ...], texts: dict[str, str], tip: str) -> Any:
        box = self._add(name, text, QtWidgets.QComboBox(), tip)
        for value in values:
            box.addItem(tr(texts[value]), value)
        box.activated.connect(lambda _row: self._actions.change_live(**{name: box.currentData()}))
        return box

    def _build_place(self) -> None:
        tip = "Over the canvas nothing touches the image. A locked layer is updated while the pen is up."
        self.place = self._choice("place", "Shown", PLACES, _PLACES, tip)
        tip = "Without a selection: which part of the canvas. Automatic: all of it while the model is large enough."
        self.region = self._choice("region", "Area", REGIONS, _REGIONS, tip)
        self.opacity, self.opacity_box = self._percent("opacity", "Opacity", "Of the picture over the canvas.")

    def _build_switches(self) -> None:
        self.see_through = self._switch("see_through", "Fresh strokes show through", "Until a picture contains them.")
        self.battery = self._switch("battery", "Pause on battery", "Saves a laptop's battery.")

    def _switch(self, name: str, text: str, tip: str) -> Any:
        box = QtWidgets.QCheckBox(tr(text))
        box.setObjectName(f"krita_sd_live_{name}")
        box.setAccessibleName(tr(text))
        box.setToolTip(tr(tip))
        box.clicked.connect(lambda checked: self._actions.change_live(**{name: checked}))
        self._form.addRow(box)
        return box

    def _keeping_row(self, actions: Any) -> Any:
        row = QtWidgets.QHBoxLayout()
        self.apply = buttons.push("live_apply", tr("Apply"), tr("Make it a layer on top, one undo step"), self._apply)
        tip = tr("Into the active layer: two undo steps, a new layer and merging it down")
        self.merge = buttons.push("live_merge", tr("Into layer"), tip, self._merge)
        tip = tr("Write every picture into a folder, without loss")
        self.record = buttons.push("live_record", tr("Record"), tip, actions.record_live)
        self.record.setCheckable(True)
        for button in (self.apply, self.merge, self.record):
            row.addWidget(button)
        return row

    def _apply(self) -> None:
        self._actions.apply_live()

    def _merge(self) -> None:
        self._actions.apply_live(into_active=True)

    def show_view(self, view: View, settings: Settings) -> None:
        """Draw; a field that has the keyboard is left alone."""
        live, chosen = self._actions.live_view, settings.live
        self.toggle.setChecked(live.on)
        for slider, number, value in (
            (self.strength, self.strength_box, chosen.strength),
            (self.opacity, self.opacity_box, chosen.opacity),
        ):
            _set(slider, round(value * 100))
            _set(number, round(value * 100))
        _set(self.steps, chosen.steps or 0)
        for box, name in (
            (self.sampler, chosen.sampler or ""),
            (self.place, chosen.place),
            (self.region, chosen.region),
        ):
            row = box.findData(name)
            if row >= 0 and row != box.currentIndex():
                box.setCurrentIndex(row)
        if not self.seed.hasFocus() and self.seed.text() != str(chosen.seed):
            self.seed.setText(str(chosen.seed))
        self.see_through.setChecked(chosen.see_through)
        self.battery.setChecked(chosen.battery)
        for button in (self.apply, self.merge):
            button.setEnabled(live.can_apply)
        self.record.setChecked(live.recording)
        self.record.setText(tr("Stop recording") if live.recording else tr("Record"))
        self.status.say(live.status)
        self.status.warn(live.is_error)
        self.recorded.say(live.record_text)
        self.recorded.setVisible(bool(live.record_text))


def _set(box: Any, value: int) -> None:
    if box.value() != value:
        box.blockSignals(True)
        box.setValue(value)
        box.blockSignals(False)
