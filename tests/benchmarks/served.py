# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows 1, 4, 5 and 12 of the targets: a real server in its own process, reached over the real websocket, against
diffusers' pipeline called in this process; the same model, steps, size, seed and number of threads."""

from __future__ import annotations

import asyncio
import os
import secrets
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from krita_sd.wire.client import JobProgress, JobState, PreviewReady, ResultReady, is_over
from krita_sd.wire.frames import Picture
from krita_sd.wire.messages import PreviewWish
from krita_sd.wire.recipe import Recipe
from server.client import Client
from tests.benchmarks.setup import ROOT, Setup
from tests.benchmarks.table import Row, interleave, ratio, timed

PROMPT = "a yellow star on a purple background"
SEED = 1

END_TO_END = {"SD1.5": 0.45, "SDXL": 0.70}
"""Targets of row 1 on a card; on the processor there is one for every model."""


class Server:
    """A real server process with its own state folder, and one client session with it."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.recipe: Recipe
        """The picture of every row; of this server's model."""
        self._folder = tempfile.TemporaryDirectory(prefix="krita-sd-benchmark-")
        self._process: asyncio.subprocess.Process | None = None
        self.client: Client

    async def __aenter__(self) -> Server:
        state = Path(self._folder.name)
        token = state / "given-token"
        token.write_text(secrets.token_hex(16))
        command = ["-m", "server", "--port", "0", "--state", str(state), "--token-file", str(token)]
        command += self.setup.machine
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(self.setup.threads)},
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        line = (await self._process.stdout.readline()).decode().strip()
        if not line.startswith("listening on "):
            raise RuntimeError(f"the server said {line!r}")
        self.client = Client(line.removeprefix("listening on "), token.read_text())
        await self.client.__aenter__()
        self.recipe = Recipe(
            model=self._model(),
            prompt=PROMPT,
            width=self.setup.side,
            height=self.setup.side,
            steps=self.setup.steps,
            guidance=self.setup.guidance,
            seed=SEED,
        )
        return self

    def _model(self) -> str:
        """The id of this setup's model in the server's list; "" is the embedded one."""
        if not self.setup.title:
            return ""
        assert self.client.core.welcome is not None
        for model in self.client.core.welcome.models:
            if model["name"] == self.setup.title:
                return str(model["id"])
        raise RuntimeError(f"the server does not list the model {self.setup.title}")

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            await self._process.wait()
        self._folder.cleanup()

    async def run(
        self, recipe: Recipe, previews: str, count: int = 1, seen: Callable[[Any], None] | None = None
    ) -> list[Picture]:
        """Submit and wait for the end; every result arrives complete. A preview after every step unless off."""
        job = uuid.uuid4().hex
        wish = PreviewWish(previews, self.setup.side**2, reliable=previews != "off")
        self.client.core.submit(job, recipe, count=count, previews=wish)
        self.client.flush()
        pictures = []
        while True:
            event = await self.client.next_event()
            if seen is not None:
                seen(event)
            if isinstance(event, ResultReady):
                pictures.append(event.picture)
                self.client.core.stored(event.result.seq)
            if isinstance(event, JobState) and event.state.job == job and is_over(event.state):
                if event.state.error is not None:
                    raise event.state.error
                return pictures


class Bare:
    """diffusers' own pipeline, as a script would use it."""

    def __init__(self, setup: Setup) -> None:
        import torch
        from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler

        torch.set_num_threads(setup.threads)
        self._setup, self._torch = setup, torch
        dtype = getattr(torch, setup.dtype)
        self._pipe = DiffusionPipeline.from_pretrained(str(setup.folder), dtype=dtype, local_files_only=True)
        self._pipe.to(setup.device)
        # The sampler of the server's default for these models.
        self._pipe.scheduler = DPMSolverMultistepScheduler.from_config(self._pipe.scheduler.config)
        self._pipe.set_progress_bar_config(disable=True)

    def images(self, count: int = 1) -> list[Any]:
        """So many pictures in one call, of the seeds SEED, SEED + 1, ..."""
        generators = [self._torch.Generator().manual_seed(SEED + index) for index in range(count)]
        out = self._pipe(
            PROMPT,
            width=self._setup.side,
            height=self._setup.side,
            num_inference_steps=self._setup.steps,
            guidance_scale=self._setup.guidance,
            generator=generators,
            num_images_per_prompt=count,
        )
        return list(out.images)

    async def run(self, count: int = 1) -> None:
        self.images(count)


async def end_to_end(server: Server, bare: Bare, rounds: int) -> list[Row]:
    """Targets 1 and 4: everything through the websocket with a preview every step, and what the previews cost."""
    setup, recipe = server.setup, server.recipe
    steps: list[int] = []

    def count(event: Any) -> None:
        if isinstance(event, PreviewReady):
            steps.append(event.step)

    (picture,) = await server.run(recipe, setup.previews, seen=count)
    if steps != list(range(1, setup.steps + 1)):
        raise RuntimeError(f"expected a preview after every step, got {steps}")
    theirs = bare.images()[0].convert("RGBA").tobytes("raw", "BGRA")
    difference = max(abs(a - b) for a, b in zip(picture.data, theirs))
    seconds = await interleave(
        {
            "websocket": lambda: timed(server.run(recipe, setup.previews)),
            "no previews": lambda: timed(server.run(recipe, "off")),
            "bare pipe()": lambda: timed(bare.run()),
        },
        rounds,
    )
    target = END_TO_END.get(setup.title) if setup.card else 1.03
    name = setup.named("1  end to end, preview every step / bare pipe()")
    first = ratio(name, seconds, "websocket", "bare pipe()", target)
    name = setup.named(f"4  with {setup.previews} previews / without")
    previews = ratio(name, seconds, "websocket", "no previews", 1.01)
    # In half precision the order of additions differs between the arms, and no target says how much that may show.
    name = setup.named("   largest difference of any channel, both arms")
    same = Row(name, difference, "of 255", None if setup.card else 1)
    return [first, same, previews]


async def cancel(server: Server, rounds: int) -> list[Row]:
    """Target 5: from the cancel to the machine being free, in steps of this job."""
    latencies = []
    await server.run(server.recipe, "off")  # the model is loaded by then: what loading tells counts no steps
    long = server.recipe.replace(steps=60)
    for number in range(rounds):
        at: dict[str, float] = {}
        times: list[float] = []

        def seen(event: Any, wanted: int = 5 + number, at: dict[str, float] = at, times: list[float] = times) -> None:
            if isinstance(event, JobProgress):
                times.append(time.perf_counter())
                if event.progress.step >= wanted and "cancel" not in at:
                    at["cancel"] = time.perf_counter()
                    server.client.core.cancel(event.progress.job)
                    server.client.flush()

        await server.run(long, "off", seen=seen)
        end = time.perf_counter()
        gaps = [later - earlier for earlier, later in zip(times, times[1:])]
        latencies.append((end - at["cancel"]) / statistics.median(gaps))
    latencies.sort()
    other = {"worst": latencies[-1], "best": latencies[0]}
    return [Row(server.setup.named("5  cancel to machine free"), statistics.median(latencies), "steps", 1.2, other)]


async def many(server: Server, bare: Bare, rounds: int) -> list[Row]:
    """Target 12: eight variations, time to the first picture and in all."""
    firsts: list[float] = []

    async def ours() -> float:
        start = time.perf_counter()
        first: list[float] = []

        def seen(event: Any) -> None:
            if isinstance(event, ResultReady) and not first:
                first.append(time.perf_counter() - start)

        await server.run(server.recipe, server.setup.previews, count=8, seen=seen)
        firsts.extend(first)
        return time.perf_counter() - start

    seconds = await interleave({"websocket": ours, "bare pipe()": lambda: timed(bare.run(8))}, rounds)
    setup = server.setup
    name = setup.named("12 eight variations, all / pipe(num_images=8)")
    total = ratio(name, seconds, "websocket", "bare pipe()", None)
    value = statistics.median(firsts) / statistics.median(seconds["bare pipe()"])
    name = setup.named("12 eight variations, first picture / pipe(num_images=8)")
    return [Row(name, value, "x", None if setup.card else 0.2), total]
