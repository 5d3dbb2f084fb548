# SPDX-License-Identifier: GPL-3.0-or-later
"""What is behind the gear: sampling, seed, batch, previews, what is read from the document, selection, edges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from krita_sd import plan
from krita_sd.dock.chooser import Chooser
from krita_sd.qt import QtWidgets, tr
from krita_sd.settings import MAX_CLIP_SKIP, SOURCES, TILES, Settings
from krita_sd.view import View
from krita_sd.view_lists import Choice
from krita_sd.wire.limits import MAX_COUNT, MAX_FEATHER, MAX_GUIDANCE, MAX_STEPS
from krita_sd.wire.messages import PREVIEW_LEVELS
from krita_sd.wire.recipe import FILLS, SAMPLERS

_PREVIEWS = {"off": "Off", "rgb": "Fast", "half": "Half size", "full": "Full size (slow)"}
_SOURCES = {
    "visible": "What is visible",
    "active layer": "The active layer or group",
    "unmarked layers": "Visible without marked layers",
}
_TILES = {"follow": "With wrap-around", "": "No", "x": "Left and right", "y": "Up and down", "xy": "All edges"}
_FILLS = {
    "neutral": "Neutral grey",
    "blur": "Blurred surroundings",
    "border": "Border colours",
    "original": "What is there",
}

_DEFAULT = "default"
"""In the chooser of VAEs: nothing said, so the style's, else the model's own."""

Change = Callable[..., None]


class Options(QtWidgets.QWidget):
    """Edits settings through `change(**settings)` and `change_params(**params)`; both are actions."""

    def __init__(self, change: Change, change_params: Change) -> None:
        super().__init__()
        self._change = change
        self._change_params = change_params
        self.setObjectName("krita_sd_options_area")
        self._form = QtWidgets.QFormLayout(self)
        self._form.setContentsMargins(0, 0, 0, 0)
        self._form.setVerticalSpacing(3)
        self._build_sampling()
        self._build_seed()
        self._build_picture()
        self._build_selection()

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
        tip = "Below 100 % strength, run this many steps, instead of the part that the strength leaves of them."
        self.exact_steps = self._tick("exact_steps", "Run exactly so many steps", tip, "exact_steps")
        tip = "What turns the model's own picture into pixels. Default: the one that comes with the model."
        vae = Chooser("vae", tr("VAE"), tr(tip), lambda id: self._change_params(vae=None if id == _DEFAULT else id))
        self.vae = self._row("vae", "VAE", vae, tip)
        tip = "How many layers before the last of the text encoder are read; some models want 2."
        self.clip_skip = self._row("clip_skip", "Clip skip", QtWidgets.QSpinBox(), tip)
        self.clip_skip.setRange(0, MAX_CLIP_SKIP)
        self.clip_skip.setSpecialValueText(tr("default"))
        self.clip_skip.valueChanged.connect(lambda value: self._change_params(clip_skip=value or None))

    def _build_seed(self) -> None:
        box = QtWidgets.QWidget()
        line = QtWidgets.QHBoxLayout(box)
        line.setContentsMargins(0, 0, 0, 0)
        # A line edit, because spin boxes end at 2^31.
        self.seed = QtWidgets.QLineEdit()
        self.seed_random = QtWidgets.QCheckBox(tr("random"))
        self.seed_random.setObjectName("krita_sd_seed_random")
        self.seed_random.setAccessibleName(tr("Random seed"))
        # Its text may be longer than its room; what is written beside it may not.
        self.seed.setSizePolicy(QtWidgets.QSizePolicy.Policy.Ignored, QtWidgets.QSizePolicy.Policy.Fixed)
        self.seed.setMinimumWidth(60)
        line.addWidget(self.seed, 1)
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
        self.source.setToolTip(tr("What is read from the document. Previews and control layers never are."))
        self.tile = self._choice("tile", "Seamless", TILES, _TILES, "tile")
        self.tile.setToolTip(tr("Whether the picture continues at its edges, for textures and patterns."))

    def _choice(self, name: str, text: str, values: tuple[str, ...], texts: dict[str, str], setting: str) -> Any:
        box = self._row(name, text, QtWidgets.QComboBox())
        for value in values:
            box.addItem(tr(texts.get(value, value)), value)
        # The list may be wider than the field, which gives way to the docker.
        box.view().setMinimumWidth(box.view().sizeHintForColumn(0) + 24)
        box.activated.connect(lambda _row: self._change(**{setting: box.currentData()}))
        return box

    def _build_selection(self) -> None:
        self.fill = self._choice("fill", "Fill with", FILLS, _FILLS, "fill")
        self.feather = self._pixels("feather", "Feather", "How softly the repainted area runs out.")
        self.grow = self._pixels("grow", "Grow", "How far beyond the selection the model may think.")
        tip = "No growing, no feather: what you select is what changes, with its own soft edge."
        self.exact = self._tick("exact_mask", "Use my selection exactly as it is", tip, "exact_mask")

    def _tick(self, name: str, text: str, tip: str, setting: str) -> Any:
        box = QtWidgets.QCheckBox(tr(text))
        box.setObjectName(f"krita_sd_{name}")
        box.setAccessibleName(box.text())
        box.setToolTip(tr(tip))
        box.clicked.connect(lambda checked: self._change(**{setting: checked}))
        self._form.addRow(box)
        return box

    def _pixels(self, name: str, text: str, tip: str) -> Any:
        box = self._row(name, text, QtWidgets.QSpinBox(), tip)
        box.setRange(-1, MAX_FEATHER)
        box.setSpecialValueText(tr("automatic"))
        box.setSuffix(" px")
        box.valueChanged.connect(lambda value: self._change(**{name: None if value < 0 else value}))
        return box

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
        _choose(self.tile, settings.tile)
        _set(self.clip_skip, params.clip_skip or 0)
        own = Choice("", tr("The model's own"))
        self.vae.render_choices(
            (Choice(_DEFAULT, tr("Default")), own, *view.vaes), _DEFAULT if params.vae is None else params.vae
        )
        self.exact_steps.setChecked(settings.exact_steps)
        if not self.seed.hasFocus() and self.seed.text() != str(settings.seed):
            self.seed.setText(str(settings.seed))
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
