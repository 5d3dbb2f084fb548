# SPDX-License-Identifier: GPL-3.0-or-later
"""The link thread against a real websocket server: nothing blocks, nothing is lost, only the newest preview stays."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.sync.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

from krita_sd.link import Draft, Link, LinkState, PreviewWaiting, Target
from krita_sd.wire import client
from krita_sd.wire import messages as m
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.frames import Assembler, Picture, decode_frame, split
from krita_sd.wire.recipe import Recipe

TOKEN = "secret"


class Peer:
    """A server whose behaviour a test writes as a function of connection and message."""

    def __init__(self, respond: Callable[[Peer, ServerConnection, Any], None]) -> None:
        self.respond = respond
        self.seen: list[Any] = []
        self.blobs: dict[str, Picture] = {}
        self.sockets: list[ServerConnection] = []
        self.jobs: tuple[dict[str, Any], ...] = ()
        self.resumed = False
        self.server: Server = serve(
            self._handle,
            "127.0.0.1",
            0,
            subprotocols=[Subprotocol("ksd.1")],
            compression=None,
            process_request=self._check,
        )
        self.port = self.server.socket.getsockname()[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def _check(self, connection: ServerConnection, request: Any) -> Any:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return connection.respond(401, "no")
        return None

    def _handle(self, connection: ServerConnection) -> None:
        self.sockets.append(connection)
        assembler = Assembler()
        for raw in connection:
            if isinstance(raw, bytes):
                chunk = decode_frame(raw)
                done = assembler.feed(chunk)
                if done is not None:
                    self.blobs[chunk.id] = done
                continue
            message = m.parse_from_client(raw)
            self.seen.append(message)
            if isinstance(message, m.Hello):
                welcome = m.Welcome(
                    "ksd.1", "0", "i", message.session, 0, self.resumed, {"kind": "cpu"}, (), jobs=self.jobs
                )
                connection.send(welcome.to_text())
            self.respond(self, connection, message)

    def kinds(self) -> list[str]:
        return [type(message).__name__ for message in self.seen]


class Rig:
    """A link with everything it emitted."""

    def __init__(self, locate: Any, scale: Any = None) -> None:
        self.events: list[Any] = []
        self.threads: set[str] = set()
        core = client.ClientCore("s", "test")
        self.link = Link(core, locate, self._emit, scale or (lambda picture, _w, _h: picture))

    def _emit(self, event: Any) -> None:
        self.threads.add(threading.current_thread().name)
        self.events.append(event)

    def wait(self, kind: Any, count: int = 1, timeout: float = 10.0) -> Any:
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            found = [event for event in list(self.events) if isinstance(event, kind)]
            if len(found) >= count:
                return found[count - 1]
            time.sleep(0.01)
        raise AssertionError(f"no {kind.__name__} in {self.events}")

    def wait_state(self, kind: str, count: int = 1) -> LinkState:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            found = [event for event in list(self.events) if isinstance(event, LinkState) and event.kind == kind]
            if len(found) >= count:
                return found[count - 1]
            time.sleep(0.01)
        raise AssertionError(f"no {kind} in {self.events}")


def wait_for(condition: Callable[[], Any], timeout: float = 10.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


@pytest.fixture
def make() -> Iterator[Callable[..., tuple[Peer, Rig]]]:
    made: list[tuple[Peer, Rig]] = []

    def build(respond: Any = lambda *_: None, token: str = TOKEN, scale: Any = None) -> tuple[Peer, Rig]:
        peer = Peer(respond)
        rig = Rig(lambda _report, _stop: Target(f"ws://127.0.0.1:{peer.port}/v1", token, "The server"), scale)
        made.append((peer, rig))
        rig.link.start()
        return peer, rig

    yield build
    for peer, rig in made:
        assert rig.link.stop(5.0)
        peer.server.shutdown()


def picture(side: int, value: int = 7) -> Picture:
    return Picture("bgra8", side, side, bytes([value]) * side * side * 4)


def send_picture(connection: ServerConnection, what: Picture, role: str, id: str, **extra: Any) -> None:
    for frame in split(what, role, id, extra):
        connection.send(frame)


def test_a_job_with_its_pictures_reaches_the_server_hashed_and_before_its_submit(make: Any) -> None:
    peer, rig = make()
    image, mask = picture(600), Picture("grey8", 600, 600, bytes(600 * 600))
    rig.link.submit(Draft("job", Recipe(kind="inpaint", width=600, height=600), image, mask))
    wait_for(lambda: "Submit" in peer.kinds())
    recipe = peer.seen[-1].recipe
    assert peer.blobs[recipe.image] == image and peer.blobs[recipe.mask] == mask
    assert rig.threads == {"krita-sd-link"}


def test_a_submit_made_before_the_connection_exists_is_sent_when_it_does(make: Any) -> None:
    gate = threading.Event()
    peer = Peer(lambda *_: None)

    def locate(_report: Any, stopping: threading.Event) -> Target:
        if not gate.is_set():
            raise WireError(Code.INTERRUPTED, "Not yet.")
        return Target(f"ws://127.0.0.1:{peer.port}/v1", TOKEN, "The server")

    rig = Rig(locate)
    rig.link.start()
    rig.link.submit(Draft("early", Recipe(width=8, height=8)))
    assert rig.wait_state("waiting").text == "Not yet."
    gate.set()
    wait_for(lambda: "Submit" in peer.kinds())
    assert rig.link.stop(5.0)
    peer.server.shutdown()


def test_a_job_cancelled_before_it_was_sent_never_reaches_the_server(make: Any) -> None:
    gate = threading.Event()
    peer = Peer(lambda *_: None)

    def locate(_report: Any, _stop: Any) -> Target:
        gate.wait(5)
        return Target(f"ws://127.0.0.1:{peer.port}/v1", TOKEN, "The server")

    rig = Rig(locate)
    rig.link.start()
    rig.link.submit(Draft("a", Recipe(width=8, height=8)))
    rig.link.submit(Draft("b", Recipe(width=8, height=8)))
    rig.link.cancel("a")
    gate.set()
    wait_for(lambda: "Submit" in peer.kinds())
    assert [message.job for message in peer.seen if isinstance(message, m.Submit)] == ["b"]
    assert rig.wait(client.JobState).state.state == "cancelled"
    assert rig.link.stop(5.0)
    peer.server.shutdown()


def test_only_the_newest_preview_waits_and_it_has_the_size_of_the_region(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("krita_sd.link.SCALE_SHARE", 0)

    def respond(peer: Peer, connection: ServerConnection, message: Any) -> None:
        if isinstance(message, m.Submit):
            for step in range(1, 21):
                send_picture(
                    connection,
                    picture(4, step),
                    "preview",
                    f"p{step}",
                    job=message.job,
                    index=0,
                    step=step,
                    total_steps=20,
                )
            connection.send(m.State(1, message.job, "sampling").to_text())

    def scale(small: Picture, width: int, height: int) -> Picture:
        return Picture("bgra8", width, height, small.data[:4] * width * height)

    _, rig = make(respond, scale=scale)
    rig.link.submit(Draft("job", Recipe(width=16, height=8)))
    rig.wait(client.JobState)
    assert sum(isinstance(event, PreviewWaiting) for event in rig.events) == 1
    ready = rig.link.take_preview("job")
    assert ready is not None and ready.step == 20
    assert (ready.picture.width, ready.picture.height) == (16, 8)
    assert rig.link.take_preview("job") is None


def test_previews_come_also_of_a_job_that_an_earlier_run_of_the_plugin_has_submitted(make: Any) -> None:
    def respond(peer: Peer, connection: ServerConnection, message: Any) -> None:
        if isinstance(message, m.Hello) and peer.jobs:
            send_picture(connection, picture(4), "preview", "p", job="old", index=0, step=1, total_steps=2)

    def scale(small: Picture, width: int, height: int) -> Picture:
        return Picture("bgra8", width, height, small.data[:4] * width * height)

    peer, rig = make(respond, scale=scale)
    rig.wait(client.Connected)
    peer.jobs = ({"job": "old", "state": "sampling", "width": 16, "height": 8},)
    rig.link.reconnect()
    assert rig.wait(PreviewWaiting).job == "old"
    ready = rig.link.take_preview("old")
    assert ready is not None and (ready.picture.width, ready.picture.height) == (16, 8)


def test_no_preview_of_a_cancelled_job_waits(make: Any) -> None:
    go = threading.Event()

    def respond(peer: Peer, connection: ServerConnection, message: Any) -> None:
        if isinstance(message, m.Cancel):
            send_picture(connection, picture(8), "preview", "late", job="job", index=0, step=1, total_steps=2)
            connection.send(m.State(1, "job", "cancelled").to_text())
        if isinstance(message, m.Submit):
            connection.send(m.State(0, "job", "queued").to_text())
            go.set()

    _, rig = make(respond)
    rig.link.submit(Draft("job", Recipe(width=8, height=8)))
    assert go.wait(5)
    rig.link.cancel("job")
    rig.wait(client.JobState)
    wait_for(lambda: any(isinstance(e, client.JobState) and e.state.state == "cancelled" for e in rig.events))
    assert rig.link.take_preview("job") is None
    assert not any(isinstance(event, PreviewWaiting) for event in rig.events)


def test_the_connection_comes_back_and_a_result_arrives_once(make: Any) -> None:
    result = m.Result(1, "job", 0, 1, {"id": "r"}, Recipe(width=8, height=8))

    def respond(peer: Peer, connection: ServerConnection, message: Any) -> None:
        if isinstance(message, m.Submit):
            peer.jobs, peer.resumed = ({"job": message.job, "state": "queued"},), True
            connection.socket.shutdown(2)  # the cable is pulled
        if isinstance(message, m.Hello) and peer.resumed:
            for _ in range(2):
                connection.send(result.to_text())
                send_picture(connection, picture(8), "result", "r")
            connection.send(m.State(2, "job", "done").to_text())

    _, rig = make(respond)
    rig.link.submit(Draft("job", Recipe(width=8, height=8)))
    assert "lost" in rig.wait_state("waiting").text
    rig.wait(client.JobState)
    assert sum(isinstance(event, client.ResultReady) for event in rig.events) == 1
    rig.link.stored(1)
    wait_for(lambda: rig.link.position == ("i", 2))


def test_a_cancel_pressed_while_there_is_no_connection_is_said_later(make: Any) -> None:
    def respond(peer: Peer, connection: ServerConnection, message: Any) -> None:
        if isinstance(message, m.Submit):
            connection.send(m.State(1, "job", "queued").to_text())

    peer, rig = make(respond)
    rig.link.submit(Draft("job", Recipe(width=8, height=8)))
    rig.wait(client.JobState)
    peer.jobs, peer.resumed = ({"job": "job", "state": "queued"},), True
    rig.link.reconnect()
    rig.link.cancel("job")
    wait_for(lambda: "Cancel" in peer.kinds())
    assert [type(x).__name__ for x in peer.seen].count("Hello") <= 2


def test_a_wrong_token_is_one_sentence_and_the_link_goes_on_trying(make: Any) -> None:
    _, rig = make(token="wrong")
    state = rig.wait_state("waiting")
    assert state.code is Code.UNAUTHORIZED and "token" in state.text
    assert "wrong" not in state.text + state.hint
    rig.wait_state("waiting", 2)


def test_a_server_of_another_version_is_one_sentence() -> None:
    error = WireError(Code.VERSION, "The plugin (0.1.0) and the server (9.0) do not speak the same protocol.")

    def handle(connection: ServerConnection) -> None:
        for _ in connection:
            connection.send(m.Error(error).to_text())

    server = serve(handle, "127.0.0.1", 0, subprotocols=[Subprotocol("ksd.1")], compression=None)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.socket.getsockname()[1]
    rig = Rig(lambda _report, _stop: Target(f"ws://127.0.0.1:{port}/v1", TOKEN, "The server"))
    rig.link.start()
    state = rig.wait_state("waiting")
    assert state.code is Code.VERSION and "9.0" in state.text and "0.1.0" in state.text
    assert rig.link.stop(5.0)
    server.shutdown()


def test_nobody_listening_is_one_sentence_and_stopping_takes_no_second() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rig = Rig(lambda _report, _stop: Target(f"ws://127.0.0.1:{port}/v1", TOKEN, "The server"))
    rig.link.start()
    state = rig.wait_state("waiting")
    assert state.text.startswith("The server does not answer") and "Server page" in state.hint
    begin = time.monotonic()
    assert rig.link.stop()
    assert time.monotonic() - begin < 1.0


def test_stopping_an_open_connection_takes_no_second(make: Any) -> None:
    _, rig = make()
    rig.wait(client.Connected)
    begin = time.monotonic()
    assert rig.link.stop()
    assert time.monotonic() - begin < 1.0


def test_no_call_of_the_gui_thread_waits_for_a_picture(make: Any) -> None:
    _, rig = make()
    rig.wait(client.Connected)
    big = picture(2048)
    begin = time.perf_counter()
    rig.link.submit(Draft("job", Recipe(kind="img2img", width=2048, height=2048), big))
    rig.link.cancel("job")
    rig.link.take_preview("job")
    assert time.perf_counter() - begin < 0.016


def test_a_dead_proxy_in_the_environment_does_not_matter(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    _, rig = make()
    rig.wait(client.Connected)
