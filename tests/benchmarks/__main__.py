# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the rows of the table of targets and prints them with target and verdict.

On the processor with the embedded model and tiny random ones; with --device cuda with random SD1.5, SDXL and Flux of
full size, which are written into a temporary folder (up to 34 GB at a time). --sizes tiny is a dry run of those rows
with tiny models, also on the processor: it shows that they run, and judges nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from tests.benchmarks import models
from tests.benchmarks.columns import CARD, MEMORY, PROCESSOR, Bench, Column
from tests.benchmarks.setup import ROOT, Setup, embedded
from tests.benchmarks.table import Row, save, show

OUTPUT = ROOT / "tests" / "output" / "benchmarks.json"
DRY_STROKE = 1.0
"""Seconds of the pen in a dry run."""


def refusal(options: argparse.Namespace) -> str:
    """Why these options make no run, in a sentence; "" when they do."""
    if options.device == "cpu":
        full = "Models of full size would take hours on the processor: leave --sizes out, or use --sizes tiny."
        return full if options.sizes == "full" else ""
    import torch

    if torch.cuda.is_available():
        return ""
    return "PyTorch finds no CUDA device here. Install a build with CUDA, or try --device cpu --sizes tiny."


def setup_of(title: str, options: argparse.Namespace, root: Path) -> Setup:
    """The random model `title` as the card's column runs it, written into `root`."""
    tiny = options.sizes == "tiny"
    # The flow models were trained in bfloat16; half precision is slow on processors.
    dtype = "float32" if options.device == "cpu" else "bfloat16" if title == "Flux" else "float16"
    folder = models.write_model(root, title, "tiny" if tiny else "full", options.device, dtype)
    side = models.side_of(title, "tiny" if tiny else "full")
    common = Setup(folder, models.FAMILIES[title], title, options.device, dtype, side, threads=options.threads)
    return replace(common, previews="half", first_side=side, card=True)


class Report:
    """Collects rows, prints them as they come, and keeps them in a file when a later one fails."""

    def __init__(self, options: argparse.Namespace, judged: bool) -> None:
        self.rows: list[Row] = []
        self._file, self._judged = options.json, judged
        self._settings = {"device": options.device, "threads": options.threads, "rounds": options.rounds}
        self._settings |= {"sizes": options.sizes or "", "dry_run": not judged}
        self._settings |= {"load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None}

    async def measure(self, column: Column, rows: str, bench: Bench) -> None:
        self._settings |= {f"{bench.setup.title or 'embedded'} side": bench.setup.side, "steps": bench.setup.steps}
        for covered, measure in column.chosen(rows, bench.setup.title):
            if MEMORY in covered:
                await bench.undo.aclose()  # its peak is that of the model alone
                bench.forget()
                gc.collect()
            begun = time.perf_counter()
            found = await measure(bench)
            found = found if self._judged else [replace(row, target=None) for row in found]
            self.rows += found
            print(show(found), flush=True)
            print(f"   (rows {', '.join(covered)}: {time.perf_counter() - begun:.0f} s)", flush=True)
            save(self.rows, self._file, self._settings)


async def main(options: argparse.Namespace) -> None:
    """Measure the column that the options name."""
    if options.device == "cpu" and options.sizes is None:
        report = Report(options, judged=True)
        async with AsyncExitStack() as undo:
            bench = Bench(embedded(options.threads), options.rounds, undo)
            await report.measure(PROCESSOR, options.rows, bench)
    else:
        report = Report(options, judged=options.sizes != "tiny")
        await _card(options, report)
    print(show(report.rows))
    if options.sizes == "tiny":
        print("This was a dry run with tiny models: the numbers say nothing about a card, and none was judged.")
    print(f"written to {options.json}")


async def _card(options: argparse.Namespace, report: Report) -> None:
    for title in models.FAMILIES:
        if not CARD.chosen(options.rows, title):
            continue
        with tempfile.TemporaryDirectory(prefix="krita-sd-benchmark-") as folder:
            begun = time.perf_counter()
            setup = setup_of(title, options, Path(folder))
            print(f"{title}: random model written in {time.perf_counter() - begun:.0f} s", flush=True)
            async with AsyncExitStack() as undo:
                bench = Bench(setup, options.rounds, undo)
                if options.sizes == "tiny":
                    bench.stroke = DRY_STROKE
                await report.measure(CARD, options.rows, bench)
        gc.collect()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", default="", help=f"of the table of targets, such as 2,7, or {MEMORY}; default: all")
    parser.add_argument("--threads", type=int, default=1, help="of the model, in both arms")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: random models of full size")
    parser.add_argument("--sizes", choices=("full", "tiny"), help="tiny: a dry run of the card's rows, also with cpu")
    parser.add_argument("--json", type=Path, default=OUTPUT)
    given = parser.parse_args()
    column = PROCESSOR if given.device == "cpu" and given.sizes is None else CARD
    try:
        column.chosen(given.rows)
        problem = refusal(given)
    except ValueError as error:
        problem = str(error)
    if problem:
        parser.error(problem)
    asyncio.run(main(given))
