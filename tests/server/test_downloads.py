# SPDX-License-Identifier: GPL-3.0-or-later
"""Downloads through the wire: nothing without being asked, progress, stop, going on after a restart, the model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from krita_sd.wire.client import Answered, ModelsListed, Refused
from krita_sd.wire.errors import Code
from krita_sd.wire.queries import Download, Downloads
from tests.server.harness import Painter, ServerProcess, run_cli, running
from tests.server.hub import FakeHub, serving
from tests.tiny import make_file

OFFER, REPO, FILE = "sdxl-vae-fp16", "madebyollin/sdxl-vae-fp16-fix", "sdxl.vae.safetensors"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    with serving(FakeHub({REPO: {FILE: make_file(tmp_path / "source.safetensors").read_bytes()}})) as fake:
        yield fake


def launched(tmp_path: Path, hub: FakeHub) -> Any:
    """A server whose models folder does not exist yet."""
    environ = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "", "KRITA_SD_MODELS": str(tmp_path / "models")}
    return running(tmp_path / "state", **environ)


def do(painter: Painter, do: str, id: str = OFFER) -> None:
    painter.client.core.ask(Download(do, id))
    painter.client.flush()


def seen(painter: Painter) -> list[dict[str, Any]]:
    """What was told about the offer, in order."""
    told = [event.message for event in painter.events if isinstance(event, Answered)]
    return [item for state in told if isinstance(state, Downloads) for item in state.offers if item["id"] == OFFER]


async def until(painter: Painter, phase: str) -> dict[str, Any]:
    await painter.until(lambda: bool(seen(painter)) and seen(painter)[-1]["phase"] == phase, phase)
    return seen(painter)[-1]


async def test_a_download_from_the_list_to_the_model(tmp_path: Path, hub: FakeHub) -> None:
    size = len(hub.repos[REPO][FILE])
    with launched(tmp_path, hub) as server:
        async with server.client() as client:
            painter = Painter(client)
            do(painter, "list", "")
            assert (await until(painter, "offered"))["bytes"] == 0 and not hub.requests
            do(painter, "ask")
            await painter.until(lambda: bool(seen(painter)) and seen(painter)[-1]["bytes"] == size)
            assert seen(painter)[-1]["phase"] == "offered" and not (tmp_path / "models").exists()
            hub.gate = threading.Event()
            do(painter, "start")
            await painter.until(lambda: any(item["done"] == size // 2 for item in seen(painter)), "half of it")
            do(painter, "stop")
            await until(painter, "stopping")
            hub.gate.set()
            stopped = await until(painter, "partial")
            assert 0 < stopped["done"] < size and stopped["problem"] == ""
        server.stop()
    with launched(tmp_path, hub) as server:
        async with server.client() as client:
            await _go_on(Painter(client), server, hub, stopped["done"])
    assert (tmp_path / "models" / OFFER / FILE).stat().st_size == size


async def _go_on(painter: Painter, server: ServerProcess, hub: FakeHub, done: int) -> None:
    do(painter, "list", "")
    assert (await until(painter, "partial"))["done"] == done
    hub.gate = None
    do(painter, "start")
    await until(painter, "installed")
    assert hub.asked("/cdn/")[-1]["Range"] == f"bytes={done}-"

    def names() -> list[str]:
        lists = [event for event in painter.events if isinstance(event, ModelsListed)]
        return [entry["name"] for entry in lists[-1].models] if lists else []

    await painter.until(lambda: Path(FILE).stem in names(), "the model in the list")
    do(painter, "start", "../../etc/passwd")
    await painter.until(lambda: any(isinstance(event, Refused) for event in painter.events))
    refused = next(event for event in painter.events if isinstance(event, Refused))
    assert refused.error.code is Code.MODEL_MISSING


async def test_what_cannot_be_fetched_says_why_and_can_be_thrown_away(tmp_path: Path, hub: FakeHub) -> None:
    (tmp_path / "models" / ".downloads" / OFFER).mkdir(parents=True)
    (tmp_path / "models" / ".downloads" / OFFER / "part-1").write_bytes(b"old")
    hub.status = 403
    with launched(tmp_path, hub) as server:
        async with server.client() as client:
            painter = Painter(client)
            do(painter, "start")
            await painter.until(lambda: any(item["problem"] for item in seen(painter)), "the reason")
            assert "accepted its licence" in seen(painter)[-1]["problem"] and seen(painter)[-1]["phase"] == "partial"
            do(painter, "discard")
            assert (await until(painter, "offered"))["problem"] == ""
    assert not (tmp_path / "models" / ".downloads" / OFFER).exists()


def test_the_command_line_lists_and_fetches(tmp_path: Path, hub: FakeHub) -> None:
    listed = run_cli("download")
    assert listed.returncode == 0 and OFFER in listed.stdout and hub.requests == []
    environ = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": ""}
    done = run_cli("download", OFFER, "--models", tmp_path, **environ)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == f"done: {tmp_path / OFFER}", done.stderr
    assert (tmp_path / OFFER / FILE).is_file()
    again = run_cli("download", OFFER, "--models", tmp_path, **environ)
    assert again.returncode == 2 and again.stderr.startswith("There is already a folder")
    offline = run_cli("download", OFFER, "--models", tmp_path, HF_HUB_OFFLINE="1")
    assert offline.returncode == 1 and len(offline.stderr.splitlines()) == 1
