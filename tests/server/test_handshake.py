# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may connect: the handshake matrix, the hello, and what a connection may not do to others."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from krita_sd.wire.limits import MAX_MESSAGE
from krita_sd.wire.messages import Hello
from krita_sd.wire.version import VERSION
from tests.server.harness import Painter, ServerProcess, tiny


def dial(server: ServerProcess, headers: Any = None, path: str = "/v1", **more: Any) -> connect:
    url = f"ws://127.0.0.1:{server.port}{path}"
    more = {"subprotocols": ["ksd.1"], "compression": None, "proxy": None, **more}
    return connect(url, additional_headers=authorized(server) if headers is None else headers, **more)


def authorized(server: ServerProcess) -> list[tuple[str, str]]:
    return [("Authorization", f"Bearer {server.token}")]


async def status_of(attempt: connect) -> int:
    with pytest.raises(InvalidStatus) as caught:
        async with attempt:
            pass
    return caught.value.response.status_code


async def said_hello(socket: ClientConnection, **more: Any) -> dict[str, Any]:
    hello = Hello(
        **{"protocols": ("ksd.1",), "client": "test", "version": VERSION, "session": os.urandom(8).hex(), **more}
    )
    await socket.send(hello.to_text())
    return json.loads(await socket.recv())


@pytest.mark.parametrize("origin", ["null", "https://evil.example", "http://127.0.0.1", "http://localhost", ""])
async def test_any_origin_is_refused_even_with_the_right_token(server: ServerProcess, origin: str) -> None:
    assert await status_of(dial(server, [*authorized(server), ("Origin", origin)])) == 403


async def test_two_origins_and_no_token_are_refused_as_a_browser(server: ServerProcess) -> None:
    assert await status_of(dial(server, [("Origin", "null"), ("Origin", "null")])) == 403


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Basic {token}",
        "{token}",
        "Bearer {token}x",
        "Bearer " + "a" * 4000,
    ],
)
async def test_a_missing_or_wrong_token_is_refused(server: ServerProcess, value: str | None) -> None:
    headers = [] if value is None else [("Authorization", value.replace("{token}", server.token))]
    assert await status_of(dial(server, headers)) == 401


async def test_two_tokens_are_refused(server: ServerProcess) -> None:
    assert await status_of(dial(server, [*authorized(server), *authorized(server)])) == 401


async def test_a_header_beyond_the_limit_is_refused(server: ServerProcess) -> None:
    with pytest.raises((InvalidHandshake, ConnectionClosed, OSError, EOFError)):
        async with dial(server, [("Authorization", "Bearer " + "a" * 100_000)]):
            pass


@pytest.mark.parametrize("path", ["/", "/v2", "/v1/", "/v1?x=1", "/../v1"])
async def test_other_paths_do_not_exist(server: ServerProcess, path: str) -> None:
    assert await status_of(dial(server, path=path)) == 404


@pytest.mark.parametrize("offered", [None, ["ksd.2"], ["chat"]])
async def test_the_subprotocol_is_required(server: ServerProcess, offered: Any) -> None:
    assert await status_of(dial(server, subprotocols=offered)) == 400


async def test_no_compression_is_negotiated(server: ServerProcess) -> None:
    async with dial(server, compression="deflate") as socket:
        assert socket.protocol.extensions == []
        assert socket.subprotocol == "ksd.1"


async def test_the_token_file_is_private_and_never_logged(server: ServerProcess) -> None:
    assert stat.S_IMODE((server.state / "token").stat().st_mode) == 0o600
    for name in ("server.log", "worker.log", "server.json"):
        assert server.token not in (server.state / name).read_text()


async def test_the_server_listens_on_this_machine_only(server: ServerProcess) -> None:
    listening = [line.split() for line in open("/proc/net/tcp").readlines()[1:]]
    addresses = {
        row[1].split(":")[0] for row in listening if row[3] == "0A" and int(row[1].split(":")[1], 16) == server.port
    }
    assert addresses == {"0100007F"}


async def test_welcome_says_what_the_server_can(server: ServerProcess) -> None:
    async with dial(server) as socket:
        welcome = await said_hello(socket)
    assert welcome["type"] == "welcome" and welcome["protocol"] == "ksd.1" and welcome["version"] == VERSION
    assert welcome["resumed"] is False and welcome["jobs"] == [] and welcome["seq"] == 0
    assert "Euler" in welcome["features"]["samplers"] and "sd1" in welcome["families"]
    assert any(model["name"] == "tiny" and model["usable"] and model["native"] for model in welcome["models"])
    assert not any("/" in str(model["id"]) for model in welcome["models"])


async def test_no_common_version_names_both(server: ServerProcess) -> None:
    async with dial(server) as socket:
        error = await said_hello(socket, protocols=("ksd.9",), version="9.9.9")
        assert error["code"] == "version"
        assert "9.9.9" in error["message"] and VERSION in error["message"]
        with pytest.raises(ConnectionClosed):
            await socket.recv()


@pytest.mark.parametrize("first", ['{"type":"ack","seq":0}', "nonsense", b"\0binary", '{"type":"hello"}'])
async def test_the_first_message_must_be_hello(server: ServerProcess, first: str | bytes) -> None:
    async with dial(server) as socket:
        await socket.send(first)
        assert json.loads(await socket.recv())["code"] == "bad_request"
        with pytest.raises(ConnectionClosed):
            await socket.recv()


async def test_a_message_at_the_limit_passes_and_one_byte_more_closes(server: ServerProcess) -> None:
    async with dial(server) as socket:
        await said_hello(socket)
        text = '{"type":"ack","seq":0,"x":"'
        await socket.send(text + "a" * (MAX_MESSAGE - len(text) - 2) + '"}')
        await socket.send('{"type":"nothing"}')
        assert json.loads(await socket.recv())["code"] == "unsupported"
        await socket.send(text + "a" * (MAX_MESSAGE - len(text) - 1) + '"}')
        with pytest.raises(ConnectionClosed) as caught:
            await socket.recv()
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 1009


async def test_a_newer_connection_of_a_session_replaces_the_older(server: ServerProcess) -> None:
    async with dial(server) as old, dial(server) as new:
        await said_hello(old, session="same")
        assert (await said_hello(new, session="same"))["resumed"] is True
        with pytest.raises(ConnectionClosed) as caught:
            await old.recv()
        assert caught.value.rcvd is not None and caught.value.rcvd.code == 4001
        # The clean-up of the old one has not evicted the new one.
        await new.send('{"type":"have","hashes":[]}')
        assert json.loads(await new.recv())["type"] == "missing"


async def test_idle_and_deaf_connections_disturb_nobody(server: ServerProcess, painter: Painter) -> None:
    """Fifty idle connections, ten half handshakes, and a client that asks much and reads nothing."""
    sockets = [await dial(server) for _ in range(50)]
    halves = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(10)]
    deaf_reader, deaf = await asyncio.open_connection("127.0.0.1", server.port, limit=1)
    deaf.write(
        f"GET /v1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: ksd.1\r\n"
        f"Authorization: Bearer {server.token}\r\n\r\n".encode()
    )
    deaf.write(_masked(Hello(("ksd.1",), "deaf", VERSION, "deaf").to_text()))
    for _ in range(3000):
        deaf.write(_masked('{"type":"list_models"}'))
    assert (await painter.ended(painter.submit(tiny()))).names[-1] == "done"
    status = (server.state.parent / "unused", open(f"/proc/{server.process.pid}/status").read())[1]
    resident = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
    assert resident < 300_000, f"the front holds {resident} KiB"
    deaf.transport.abort()
    for _, writer in halves:
        writer.close()
    await asyncio.gather(*(socket.close() for socket in sockets))


def _masked(text: str) -> bytes:
    """A text frame with a zero mask."""
    data = text.encode()
    head = bytes([0x81]) + (
        bytes([0x80 | len(data)]) if len(data) < 126 else bytes([0xFE]) + len(data).to_bytes(2, "big")
    )
    return head + b"\0\0\0\0" + data
