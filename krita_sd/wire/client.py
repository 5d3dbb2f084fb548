# SPDX-License-Identifier: GPL-3.0-or-later
"""The client side of a session, without sockets: what to send next, and events out of what arrives.

The plugin's link thread and the headless client both drive one `ClientCore`:

    core.connect()                      a connection is open: hello goes out, unanswered submits will follow
    core.outgoing() -> str|bytes|None   the next websocket message to send; texts overtake picture chunks
    core.receive(message) -> events     one websocket message came in
    core.stored(seq)                    the result with this seq is safe here; allows its acknowledgement

It guarantees that every reliable item is delivered exactly once however often the connection drops, that a submit
survives a drop, that blobs are sent before the submit that names them and only when the server lacks them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from . import PROTOCOL
from .errors import Code, WireError
from .events import (
    Answered,
    Connected,
    Event,
    JobLost,
    JobProgress,
    JobState,
    LiveCanvasWanted,
    LiveFrame,
    LiveStatus,
    ModelsListed,
    PreviewReady,
    Refused,
    ResultReady,
)
from .frames import Assembler, Chunk, Picture, decode_frame, split
from .limits import MAX_NAME, MAX_OPEN_UPLOADS
from .live import Live, LiveState, LiveStop
from .live_client import LiveRequests
from .messages import (
    TERMINAL,
    Ack,
    Cancel,
    Error,
    Finish,
    Hello,
    ListModels,
    Message,
    Models,
    PreviewWish,
    Progress,
    Result,
    State,
    Submit,
    Welcome,
    parse_from_server,
)
from .queries import Downloads, MemoryEstimate, PromptReading, QueueOrder
from .recipe import Recipe
from .values import Fields
from .version import VERSION

__all__ = [
    "Answered",
    "ClientCore",
    "Connected",
    "Event",
    "JobLost",
    "JobProgress",
    "JobState",
    "LiveCanvasWanted",
    "LiveFrame",
    "LiveStatus",
    "ModelsListed",
    "PreviewReady",
    "Refused",
    "ResultReady",
    "is_over",
    "with_seed",
]


@dataclass
class _Pending:
    """A submit that the server has not confirmed."""

    submit: Submit
    pictures: dict[str, Picture]
    sent: bool = False
    uploads: int = 0
    cancelled: bool = field(default=False)


class ClientCore:
    """State of one client session across connections. Not thread-safe: one thread drives it."""

    def __init__(
        self, session: str, client: str, *, version: str = VERSION, last_seq: int = 0, instance: str = ""
    ) -> None:
        self.session = session
        self.client = client
        self.version = version
        self.instance = instance
        self.welcome: Welcome | None = None
        self._low = last_seq  # every seq up to here is delivered and stored
        self._acked = last_seq
        self._delivered: set[int] = set()  # delivered out of order, above _low
        self._unstored: set[int] = set()
        self._results: dict[str, Result] = {}  # announced, chunks still missing; by picture id
        self._pending: dict[str, _Pending] = {}
        self._known: set[str] = set()  # blobs this server instance has
        self._texts: deque[str] = deque()
        self._bulk: deque[Iterator[str | bytes]] = deque()
        self._assembler = Assembler(MAX_OPEN_UPLOADS)
        self._live = LiveRequests(self._known)

    @property
    def last_seq(self) -> int:
        """The seq to persist: everything up to it is stored here."""
        return self._low

    # Requests ----------------------------------------------------------------------------------------------------

    def submit(
        self,
        job: str,
        recipe: Recipe,
        pictures: dict[str, Picture] | None = None,
        *,
        count: int = 1,
        place: str = "back",
        previews: PreviewWish | None = None,
    ) -> None:
        """Ask for a job. `pictures` holds every blob of `recipe.blobs()` by hash. Kept until the server confirms."""
        message = Submit(job, recipe, count, "generate", place, previews or PreviewWish())
        self._pending[job] = _Pending(message, dict(pictures or {}))
        if self.welcome is not None:
            self._schedule(job)

    def cancel(self, job: str) -> list[Event]:
        """Cancel a job in any state; one that has not been sent is concluded here."""
        pending = self._pending.get(job)
        if pending is not None and not pending.sent:
            del self._pending[job]
            return [JobState(State(0, job, "cancelled"))]
        if pending is not None:
            pending.cancelled = True
        self._send(Cancel(job))
        return []

    def finish(self, job: str) -> list[Event]:
        """Stop a job and keep its current estimate; one that has not been sent has none and is cancelled."""
        pending = self._pending.get(job)
        if pending is not None and not pending.sent:
            return self.cancel(job)
        self._send(Finish(job))
        return []

    def list_models(self, rescan: bool = False) -> None:
        """Ask for the models; answered by `ModelsListed`."""
        self._send(ListModels(rescan))

    def ask(self, message: Message) -> None:
        """Send a question or an order beside the jobs; answered by `Answered`. Without a connection it is dropped: the
        answer would be about a time that is over."""
        if self.welcome is not None:
            self._send(message)

    def live(
        self, request: Live, pictures: dict[str, Picture], width: int, height: int, tiles: Mapping[int, bytes]
    ) -> None:
        """Ask for a live picture; replaces a request of the same live that has not left, whose tiles are kept.

        pictures: blobs of `request.recipe.blobs()` by hash. width, height: extent of the canvas in pixels. tiles: those
        that changed since the last call (see `live.Patch`), all of them at first and after `LiveCanvasWanted`; until
        then the request waits. `request.canvas` is filled in here. Answered by `LiveFrame` and `LiveStatus`.
        """
        self._live.request(request, pictures, width, height, tiles)

    def live_stop(self, live: str) -> None:
        """Live is off: nothing of it is sent or delivered any more."""
        if self._live.stop(live) and self.welcome is not None:
            self._send(LiveStop(live))

    def stored(self, seq: int) -> None:
        """The result `seq` is safe at the client: it may be acknowledged and will never be replayed."""
        self._unstored.discard(seq)
        self._advance()

    # Connection --------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """A new connection is open. What the old one had half sent or half received is forgotten."""
        self.welcome = None
        self._texts.clear()
        self._bulk.clear()
        self._results.clear()
        self._assembler.clear()
        for pending in self._pending.values():
            pending.uploads = 0
        self._live.disconnected()
        self._send(Hello((PROTOCOL,), self.client, self.version, self.session, self._low, self.instance))

    def disconnect(self) -> None:
        """The connection is gone; requests are kept for the next one."""
        self.welcome = None
        self._texts.clear()
        self._bulk.clear()

    def outgoing(self) -> str | bytes | None:
        """The next message to send, or None. Texts overtake live requests, and these the uploads of jobs; an upload
        precedes its submit."""
        if self._texts:
            return self._texts.popleft()
        live = self._live.outgoing() if self.welcome is not None else None
        if live is not None:
            return live
        while self._bulk:
            message = next(self._bulk[0], None)
            if message is not None:
                return message
            self._bulk.popleft()
        return None

    def _send(self, message: Message) -> None:
        self._texts.append(message.to_text())

    def _schedule(self, job: str) -> None:
        self._bulk.append(self._upload_and_submit(job))

    def _upload_and_submit(self, job: str) -> Iterator[str | bytes]:
        pending = self._pending.get(job)
        if pending is None or pending.cancelled:
            return
        for digest in pending.submit.recipe.blobs():
            picture = pending.pictures.get(digest)
            if digest in self._known or picture is None:
                continue
            for frame in split(picture, "blob", digest):
                if job not in self._pending:  # cancelled while its pictures were on the way
                    return
                if digest in self._known:  # a live request that needs it too has overtaken this one
                    break
                yield frame
            self._known.add(digest)
        if job in self._pending:
            pending.sent = True
            yield pending.submit.to_text()

    # Arrivals ----------------------------------------------------------------------------------------------------

    def receive(self, message: str | bytes) -> list[Event]:
        """Events out of one websocket message. Never raises for what a peer sent: that becomes `Refused`."""
        try:
            if isinstance(message, bytes):
                return self._receive_chunk(decode_frame(message))
            return self._receive_message(parse_from_server(message))
        except WireError as error:
            return [Refused(error)]

    def _receive_message(self, message: Message) -> list[Event]:
        if isinstance(message, Welcome):
            return self._receive_welcome(message)
        if isinstance(message, State):
            return self._receive_state(message)
        if isinstance(message, Result):
            if self._is_new(message.seq):
                self._results[str(message.picture["id"])] = message
            return []
        if isinstance(message, Progress):
            return [JobProgress(message)]
        if isinstance(message, Models):
            return [ModelsListed(message.models, message.device, message.folders)]
        if isinstance(message, Error):
            return self._receive_error(message.error)
        if isinstance(message, (PromptReading, MemoryEstimate, QueueOrder, Downloads)):
            return [Answered(message)]
        if isinstance(message, LiveState):
            return self._live.state(message)
        return []

    def _receive_welcome(self, welcome: Welcome) -> list[Event]:
        if not welcome.resumed:
            # A server that does not know the session numbers anew from 1.
            self._low = self._acked = 0
            self._delivered.clear()
            self._unstored.clear()
        if welcome.acked > self._low:
            # This client was killed before it could write down what it had acknowledged; waiting for it is futile.
            self._low = self._acked = welcome.acked
            self._delivered = {seq for seq in self._delivered if seq > self._low}
            self._unstored = {seq for seq in self._unstored if seq > self._low}
        if welcome.instance != self.instance:
            self._known.clear()
            self.instance = welcome.instance
        self.welcome = welcome
        events: list[Event] = [Connected(welcome)]
        events += [JobLost(job) for job in welcome.lost]
        for job in welcome.lost:
            self._pending.pop(job, None)
        alive = {job.get("job") for job in welcome.jobs}
        for job, pending in list(self._pending.items()):
            if pending.cancelled and job in alive:
                self._send(Cancel(job))
            elif pending.cancelled:
                del self._pending[job]
                events.append(JobState(State(0, job, "cancelled")))
            elif job not in alive:
                self._schedule(job)
        return events + self._live.welcomed()

    def _receive_state(self, state: State) -> list[Event]:
        self._pending.pop(state.job, None)
        if not self._is_new(state.seq):
            return []
        self._delivered.add(state.seq)
        self._advance()
        return [JobState(state)]

    def _receive_chunk(self, chunk: Chunk) -> list[Event]:
        if chunk.role == "result" and chunk.id not in self._results:
            return []  # of a result that is here already: replayed by a server that had not seen our ack
        if chunk.role == "live" and not self._live.wants(chunk):
            self._assembler.drop(chunk.role, chunk.id)
            return []
        picture = self._assembler.feed(chunk)
        if picture is None:
            return []
        if chunk.role == "preview":
            read = Fields(chunk.header, "preview header")
            index, step, total = (read.integer(key, 0, 2**31) for key in ("index", "step", "total_steps"))
            return [PreviewReady(read.identifier("job", MAX_NAME), index, step, total, picture)]
        if chunk.role == "live":
            return self._live.frame(chunk, picture)
        if chunk.role == "result":
            result = self._results.pop(chunk.id)
            if not self._is_new(result.seq):
                return []
            self._delivered.add(result.seq)
            self._unstored.add(result.seq)
            return [ResultReady(result, picture)]
        return []

    def _receive_error(self, error: WireError) -> list[Event]:
        job = error.job or ""
        pending = self._pending.get(job)
        if pending is None:
            live = self._live.error(error)
            return [Refused(error)] if live is None else live
        if error.code is Code.BLOB_MISSING and pending.uploads < 3:
            # The server has evicted what we thought it knows: send those again, then the submit.
            missing = error.details.get("missing")
            wanted = set(missing) if isinstance(missing, list) else set(pending.submit.recipe.blobs())
            self._known -= wanted
            pending.uploads += 1
            pending.sent = False
            self._schedule(job)
            return []
        del self._pending[job]
        if pending.cancelled:
            return [JobState(State(0, job, "cancelled"))]
        if error.code is Code.BLOB_MISSING:
            error = WireError(error.code, error.message, "Generate again.", job=job, retryable=True)
        return [JobState(State(0, job, "failed", error=error))]

    def _is_new(self, seq: int) -> bool:
        return seq > self._low and seq not in self._delivered

    def _advance(self) -> None:
        while self._low + 1 in self._delivered and self._low + 1 not in self._unstored:
            self._low += 1
            self._delivered.discard(self._low)
        if self._low > self._acked and self.welcome is not None:
            self._acked = self._low
            self._send(Ack(self._low))


def is_over(state: State) -> bool:
    """Whether the job has ended."""
    return state.state in TERMINAL


def with_seed(recipe: Recipe, index: int) -> Recipe:
    """The recipe of image `index` of a job: seed + index, wrapping at 2^63. Of a variation the seed stays and the
    variation's own seed counts: "vary a little" many times is many variations of one picture."""
    if recipe.variation > 0.0:
        return replace(recipe, variation_seed=(recipe.variation_seed + index) % 2**63)
    return replace(recipe, seed=(recipe.seed + index) % 2**63)
