# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows 9 and 10 and Live's frames per second: one UNet call and one frame alone, without server and sampler.

On a processor (a dry run) the same calls run without graphs, and their numbers say nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks.setup import Setup
from tests.benchmarks.table import Row

PEAK = 790e12
"""Dense half-precision operations per second that an H200 reaches in practice."""

SHARES = {"SD1.5": 0.35, "SDXL": 0.45}
"""Targets of row 10."""


def unet_inputs(unet: Any, batch: int, side: int) -> tuple[Any, dict[str, Any]]:
    """Random latents (batch, channels, side/8, side/8) for a UNet of SD1.5 or SDXL, and what else it is told."""
    import torch

    config, like = unet.config, {"device": unet.device, "dtype": unet.dtype}
    more: dict[str, Any] = {"encoder_hidden_states": torch.randn(batch, 77, config.cross_attention_dim, **like)}
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        sizes = torch.zeros(batch, 6, **like)
        more["added_cond_kwargs"] = {"text_embeds": torch.randn(batch, pooled, **like), "time_ids": sizes}
    return torch.randn(batch, config.in_channels, side // 8, side // 8, **like), more


def operations(work: Callable[[], Any]) -> int:
    """Floating-point operations of one call, counted: an addition and a multiplication are two."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def unet_rows(setup: Setup, rounds: int) -> list[Row]:
    """Rows 9 and 10: host time per step, graphed and eager, and the share of the card's peak; SD1.5 also its frames."""
    import torch

    from server.diffusion import load_model

    with torch.inference_mode():
        model: Any = load_model(setup.folder, setup.family, setup.device, getattr(torch, setup.dtype))
        rows = _steps(setup, model.unet, rounds)
        if setup.family == "sd1":
            rows.append(_live_rate(setup, model.unet, model.tiny_decoder, rounds))
        return rows


def _steps(setup: Setup, unet: Any, rounds: int) -> list[Row]:
    import torch

    from server.diffusion.live_graph import Steps

    latents, more = unet_inputs(unet, 2, setup.side)
    when = torch.tensor(500.0, device=unet.device)

    def step(index: int, latents: Any) -> Any:
        return unet(latents, when, return_dict=False, **more)[0]

    steps = Steps(step, 0, 1, latents)

    def call() -> Any:
        return steps(0, latents)

    for _ in range(3):
        call()
    eager, count = host_seconds(call, rounds, setup.device), operations(call)
    steps.advance()
    if setup.device == "cuda" and not steps.captured:
        raise RuntimeError("the step could not be captured")
    graphed, busy = host_seconds(call, rounds, setup.device), device_seconds(call, rounds, setup.device)
    other = {"step (ms)": busy * 1e3, "TFLOP": count / 1e12}
    share = count / busy / PEAK
    return [
        Row(setup.named("9  host time per step, graphed"), graphed * 1e3, "ms", 0.3, {"eager (ms)": eager * 1e3}),
        Row(setup.named("10 batch 2, share of the peak"), share, "x", SHARES.get(setup.title), other, at_least=True),
    ]


def _live_rate(setup: Setup, unet: Any, tiny: Any, rounds: int) -> Row:
    """Frames of one step at the model's size: TAESD, UNet, TAESD, and the bytes back on the host."""
    import torch

    from server.diffusion.live_graph import CopyBack, Steps

    _, told = unet_inputs(unet, 1, setup.side)
    when = torch.tensor(500.0, device=unet.device)
    pixels = torch.zeros(1, 3, setup.side, setup.side, device=unet.device, dtype=unet.dtype)

    def step(index: int, latents: Any) -> Any:
        return unet(latents, when, return_dict=False, **told)[0]

    steps = Steps(step, 0, 1, tiny.encode(pixels).latents)
    copy_back = CopyBack(unet.device)

    def frame() -> None:
        out = tiny.decode(steps(0, tiny.encode(pixels).latents)).sample[0]
        shown = (out * 127.5 + 127.5).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous()
        copy_back(shown, torch.isfinite(out).all())

    frame()
    steps.advance()
    seconds = host_seconds(frame, max(rounds, 20), setup.device)
    name = setup.named(f"2  live frames per second at one step, {setup.side}^2")
    return Row(name, 1.0 / seconds, "fps", 150.0, at_least=True)


def wait(device: str) -> None:
    """Until a card has done what it was given; nothing to wait for on a processor."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def host_seconds(work: Callable[[], Any], rounds: int, device: str) -> float:
    """Median time until `work` returns; a card may still be busy with it."""
    times = []
    for _ in range(rounds):
        wait(device)
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def device_seconds(work: Callable[[], Any], rounds: int, device: str) -> float:
    """Median time that the device takes for `work`: between two events on a card."""
    import torch

    if device != "cuda":
        return host_seconds(work, rounds, device)
    times = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1000.0)
    return statistics.median(times)
