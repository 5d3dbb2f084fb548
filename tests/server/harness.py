# SPDX-License-Identifier: GPL-3.0-or-later
"""Real server processes and real websockets for tests."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from krita_sd.wire.client import Event, JobState, PreviewReady, Refused, ResultReady
from krita_sd.wire.frames import Picture
from krita_sd.wire.messages import TERMINAL, PreviewWish, State
from krita_sd.wire.recipe import Recipe
from server.client import Client

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0
"""Seconds after which a test that waits has failed; generous, because machines are busy."""

LONG = {"steps": 150, "count": 20}
"""A job that does not end by itself within a test."""


@dataclass
class ServerProcess:
    """A running `python -m server`."""

    process: subprocess.Popen[str]
    url: str
    state: Path

    @property
    def token(self) -> str:
        return (self.state / "token").read_text().strip()

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1].split("/")[0])

    def client(self, session: str | None = None) -> Client:
        return Client(self.url, self.token, session=session, name="test")

    def children(self) -> list[int]:
        """Process ids of the workers."""
        return children(self.process.pid)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE)


def children(pid: int) -> list[int]:
    text = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(line) for line in text.split()]


def alive(pid: int) -> bool:
    """Whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **more}


def run_cli(*arguments: str | Path | int, **more: str) -> subprocess.CompletedProcess[str]:
    """`python -m server ...` to its end."""
    command = [sys.executable, "-m", "server", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE * 2, env=environment(**more)
    )


def launch(
    state: Path, *arguments: str | Path | int, program: Sequence[str] = ("-m", "server"), **more: str
) -> ServerProcess:
    """Start a server and wait until it says where it listens. program: what Python runs."""
    command = [sys.executable, *program, "--state", str(state), "--device", "cpu", *map(str, arguments)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(**more)
    )
    assert process.stdout is not None and process.stderr is not None
    line = process.stdout.readline()
    if "listening on " not in line:
        process.wait(PATIENCE)
        raise AssertionError(f"the server did not start: {line}{process.stderr.read()}")
    return ServerProcess(process, line.split("listening on ")[1].strip(), state)


@contextmanager
def running(
    state: Path, *arguments: str | Path, program: Sequence[str] = ("-m", "server"), **more: str
) -> Iterator[ServerProcess]:
    server = launch(state, *arguments, program=program, **more)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            try:
                server.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                server.kill()
        for stream in (server.process.stdout, server.process.stderr):
            if stream is not None:
                stream.close()


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Poll until `condition` is true; returns what it returned."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {PATIENCE:g} s")


@dataclass
class Outcome:
    """All events of one job."""

    states: list[State] = field(default_factory=list)
    results: list[ResultReady] = field(default_factory=list)
    previews: list[PreviewReady] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    progress: list[Any] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [state.state for state in self.states]

    @property
    def last(self) -> State:
        return self.states[-1]

    @property
    def terminals(self) -> list[State]:
        return [state for state in self.states if state.state in TERMINAL]


class Painter:
    """A client that sorts its events by job, as the plugin does."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.jobs: dict[str, Outcome] = {}
        self.events: list[Event] = []

    def submit(self, recipe: Recipe, pictures: tuple[Picture, ...] = (), job: str | None = None, **more: Any) -> str:
        job = job or str(uuid.uuid4())
        more.setdefault("previews", PreviewWish(level="off"))
        recipe = recipe.replace(model=recipe.model or self.tiny_model())
        self.client.core.submit(job, recipe, {picture.hash: picture for picture in pictures}, **more)
        self.client.flush()
        return job

    def tiny_model(self) -> str:
        """The first usable model that is not the embedded one, which is the default but takes longer."""
        assert self.client.core.welcome is not None
        models = self.client.core.welcome.models
        usable = [m for m in models if m["usable"] and m["kind"] == "checkpoint" and m["id"] != "pocket"]
        return str(usable[0]["id"]) if usable else ""

    def cancel(self, job: str) -> None:
        for event in self.client.core.cancel(job):
            self._sort(event)
        self.client.flush()

    def finish(self, job: str) -> None:
        for event in self.client.core.finish(job):
            self._sort(event)
        self.client.flush()

    def outcome(self, job: str) -> Outcome:
        return self.jobs.setdefault(job, Outcome())

    async def until(self, condition: Callable[[], bool], what: str = "what the test waits for") -> None:
        """Handle events until `condition` holds."""

        async def handle() -> None:
            while not condition():
                self._sort(await self.client.next_event())

        try:
            await asyncio.wait_for(handle(), PATIENCE)
        except asyncio.TimeoutError:
            states = {job: outcome.names for job, outcome in self.jobs.items()}
            raise AssertionError(f"{what} did not happen; states: {states}") from None

    async def ended(self, *jobs: str) -> Outcome:
        """Until these jobs have ended; the outcome of the first."""
        await self.until(lambda: all(self.outcome(job).terminals for job in jobs), f"the end of {jobs}")
        return self.outcome(jobs[0])

    async def reaches(self, job: str, state: str) -> None:
        await self.until(lambda: state in self.outcome(job).names, f"state {state} of {job}")

    async def quiet(self, seconds: float = 0.5) -> None:
        """Handle whatever still comes within that time (for showing that something does not come)."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                self._sort(await asyncio.wait_for(self.client.next_event(), left))
            except asyncio.TimeoutError:
                return

    def _sort(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, JobState):
            self.outcome(event.state.job).states.append(event.state)
        elif isinstance(event, ResultReady):
            self.outcome(event.result.job).results.append(event)
            self.client.core.stored(event.result.seq)
            self.client.flush()
        elif isinstance(event, PreviewReady):
            self.outcome(event.job).previews.append(event)
        elif isinstance(event, Refused):
            self.outcome(event.error.job or "").refused.append(event)
        elif hasattr(event, "progress"):
            self.outcome(event.progress.job).progress.append(event.progress)


def tiny(**changes: Any) -> Recipe:
    """A recipe that takes the tiny model a moment."""
    return Recipe(prompt="a red circle", width=64, height=64, steps=3, guidance=2.0, seed=5).replace(**changes)
