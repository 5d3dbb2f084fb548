# SPDX-License-Identifier: GPL-3.0-or-later
"""The client core delivers every reliable item exactly once, whatever the connection does."""

from __future__ import annotations

import random
from typing import Any

import pytest

from krita_sd.wire import PROTOCOL
from krita_sd.wire.client import (
    Answered,
    ClientCore,
    Connected,
    Event,
    JobLost,
    JobState,
    PreviewReady,
    Refused,
    ResultReady,
)
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.frames import Assembler, Picture, decode_frame, split
from krita_sd.wire.messages import (
    Ack,
    Cancel,
    Error,
    Hello,
    Message,
    Result,
    State,
    Submit,
    Welcome,
    parse_from_client,
)
from krita_sd.wire.queries import PromptReading, ReadPrompt
from krita_sd.wire.recipe import Recipe

IMAGE = Picture("bgra8", 300, 300, bytes(range(250)) * 1440)


class ModelServer:
    """The least that a server of `ksd.1` does, without time or sockets: accepts, produces, keeps until acknowledged."""

    def __init__(self, instance: str = "one") -> None:
        self.instance = instance
        self.seq = 0
        self.outbox: list[tuple[int, list[str | bytes]]] = []
        self.blobs: dict[str, Picture] = {}
        self.jobs: dict[str, Submit] = {}
        self.cancelled: set[str] = set()
        self.known_session = False
        self.assembler = Assembler()

    def item(self, message: Message, frames: list[bytes] | None = None) -> list[str | bytes]:
        out: list[str | bytes] = [message.to_text(), *(frames or [])]
        self.outbox.append((self.seq, out))
        return out

    def receive(self, data: str | bytes) -> list[str | bytes]:
        if isinstance(data, bytes):
            picture = self.assembler.feed(decode_frame(data))
            if picture is not None:
                self.blobs[picture.hash] = picture
            return []
        message = parse_from_client(data)
        if isinstance(message, Hello):
            self.assembler.clear()
            resumed, self.known_session = self.known_session, True
            if resumed:
                self.outbox = [entry for entry in self.outbox if entry[0] > message.last_seq]
            jobs = tuple({"job": job} for job in self.jobs)
            welcome = Welcome(PROTOCOL, "1", self.instance, message.session, self.seq, resumed, {}, (), jobs=jobs)
            return [welcome.to_text(), *(part for _, item in self.outbox for part in item)]
        if isinstance(message, Ack):
            self.outbox = [entry for entry in self.outbox if entry[0] > message.seq]
        if isinstance(message, Cancel):
            self.cancelled.add(message.job)
        if isinstance(message, Submit) and message.job not in self.jobs:
            missing = [digest for digest in message.recipe.blobs() if digest not in self.blobs]
            if missing:
                error = WireError(Code.BLOB_MISSING, "Missing.", job=message.job, details={"missing": missing})
                return [Error(error).to_text()]
            self.jobs[message.job] = message
            return self.run(message)
        return []

    def run(self, submit: Submit) -> list[str | bytes]:
        out: list[str | bytes] = []
        for index in range(submit.count):
            self.seq += 1
            out += self.item(State(self.seq, submit.job, "sampling", index, submit.count))
            self.seq += 1
            identity = f"{submit.job}-{index}"
            result = Result(
                self.seq, submit.job, index, submit.count, {"id": identity, **IMAGE.describe()}, submit.recipe
            )
            out += self.item(result, list(split(IMAGE, "result", identity)))
        self.seq += 1
        return out + self.item(State(self.seq, submit.job, "done", count=submit.count))


def drain(core: ClientCore) -> list[str | bytes]:
    out = []
    while (message := core.outgoing()) is not None:
        out.append(message)
    return out


def exchange(core: ClientCore, server: ModelServer) -> list[Event]:
    """Carry messages both ways until both are silent."""
    events: list[Event] = []
    while (message := core.outgoing()) is not None:
        for reply in server.receive(message):
            for event in core.receive(reply):
                events.append(event)
                if isinstance(event, ResultReady):
                    core.stored(event.result.seq)
    return events


def recipe_with_image() -> tuple[Recipe, dict[str, Picture]]:
    return Recipe(kind="img2img", width=300, height=300, image=IMAGE.hash), {IMAGE.hash: IMAGE}


def results(events: list[Event]) -> list[int]:
    return [event.result.index for event in events if isinstance(event, ResultReady)]


def test_a_job_from_hello_to_done() -> None:
    core, server = ClientCore("s", "test"), ModelServer()
    core.connect()
    recipe, pictures = recipe_with_image()
    core.submit("job", recipe, pictures, count=2)
    events = exchange(core, server)
    assert isinstance(events[0], Connected)
    assert results(events) == [0, 1]
    assert [event.state.state for event in events if isinstance(event, JobState)][-1] == "done"
    assert core.last_seq == server.seq and server.outbox == []


def test_blobs_travel_once_and_again_only_when_missing() -> None:
    core, server = ClientCore("s", "test"), ModelServer()
    core.connect()
    recipe, pictures = recipe_with_image()
    core.submit("one", recipe, pictures)
    exchange(core, server)
    core.submit("two", recipe, pictures)
    assert all(isinstance(message, str) for message in drain(core))
    server.blobs.clear()
    core.submit("three", recipe, pictures)
    assert results(exchange(core, server)) == [0]


def test_a_blob_that_never_arrives_fails_the_job_once() -> None:
    core, server = ClientCore("s", "test"), ModelServer()
    core.connect()
    recipe, _ = recipe_with_image()
    core.submit("job", recipe, {})
    events = exchange(core, server)
    (state,) = [event.state for event in events if isinstance(event, JobState)]
    assert state.state == "failed" and state.error is not None and state.error.code is Code.BLOB_MISSING


def test_cancel_before_sending_is_concluded_here() -> None:
    core, server = ClientCore("s", "test"), ModelServer()
    core.submit("job", Recipe(width=8, height=8))
    (event,) = core.cancel("job")
    assert isinstance(event, JobState) and event.state.state == "cancelled"
    core.connect()
    exchange(core, server)
    assert server.jobs == {}


def test_cancel_between_upload_and_submit_sends_no_submit() -> None:
    core, server = ClientCore("s", "test"), ModelServer()
    core.connect()
    exchange(core, server)
    recipe, pictures = recipe_with_image()
    core.submit("job", recipe, pictures)
    first = core.outgoing()
    assert isinstance(first, bytes)
    assert [event.state.state for event in core.cancel("job") if isinstance(event, JobState)] == ["cancelled"]
    assert drain(core) == []


def test_texts_overtake_uploads() -> None:
    core, server = ClientCore("s", "test"), ModelServer()
    core.connect()
    exchange(core, server)
    core.submit("job", *recipe_with_image())
    assert isinstance(core.outgoing(), bytes)
    core.cancel("other")
    assert isinstance(core.outgoing(), str)
    assert isinstance(core.outgoing(), bytes)


def test_a_result_is_acknowledged_only_when_stored() -> None:
    core, server = ClientCore("s", "test"), ModelServer()
    core.connect()
    core.submit("job", Recipe(width=8, height=8))
    ready: list[ResultReady] = []
    while (message := core.outgoing()) is not None:
        for reply in server.receive(message):
            ready += [event for event in core.receive(reply) if isinstance(event, ResultReady)]
    assert core.last_seq == 1 and [seq for seq, _ in server.outbox] == [2, 3]
    core.stored(ready[0].result.seq)
    exchange(core, server)
    assert core.last_seq == 3 and server.outbox == []


def test_an_unknown_session_starts_numbering_anew() -> None:
    core, server = ClientCore("s", "test", last_seq=40, instance="old"), ModelServer("new")
    core.connect()
    core.submit("job", Recipe(width=8, height=8))
    assert results(exchange(core, server)) == [0]


def test_lost_jobs_are_reported() -> None:
    core = ClientCore("s", "test")
    core.connect()
    welcome = Welcome(PROTOCOL, "1", "i", "s", 0, True, {}, (), lost=("gone",))
    events = core.receive(welcome.to_text())
    assert [event.job for event in events if isinstance(event, JobLost)] == ["gone"]


@pytest.mark.parametrize("bad", ["{", b"KSD1", '{"type":"from_the_future"}', b""])
def test_what_cannot_be_read_is_reported_not_raised(bad: str | bytes) -> None:
    (event,) = ClientCore("s", "test").receive(bad)
    assert isinstance(event, Refused)


def test_previews_carry_their_step() -> None:
    core = ClientCore("s", "test")
    extra: dict[str, Any] = {"job": "j", "index": 1, "step": 2, "total_steps": 20}
    events = [event for frame in split(IMAGE, "preview", "p", extra) for event in core.receive(frame)]
    assert events == [PreviewReady("j", 1, 2, 20, IMAGE)]


@pytest.mark.parametrize("seed", range(60))
def test_random_drops_deliver_each_result_exactly_once(seed: int) -> None:
    """The connection breaks between any two messages, either way, up to forty times; some acks are lost with it."""
    dice = random.Random(seed)
    core, server = ClientCore("s", "test"), ModelServer()
    recipe, pictures = recipe_with_image()
    seen: list[tuple[str, int]] = []
    terminal: list[str] = []
    unstored: list[int] = []
    drops = 0
    for number in range(4):
        core.submit(f"job{number}", recipe, pictures, count=dice.randint(1, 3))
    expected = {f"job{number}" for number in range(4)}
    for _ in range(200):
        if len(terminal) == 4:
            break
        core.connect()
        broken = False
        while not broken and (message := core.outgoing()) is not None:
            for reply in [*server.receive(message)]:
                if drops < 40 and dice.random() < 0.12:
                    broken = True
                    drops += 1
                    break
                for event in core.receive(reply):
                    if isinstance(event, ResultReady):
                        assert event.picture == IMAGE
                        seen.append((event.result.job, event.result.index))
                        unstored.append(event.result.seq)
                        if dice.random() < 0.3:  # storing takes a while; a drop may come first
                            core.stored(unstored.pop(dice.randrange(len(unstored))))
                    if isinstance(event, JobState) and event.state.state == "done":
                        terminal.append(event.state.job)
            if drops < 40 and dice.random() < 0.05:
                broken = True
                drops += 1
        core.disconnect()
    assert sorted(terminal) == sorted(expected)
    assert len(seen) == len(set(seen)) == sum(submit.count for submit in server.jobs.values())
    for seq in unstored:
        core.stored(seq)
    core.connect()
    exchange(core, server)
    assert server.outbox == [] and core.last_seq == server.seq


def test_questions_are_asked_while_connected_only_and_answers_are_passed_on() -> None:
    core = ClientCore("session", "test")
    question = ReadPrompt("1", "model", "a (cat:1.2)")
    core.ask(question)
    core.connect()
    assert "hello" in str(core.outgoing()) and core.outgoing() is None
    core.receive(Welcome(PROTOCOL, "1", "one", "session", 0, False, {}, ()).to_text())
    core.ask(question)
    assert parse_from_client(str(core.outgoing())) == question
    answer = PromptReading("1", {"tokens": 2})
    assert core.receive(answer.to_text()) == [Answered(answer)]
