# SPDX-License-Identifier: GPL-3.0-or-later
"""Live at the client: one request waits, tiles are merged, the canvas is sent anew when lost, no frame is stale."""

from __future__ import annotations

import random

from krita_sd.wire import PROTOCOL
from krita_sd.wire.client import (
    ClientCore,
    Connected,
    Event,
    JobState,
    LiveCanvasWanted,
    LiveFrame,
    LiveStatus,
    Refused,
)
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.frames import Assembler, Picture, decode_frame, split
from krita_sd.wire.live import TILE, Live, LiveState, LiveStop, Patch
from krita_sd.wire.messages import Error, Submit, Welcome, parse_from_client
from krita_sd.wire.recipe import Recipe

WIDTH, HEIGHT = 5 * TILE, 4 * TILE - 10
TILES = 20
MASK = Picture("grey8", WIDTH, HEIGHT, bytes(WIDTH * HEIGHT))
FRAME = Picture("bgra8", 300, 300, bytes(360_000))


def recipe(**changes: object) -> Recipe:
    return Recipe(kind="img2img", width=WIDTH, height=HEIGHT, strength=0.3).replace(**changes)


def masked() -> tuple[Recipe, dict[str, Picture]]:
    return recipe(kind="inpaint", mask=MASK.hash), {MASK.hash: MASK}


def tile(value: int) -> bytes:
    return bytes([value % 256]) * (TILE * TILE * 4)


def whole(value: int = 0) -> dict[int, bytes]:
    return {index: tile(value) for index in range(TILES)}


class Peer:
    """What a server keeps of live: canvases with their versions, and the requests that it saw with what they meant."""

    def __init__(self) -> None:
        self.canvases: dict[str, tuple[int, dict[int, bytes]]] = {}
        self.requests: list[tuple[int, dict[int, bytes]]] = []
        self.blobs: set[str] = set()
        self.order: list[str] = []
        self.bytes = 0
        self._assembler = Assembler()

    def welcome(self, core: ClientCore) -> list[Event]:
        """A new connection: nothing of live has survived the old one."""
        core.connect()
        assert core.outgoing() is not None and core.outgoing() is None
        self.canvases.clear()
        self._assembler.clear()
        return core.receive(Welcome(PROTOCOL, "1", "one", "s", 0, True, {}, ()).to_text())

    def take(self, data: str | bytes) -> list[str]:
        """One message; answers."""
        if isinstance(data, bytes):
            self.bytes += len(data)
            chunk = decode_frame(data)
            picture = self._assembler.feed(chunk)
            if picture is None:
                return []
            self.order.append(chunk.role)
            if chunk.role == "blob":
                self.blobs.add(chunk.id)
                return []
            patch = Patch.read(chunk.header, picture)
            version, tiles = self.canvases.get(patch.live, (0, {}))
            if patch.base and patch.base != version:
                return [LiveState(patch.live, "lost").to_text()]
            self.canvases[patch.live] = patch.version, {**(tiles if patch.base else {}), **patch.tiles}
            return []
        message = parse_from_client(data)
        self.order.append(message.type)
        if isinstance(message, LiveStop):
            self.canvases.pop(message.live, None)
        if isinstance(message, Live):
            missing = [digest for digest in message.recipe.blobs() if digest not in self.blobs]
            if missing:
                error = WireError(Code.BLOB_MISSING, "Missing.", job=message.live, details={"missing": missing})
                return [Error(error).to_text()]
            version, tiles = self.canvases.get(message.live, (0, {}))
            if version != message.canvas:
                return [LiveState(message.live, "lost", message.generation).to_text()]
            self.requests.append((message.generation, dict(tiles)))
        return []


def exchange(core: ClientCore, peer: Peer) -> list[Event]:
    events: list[Event] = []
    while (message := core.outgoing()) is not None:
        for answer in peer.take(message):
            events += core.receive(answer)
    return events


def connected() -> tuple[ClientCore, Peer]:
    core, peer = ClientCore("s", "test"), Peer()
    peer.welcome(core)
    return core, peer


def ask(core: ClientCore, generation: int, tiles: dict[int, bytes], live: str = "a") -> None:
    core.live(Live(live, generation, 0, recipe()), {}, WIDTH, HEIGHT, tiles)


def frames(generation: int, live: str = "a") -> list[bytes]:
    return list(split(FRAME, "live", f"{live}:{generation}", {"live": live, "generation": generation, "ms": {}}))


def delivered(core: ClientCore, messages: list[bytes]) -> list[int]:
    events = [event for message in messages for event in core.receive(message)]
    return [event.generation for event in events if isinstance(event, LiveFrame)]


def test_only_the_newest_unsent_request_leaves_with_all_changed_tiles() -> None:
    core, peer = connected()
    ask(core, 1, whole())
    exchange(core, peer)
    for generation in range(2, 200):
        ask(core, generation, {generation % 7: tile(generation)})
    before = peer.bytes
    exchange(core, peer)
    expected = whole() | {generation % 7: tile(generation) for generation in range(2, 200)}
    assert [generation for generation, _ in peer.requests] == [1, 199]
    assert peer.requests[-1][1] == expected
    assert peer.bytes - before < 7.1 * TILE * TILE * 4


def test_a_request_without_changed_pixels_sends_none() -> None:
    core, peer = connected()
    ask(core, 1, whole())
    exchange(core, peer)
    before = peer.bytes
    core.live(Live("a", 2, 0, recipe(seed=5)), {}, WIDTH, HEIGHT, {})
    exchange(core, peer)
    assert [generation for generation, _ in peer.requests] == [1, 2] and peer.bytes == before


def test_a_lost_canvas_is_wanted_once_and_sent_whole() -> None:
    core, peer = connected()
    ask(core, 1, whole())
    exchange(core, peer)
    peer.canvases.clear()
    ask(core, 2, {3: tile(2)})
    assert exchange(core, peer) == [LiveCanvasWanted("a")]
    ask(core, 3, {4: tile(3)})  # asked before the client knew
    assert core.outgoing() is None
    ask(core, 4, whole(9))
    assert exchange(core, peer) == []
    assert peer.requests[-1] == (4, whole(9))


def test_after_a_reconnect_the_canvas_is_wanted_and_the_last_request_repeated() -> None:
    core, peer = connected()
    ask(core, 1, whole())
    exchange(core, peer)
    ask(core, 2, {0: tile(1)})
    core.outgoing()
    core.disconnect()
    events = peer.welcome(core)
    assert isinstance(events[0], Connected) and events[1:] == [LiveCanvasWanted("a")]
    assert core.outgoing() is None
    core.live(Live("a", 3, 0, recipe()), {}, WIDTH, HEIGHT, whole(7))
    exchange(core, peer)
    assert peer.requests[1:] == [(3, whole(7))]


def test_a_canvas_that_waits_for_the_first_connection_is_not_asked_for_twice() -> None:
    core, peer = ClientCore("s", "test"), Peer()
    ask(core, 1, whole(4))
    (event,) = peer.welcome(core)
    assert isinstance(event, Connected)
    exchange(core, peer)
    assert peer.requests == [(1, whole(4))]


def test_another_extent_is_another_canvas() -> None:
    core, peer = connected()
    ask(core, 1, whole())
    exchange(core, peer)
    small = Live("a", 2, 0, recipe(width=TILE, height=TILE))
    core.live(small, {}, TILE, TILE, {0: tile(5)})
    exchange(core, peer)
    assert peer.requests[-1] == (2, {0: tile(5)})


def test_a_live_patch_overtakes_the_upload_of_a_job_and_texts_overtake_both() -> None:
    core, peer = connected()
    picture = Picture("bgra8", 512, 512, bytes(512 * 512 * 4))
    core.submit("job", Recipe(kind="img2img", width=512, height=512, image=picture.hash), {picture.hash: picture})
    peer.take(core.outgoing() or "")
    ask(core, 1, whole())
    peer.take(core.outgoing() or "")
    core.list_models()
    exchange(core, peer)
    assert peer.order == ["list_models", "canvas", "live", "blob", "submit"]


def test_a_picture_that_job_and_live_need_travels_once() -> None:
    core, peer = connected()
    image = Picture("grey8", 1024, 1024, bytes(1024 * 1024))
    job = Recipe(kind="inpaint", width=1024, height=1024, image=image.hash, mask=image.hash)
    core.submit("job", job, {image.hash: image})
    peer.take(core.outgoing() or "")
    core.live(Live("a", 1, 0, recipe(kind="inpaint", mask=image.hash)), {image.hash: image}, WIDTH, HEIGHT, whole())
    assert not [event for event in exchange(core, peer) if isinstance(event, (Refused, JobState))]
    assert peer.order == ["blob", "canvas", "live", "submit"]
    assert Submit.type in peer.order


def test_masks_are_sent_before_the_request_and_again_when_missing() -> None:
    core, peer = connected()
    wanted, pictures = masked()
    core.live(Live("a", 1, 0, wanted), pictures, WIDTH, HEIGHT, whole())
    exchange(core, peer)
    core.live(Live("a", 2, 0, wanted), pictures, WIDTH, HEIGHT, {})
    exchange(core, peer)
    assert peer.order == ["blob", "canvas", "live", "live"]
    peer.blobs.clear()
    core.live(Live("a", 3, 0, wanted), pictures, WIDTH, HEIGHT, {})
    assert exchange(core, peer) == []
    assert [generation for generation, _ in peer.requests] == [1, 2, 3]


def test_a_mask_that_never_arrives_fails_the_session_once() -> None:
    core, peer = connected()
    core.live(Live("a", 1, 0, masked()[0]), {}, WIDTH, HEIGHT, whole())
    (event,) = exchange(core, peer)
    assert isinstance(event, LiveStatus) and event.state.state == "failed"
    assert event.state.error is not None and event.state.error.code is Code.BLOB_MISSING


def test_stale_frames_are_dropped() -> None:
    core, peer = connected()
    ask(core, 5, whole())
    exchange(core, peer)
    assert delivered(core, frames(4)) == []  # of an earlier session with the same name
    assert delivered(core, frames(6) + frames(5) + frames(6) + frames(8)) == [6, 8]
    assert delivered(core, frames(9, "other")) == []
    half = frames(10)
    assert len(half) > 1
    assert delivered(core, half[:1]) == []
    core.live_stop("a")
    assert delivered(core, half[1:] + frames(11)) == []


def test_stop_ends_what_is_half_sent() -> None:
    core, peer = connected()
    ask(core, 1, whole())
    exchange(core, peer)
    ask(core, 2, whole(1))
    peer.take(core.outgoing() or "")
    core.live_stop("a")
    exchange(core, peer)
    assert peer.order == ["canvas", "live", "live_stop"] and not peer.canvases
    core.live_stop("a")
    assert core.outgoing() is None
    assert core.receive(LiveState("a", "ready").to_text()) == []


def test_states_and_errors_of_a_session_come_as_its_status() -> None:
    core, peer = connected()
    ask(core, 1, whole())
    exchange(core, peer)
    ready = LiveState("a", "ready", 1, "Ready.")
    assert core.receive(ready.to_text()) == [LiveStatus(ready)]
    (event,) = core.receive(Error(WireError(Code.MODEL_MISSING, "Gone.", job="a")).to_text())
    assert isinstance(event, LiveStatus) and event.state.state == "failed" and event.state.generation == 1


def test_random_drops_and_losses_never_confuse_canvas_and_request() -> None:
    """Whatever breaks when: every request that the server accepts means exactly the pixels the client meant by it."""
    for seed in range(40):
        dice = random.Random(seed)
        core, peer = ClientCore("s", "test"), Peer()
        pixels, meant = whole(), {}
        generation, wanted = 0, True
        events = peer.welcome(core)
        for _ in range(60):
            if any(isinstance(event, LiveCanvasWanted) for event in events):
                wanted = True
            events = []
            generation += 1
            changed = {dice.randrange(TILES): tile(dice.randrange(256)) for _ in range(dice.randint(0, 3))}
            pixels = pixels | changed
            meant[generation] = dict(pixels)
            ask(core, generation, dict(pixels) if wanted else changed)
            wanted = False
            for _ in range(dice.randint(0, 4)):
                message = core.outgoing()
                if message is not None:
                    for answer in peer.take(message):
                        events += core.receive(answer)
            if dice.random() < 0.08:
                peer.canvases.clear()
            if dice.random() < 0.08:
                core.disconnect()
                events += peer.welcome(core)
        if any(isinstance(event, LiveCanvasWanted) for event in events) or wanted:
            ask(core, generation + 1, dict(pixels))
        else:
            ask(core, generation + 1, {})
        meant[generation + 1] = dict(pixels)
        if any(isinstance(event, LiveCanvasWanted) for event in exchange(core, peer)):
            ask(core, generation + 2, dict(pixels))
            meant[generation + 2] = dict(pixels)
            exchange(core, peer)
        seen = [number for number, _ in peer.requests]
        assert seen == sorted(seen) and seen[-1] > generation
        assert all(tiles == meant[number] for number, tiles in peer.requests)
