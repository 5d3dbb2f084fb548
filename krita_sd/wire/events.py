# SPDX-License-Identifier: GPL-3.0-or-later
"""What a `ClientCore` reports to the program around it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .errors import WireError
from .frames import Picture
from .live import LiveState
from .message import Message
from .messages import Progress, Result, State, Welcome


@dataclass(frozen=True)
class Event:
    """Base of what a `ClientCore` reports."""


@dataclass(frozen=True)
class Connected(Event):
    """The server has answered hello."""

    welcome: Welcome


@dataclass(frozen=True)
class JobState(Event):
    """A job entered a state. `state.seq` is 0 for a state concluded here (cancelled before it was sent)."""

    state: State


@dataclass(frozen=True)
class JobProgress(Event):
    progress: Progress


@dataclass(frozen=True)
class PreviewReady(Event):
    """An estimate of image `index` after `step` of `total` steps."""

    job: str
    index: int
    step: int
    total: int
    picture: Picture


@dataclass(frozen=True)
class ResultReady(Event):
    """A finished picture. Call `ClientCore.stored(result.seq)` once it is safe."""

    result: Result
    picture: Picture


@dataclass(frozen=True)
class JobLost(Event):
    """The job ended with a server that is gone; nothing more will come. Submit it again to have it."""

    job: str


@dataclass(frozen=True)
class ModelsListed(Event):
    models: tuple[dict, ...]
    device: dict = field(default_factory=dict)
    folders: tuple[dict, ...] = ()


@dataclass(frozen=True)
class Answered(Event):
    """The answer to an `ask`, or something that the server tells unasked (the queue's order)."""

    message: Message


@dataclass(frozen=True)
class Refused(Event):
    """The server refused something, or sent what could not be read; `error.job` names the job if it was one."""

    error: WireError


@dataclass(frozen=True)
class LiveFrame(Event):
    """The picture of request `generation` of a live session, newer than every one before, of the recipe's extent.

    header: what came with it; `ms` in it holds milliseconds by station.
    """

    live: str
    generation: int
    picture: Picture
    header: dict[str, Any] = field(compare=False)


@dataclass(frozen=True)
class LiveStatus(Event):
    """What became of a live session: loading, ready or failed."""

    state: LiveState


@dataclass(frozen=True)
class LiveCanvasWanted(Event):
    """The server does not have the canvas of this live session: the next call of `live` must bring all its tiles."""

    live: str
