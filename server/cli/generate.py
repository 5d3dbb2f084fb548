# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m server generate`: a picture without Krita, over the same websocket as everybody else.

What reads and writes pictures is imported when it is needed: by then the server starts beside.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from krita_sd.wire.client import Event, JobLost, JobProgress, JobState, PreviewReady, Refused, ResultReady
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.messages import PreviewWish, State
from krita_sd.wire.places import state_dir
from krita_sd.wire.values import dump
from server.client import Client

from .arguments import machine_arguments
from .models import present_folders
from .spawn import own_server

if TYPE_CHECKING:
    from .request import Request

DONE, FAILED, BAD_ARGUMENTS, CANCELLED = 0, 1, 2, 130
CANCEL_SECONDS = 15.0
"""After Ctrl+C: how long the server may take to say that the job has ended."""


@dataclass
class _Run:
    """What has come back so far."""

    arguments: argparse.Namespace
    request: Request
    files: list[Path] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    previews: list[Path] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    started: float = field(default_factory=time.monotonic)


async def generate(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Run the command; `say` prints a line. Returns the exit status. Raises WireError for what failed."""
    if arguments.previews is not None:
        _make_folder(arguments.previews)
    cancel = asyncio.Event()
    with _on_interrupt(cancel):
        async with _server(arguments) as (url, token), Client(url, token, name="command line") as client:
            assert client.core.welcome is not None
            request = await asyncio.to_thread(_request, arguments, client.core.welcome.models)
            run = _Run(arguments, request)
            state = await _drive(client, run, cancel)
    if state.state == "cancelled":
        return CANCELLED
    if state.state == "failed":
        raise state.error or WireError(Code.INTERNAL, "The job failed.")
    if arguments.json:
        say(dump(_report(run)))
    else:
        for file in run.files:
            say(str(file))
    return DONE


def _request(arguments: argparse.Namespace, models: Sequence[dict[str, Any]]) -> Request:
    from .request import make_request

    return make_request(arguments, models)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WireError(Code.BAD_REQUEST, f"The folder {folder} cannot be made ({error.strerror}).") from None


@contextlib.contextmanager
def _on_interrupt(cancel: asyncio.Event):  # type: ignore[no-untyped-def]
    """Ctrl+C, and a polite request to leave, cancel the job; the server of our own is ended in any case."""
    loop = asyncio.get_running_loop()
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def interrupted(*_: object) -> None:
        if cancel.is_set():
            raise KeyboardInterrupt  # the second one does not wait
        loop.call_soon_threadsafe(cancel.set)

    for number in previous:
        signal.signal(number, interrupted)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.asynccontextmanager
async def _server(arguments: argparse.Namespace) -> AsyncIterator[tuple[str, str]]:
    if arguments.server is None:
        async with own_server(present_folders(arguments.models), machine_arguments(arguments)) as found:
            yield found
        return
    file = arguments.token_file or state_dir() / "token"
    try:
        token = file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise WireError(
            Code.BAD_REQUEST, f"The token file {file} cannot be read.", "Name it with --token-file."
        ) from None
    yield arguments.server, token


async def _drive(client: Client, run: _Run, cancel: asyncio.Event) -> State:
    """Submit and handle events until the job has ended."""
    job = str(uuid.uuid4())
    wish = PreviewWish(level="full", reliable=True) if run.arguments.previews else PreviewWish(level="off")
    client.core.submit(job, run.request.recipe, run.request.pictures, count=run.arguments.count, previews=wish)
    client.flush()
    interrupted = asyncio.create_task(cancel.wait())
    upcoming: asyncio.Task[Event] = asyncio.create_task(client.next_event())
    deadline: float | None = None
    try:
        while True:
            waiting = {upcoming} if deadline is not None else {upcoming, interrupted}
            timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
            done, _ = await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                return State(0, job, "cancelled")
            if interrupted in done and deadline is None:
                deadline = time.monotonic() + CANCEL_SECONDS
                for event in client.core.cancel(job):
                    if isinstance(event, JobState):
                        return event.state
                client.flush()
            if upcoming in done:
                over = await _event(client, run, job, upcoming.result())
                if over is not None:
                    return over
                upcoming = asyncio.create_task(client.next_event())
    finally:
        for task in (interrupted, upcoming):
            task.cancel()
        await asyncio.gather(interrupted, upcoming, return_exceptions=True)
        _progress("")


async def _event(client: Client, run: _Run, job: str, event: Event) -> State | None:
    """Handle one event; the terminal state when the job has ended."""
    if isinstance(event, JobState) and event.state.job == job:
        _progress(event.state.state)
        return event.state if event.state.state in ("done", "cancelled", "failed") else None
    if isinstance(event, JobProgress):
        of = f" of picture {event.progress.index + 1}" if run.arguments.count > 1 else ""
        doing = "step" if event.progress.state == "sampling" else event.progress.state
        _progress(f"{doing} {event.progress.step} of {event.progress.total}{of}")
    elif isinstance(event, PreviewReady) and run.arguments.previews is not None:
        await asyncio.to_thread(_save_preview, run, event)
    elif isinstance(event, ResultReady):
        await asyncio.to_thread(_save_result, run, event)
        client.core.stored(event.result.seq)
        client.flush()
    elif isinstance(event, JobLost):
        raise WireError(Code.INTERRUPTED, "The server was restarted and lost the job.", "Try again.")
    elif isinstance(event, Refused):
        raise event.error
    return None


def _save_preview(run: _Run, event: PreviewReady) -> None:
    from . import images

    file = run.arguments.previews / f"{event.index + 1:03d}-{event.step:03d}.png"
    images.write_png(file, images.from_picture(event.picture), {})
    run.previews.append(file)


def _save_result(run: _Run, event: ResultReady) -> None:
    from . import images

    result = event.result
    pixels = images.from_picture(event.picture)
    if run.request.base is not None:
        pixels = images.composited(run.request.base, pixels, run.request.region)
    out: Path = run.arguments.out
    file = out if run.arguments.count == 1 else out.with_name(f"{out.stem}-{result.index + 1}{out.suffix}")
    more: dict[str, Any] = {"steps_run": result.steps_run, "partial": result.partial}
    images.write_png(file, pixels, images.texts_of(result.recipe, run.request.model_name, more))
    run.files.append(file)
    for side, read in result.reading.items():
        _tell(run, side, read)
    for phase, value in result.ms.items():
        run.phases[phase] = round(run.phases.get(phase, 0.0) + float(value), 3)
    run.images.append(
        {"file": str(file), "recipe": result.recipe.to_json(), "ms": result.ms, **more, "computed": result.computed}
        | {"reading": result.reading}
    )


def _tell(run: _Run, side: str, read: Any) -> None:
    """Say once on stderr what of a prompt was ignored."""
    ignored = read.get("ignored") if isinstance(read, dict) else None
    if not isinstance(ignored, list) or not ignored:
        return
    where = "prompt" if side == "prompt" else "negative prompt"
    text = f"Ignored in the {where}: {', '.join(str(part) for part in ignored)}."
    if text not in run.told:
        run.told.add(text)
        _progress("")
        sys.stderr.write(text + "\n")


def _report(run: _Run) -> dict[str, Any]:
    return {
        "recipe": run.images[0]["recipe"] if run.images else run.request.recipe.to_json(),
        "phases": {**run.phases, "total": round((time.monotonic() - run.started) * 1000, 3)},
        "steps_run": sum(image["steps_run"] for image in run.images),
        "previews": len(run.previews),
        "files": [str(file) for file in run.files],
        "images": run.images,
    }


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()
