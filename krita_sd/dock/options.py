# SPDX-License-Identifier: GPL-3.0-or-later
"""What is behind the gear: sampling, seed, batch, previews, selection, and which server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from krita_sd import plan
from krita_sd.qt import Qt, QtWidgets, tr
from krita_sd.settings import SOURCES, Settings
from krita_sd.view import View
from krita_sd.wire.limits import MAX_COUNT, MAX_FEATHER, MAX_GUIDANCE, MAX_STEPS
from krita_sd.wire.messages import PREVIEW_LEVELS
from krita_sd.wire.recipe import FILLS, SAMPLERS

_PREVIEWS = {"off": "Off", "rgb": "Fast", "half": "Half size", "full": "Full size (slow)"}
_SOURCES = {"visible": "What is visible", "active layer": "The active layer"}
_FILLS = {
    "neutral": "Neutral grey",
    "blur": "Blurred surroundings",
    "border": "Border colours",
    "original": "What is there",
}

Change = Callable[..., None]


class Options(QtWidgets.QScrollArea):
    """Edits settings through `change(**settings)` and `change_params(**params)`; both are actions."""

    def __init__(self, change: Change, change_params: Change) -> None:
        super().__init__()
        self._change = change
        self._change_params = change_params
        self._address = self._token = ""
        self.setObjectName("krita_sd_options_area")
        self.setWidgetResizable(True)
        self.setFrameShape(QtWidgets.QFrame.Shape.NoFrame)
        self.setMinimumHeight(120)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        inner = QtWidgets.QWidget()
        self._form = QtWidgets.QFormLayout(inner)
        self._form.setContentsMargins(0, 0, 4, 0)
        self._form.setVerticalSpacing(3)
        self.setWidget(inner)
        self._build_sampling()
        self._build_seed()
        self._build_picture()
        self._build_selection()
        self._build_server()

    def _row(self, name: str, text: str, widget: Any, tip: str = "") -> Any:
        widget.setObjectName(f"krita_sd_{name}")
        widget.setAccessibleName(tr(text))
        widget.setToolTip(tr(tip))
        # Fields give way to the width of the docker, not the other way round.
        widget.setMinimumWidth(70)
        widget.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        label = QtWidgets.QLabel(tr(text))
        label.setBuddy(widget)
        self._form.addRow(label, widget)
        return widget

    def _build_sampling(self) -> None:
        self.steps = self._row("steps", "Steps", QtWidgets.QSpinBox(), "How often the picture is refined.")
        self.steps.setRange(0, MAX_STEPS)
        self.steps.valueChanged.connect(lambda value: self._change_params(steps=value or None))
        tip = "How closely the prompt is followed. 1 or less ignores the negative prompt and is twice as fast."
        self.guidance = self._row("guidance", "Guidance", QtWidgets.QDoubleSpinBox(), tip)
        # 0 is a real guidance, so "default" lies below it.
        self.guidance.setRange(-0.5, MAX_GUIDANCE)
        self.guidance.setSingleStep(0.5)
        self.guidance.setDecimals(1)
        self.guidance.valueChanged.connect(lambda value: self._change_params(guidance=None if value < 0 else value))
        self.sampler = self._row("sampler", "Sampler", QtWidgets.QComboBox())
        self.sampler.addItem(tr("Default"), "")
        for name in SAMPLERS:
            self.sampler.addItem(name, name)
        self.sampler.activated.connect(lambda _row: self._change_params(sampler=self.sampler.currentData() or None))

    def _build_seed(self) -> None:
        box = QtWidgets.QWidget()
        line = QtWidgets.QHBoxLayout(box)
        line.setContentsMargins(0, 0, 0, 0)
        # A line edit, because spin boxes end at 2^31.
        self.seed = QtWidgets.QLineEdit()
        self.seed_random = QtWidgets.QCheckBox(tr("random"))
        self.seed_random.setObjectName("krita_sd_seed_random")
        self.seed_random.setAccessibleName(tr("Random seed"))
        line.addWidget(self.seed)
        line.addWidget(self.seed_random)
        label = QtWidgets.QLabel(tr("Seed"))
        label.setBuddy(self.seed)
        self._form.addRow(label, box)
        self.seed.setObjectName("krita_sd_seed")
        self.seed.setAccessibleName(tr("Seed"))
        self.seed.setToolTip(tr("A number from 0 to 9223372036854775807. The same seed makes the same picture again."))
        self.seed.textEdited.connect(self._seed_edited)
        self.seed_random.clicked.connect(lambda checked: self._change(seed_fixed=not checked))

    def _seed_edited(self, text: str) -> None:
        seed = plan.read_seed(text)
        if seed is not None:
            self._change(seed=seed, seed_fixed=True)

    def _build_picture(self) -> None:
        self.count = self._row("count", "Images", QtWidgets.QSpinBox(), "How many pictures one press makes.")
        self.count.setRange(1, MAX_COUNT)
        self.count.valueChanged.connect(lambda value: self._change(count=value))
        self.previews = self._choice("previews", "Previews", PREVIEW_LEVELS, _PREVIEWS, "previews")
        self.source = self._choice("source", "Input", SOURCES, _SOURCES, "source")

    def _choice(self, name: str, text: str, values: tuple[str, ...], texts: dict[str, str], setting: str) -> Any:
        box = self._row(name, text, QtWidgets.QComboBox())
        for value in values:
            box.addItem(tr(texts.get(value, value)), value)
        box.activated.connect(lambda _row: self._change(**{setting: box.currentData()}))
        return box

    def _build_selection(self) -> None:
        self.fill = self._choice("fill", "Fill with", FILLS, _FILLS, "fill")
        self.feather = self._pixels("feather", "Feather", "How softly the repainted area runs out.")
        self.grow = self._pixels("grow", "Grow", "How far beyond the selection the model may think.")
        self.exact = QtWidgets.QCheckBox(tr("Use my selection exactly as it is"))
        self.exact.setObjectName("krita_sd_exact_mask")
        self.exact.setAccessibleName(self.exact.text())
        self.exact.clicked.connect(lambda checked: self._change(exact_mask=checked))
        self._form.addRow(self.exact)

    def _pixels(self, name: str, text: str, tip: str) -> Any:
        box = self._row(name, text, QtWidgets.QSpinBox(), tip)
        box.setRange(-1, MAX_FEATHER)
        box.setSpecialValueText(tr("automatic"))
        box.setSuffix(" px")
        box.valueChanged.connect(lambda value: self._change(**{name: None if value < 0 else value}))
        return box

    def _build_server(self) -> None:
        tip = "Empty: the server on this machine, started when it is needed. Otherwise ws://address:port/v1"
        self.server = self._row("server", "Server", QtWidgets.QLineEdit(), tip)
        self.server.setPlaceholderText(tr("on this machine"))
        self.token = self._row("token", "Token", QtWidgets.QLineEdit(), "The access token of that server.")
        self.token.setEchoMode(QtWidgets.QLineEdit.EchoMode.Password)
        for field in (self.server, self.token):
            field.editingFinished.connect(self._server_edited)

    def _server_edited(self) -> None:
        address, token = self.server.text().strip(), self.token.text().strip()
        if address != self._address and token == self._token:
            token = ""  # the token of one server is not told to another
        if (address, token) != (self._address, self._token):
            self._change(server_uri=address, server_token=token)

    def render_settings(self, settings: Settings, view: View) -> None:
        """Show these settings. A field that has the keyboard is left alone: the painter is typing in it."""
        params = settings.params
        self.steps.setSpecialValueText(tr("default") + f" ({view.default_steps})")
        self.guidance.setSpecialValueText(tr("default") + f" ({view.default_guidance:g})")
        self.sampler.setItemText(0, tr("default") + (f" ({view.default_sampler})" if view.default_sampler else ""))
        _set(self.steps, params.steps or 0)
        _set(self.guidance, -0.5 if params.guidance is None else params.guidance)
        _set(self.count, settings.count)
        _set(self.feather, -1 if settings.feather is None else settings.feather)
        _set(self.grow, -1 if settings.grow is None else settings.grow)
        _choose(self.sampler, params.sampler or "")
        _choose(self.previews, settings.previews)
        _choose(self.source, settings.source)
        _choose(self.fill, settings.fill)
        for field, text in ((self.seed, str(settings.seed)), (self.server, settings.server_uri)):
            if not field.hasFocus() and field.text() != text:
                field.setText(text)
        self._address, self._token = settings.server_uri, settings.server_token
        if not self.token.hasFocus() and self.token.text() != self._token:
            self.token.setText(self._token)
        self.seed_random.setChecked(not settings.seed_fixed)
        self.exact.setChecked(settings.exact_mask)
        for field in (self.feather, self.grow):
            field.setEnabled(not settings.exact_mask)


def _set(box: Any, value: float) -> None:
    if box.value() != value and not box.hasFocus():
        box.blockSignals(True)
        box.setValue(value)
        box.blockSignals(False)


def _choose(box: Any, value: str) -> None:
    row = box.findData(value)
    if row >= 0 and row != box.currentIndex():
        box.setCurrentIndex(row)
