# SPDX-License-Identifier: GPL-3.0-or-later
"""The server: which one, on what device, its memory and log, and a report for asking for help."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from krita_sd.dock import buttons
from krita_sd.dock.sentence import Sentence
from krita_sd.qt import QtGui, QtWidgets, tr
from krita_sd.settings import MAX_LEAVE, Settings
from krita_sd.text import mark
from krita_sd.view import View
from krita_sd.view_lists import size_text


class ServerPage(QtWidgets.QWidget):
    """`actions` offers: change, device, serving.{use_server, free_memory, read_log, copy_diagnostics, log}."""

    def __init__(self, actions: Any) -> None:
        super().__init__()
        self._actions = actions
        self._address = self._token = ""
        self._leave = 0.0
        self.setObjectName("krita_sd_server_area")
        column = QtWidgets.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        self.device = Sentence("krita_sd_device", tr("Device"), lines=3)
        self.memory = Sentence("krita_sd_device_memory", tr("Memory of the device"), lines=3)
        column.addWidget(self.device)
        column.addWidget(self.memory)
        form = QtWidgets.QFormLayout()
        form.setVerticalSpacing(3)
        tip = tr("Memory of the graphics card that the server leaves to Krita and others. From its next start on.")
        self.leave = QtWidgets.QDoubleSpinBox()
        self.leave.setRange(0.0, MAX_LEAVE)
        self.leave.setSingleStep(0.5)
        self.leave.setSuffix(" GB")
        self.leave.setKeyboardTracking(False)
        self.leave.valueChanged.connect(lambda value: actions.change(leave_free=value))
        self._row(form, "leave_free", tr("Leave free"), self.leave, tip)
        tip = tr("Empty: the server on this machine, started when it is needed. Otherwise its address, as it prints it")
        self.server = QtWidgets.QLineEdit()
        self.server.setPlaceholderText(tr("on this machine"))
        self._row(form, "server", tr("Server"), self.server, tip)
        tip = tr("The access token of that server: the file 'token' in its state folder.")
        self.token = QtWidgets.QLineEdit()
        self.token.setEchoMode(QtWidgets.QLineEdit.EchoMode.Password)
        self._row(form, "token", tr("Token"), self.token, tip)
        column.addLayout(form)
        row = QtWidgets.QHBoxLayout()
        self.connect_it = buttons.push("connect", tr("Connect"), tr("Connect to this server now"), self._connect)
        tip = tr("Unload all models; the next picture loads what it needs")
        self.free = buttons.push("free_memory", tr("Free memory"), tip, actions.serving.free_memory)
        row.addWidget(self.connect_it)
        row.addWidget(self.free)
        column.addLayout(row)
        self.log = QtWidgets.QPlainTextEdit()
        self.log.setObjectName("krita_sd_log")
        self.log.setAccessibleName(tr("Log of the server"))
        self.log.setReadOnly(True)
        self.log.setTabChangesFocus(True)
        self.log.setLineWrapMode(QtWidgets.QPlainTextEdit.LineWrapMode.NoWrap)
        self.log.setFont(QtGui.QFontDatabase.systemFont(QtGui.QFontDatabase.SystemFont.FixedFont))
        self.log.setMinimumHeight(80)
        column.addWidget(self.log, 1)
        row = QtWidgets.QHBoxLayout()
        self.again = buttons.push("log_read", tr("Read the log"), tr("The newest lines"), actions.serving.read_log)
        tip = tr("Versions, device, models and the end of the logs, without tokens and prompts")
        self.copy = buttons.push("diagnostics", tr("Copy report"), tip, actions.serving.copy_diagnostics)
        row.addWidget(self.again)
        row.addWidget(self.copy)
        column.addLayout(row)

    def _row(self, form: Any, name: str, text: str, field: Any, tip: str) -> None:
        field.setObjectName(f"krita_sd_{name}")
        field.setAccessibleName(text)
        field.setToolTip(tip)
        field.setMinimumWidth(70)
        label = QtWidgets.QLabel(text)
        label.setBuddy(field)
        form.addRow(label, field)
        if isinstance(field, QtWidgets.QLineEdit):
            field.returnPressed.connect(self._connect)

    def showEvent(self, event: Any) -> None:  # noqa: N802
        super().showEvent(event)
        self._actions.serving.read_log()

    def _connect(self) -> None:
        address, token = self.server.text().strip(), self.token.text().strip()
        if address != self._address and token == self._token:
            token = ""  # the token of one server is not told to another
        self._actions.serving.use_server(address, token)

    def show_view(self, view: View, settings: Settings) -> None:
        """Draw; a field that has the keyboard is left alone."""
        device = self._actions.device
        name = str(device.get("name") or device.get("kind") or "")
        self.device.say(f"{tr('Device')}: {name or tr('not known until a model is loaded')}")
        self.memory.say(memory_text(device))
        self.memory.setVisible(bool(self.memory.text()))
        is_news, self._leave = self._leave != settings.leave_free, settings.leave_free
        if abs(self.leave.value() - settings.leave_free) > 1e-6 and (is_news or not self.leave.hasFocus()):
            self.leave.blockSignals(True)
            self.leave.setValue(settings.leave_free)
            self.leave.blockSignals(False)
        for field, text, before in (
            (self.server, settings.server_uri, self._address),
            (self.token, settings.server_token, self._token),
        ):
            if not field.hasFocus() and field.text() == before:
                field.setText(text)
        self._address, self._token = settings.server_uri, settings.server_token
        log = self._actions.serving.log
        if log != self.log.toPlainText():
            self.log.setPlainText(log)
            bar = self.log.verticalScrollBar()
            bar.setValue(bar.maximum())


def memory_text(device: Mapping[str, Any]) -> str:
    """What is known of the device's memory, in bytes under these names; "" when nothing is."""
    facts = []
    for key, title in (("free", mark("free")), ("memory", "in all"), ("leave", "left to others")):
        value = device.get(key)
        if isinstance(value, (int, float)) and value > 0:
            facts.append(f"{size_text(int(value))} {tr(title)}")
    return f"{tr('Memory')}: {', '.join(facts)}" if facts else ""
