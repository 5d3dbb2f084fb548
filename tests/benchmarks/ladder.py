# SPDX-License-Identifier: GPL-3.0-or-later
"""What a model takes on every rung of the memory ladder: step time, peak memory, and what the estimate says of it."""

from __future__ import annotations

import statistics
import time
from typing import Any

from tests.benchmarks.cards import wait
from tests.benchmarks.setup import Setup
from tests.benchmarks.table import Row

STEPS = 4
GB = 1e9


def ladder(setup: Setup) -> list[Row]:
    """One row per rung from the first that the device can hold: a picture of STEPS steps of `setup`'s model, loaded
    once and stepped down as a worker does it. A rung on which memory runs out is left out, with a printed sentence."""
    import torch

    from server.diffusion.residency import Residency
    from server.library.memory import RUNGS, Load, judge, weights_of
    from server.worker.device import free_memory, is_out_of_memory, release
    from server.worker.models import parts_of

    weights = weights_of(setup.folder)
    # Flux has its guidance as an input; the others run two pictures at once.
    load = Load(setup.family, weights, setup.side, setup.side, setup.family != "flux1", _itemsize(setup))
    offloading = setup.device != "cpu"
    first = judge(load, free_memory(setup.device), offloading).rung if offloading else RUNGS[0]
    outside = RUNGS.index(first) >= RUNGS.index("model")
    model: Any = _loaded(setup, outside)
    residency = Residency(parts_of(model), torch.device(setup.device), outside)
    rows = []
    for rung in RUNGS[RUNGS.index("model") if outside else 0 :]:
        try:
            residency.step_to(rung)
            rows.append(_row(setup, model, rung, load))
        except Exception as error:  # every device has its own type for it; all else goes on
            if not is_out_of_memory(error):
                raise
            print(f"{setup.title} does not fit on the rung {rung}.")
        release(setup.device)
    model.unload()
    release(setup.device)
    return rows


def _loaded(setup: Setup, outside: bool) -> Any:
    import torch

    from server.diffusion import load_model

    dtype = getattr(torch, setup.dtype)
    model: Any = load_model(setup.folder, setup.family, "cpu" if outside else setup.device, dtype)
    if outside:
        model.compute_on(torch.device(setup.device))
    return model


def _row(setup: Setup, model: Any, rung: str, load: Any) -> Row:
    import torch

    from server.diffusion import Task, generate
    from server.library.memory import peak

    guidance = 3.5 if setup.family == "flux1" else 5.0
    side = setup.side
    task = Task(
        "a red boat", guidance=guidance, sampler="Euler", total_steps=STEPS, width=side, height=side, preview="off"
    )
    times: list[float] = []

    def step(_: Any) -> None:
        wait(setup.device)
        times.append(time.perf_counter())

    if setup.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    generate(model, task, on_step=step)
    gaps = [later - earlier for earlier, later in zip(times, times[1:])]
    counts = load.weights
    stored = load.itemsize * counts.all - (counts.denoiser * (load.itemsize - 1) if rung == "fp8" else 0)
    other = {"weights (GB)": stored / GB, "estimate (GB)": peak(load, rung) / GB}
    if setup.device == "cuda":
        other["peak (GB)"] = torch.cuda.max_memory_allocated() / GB
    name = f"{setup.title} {setup.dtype} {setup.side}^2, {rung}: step"
    return Row(f"M  {name}", statistics.median(gaps) * 1e3, "ms", None, other)


def _itemsize(setup: Setup) -> int:
    import torch

    return int(getattr(torch, setup.dtype).itemsize)
