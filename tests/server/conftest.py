# SPDX-License-Identifier: GPL-3.0-or-later
"""One folder of tiny random models and one running server for all server tests that do not harm it."""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from krita_sd.wire.client import ModelsListed
from tests.server.harness import Painter, ServerProcess, running
from tests.tiny import make_model


class _Payload:
    """What a malicious checkpoint does when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.witness}",)


@pytest.fixture(scope="session")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that exists only if a pickle was executed."""
    return tmp_path_factory.mktemp("witness") / "executed"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, witness: Path) -> Path:
    """A models folder: `tiny`, damaged and dangerous neighbours of it, and links in a circle."""
    root = tmp_path_factory.mktemp("models")
    make_model(
        root / "tiny",
        tiny_decoder=True,
        extra={"defaults": {"steps": 3, "guidance": 2.0, "sampler": "Euler", "min_steps": 1}},
    )
    weights = root / "tiny" / "unet" / "diffusion_pytorch_model.safetensors"
    payload = pickle.dumps(_Payload(witness))
    for name in ("evil.ckpt", "evil.pt", "evil.bin", "renamed.safetensors"):
        (root / name).write_bytes(payload)
    (root / "truncated.safetensors").write_bytes(weights.read_bytes()[:-1000])
    (root / "page.safetensors").write_text("<!DOCTYPE html><html>404</html>")
    damaged = root / "damaged"
    shutil.copytree(root / "tiny", damaged)
    (damaged / "unet" / weights.name).write_bytes(weights.read_bytes()[:-1000])
    (root / "circle").symlink_to(root, target_is_directory=True)
    return root


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[ServerProcess]:
    """A server that tests share; they must leave it without running jobs."""
    with running(tmp_path_factory.mktemp("shared") / "state", "--models", models) as process:
        asyncio.run(_until_ready(process))
        yield process


async def _until_ready(server: ServerProcess) -> None:
    """Until the worker runs, so that its announcement does not come between a test's question and the answer."""
    async with server.client() as client:
        assert client.core.welcome is not None
        while client.core.welcome.device["kind"] == "starting":
            event = await client.next_event()
            if isinstance(event, ModelsListed) and event.device["kind"] != "starting":
                return


@pytest.fixture
async def painter(server: ServerProcess) -> AsyncIterator[Painter]:
    """A fresh session on the shared server."""
    async with server.client() as client:
        yield Painter(client)
