# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens to jobs (events), and what the canvas has to do about it (effects): the alphabet of `jobs`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from krita_sd.geometry import Bounds
from krita_sd.wire.errors import WireError
from krita_sd.wire.recipe import Recipe


class Phase(str, Enum):
    """Where a job is. The last three are terminal; a job enters exactly one of them, once."""

    CAPTURING = "capturing"
    SENDING = "sending"
    QUEUED = "queued"
    LOADING = "loading"
    ENCODING = "encoding"
    SAMPLING = "sampling"
    DECODING = "decoding"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def terminal(self) -> bool:
        return self in (Phase.DONE, Phase.CANCELLED, Phase.FAILED)


@dataclass(frozen=True)
class Created:
    """The painter pressed the button. `document` is the document's id, `bounds` the rectangle the job is bound to."""

    job: str
    document: str
    bounds: Bounds
    recipe: Recipe
    count: int = 1


@dataclass(frozen=True)
class Captured:
    """The pixels are read; from here the link has the job."""

    job: str


@dataclass(frozen=True)
class StateChanged:
    """A reliable state of the server (`queued` .. `failed`)."""

    job: str
    phase: Phase
    index: int = 0
    step: int = 0
    total: int = 0
    error: WireError | None = None


@dataclass(frozen=True)
class Progress:
    """A lossy progress report; one that is older than what is known is ignored."""

    job: str
    phase: Phase
    index: int = 0
    step: int = 0
    total: int = 0


@dataclass(frozen=True)
class PreviewArrived:
    job: str
    index: int
    step: int
    picture: Any


@dataclass(frozen=True)
class ResultArrived:
    """A finished picture, whose pixels the feeder keeps. `recipe` is fully resolved, with the seed of this image.
    `reading`: how its prompt was read, "" when that is not known."""

    job: str
    index: int
    recipe: Recipe
    partial: bool = False
    reading: str = ""


@dataclass(frozen=True)
class JobFailed:
    job: str
    error: WireError


@dataclass(frozen=True)
class CancelPressed:
    job: str


@dataclass(frozen=True)
class KeepPressed:
    job: str


@dataclass(frozen=True)
class Disconnected:
    pass


@dataclass(frozen=True)
class KnownJob:
    """A job that the server has not ended, as its welcome tells it."""

    id: str
    phase: Phase
    recipe: Recipe
    index: int = 0
    count: int = 1


@dataclass(frozen=True)
class Connected:
    """The session is back. `known`: jobs the server has; `lost`: jobs it says are lost; `resumed`: same session.

    `jobs`: what it tells about those it has, in their order; those of an earlier run of the plugin come back with it.
    """

    known: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()
    resumed: bool = True
    jobs: tuple[KnownJob, ...] = ()


@dataclass(frozen=True)
class Reordered:
    """The server's order of the jobs that have not ended, the running one first."""

    jobs: tuple[str, ...]


@dataclass(frozen=True)
class Adopted:
    """A picture from elsewhere (the history, a file) is to be looked at in that document: a job that is over, whose
    result follows."""

    job: str
    document: str
    bounds: Bounds
    recipe: Recipe


@dataclass(frozen=True)
class Bound:
    """A job of an earlier run of the plugin belongs to this document, which is open."""

    job: str
    document: str
    bounds: Bounds


@dataclass(frozen=True)
class JobLost:
    """The job ended with a server that is gone."""

    job: str


@dataclass(frozen=True)
class DocumentClosed:
    document: str


@dataclass(frozen=True)
class Picked:
    """The painter chose this result in the strip."""

    key: str


@dataclass(frozen=True)
class Hidden:
    """The painter took the result off the canvas without discarding it."""

    key: str


@dataclass(frozen=True)
class Applied:
    """The result is a layer now; the canvas part of the job is the painter's."""

    key: str


@dataclass(frozen=True)
class Discarded:
    key: str


@dataclass(frozen=True)
class Starred:
    """The painter wants to keep this one (or no longer)."""

    key: str
    on: bool


@dataclass(frozen=True)
class Prepare:
    """The job begins: make its place in the document while the painter's hand is at the button."""

    job: str


@dataclass(frozen=True)
class ShowPreview:
    job: str
    picture: Any


@dataclass(frozen=True)
class ShowResult:
    key: str


@dataclass(frozen=True)
class Withdraw:
    job: str


@dataclass(frozen=True)
class Forget:
    key: str


Effect = Prepare | ShowPreview | ShowResult | Withdraw | Forget
