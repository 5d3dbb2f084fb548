# SPDX-License-Identifier: GPL-3.0-or-later
"""The server as the plugin sees it: where it is, what it tells, and looking for it (and its models) again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from krita_sd import pictures
from krita_sd.actions.core import Core
from krita_sd.actions.part import Part
from krita_sd.guarded import guarded
from krita_sd.link import Link, LinkState, Target
from krita_sd.server_process import start_or_find
from krita_sd.text import tr
from krita_sd.translate import device_text, free_text
from krita_sd.view import View
from krita_sd.wire import client
from krita_sd.wire.errors import Code

_HOPELESS = (Code.UNAUTHORIZED, Code.VERSION, Code.INTERNAL, Code.UNSUPPORTED, Code.BAD_REQUEST)


class Connection(Part):
    """Makes the link of `core`; `emit` is called in the link's thread with everything that arrives."""

    def __init__(self, core: Core, emit: Callable[[Any], None]) -> None:
        super().__init__(core)
        self._device_known = True
        settings = core.settings
        session = client.ClientCore(settings.session, "krita", last_seq=settings.last_seq, instance=settings.instance)
        core.link = Link(session, self._locate, emit, pictures.scaled)

    @guarded
    def rescan(self) -> None:
        """Look for models again, and for the server if there is none."""
        self.core.start()
        if self.core.table.connected:
            self.core.link.list_models(rescan=True)
        else:
            self.core.link.reconnect()

    @property
    def is_hopeless(self) -> bool:
        """The status line says why nothing can be sent; only the painter can put that right."""
        state = self.core.connection
        return state.kind == "waiting" and state.code in _HOPELESS

    def received(self, event: Any) -> None:
        core = self.core
        if isinstance(event, LinkState):
            core.connection = event
        elif isinstance(event, client.Connected):
            self._server_said(event.welcome.models, event.welcome.device)
            core.features = event.welcome.features
            core.save_soon()
        elif isinstance(event, client.ModelsListed):
            self._server_said(event.models, event.device)
        elif isinstance(event, client.Refused) and event.error.job not in core.table.jobs:
            if event.error.code is Code.UNSUPPORTED and event.error.job is None:
                return  # an older server was asked a question; whoever asked shows less
            self.say(str(event.error), True)
        elif isinstance(event, client.JobState) and not self._device_known and event.state.state == "encoding":
            core.link.list_models()  # the worker runs now, so the server knows its device

    def viewed(self, view: View) -> View:
        if self.core.connection.kind == "connected" and view.status == self.core.connection.text:
            return dataclasses.replace(view, status=f"{view.status} {free_text(self.core.device)}".strip())
        return view

    def _server_said(self, models: tuple[dict[str, Any], ...], device: dict[str, Any]) -> None:
        self.core.models, self.core.device = models, device
        text, self._device_known = device_text(device, self.core.settings.server_uri or tr("this machine"))
        self.core.connection = LinkState("connected", text)

    def _locate(self, report: Callable[[LinkState], None], stopping: Any) -> Target:
        """In the link's thread: the server of the settings, or the one of this machine."""
        settings = self.core.settings
        if settings.server_uri:
            return Target(settings.server_uri, settings.server_token, tr("The server"))
        options = ("--leave-free", f"{settings.leave_free:g}") if settings.leave_free else ()
        running = start_or_find(lambda text: report(LinkState("starting", text)), stopping, options=options)
        return Target(running.uri, running.token, tr("The server on this machine"))
