# SPDX-License-Identifier: GPL-3.0-or-later
"""From what the link reports to what the job table is fed with. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from krita_sd import job_events as ev
from krita_sd.link import LinkState
from krita_sd.text import tr
from krita_sd.view_lists import size_text
from krita_sd.wire import client, parameters
from krita_sd.wire.messages import STATES
from krita_sd.wire.queries import QueueOrder
from krita_sd.wire.recipe import Recipe


def job_event(event: Any) -> Any | None:
    """The table's event for an event of the link; None when the table has nothing to learn from it."""
    if isinstance(event, client.JobState):
        state = event.state
        phase = ev.Phase(state.state)
        return ev.StateChanged(state.job, phase, state.index, state.step, state.total, state.error)
    if isinstance(event, client.JobProgress):
        at = event.progress
        return ev.Progress(at.job, ev.Phase(at.state), at.index, at.step, at.total)
    if isinstance(event, client.Connected):
        welcome = event.welcome
        known = frozenset(str(job.get("job")) for job in welcome.jobs)
        return ev.Connected(known, frozenset(welcome.lost), welcome.resumed, tuple(_known_jobs(welcome.jobs)))
    if isinstance(event, client.Answered) and isinstance(event.message, QueueOrder):
        return ev.Reordered(event.message.jobs)
    if isinstance(event, client.JobLost):
        return ev.JobLost(event.job)
    if isinstance(event, client.Refused) and event.error.job is not None:
        return ev.JobFailed(event.error.job, event.error)
    if isinstance(event, LinkState) and event.kind != "connected":
        return ev.Disconnected()
    return None


def _known_jobs(described: Iterable[dict[str, Any]]) -> Iterator[ev.KnownJob]:
    """Jobs of the welcome; a field that is missing or odd has its default."""
    for data in described:
        state, count, index = data.get("state"), data.get("count"), data.get("index")
        values, _ = parameters.checked(data)
        yield ev.KnownJob(
            str(data.get("job")),
            ev.Phase(state) if state in STATES else ev.Phase.QUEUED,
            Recipe(**values),
            index if isinstance(index, int) else 0,
            count if isinstance(count, int) and count > 0 else 1,
        )


def device_text(device: dict[str, Any], where: str) -> tuple[str, bool]:
    """(sentence for the status line, whether the device is known): it is not while the worker starts."""
    kind, name = str(device.get("kind") or ""), str(device.get("name") or "")
    known = bool(kind) and kind != "starting"
    device_name = (name or kind) if known else tr("starting the model program")
    return tr("Connected to {where}: {device}.", where=where, device=device_name), known


def free_text(device: dict[str, Any]) -> str:
    """How much of the device's memory is free; "" when it is not known."""
    free, memory = device.get("free"), device.get("memory")
    if not isinstance(free, int) or not isinstance(memory, int) or not 0 < free <= memory:
        return ""
    return tr("{free} of {memory} free.", free=size_text(free), memory=size_text(memory))
