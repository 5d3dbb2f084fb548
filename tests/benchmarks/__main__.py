# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the rows of the table of targets and prints them with target and verdict.

Both arms use the embedded model, the same steps, size and seed, the same number of threads. Ours is a real server in
its own process, reached over the real websocket; the other is diffusers' pipeline called in this process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from krita_sd.wire.client import JobProgress, JobState, PreviewReady, ResultReady, is_over
from krita_sd.wire.frames import Picture
from krita_sd.wire.messages import PreviewWish
from krita_sd.wire.recipe import Recipe
from server.client import Client
from tests.benchmarks import cards, live
from tests.benchmarks.table import Row, interleave, ratio, save, show, timed

ROOT = Path(__file__).resolve().parents[2]
POCKET = ROOT / "server" / "pocket"
OUTPUT = ROOT / "tests" / "output" / "benchmarks.json"
NATIVE = json.loads((POCKET / "krita_sd.json").read_text(encoding="utf-8"))["native"]
SIDE = min(256, int(NATIVE["max_pixels"] ** 0.5))
"""Within the model's native range, so that both arms render the same pixels."""
STEPS = 12
GUIDANCE = 3.0
RECIPE = Recipe(
    prompt="a yellow star on a purple background", width=SIDE, height=SIDE, steps=STEPS, guidance=GUIDANCE, seed=1
)


class Server:
    """A real server process with its own state folder, and one client session with it."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._folder = tempfile.TemporaryDirectory(prefix="krita-sd-benchmark-")
        self._process: asyncio.subprocess.Process | None = None
        self.client: Client

    async def __aenter__(self) -> Server:
        state = Path(self._folder.name)
        token = state / "given-token"
        token.write_text(secrets.token_hex(16))
        command = ["-m", "server", "--port", "0", "--device", "cpu", "--state", str(state), "--token-file", str(token)]
        # By itself the server takes bfloat16 where that is much faster; the other arm computes in float32.
        command += ["--dtype", "float32"]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *command,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(self._threads)},
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        line = (await self._process.stdout.readline()).decode().strip()
        if not line.startswith("listening on "):
            raise RuntimeError(f"the server said {line!r}")
        self.client = Client(line.removeprefix("listening on "), token.read_text())
        await self.client.__aenter__()
        return self

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
        wish = PreviewWish(previews, SIDE * SIDE, reliable=previews != "off")
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

    def __init__(self, threads: int) -> None:
        import torch
        from diffusers import StableDiffusionPipeline

        torch.set_num_threads(threads)
        self._torch = torch
        self._pipe = StableDiffusionPipeline.from_pretrained(str(POCKET), local_files_only=True)
        self._pipe.to(torch.float32)
        self._pipe.set_progress_bar_config(disable=True)

    def images(self, count: int = 1) -> list[Any]:
        generators = [self._torch.Generator().manual_seed(RECIPE.seed + index) for index in range(count)]
        out = self._pipe(
            RECIPE.prompt,
            width=SIDE,
            height=SIDE,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            generator=generators,
            num_images_per_prompt=count,
        )
        return list(out.images)

    async def run(self, count: int = 1) -> None:
        self.images(count)


async def end_to_end(server: Server, bare: Bare, rounds: int) -> list[Row]:
    """Targets 1 and 4: everything through the websocket with a preview every step, and what the previews cost."""
    steps: list[int] = []

    def count(event: Any) -> None:
        if isinstance(event, PreviewReady):
            steps.append(event.step)

    (picture,) = await server.run(RECIPE, "rgb", seen=count)
    if steps != list(range(1, STEPS + 1)):
        raise RuntimeError(f"expected a preview after every step, got {steps}")
    theirs = bare.images()[0].convert("RGBA").tobytes("raw", "BGRA")
    difference = max(abs(a - b) for a, b in zip(picture.data, theirs))
    seconds = await interleave(
        {
            "websocket": lambda: timed(server.run(RECIPE, "rgb")),
            "no previews": lambda: timed(server.run(RECIPE, "off")),
            "bare pipe()": lambda: timed(bare.run()),
        },
        rounds,
    )
    first = ratio("1  end to end, preview every step / bare pipe()", seconds, "websocket", "bare pipe()", 1.03)
    previews = ratio("4  with rgb previews / without", seconds, "websocket", "no previews", 1.01)
    same = Row("   largest difference of any channel, both arms", difference, "of 255", 1)
    return [first, same, previews]


async def cancel(server: Server, rounds: int) -> list[Row]:
    """Target 5: from the cancel to the machine being free, in steps of this job."""
    latencies = []
    long = RECIPE.replace(steps=60)
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
    return [Row("5  cancel to machine free", statistics.median(latencies), "steps", 1.2, other)]


async def many(server: Server, bare: Bare, rounds: int) -> list[Row]:
    """Target 12: eight variations, time to the first picture and in all."""
    firsts: list[float] = []

    async def ours() -> float:
        start = time.perf_counter()
        first: list[float] = []

        def seen(event: Any) -> None:
            if isinstance(event, ResultReady) and not first:
                first.append(time.perf_counter() - start)

        await server.run(RECIPE, "rgb", count=8, seen=seen)
        firsts.extend(first)
        return time.perf_counter() - start

    seconds = await interleave({"websocket": ours, "bare pipe()": lambda: timed(bare.run(8))}, rounds)
    total = ratio("12 eight variations, all / pipe(num_images=8)", seconds, "websocket", "bare pipe()", None)
    value = statistics.median(firsts) / statistics.median(seconds["bare pipe()"])
    return [Row("12 eight variations, first picture / pipe(num_images=8)", value, "x", 0.2), total]


@dataclass
class Bench:
    """What the rows of one run share; server and pipeline are started by the first that needs them."""

    rounds: int
    threads: int
    undo: AsyncExitStack
    _server: Server | None = None
    _bare: Bare | None = None

    async def server(self) -> Server:
        if self._server is None:
            self._server = await self.undo.enter_async_context(Server(self.threads))
        return self._server

    def bare(self) -> Bare:
        self._bare = self._bare or Bare(self.threads)
        return self._bare

    @property
    def few(self) -> int:
        """Rounds of what takes long."""
        return max(2, self.rounds // 2)


Measure = Callable[[Bench], Awaitable[list[Row]]]


async def _end_to_end(bench: Bench) -> list[Row]:
    return await end_to_end(await bench.server(), bench.bare(), bench.rounds)


async def _cancel(bench: Bench) -> list[Row]:
    return await cancel(await bench.server(), bench.rounds)


async def _many(bench: Bench) -> list[Row]:
    return await many(await bench.server(), bench.bare(), max(2, bench.rounds // 3))


async def _replay(bench: Bench) -> list[Row]:
    return await live.replay(await bench.server(), SIDE)


async def _frames(bench: Bench) -> list[Row]:
    return [*await live.frames(bench.rounds), *await live.embedded_frames(bench.rounds)]


async def _bytes(bench: Bench) -> list[Row]:
    return [live.bytes_of_a_stroke()]


MEASURES: dict[tuple[int, ...], Measure] = {
    (1, 4): _end_to_end,
    (5,): _cancel,
    (12,): _many,
    (3,): _replay,
    (2, 8): _frames,
    (11,): lambda bench: live.selection(bench.rounds),
    (6,): _bytes,
    (7,): lambda bench: live.first_image(bench.few),
}
"""What measures which rows of the table of targets, in the order in which they run."""


def chosen(rows: str) -> list[tuple[tuple[int, ...], Measure]]:
    """The measures of rows such as "2,7"; all of them for "". Raises ValueError with a sentence."""
    wanted = {int(row) for row in rows.split(",") if row.strip()}
    unknown = wanted - {row for covered in MEASURES for row in covered}
    if unknown:
        known = ", ".join(str(row) for row in sorted(row for covered in MEASURES for row in covered))
        raise ValueError(f"There is no row {min(unknown)} on the processor; there are {known}.")
    return [(covered, measure) for covered, measure in MEASURES.items() if not wanted or wanted & set(covered)]


async def main(options: argparse.Namespace) -> None:
    if options.device == "cuda":
        rows = cards.measure(options.rounds)
        print(show(rows))
        save(rows, options.json, {"device": "cuda", "rounds": options.rounds})
        return
    settings = {"threads": options.threads, "rounds": options.rounds, "side": SIDE, "steps": STEPS}
    settings |= {"load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None}
    rows = []
    async with AsyncExitStack() as undo:
        bench = Bench(options.rounds, options.threads, undo)
        for covered, measure in chosen(options.rows):
            begun = time.perf_counter()
            found = await measure(bench)
            rows += found
            print(show(found), flush=True)
            print(f"   (rows {', '.join(map(str, covered))}: {time.perf_counter() - begun:.0f} s)", flush=True)
            save(rows, options.json, settings)  # what was measured is kept when a later row fails
    print(show(rows))
    print(f"written to {options.json}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", default="", help="numbers of the table of targets, such as 2,7; all when left out")
    parser.add_argument("--threads", type=int, default=1, help="of the model, in both arms")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: full-size random models")
    parser.add_argument("--json", type=Path, default=OUTPUT)
    asyncio.run(main(parser.parse_args()))
