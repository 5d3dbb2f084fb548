# SPDX-License-Identifier: GPL-3.0-or-later
"""A server that only does Live, scripted: every picture is the canvas it was sent, inverted, so that a test can tell
which pixels a shown frame was made of. Runs in the tests' process; the plugin talks to it over a real websocket."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

from krita_sd.wire import PROTOCOL
from krita_sd.wire import messages as m
from krita_sd.wire.frames import Assembler, Picture, decode_frame, split
from krita_sd.wire.live import TILE, Live, LiveStop, Patch, columns

INVERTED = bytes(255 - value for value in range(256))
MODEL = {
    "id": "pocket",
    "name": "Mirror",
    "family": "sd1",
    "kind": "checkpoint",
    "usable": True,
    "native": {
        "min_side": 64,
        "max_side": 4096,
        "min_pixels": 4096,
        "max_pixels": 2**24,
        "pixels": 256**2,  # the rectangle around strokes has that size
        "second_pass": False,
    },
}
SCRIBBLE = {"id": "scribble", "name": "control scribble", "family": "sd1", "kind": "controlnet", "usable": True}
MODELS = (MODEL, SCRIBBLE)


@dataclass
class Canvas:
    """What the plugin has sent of one session."""

    width: int
    height: int
    version: int = 0
    tiles: dict[int, bytes] = field(default_factory=dict)

    def inverted(self) -> bytes:
        """The whole canvas with its colours inverted and opaque."""
        rows = []
        for row in range(columns(self.height)):
            line = [self.tiles[row * columns(self.width) + column] for column in range(columns(self.width))]
            for y in range(min(TILE, self.height - row * TILE)):
                whole = b"".join(tile[y * TILE * 4 : (y + 1) * TILE * 4] for tile in line)
                rows.append(whole[: self.width * 4])
        picture = bytearray(b"".join(rows).translate(INVERTED))
        picture[3::4] = b"\xff" * (len(picture) // 4)
        return bytes(picture)


def fewer(picture: Picture, step: int) -> Picture:
    """Every `step`-th pixel of every `step`-th row."""
    pixels = memoryview(picture.data).cast("I")
    rows = [
        pixels[y * picture.width : (y + 1) * picture.width : step].tobytes() for y in range(0, picture.height, step)
    ]
    return Picture("bgra8", len(rows[0]) // 4, len(rows), b"".join(rows))


class Peer:
    """Answers a request of Live after `delay` seconds; the newest waiting one goes first, older ones are dropped.

    shrink: where the plugin permits it, pictures have that many times fewer pixels on each side, as a model's do.
    """

    def __init__(self, shrink: int = 1) -> None:
        self.delay = 0.0
        self.shrink = shrink
        self.requests: list[Live] = []
        self.patches: list[Patch] = []
        self.stopped: list[str] = []
        self.answered: list[int] = []
        self.pictures: set[str] = set()
        self._canvases: dict[str, Canvas] = {}
        self._waiting: tuple[ServerConnection, Live] | None = None
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._closed = False
        self._server: Server = serve(
            self._handle, "127.0.0.1", 0, subprotocols=[Subprotocol(PROTOCOL)], compression=None
        )
        self.port = self._server.socket.getsockname()[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        threading.Thread(target=self._work, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1"

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()

    def forget(self, connection: bool = False) -> None:
        """Lose every canvas, as a server does that was restarted."""
        self._canvases.clear()

    def _handle(self, connection: ServerConnection) -> None:
        assembler = Assembler()
        for raw in connection:
            if isinstance(raw, bytes):
                chunk = decode_frame(raw)
                picture = assembler.feed(chunk)
                if picture is not None and chunk.role == "canvas":
                    self._patch(connection, Patch.read(chunk.header, picture))
                elif picture is not None:
                    self.pictures.add(picture.hash)  # of a selection or a control layer
                continue
            message = m.parse_from_client(raw)
            if isinstance(message, m.Hello):
                device = {"kind": "cpu", "name": "Mirror"}
                self._send(connection, m.Welcome(PROTOCOL, "0", "peer", message.session, 0, False, device, MODELS))
            elif isinstance(message, m.ListModels):
                self._send(connection, m.Models(MODELS, {"kind": "cpu", "name": "Mirror"}))
            elif isinstance(message, Live):
                with self._changed:
                    self.requests.append(message)
                    self._waiting = (connection, message)
                    self._changed.notify_all()
            elif isinstance(message, LiveStop):
                self.stopped.append(message.live)
                self._canvases.pop(message.live, None)

    def _patch(self, connection: ServerConnection, patch: Patch) -> None:
        self.patches.append(patch)
        canvas = self._canvases.get(patch.live)
        if patch.base == 0:
            canvas = self._canvases[patch.live] = Canvas(patch.width, patch.height)
        if canvas is None or canvas.version != patch.base:
            self._send(connection, m.LiveState(patch.live, "lost"))
            return
        canvas.tiles |= patch.tiles
        canvas.version = patch.version

    def _send(self, connection: ServerConnection, message: Any) -> None:
        with self._sending:
            connection.send(message.to_text())

    def _work(self) -> None:
        while not self._closed:
            with self._changed:
                while self._waiting is None and not self._closed:
                    self._changed.wait()
                if self._waiting is None:
                    return
                (connection, request), self._waiting = self._waiting, None
                begin = time.monotonic()
                canvas = self._canvases.get(request.live)
                data = canvas.inverted() if canvas is not None and canvas.version == request.canvas else b""
            time.sleep(self.delay)
            if canvas is None or not data:
                continue
            picture = Picture("bgra8", canvas.width, canvas.height, data)
            if request.fit:
                picture = fewer(picture, self.shrink)
            header = {"live": request.live, "generation": request.generation, "opaque": True}
            header["ms"] = {"queued": 0.0, "sample": (time.monotonic() - begin) * 1000}
            try:
                for frame in split(picture, "live", f"{request.live}:{request.generation}", header):
                    with self._sending:
                        connection.send(frame)
            except ConnectionClosed:
                continue
            self.answered.append(request.generation)
