# SPDX-License-Identifier: GPL-3.0-or-later
"""What a hostile or broken peer, id or model file may do: be answered with one sentence, and nothing else."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from krita_sd.wire import frames
from krita_sd.wire.errors import Code
from krita_sd.wire.frames import MAGIC, Picture, encode_frame
from krita_sd.wire.limits import CHUNK, MAX_HEADER, MAX_PICTURE
from tests.server.harness import Painter, ServerProcess, tiny
from tests.server.test_handshake import dial, said_hello

HOSTILE_IDS = [
    "..", "../..", "..\\..\\x", "/etc/passwd", "//host/share", "\\\\host\\share", "C:\\x", "CON", "NUL.safetensors",
    "%2e%2e%2f", "tiny", "tiny/", "tiny.", "ｔｉｎｙ", "tin\u0443", "https://example.com/x", "file:///etc/passwd",
    "~", "$HOME", "`id`", "a" * 200,
]  # fmt: skip


@pytest.mark.parametrize("id", HOSTILE_IDS)
async def test_a_hostile_model_id_is_model_missing(painter: Painter, id: str) -> None:
    outcome = await painter.ended(painter.submit(tiny(model=id)))
    assert outcome.last.error is not None and outcome.last.error.code is Code.MODEL_MISSING
    assert outcome.names == ["failed"]


async def test_a_model_id_with_control_characters_or_of_any_length_is_refused(painter: Painter) -> None:
    for id in ("a\0b", "tiny\n", "a" * 10_000):
        outcome = await painter.ended(painter.submit(tiny(model=id)))
        assert outcome.last.error is not None
        assert outcome.last.error.code in (Code.MODEL_MISSING, Code.BAD_REQUEST)


BROKEN = {
    "evil.ckpt": Code.MODEL_UNSAFE,
    "evil.pt": Code.MODEL_UNSAFE,
    "evil.bin": Code.MODEL_UNSAFE,
    "renamed": Code.MODEL_CORRUPT,
    "truncated": Code.MODEL_CORRUPT,
    "page": Code.MODEL_CORRUPT,
    "damaged": Code.MODEL_CORRUPT,
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_model_is_one_sentence_and_the_next_job_works(
    painter: Painter, witness: Path, name: str
) -> None:
    welcome = painter.client.core.welcome
    assert welcome is not None
    (entry,) = [model for model in welcome.models if model["name"] == name]
    assert not entry["usable"] and entry["problem"].endswith(".")
    outcome = await painter.ended(painter.submit(tiny(model=entry["id"])))
    assert outcome.last.error is not None and outcome.last.error.code is BROKEN[name]
    assert (await painter.ended(painter.submit(tiny()))).names[-1] == "done"
    assert not witness.exists(), "a pickle was executed"


def _frame(header: dict[str, Any] | bytes, payload: bytes = b"abcd") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return MAGIC + len(text).to_bytes(4, "little") + text + payload


GOOD = {"role": "blob", "id": "0" * 32, "offset": 0, "total": 4, "format": "bgra8", "width": 1, "height": 1}
BAD_FRAMES = {
    "empty": b"",
    "no magic": b"XXXX" + bytes(20),
    "header beyond frame": MAGIC + (500).to_bytes(4, "little") + b"{}",
    "huge header": _frame(b" " * (MAX_HEADER + 1)),
    "not json": _frame(b"{{{{"),
    "bad utf-8": _frame(b'{"role":"\xff\xfe"}'),
    "deep": _frame(b'{"a":' + b"[" * 1000 + b"]" * 1000 + b"}"),
    "duplicate keys": _frame(b'{"role":"blob","role":"blob"}'),
    "wrong size": _frame({**GOOD, "width": 2}),
    "no width": _frame({**GOOD, "width": 0}),
    "negative": _frame({**GOOD, "height": -1}),
    "too wide": _frame({**GOOD, "width": 2**31}),
    "nan": _frame(json.dumps({**GOOD, "width": float("nan")}).encode()),
    "text width": _frame({**GOOD, "width": "1"}),
    "a result": _frame({**GOOD, "role": "result"}),
    "no payload": _frame(GOOD, b""),
    "gap": _frame({**GOOD, "offset": 2, "total": 4}, b"ab"),
    "wrong hash": _frame(GOOD),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
async def test_a_bad_frame_is_answered_and_the_connection_lives(server: ServerProcess, name: str) -> None:
    async with dial(server) as socket:
        await said_hello(socket)
        await socket.send(BAD_FRAMES[name])
        assert json.loads(await socket.recv())["code"] == "bad_request"
        await socket.send('{"type":"have","hashes":[]}')
        assert json.loads(await socket.recv())["type"] == "missing"


async def test_a_picture_over_its_own_limit_is_answered_once(server: ServerProcess) -> None:
    side = 8200
    total = side * side * 4
    assert total > MAX_PICTURE
    header = {**GOOD, "width": side, "height": side, "total": total}
    async with dial(server) as socket:
        await said_hello(socket)
        for offset in range(0, 20 * CHUNK, CHUNK):
            await socket.send(encode_frame({**header, "offset": offset}, bytes(CHUNK)))
        await socket.send('{"type":"have","hashes":[]}')
        answers = [json.loads(await socket.recv()) for _ in range(2)]
    assert answers[0]["code"] == "too_large" and answers[1]["type"] == "missing"


async def test_random_garbage_never_ends_the_connection(server: ServerProcess) -> None:
    """Mutations of real messages and frames; a text that is not UTF-8 cannot be sent by this client."""
    source = random.Random(20)
    texts = ['{"type":"submit","job":"x","recipe":{"width":64,"height":64}}', '{"type":"cancel","job":"y"}']
    frame = next(iter(frames.split(Picture("bgra8", 2, 2, bytes(16)), "blob", "0" * 32)))
    async with dial(server) as socket:
        await said_hello(socket)
        for _ in range(300):
            if source.random() < 0.5:
                text = list(source.choice(texts))
                for _ in range(source.randrange(1, 4)):
                    text[source.randrange(len(text))] = chr(source.choice([0, 34, 58, 91, 123, 48, 0x2028, 0xFFFF]))
                await socket.send("".join(text))
            else:
                data = bytearray(frame)
                for _ in range(source.randrange(1, 4)):
                    data[source.randrange(len(data))] = source.randrange(256)
                await socket.send(bytes(data))
        await socket.send('{"type":"have","hashes":["' + "f" * 32 + '"]}')
        while True:
            answer = json.loads(await socket.recv())
            assert answer["type"] in ("error", "missing", "state", "progress"), answer
            assert answer.get("code") != "internal", answer
            if answer["type"] == "missing":
                break


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0}, {"width": 10**9}, {"steps": 0}, {"steps": 151}, {"guidance": 31}, {"guidance": -1},
        {"seed": -1}, {"seed": 2**63}, {"strength": 1.01}, {"sampler": "nope"}, {"fill": "x"}, {"kind": "live"},
        {"prompt": "a" * 20_001}, {"prompt": 5}, {"kind": "img2img"}, {"image": "zz"}, {"width": True},
        {"loras": [{"id": ""}]}, {"loras": [{}] * 17}, {"feather": -1}, {"clip_skip": 0},
        {"width": 16000, "height": 16000},
    ],
)  # fmt: skip
async def test_a_recipe_out_of_range_is_one_sentence(server: ServerProcess, change: dict[str, Any]) -> None:
    async with dial(server) as socket:
        await said_hello(socket)
        recipe = {"kind": "txt2img", "width": 64, "height": 64, **change}
        await socket.send(json.dumps({"type": "submit", "job": "j", "recipe": recipe}))
        answer = json.loads(await socket.recv())
    assert answer["code"] == "bad_request" and answer["job"] == "j" and answer["message"].endswith(".")


@pytest.mark.parametrize("prompt", ["", "line\nline", "\x07\x1b[31m", "<b>&amp;", "مرحبا", "🦊" * 300, "\u202e" * 10])
async def test_any_text_is_a_prompt(painter: Painter, prompt: str) -> None:
    outcome = await painter.ended(painter.submit(tiny(prompt=prompt)))
    assert outcome.names[-1] == "done", outcome.last.error
    assert outcome.results[0].result.recipe.prompt == prompt
