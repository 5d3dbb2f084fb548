# SPDX-License-Identifier: GPL-3.0-or-later
"""Prompts through the real server: how one is read, LoRAs called by name, wildcards by seed, and what a result says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from krita_sd.wire.queries import PromptReading, ReadPrompt
from server.client import Client, open_socket
from tests.engine.test_lora import write
from tests.server.harness import Painter, ServerProcess, running, tiny
from tests.tiny import make_model


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the tiny model, one LoRA for it and one wildcard file."""
    from server.diffusion import load_model

    root = tmp_path_factory.mktemp("home")
    folder = make_model(root / "tiny")
    (root / "zz").mkdir()  # listed after the model, which is what a test takes by default
    write(root / "zz" / "Ink Style.safetensors", load_model(folder, "sd1"), "kohya")
    (root / "wildcards").mkdir()
    (root / "wildcards" / "colours.txt").write_text("red\ngreen\nblue\n")
    with running(root / "state", "--models", root) as process:
        yield process


@pytest.fixture
async def painter(home: ServerProcess) -> AsyncIterator[Painter]:
    async with home.client() as client:
        yield Painter(client)


async def ask(server: ServerProcess, client: Client, prompt: str, negative: str = "") -> PromptReading:
    """A question on a connection of its own."""
    from krita_sd.wire.messages import Hello, parse_from_server

    assert client.core.welcome is not None
    model = next(m["id"] for m in client.core.welcome.models if m["name"] == "tiny")
    socket = await open_socket(server.url, server.token)
    try:
        await socket.send(Hello(("ksd.1",), "test", "0", f"asks-{id(socket)}").to_text())
        await socket.send(ReadPrompt("q1", model, prompt, negative).to_text())
        while True:
            message = parse_from_server(await asyncio.wait_for(socket.recv(), 60))
            if isinstance(message, PromptReading):
                return message
    finally:
        await socket.close()


async def test_a_question_about_a_prompt_is_answered(home: ServerProcess, painter: Painter) -> None:
    answer = await ask(home, painter.client, "a (red:1.2) boat <lora:ink style:0.5> <lora:gone:1>", "cat:1 dog:3")
    assert answer.id == "q1"
    assert ["red", 1.2] in answer.prompt["parts"] and answer.prompt["limit"] == 77 and answer.prompt["tokens"] == 5
    assert answer.prompt["loras"] == [["ink style", 0.5, True], ["gone", 1.0, False]]
    assert "gone" in answer.prompt["text"]
    assert answer.negative["parts"] == [["cat", 0.25], ["dog", 0.75]]


async def test_a_lora_in_the_prompt_is_the_lora_of_the_recipe(painter: Painter) -> None:
    from krita_sd.wire.recipe import Lora

    assert painter.client.core.welcome is not None
    lora = next(m["id"] for m in painter.client.core.welcome.models if m["name"] == "Ink Style")
    prompts = {"plain": "a boat", "tag": "a boat<lora:INK STYLE:0.7> # strong", "unknown": "a boat<lora:gone:0.7>"}
    jobs = {name: painter.submit(tiny(prompt=prompt)) for name, prompt in prompts.items()}
    jobs["listed"] = painter.submit(tiny(prompt="a boat", loras=(Lora(lora, 0.7),)))
    await painter.ended(*jobs.values())
    pixels = {name: painter.outcome(job).results[0].picture.data for name, job in jobs.items()}
    assert pixels["tag"] == pixels["listed"] != pixels["plain"] == pixels["unknown"]
    told = painter.outcome(jobs["unknown"]).results[0].result
    assert told.recipe.prompt == prompts["unknown"], "the recipe keeps what was typed"
    assert any("gone" in note for note in told.reading["prompt"]["ignored"])
    assert painter.outcome(jobs["tag"]).results[0].result.reading["prompt"]["loras"] == [["INK STYLE", 0.7, True]]


async def test_wildcards_follow_the_seed_of_each_image(painter: Painter) -> None:
    """Image i of a batch is the single image with seed + i, words included."""
    prompt = "a __colours__ {boat|house}"
    batch = painter.submit(tiny(prompt=prompt, seed=5), count=6)
    single = painter.submit(tiny(prompt=prompt, seed=8))
    await painter.ended(batch, single)
    results = [event.result for event in painter.outcome(batch).results]
    words = ["".join(text for text, _ in result.reading["prompt"]["parts"]) for result in results]
    assert len(set(words)) > 2 and not any("_" in text or "{" in text for text in words)
    assert all(result.recipe.prompt == prompt for result in results)
    alone = painter.outcome(single).results[0]
    assert alone.picture.data == painter.outcome(batch).results[3].picture.data
    plain = painter.submit(tiny(prompt=words[3], seed=8))
    await painter.ended(plain)
    assert painter.outcome(plain).results[0].picture.data == alone.picture.data
