# SPDX-License-Identifier: GPL-3.0-or-later
"""Control messages: frozen dataclasses <-> JSON text.

`parse_from_client` and `parse_from_server` read what a peer sent; each raises WireError: `bad_request` for a malformed
message, `unsupported` for an unknown type (a newer peer may know more; it is answered, not fatal).
Unknown fields are ignored for the same reason.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from . import PROTOCOL
from .errors import Code, WireError, bad_request
from .frames import FORMATS
from .limits import MAX_COUNT, MAX_HASHES, MAX_NAME, MAX_PICTURE
from .live import Live, LiveState, LiveStop
from .message import Message
from .queries import (
    Download,
    Downloads,
    Estimate,
    FreeMemory,
    MemoryEstimate,
    Move,
    PromptReading,
    QueueOrder,
    ReadPrompt,
)
from .recipe import Recipe
from .values import Fields, is_hash, parse_object

STATES = ("queued", "loading", "encoding", "sampling", "decoding", "done", "cancelled", "failed")
TERMINAL = ("done", "cancelled", "failed")
PREVIEW_LEVELS = ("off", "rgb", "half", "full")
PLACES = ("back", "front", "replace")
LANES = ("generate",)

MAX_SEQ = 2**53
_MAX_PIXELS = MAX_PICTURE // 4


@dataclass(frozen=True)
class PreviewWish:
    """What previews a client wants: level, pixels of the largest, and whether each must arrive (none overwritten)."""

    level: str = "rgb"
    max_pixels: int = 1024 * 1024
    reliable: bool = False

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def read(cls, read: Fields) -> PreviewWish:
        return cls(
            read.choice("level", PREVIEW_LEVELS, "rgb"),
            read.integer("max_pixels", 1, _MAX_PIXELS, 1024 * 1024),
            read.flag("reliable", False),
        )


# Client to server -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hello(Message):
    """First message of every connection. `session` is the client's own id; `last_seq` the last seq it has seen of it.
    `instance` is the server instance that seq belongs to ("" when none): another instance numbers anew."""

    type = "hello"
    protocols: tuple[str, ...]
    client: str
    version: str
    session: str
    last_seq: int = 0
    instance: str = ""
    formats: tuple[str, ...] = ("bgra8", "grey8")

    @classmethod
    def read(cls, read: Fields) -> Hello:
        formats = tuple(item for item in read.texts("formats", 32, MAX_NAME) if item in FORMATS)
        return cls(
            read.texts("protocols", 32, MAX_NAME),
            read.text("client", MAX_NAME, "unknown"),
            read.text("version", MAX_NAME, "unknown"),
            read.identifier("session", MAX_NAME),
            read.integer("last_seq", 0, MAX_SEQ, 0),
            read.text("instance", MAX_NAME, ""),
            formats or ("bgra8", "grey8"),
        )


@dataclass(frozen=True)
class Submit(Message):
    """Make `count` pictures; image i has seed + i. `job` is a client-made UUID: sending it twice is one job."""

    type = "submit"
    job: str
    recipe: Recipe
    count: int = 1
    lane: str = "generate"
    place: str = "back"
    previews: PreviewWish = field(default_factory=PreviewWish)

    @classmethod
    def read(cls, read: Fields) -> Submit:
        job = read.identifier("job", MAX_NAME)
        try:
            return cls(
                job,
                Recipe.from_json(read.object("recipe")),
                read.integer("count", 1, MAX_COUNT, 1),
                read.choice("lane", LANES, "generate"),
                read.choice("place", PLACES, "back"),
                PreviewWish.read(Fields(read.object("previews", {}), "preview settings")),
            )
        except WireError as error:
            error.job = job
            raise


@dataclass(frozen=True)
class Cancel(Message):
    """Stop a job without a result; works in every state and before the submit has arrived."""

    type = "cancel"
    job: str

    @classmethod
    def read(cls, read: Fields) -> Cancel:
        return cls(read.identifier("job", MAX_NAME))


@dataclass(frozen=True)
class Finish(Message):
    """Stop and keep: decode the current estimate and end the job as done with a partial result."""

    type = "finish"
    job: str

    @classmethod
    def read(cls, read: Fields) -> Finish:
        return cls(read.identifier("job", MAX_NAME))


@dataclass(frozen=True)
class Ack(Message):
    """Everything up to and including `seq` has arrived and is safe at the client."""

    type = "ack"
    seq: int

    @classmethod
    def read(cls, read: Fields) -> Ack:
        return cls(read.integer("seq", 0, MAX_SEQ))


@dataclass(frozen=True)
class Have(Message):
    """Which of these blobs does the server lack? Answered by `missing`."""

    type = "have"
    hashes: tuple[str, ...]

    @classmethod
    def read(cls, read: Fields) -> Have:
        return cls(_hashes(read))


@dataclass(frozen=True)
class ListModels(Message):
    """Ask for the list of models, after a new scan of the folders if `rescan`."""

    type = "list_models"
    rescan: bool = False

    @classmethod
    def read(cls, read: Fields) -> ListModels:
        return cls(read.flag("rescan", False))


# Server to client -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Welcome(Message):
    """Answer to hello. `resumed`: the session was known and unacknowledged items follow; `lost`: jobs of the session
    that ended with another server instance and will send nothing more. `jobs`: [{job, state, ...}] that are alive.
    `acked`: the last seq that is acknowledged; a client that was killed may remember less than it had acknowledged."""

    type = "welcome"
    protocol: str
    version: str
    instance: str
    session: str
    seq: int
    resumed: bool
    device: dict[str, Any]
    models: tuple[dict[str, Any], ...]
    families: dict[str, Any] = field(default_factory=dict)
    features: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    jobs: tuple[dict[str, Any], ...] = ()
    lost: tuple[str, ...] = ()
    acked: int = 0

    @classmethod
    def read(cls, read: Fields) -> Welcome:
        return cls(
            read.text("protocol", MAX_NAME),
            read.text("version", MAX_NAME, "unknown"),
            read.identifier("instance", MAX_NAME),
            read.identifier("session", MAX_NAME),
            read.integer("seq", 0, MAX_SEQ, 0),
            read.flag("resumed", False),
            read.object("device", {}),
            tuple(read.objects("models", 100_000)),
            read.object("families", {}),
            read.object("features", {}),
            read.object("limits", {}),
            tuple(read.objects("jobs", 100_000)),
            read.texts("lost", 100_000, MAX_NAME),
            read.integer("acked", 0, MAX_SEQ, 0),
        )


@dataclass(frozen=True)
class State(Message):
    """A job has entered a state. Reliable. Exactly one terminal state per job. `ms`: phase -> milliseconds."""

    type = "state"
    seq: int
    job: str
    state: str
    index: int = 0
    count: int = 1
    step: int = 0
    total: int = 0
    ms: dict[str, Any] = field(default_factory=dict)
    error: WireError | None = None
    text: str = ""

    @classmethod
    def read(cls, read: Fields) -> State:
        error = read.data.get("error")
        return cls(
            read.integer("seq", 0, MAX_SEQ),
            read.identifier("job", MAX_NAME),
            read.choice("state", STATES),
            read.integer("index", 0, MAX_COUNT, 0),
            read.integer("count", 1, MAX_COUNT, 1),
            read.integer("step", 0, 2**31, 0),
            read.integer("total", 0, 2**31, 0),
            read.object("ms", {}),
            WireError.from_json(error) if error is not None else None,
            read.text("text", 4096, ""),
        )


@dataclass(frozen=True)
class Progress(Message):
    """Step k of n of image `index`. Lossy: the newest replaces one that has not left."""

    type = "progress"
    job: str
    state: str
    index: int = 0
    count: int = 1
    step: int = 0
    total: int = 0
    eta_s: float | None = None

    @classmethod
    def read(cls, read: Fields) -> Progress:
        return cls(
            read.identifier("job", MAX_NAME),
            read.choice("state", STATES),
            read.integer("index", 0, MAX_COUNT, 0),
            read.integer("count", 1, MAX_COUNT, 1),
            read.integer("step", 0, 2**31, 0),
            read.integer("total", 0, 2**31, 0),
            read.number("eta_s", 0.0, 1e9, None),
        )


@dataclass(frozen=True)
class Result(Message):
    """A finished picture; its binary chunks (role "result", id = picture id) follow. Reliable: acknowledged by seq.
    `recipe` is fully resolved and has the seed of this image; its prompts are as they were typed. `partial`: stopped
    early and kept. `reading`: how the prompts were read, {prompt, negative}, each as in `prompt_reading`. `computed`:
    how many of {prompts, canvases, maps} were read for it and not found among those kept from before."""

    type = "result"
    seq: int
    job: str
    index: int
    count: int
    picture: dict[str, Any]
    recipe: Recipe
    steps_run: int = 0
    partial: bool = False
    ms: dict[str, Any] = field(default_factory=dict)
    reading: dict[str, Any] = field(default_factory=dict)
    computed: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, read: Fields) -> Result:
        picture = read.object("picture")
        Fields(picture, "result's picture").identifier("id", MAX_NAME)
        return cls(
            read.integer("seq", 0, MAX_SEQ),
            read.identifier("job", MAX_NAME),
            read.integer("index", 0, MAX_COUNT, 0),
            read.integer("count", 1, MAX_COUNT, 1),
            picture,
            Recipe.from_json(read.object("recipe")),
            read.integer("steps_run", 0, 2**31, 0),
            read.flag("partial", False),
            read.object("ms", {}),
            read.object("reading", {}),
            read.object("computed", {}),
        )


@dataclass(frozen=True)
class Models(Message):
    """The list of models: [{id, name, family, kind, bytes, usable, problem, native, defaults}], the device as in
    `Welcome`: it is known only once the worker runs, and the folders: [{id, program, models, unusable, problem}], where
    id is `places.folder_id` of a path that stays where it is."""

    type = "models"
    models: tuple[dict[str, Any], ...]
    device: dict[str, Any] = field(default_factory=dict)
    folders: tuple[dict[str, Any], ...] = ()

    @classmethod
    def read(cls, read: Fields) -> Models:
        folders = tuple(read.objects("folders", 1000))
        return cls(tuple(read.objects("models", 100_000)), read.object("device", {}), folders)


@dataclass(frozen=True)
class Missing(Message):
    """Answer to `have`: the blobs that must be sent."""

    type = "missing"
    hashes: tuple[str, ...]

    @classmethod
    def read(cls, read: Fields) -> Missing:
        return cls(_hashes(read))


@dataclass(frozen=True)
class Error(Message):
    """Something was refused; `error.job` says which job, if any."""

    type = "error"
    error: WireError

    def to_json(self) -> dict[str, Any]:
        return {"type": self.type, **self.error.to_json()}

    @classmethod
    def read(cls, read: Fields) -> Error:
        return cls(WireError.from_json(read.data))


def _hashes(read: Fields) -> tuple[str, ...]:
    hashes = read.texts("hashes", MAX_HASHES, 32)
    if not all(is_hash(item) for item in hashes):
        raise bad_request(f"In the {read.what}, hashes must be blake2b-128 digests.")
    return hashes


_FROM_CLIENT: dict[str, Any] = {
    kind.type: kind
    for kind in (
        Hello, Submit, Cancel, Finish, Ack, Have, ListModels, Live, LiveStop, ReadPrompt, Estimate, Move, FreeMemory,
        Download,
    )
}  # fmt: skip
_FROM_SERVER: dict[str, Any] = {
    kind.type: kind
    for kind in (
        Welcome, State, Progress, Result, Models, Missing, Error, LiveState, PromptReading, MemoryEstimate, QueueOrder,
        Downloads,
    )
}  # fmt: skip


def _parse(text: str | bytes, table: dict[str, Any]) -> Message:
    data = parse_object(text, "message")
    kind = data.get("type")
    if not isinstance(kind, str):
        raise bad_request("A message has no type.")
    if kind not in table:
        raise WireError(Code.UNSUPPORTED, f"The message type {kind[:64]!r} is not known here.", "Update both sides.")
    message: Message = table[kind].read(Fields(data, f"message {kind}"))
    return message


def parse_from_client(text: str | bytes) -> Message:
    """Read a control message that a client sent."""
    return _parse(text, _FROM_CLIENT)


def parse_from_server(text: str | bytes) -> Message:
    """Read a control message that a server sent."""
    return _parse(text, _FROM_SERVER)


def choose_protocol(offered: tuple[str, ...], peer_version: str, own_version: str) -> str:
    """The protocol both speak. Raises WireError(version) that names both versions."""
    if PROTOCOL in offered:
        return PROTOCOL
    raise WireError(
        Code.VERSION,
        f"The plugin ({peer_version}) and the server ({own_version}) do not speak the same protocol.",
        "Run install.py again so that both have the same version, then restart Krita and the server.",
    )
