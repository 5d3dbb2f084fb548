# SPDX-License-Identifier: GPL-3.0-or-later
"""The server's side of the docker: will it fit, free its memory, read its log, copy a report, use another server."""

from __future__ import annotations

import functools
import uuid
from pathlib import Path
from typing import Any

from krita_sd import diagnostics
from krita_sd import job_events as ev
from krita_sd.actions.core import Core
from krita_sd.actions.part import Part
from krita_sd.canvas import host
from krita_sd.guarded import guarded
from krita_sd.qt import QtCore, QtWidgets
from krita_sd.text import tr
from krita_sd.wire import client
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.places import state_dir
from krita_sd.wire.queries import Estimate, FreeMemory, MemoryEstimate

ASK_MS = 400
LOGS = ("server.log", "worker.log", "start.log")


class Serving(Part):
    """`log` and `shown()` are what the docker draws."""

    def __init__(self, core: Core) -> None:
        super().__init__(core)
        self.log = ""
        self.verdict = MemoryEstimate("")
        self._asked: Any = None
        self._question = ""
        self._supported = True
        self._timer = QtCore.QTimer(core, interval=ASK_MS, singleShot=True)
        self._timer.timeout.connect(self._ask)
        core.changed.connect(self._notice)

    # Will it fit -----------------------------------------------------------------------------------------------------

    def _wanted(self) -> Any:
        """The recipe that the button would send, without what does not cost memory; None without a document."""
        core, scene = self.core, self.core.scene
        if scene is None:
            return None
        try:
            made = core.plan(scene.extent, scene.selection, 0)
        except WireError:
            return None
        # A mask weighs nothing, and there is none yet.
        kind = "img2img" if made.kind == "inpaint" else made.kind
        return made.recipe.replace(kind=kind, prompt="", negative="")

    def _notice(self) -> None:
        if self._supported and self.core.table.connected and not self._timer.isActive():
            if self._wanted() != self._asked:
                self._timer.start()

    def _ask(self) -> None:
        self._asked = wanted = self._wanted()
        if wanted is not None:
            self._question = uuid.uuid4().hex
            self.core.link.ask(Estimate(self._question, wanted))

    def received(self, event: Any) -> None:
        if isinstance(event, client.Connected):
            self._supported, self._asked = True, None
        elif isinstance(event, client.Answered) and isinstance(event.message, MemoryEstimate):
            if event.message.id == self._question:
                self.verdict = event.message
                self._note_free(event.message.free)
        elif isinstance(event, client.Refused) and event.error.code is Code.UNSUPPORTED:
            self._supported = self._supported and f"'{Estimate.type}'" not in event.error.message

    def fed(self, event: Any) -> None:
        if isinstance(event, ev.StateChanged) and event.phase.terminal:
            self._asked = None  # what is free has changed

    def _note_free(self, free: int) -> None:
        """The verdict counts without what is left to others; the device is told of with it."""
        left = self.core.device.get("leave")
        if free > 0:
            self.core.device = {**self.core.device, "free": free + (left if isinstance(left, int) else 0)}

    def shown(self) -> dict[str, Any]:
        if not self._supported or not self.core.table.connected or self._asked is None:
            return {}
        warns = self.verdict.verdict in ("offloads", "too_big")
        return {"memory": self.verdict.text, "memory_warns": warns}

    # What the painter does -------------------------------------------------------------------------------------------

    @guarded
    def free_memory(self) -> None:
        """Unload every model; the next job loads again."""
        self.core.start()
        if not self.core.table.connected:
            raise WireError(
                Code.INTERRUPTED, tr("There is no connection to a server."), tr("Wait until it is connected.")
            )
        self.core.link.ask(FreeMemory())
        self._asked = None
        self.say(tr("The server unloads its models. The next picture takes longer to begin."))

    @guarded
    def read_log(self) -> None:
        """Read the end of the local server's log, off the GUI thread."""
        self.core.link.run(self._read_log)

    def _read_log(self) -> None:
        logs = self._logs()
        text = "\n".join(f"--- {name} ---\n{logs[name]}" for name in LOGS if logs[name])
        text = diagnostics.without_secrets(text, str(Path.home()), self._secrets())
        self.core.later(functools.partial(self._show_log, text))

    def _show_log(self, text: str) -> None:
        self.log = text or tr("There is no log here: the server is on another machine, or has not started yet.")
        self.core.redraw()

    def _logs(self) -> dict[str, str]:
        folder = state_dir()
        return {name: diagnostics.tail(folder / name) for name in LOGS}

    def _secrets(self) -> list[str]:
        try:
            token = (state_dir() / "token").read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            token = ""
        settings = self.core.settings
        return [secret for secret in (token, settings.server_token, settings.session) if secret]

    @guarded
    def copy_diagnostics(self) -> None:
        """Put a report without secrets on the clipboard."""
        self.core.link.run(self._report)

    def _report(self) -> None:
        core = self.core
        where = "another machine" if core.settings.server_uri else "this machine"
        text = diagnostics.report(
            host.krita().version(),
            QtCore.QT_VERSION_STR,
            f"{core.connection.kind}, {where}: {core.connection.text} {core.connection.hint}",
            core.device,
            core.models,
            self._logs(),
            str(Path.home()),
            self._secrets(),
        )
        core.later(functools.partial(self._copied, text))

    def _copied(self, text: str) -> None:
        QtWidgets.QApplication.clipboard().setText(text)
        self.say(tr("The report is on the clipboard. It holds no token and no prompt."))

    @guarded
    def use_server(self, address: str, token: str) -> None:
        """Connect to another server; "" for the one of this machine."""
        if address and not address.startswith(("ws://", "wss://")):
            address = f"ws://{address}"
        place, mark, fingerprint = address.partition("#")
        if place and "/" not in place.partition("://")[2]:
            address = f"{place}/v1{mark}{fingerprint}"
        self.core.change(server_uri=address, server_token=token)
        self.core.start()
        self.core.link.reconnect()
