# SPDX-License-Identifier: GPL-3.0-or-later
"""Control layers with type, weight and range, and a menu that marks a layer or makes one from the canvas."""

from __future__ import annotations

from typing import Any

from krita_sd.dock import buttons
from krita_sd.dock.chooser import Chooser
from krita_sd.dock.sentence import Sentence
from krita_sd.dock.tips import escaped
from krita_sd.qt import QtWidgets, tr
from krita_sd.settings import Settings
from krita_sd.view import View
from krita_sd.wire.limits import MAX_CONTROL_WEIGHT


class ControlList(QtWidgets.QWidget):
    """`controlling` offers items, left_out, types, makeable, mark_active, make, leave_out_active, change_layer, unmark,
    show_layer. `add` is placed by the owner."""

    def __init__(self, controlling: Any) -> None:
        super().__init__()
        self._controlling = controlling
        self._rows: list[_Row] = []
        self.setObjectName("krita_sd_control_area")
        self._column = QtWidgets.QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(2)
        tip = tr("Layers that steer the picture: lines, depth, a pose ... made from the canvas or painted by hand")
        self.add = buttons.tool("control_add", tr("Control layer"), tip, "addlayer")
        self.add.setAccessibleName(tr("Add a control layer"))
        self.add.setToolButtonStyle(buttons.BESIDE)
        self.add.setPopupMode(QtWidgets.QToolButton.ToolButtonPopupMode.InstantPopup)
        menu = QtWidgets.QMenu(self.add)
        menu.setToolTipsVisible(True)
        menu.aboutToShow.connect(self._fill_menu)
        self.add.setMenu(menu)
        self.left_out = Sentence("krita_sd_left_out", tr("Layers that are left out of the input"))
        self._column.addWidget(self.left_out)

    def show_view(self, view: View, settings: Settings) -> None:
        """Draw; a number that is being typed is left alone."""
        items = self._controlling.items
        types = self._controlling.types()
        for number, item in enumerate(items):
            if number == len(self._rows):
                row = _Row(number, self._controlling)
                self._rows.append(row)
                self._column.insertWidget(number, row)
            self._rows[number].show_item(item, types)
        for row in self._rows[len(items) :]:
            row.hide()
        names = self._controlling.left_out
        self.left_out.say(tr("Left out: ") + ", ".join(names) if names else "")
        self.left_out.setVisible(bool(names))
        self.setVisible(bool(items or names))

    def open_menu(self) -> None:
        """Open the menu below its button."""
        self.add.menu().popup(self.add.mapToGlobal(self.add.rect().bottomLeft()))

    def _fill_menu(self) -> None:
        menu = self.add.menu()
        menu.clear()
        menu.addSection(tr("Make from the canvas"))
        for choice in self._controlling.makeable():
            self._entry(menu, choice, self._controlling.make, "make")
        menu.addSection(tr("Use the active layer as"))
        for choice in self._controlling.types():
            self._entry(menu, choice, self._controlling.mark_active, "mark")
        menu.addSeparator()
        leave = menu.addAction(tr("Leave the active layer out of the input, or take it in again"))
        leave.triggered.connect(lambda _checked=False: self._controlling.leave_out_active())

    def _entry(self, menu: Any, choice: Any, chosen: Any, name: str) -> None:
        action = menu.addAction(choice.text)
        action.setObjectName(f"krita_sd_control_{name}_{choice.id}")
        action.setEnabled(not choice.problem)
        action.setToolTip(escaped(choice.problem) or choice.text)
        action.triggered.connect(lambda _checked=False: chosen(choice.id))


class _Row(QtWidgets.QWidget):
    """One control layer, in two lines."""

    def __init__(self, number: int, controlling: Any) -> None:
        super().__init__()
        self._controlling = controlling
        self._layer = ""
        self.setObjectName(f"krita_sd_control_area_{number}")
        grid = QtWidgets.QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 2)
        grid.setSpacing(2)
        self.on = QtWidgets.QCheckBox()
        self.on.setObjectName(f"krita_sd_control_on_{number}")
        self.on.setAccessibleName(tr("The control layer steers"))
        self.on.setToolTip(tr("Whether this layer steers the next pictures"))
        self.on.clicked.connect(lambda checked: self._change(on=checked))
        self.type = Chooser(
            f"control_type_{number}", tr("Type of the control layer"), "", lambda id: self._change(type=id)
        )
        self.type.setMinimumWidth(80)  # gives way: with a scroll bar the row would be wider than the narrowest docker
        self.weight = self._number(f"control_weight_{number}", tr("Weight"), 0.0, MAX_CONTROL_WEIGHT, "weight", 1.0)
        self.eye = buttons.tool(f"control_show_{number}", "\u25c9", tr("Show or hide the layer"), "visible")
        self.eye.setCheckable(True)
        self.eye.clicked.connect(lambda checked: self._layer and controlling.show_layer(self._layer, checked))
        self.drop = buttons.tool(f"control_drop_{number}", "\u00d7", tr("Unmark: an ordinary layer again"))
        self.drop.clicked.connect(lambda _checked=False: self._layer and controlling.unmark(self._layer))
        self.name = Sentence(f"krita_sd_control_name_{number}", tr("Control layer"), lines=3)
        self.start = self._number(f"control_start_{number}", tr("From this part of the steps"), 0, 100, "start", 100)
        self.end = self._number(f"control_end_{number}", tr("To this part of the steps"), 0, 100, "end", 100)
        for column, widget in enumerate((self.on, self.type, self.weight, self.eye, self.drop)):
            grid.addWidget(widget, 0, column)
        lower = QtWidgets.QHBoxLayout()
        lower.addWidget(self.name, 1)
        lower.addWidget(self.start)
        self.dash = QtWidgets.QLabel("\u2013")
        lower.addWidget(self.dash)
        lower.addWidget(self.end)
        grid.addLayout(lower, 1, 1, 1, 4)
        grid.setColumnStretch(1, 1)

    def _number(self, name: str, text: str, low: float, high: float, field: str, scale: float) -> Any:
        whole = scale > 1
        box = QtWidgets.QSpinBox() if whole else QtWidgets.QDoubleSpinBox()
        box.setObjectName(f"krita_sd_{name}")
        box.setAccessibleName(text)
        box.setToolTip(text)
        box.setRange(low, high)
        box.setSingleStep(5 if whole else 0.05)
        box.setSuffix(" %" if whole else "")
        box.setKeyboardTracking(False)
        box.valueChanged.connect(lambda value: self._change(**{field: value / scale}))
        return box

    def _change(self, **changes: Any) -> None:
        if self._layer:
            self._controlling.change_layer(self._layer, **changes)

    def show_item(self, item: Any, types: tuple[Any, ...]) -> None:
        self._layer = ""  # nothing is sent while drawing
        control = item.control
        self.type.render_choices(types, control.type)
        self.on.setChecked(control.on)
        for box, value in (
            (self.weight, control.weight),
            (self.start, round(control.start * 100)),
            (self.end, round(control.end * 100)),
        ):
            if abs(box.value() - value) > 1e-6 and not box.hasFocus():
                box.setValue(value)
        self.name.say(item.problem or item.name)
        self.name.warn(bool(item.problem))
        for widget in (self.start, self.dash, self.end):
            widget.setVisible(not item.problem)  # the sentence needs the room
        self.eye.setChecked(item.visible)
        self._layer = control.layer
        self.show()
