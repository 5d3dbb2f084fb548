# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside Krita during tests only: answers questions about documents and widgets over a local socket.

One JSON line per request {id, code, mode: "exec" | "eval"}, one per answer {id, ok, result, error}. Code runs in the
UI thread, in one namespace that lasts as long as Krita does (see `helpers.py` for what is in it from the start).
"""

import faulthandler
import json
import os
import signal
import sys
import traceback

import krita
from krita import Extension, Krita

if "PyQt6.QtCore" in sys.modules:
    from PyQt6 import QtCore, QtGui, QtNetwork, QtWidgets
else:
    from PyQt5 import QtCore, QtGui, QtNetwork, QtWidgets

from . import helpers

ERRORS: list[str] = []
SPACE = {"K": Krita.instance(), "krita": krita, "QtCore": QtCore, "QtGui": QtGui, "QtWidgets": QtWidgets}
SPACE["ERRORS"] = ERRORS


def collect(kind, value, trace):
    """Krita's own hook opens a modal dialog, which would block the tests."""
    ERRORS.append("".join(traceback.format_exception(kind, value, trace)))
    sys.stderr.write(ERRORS[-1])


class Control(QtCore.QObject):
    def __init__(self, path):
        super().__init__()
        self.server = QtNetwork.QLocalServer(self)
        QtNetwork.QLocalServer.removeServer(path)
        if not self.server.listen(path):
            sys.stderr.write("test control: " + self.server.errorString() + "\n")
        self.server.newConnection.connect(self.accept)
        self.buffers = {}
        # PyQt's garbage collector takes a socket that only its own slots refer to, and with it the slots: deaf.
        self.sockets = []

    def accept(self):
        sock = self.server.nextPendingConnection()
        self.buffers[id(sock)] = b""
        self.sockets.append(sock)
        sock.readyRead.connect(lambda: self.read(sock))
        sock.disconnected.connect(lambda: self.buffers.pop(id(sock), None))

    def read(self, sock):
        lines = (self.buffers[id(sock)] + bytes(sock.readAll())).split(b"\n")
        self.buffers[id(sock)] = lines.pop()
        for line in lines:
            # Not inside readyRead: it is never emitted recursively, so a modal dialog would make us deaf.
            QtCore.QTimer.singleShot(0, lambda line=line: self.answer(sock, line))

    def answer(self, sock, line):
        request = json.loads(line)
        reply = {"id": request["id"], "ok": True, "result": None}
        try:
            if request["mode"] == "eval":
                reply["result"] = eval(request["code"], SPACE)
            else:
                exec(request["code"], SPACE)
            data = json.dumps(reply)
        except BaseException:  # whatever the test's code raises is the test's to see
            data = json.dumps({"id": request["id"], "ok": False, "error": traceback.format_exc()})
        sock.write(data.encode() + b"\n")
        sock.flush()


class TestControl(Extension):
    def setup(self):
        sys.excepthook = collect
        faulthandler.enable()
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        for name in dir(helpers):
            if not name.startswith("_"):
                SPACE.setdefault(name, getattr(helpers, name))
        self.control = Control(os.environ["KRITA_TEST_SOCKET"])

    def createActions(self, window):
        pass


if "KRITA_TEST_SOCKET" in os.environ:
    Krita.instance().addExtension(TestControl(Krita.instance()))
