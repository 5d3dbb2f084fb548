# SPDX-License-Identifier: GPL-3.0-or-later
"""The column of a CUDA card: full-size SD1.5 and SDXL with random weights; rows 2, 9 and 10 of the targets."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks.table import Row

PEAK = 790e12
"""Dense half-precision operations per second that an H200 reaches in practice."""

TFLOP = {"SD1.5": 1.61e12, "SDXL": 13.5e12}
"""Operations of one UNet call with batch 2 at 512^2 and 1024^2."""


def unet_of(kind: str) -> tuple[Any, tuple[int, ...], dict[str, Any]]:
    """A random UNet in half precision, its latents' shape for batch 2, and what else it is told."""
    import torch
    from diffusers import UNet2DConditionModel

    common: dict[str, Any] = {"in_channels": 4, "out_channels": 4, "layers_per_block": 2}
    with torch.device("cuda"):
        if kind == "SD1.5":
            unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8, **common)
            more: dict[str, Any] = {"encoder_hidden_states": torch.randn(2, 77, 768).half()}
            shape: tuple[int, ...] = (2, 4, 64, 64)
        else:
            unet = UNet2DConditionModel(
                sample_size=128,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                block_out_channels=(320, 640, 1280),
                transformer_layers_per_block=(1, 2, 10),
                attention_head_dim=(5, 10, 20),
                cross_attention_dim=2048,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=2816,
                **common,
            )
            added = {"text_embeds": torch.randn(2, 1280).half(), "time_ids": torch.zeros(2, 6).half()}
            more = {"encoder_hidden_states": torch.randn(2, 77, 2048).half(), "added_cond_kwargs": added}
            shape = (2, 4, 128, 128)
    return unet.half().eval().requires_grad_(False), shape, more


def _device_seconds(work: Callable[[], Any], rounds: int) -> float:
    import torch

    times = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1000.0)
    return statistics.median(times)


def _host_seconds(work: Callable[[], Any], rounds: int) -> float:
    import torch

    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def measure(rounds: int) -> list[Row]:
    """Host time per step, graphed and eager, share of the card's peak, and live frames per second of SD1.5."""
    import torch

    with torch.inference_mode():
        return [row for kind, share in (("SD1.5", 0.35), ("SDXL", 0.45)) for row in _unet_rows(kind, share, rounds)]


def _unet_rows(kind: str, target: float, rounds: int) -> list[Row]:
    import torch
    from diffusers import AutoencoderTiny

    from server.diffusion.live_graph import Steps

    unet, shape, more = unet_of(kind)
    when = torch.tensor(500.0, device="cuda")

    def step(index: int, latents: Any) -> Any:
        return unet(latents, when, return_dict=False, **more)[0]

    latents = torch.randn(shape, device="cuda").half()
    steps = Steps(step, 0, 1, latents)

    def call() -> Any:
        return steps(0, latents)

    for _ in range(3):
        call()
    eager = _host_seconds(call, rounds)
    steps.advance()
    if not steps.captured:
        raise RuntimeError("the step could not be captured")
    graphed, busy = _host_seconds(call, rounds), _device_seconds(call, rounds)
    share = TFLOP[kind] / busy / PEAK
    rows = [
        Row(f"9  {kind} host time per step, graphed", graphed * 1e3, "ms", 0.3, {"eager (ms)": eager * 1e3}),
        Row(f"10 {kind} batch 2, share of the peak", share, "x", target, {"step (ms)": busy * 1e3}, at_least=True),
    ]
    if kind == "SD1.5":
        rows.append(_live_rate(unet, more, AutoencoderTiny().cuda().half().eval(), rounds))
    return rows


def _live_rate(unet: Any, more: dict[str, Any], tiny: Any, rounds: int) -> Row:
    """Frames of one step at 512^2: TAESD, UNet, TAESD, and the bytes back on the host."""
    import torch

    from server.diffusion.live_graph import CopyBack, Steps

    one = {"encoder_hidden_states": more["encoder_hidden_states"][:1]}
    when = torch.tensor(500.0, device="cuda")
    pixels = torch.zeros(1, 3, 512, 512, device="cuda").half()

    def step(index: int, latents: Any) -> Any:
        return unet(latents, when, return_dict=False, **one)[0]

    steps = Steps(step, 0, 1, tiny.encode(pixels).latents)
    copy_back = CopyBack(torch.device("cuda"))

    def frame() -> None:
        out = tiny.decode(steps(0, tiny.encode(pixels).latents)).sample[0]
        shown = (out * 127.5 + 127.5).clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous()
        copy_back(shown, torch.isfinite(out).all())

    frame()
    steps.advance()
    seconds = _host_seconds(frame, max(rounds, 20))
    return Row("2  SD1.5 live frames per second at one step, 512^2", 1.0 / seconds, "fps", 150.0, at_least=True)
