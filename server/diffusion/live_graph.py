# SPDX-License-Identifier: GPL-3.0-or-later
"""Steps of Live as CUDA graphs, captured by hand, and on a processor the model as a trace; until they are ready, and on
every other device, all runs eagerly.

A frame has one graph per step, so that a newer stroke can supersede it between two of them. Everything that a graph
reads stays where it is: weights (LoRAs are added in place), condition, noise and tables belong to the same `Steps`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch

log = logging.getLogger(__name__)

Step = Callable[[int, torch.Tensor], torch.Tensor]


class Steps:
    """Runs `step(index, latents)` for one shape; on CUDA by replaying what was captured. `captured`: how many are."""

    def __init__(self, step: Step, first: int, last: int, like: torch.Tensor, capture: bool = True) -> None:
        self._step = step
        self._wanted = list(range(first, last)) if capture and like.device.type == "cuda" else []
        self._graphs: dict[int, tuple[Any, torch.Tensor]] = {}
        self._input = torch.empty_like(like) if self._wanted else like
        self._pool: Any = None

    @property
    def captured(self) -> int:
        return len(self._graphs)

    def __call__(self, index: int, latents: torch.Tensor) -> torch.Tensor:
        """Latents before step index + 1; on CUDA valid until the next call with the same index."""
        if index not in self._graphs:
            return self._step(index, latents)
        graph, output = self._graphs[index]
        self._input.copy_(latents)
        graph.replay()
        return output

    def advance(self) -> bool:
        """Capture one more step, while nobody waits for a frame; False when there is none left to capture."""
        if not self._wanted:
            return False
        index = self._wanted.pop(0)
        try:
            self._capture(index)
        except RuntimeError as error:
            # Something in this model cannot be captured; eager serving goes on as before.
            log.warning("step %d cannot be captured: %s", index, str(error).splitlines()[0])
            self._wanted.clear()
            self._graphs.clear()
        return bool(self._wanted)

    def _capture(self, index: int) -> None:
        self._input.zero_()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # kernels are chosen and workspaces allocated outside of the capture
                self._step(index, self._input)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            output = self._step(index, self._input)
        self._pool = self._pool or graph.pool()
        self._graphs[index] = (graph, output)


class Traced:
    """Calls `call(*tensors)`; on a processor soon without Python between the operations, which computes the same
    numbers in two thirds of the time for a small model. For tensors of the shapes of `like` only; what else `call`
    reads is fixed when it is traced."""

    _RUNS = 2  # torch looks at the first ones, and arranges itself by them

    def __init__(self, call: Callable[..., torch.Tensor], like: tuple[torch.Tensor, ...]) -> None:
        self._call = call
        self._like = like
        self._left = 1 + self._RUNS if like[0].device.type == "cpu" else 0
        self._made: Any = None

    @property
    def ready(self) -> bool:
        """Whether calls run as the trace."""
        return self._made is not None and not self._left

    def __call__(self, *tensors: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self._made(*tensors) if self.ready else self._call(*tensors)
        return out

    def advance(self) -> bool:
        """Prepare a little more, while nobody waits for a frame; False when nothing is left to prepare."""
        if not self._left:
            return False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about shapes that a trace fixes: they are fixed here
                if self._made is None:
                    self._made = torch.jit.trace(self._call, self._like, check_trace=False)
                else:
                    self._made(*self._like)
            self._left -= 1
        except Exception as error:  # whatever a model does that cannot be traced: it goes on as before
            log.warning("the model cannot be traced: %s", str(error).splitlines()[:1])
            self._made, self._left = None, 0
        return self._left > 0


class CopyBack:
    """Brings frames to the host: through a ring of pinned buffers and a stream of its own on CUDA."""

    def __init__(self, device: torch.device, ring: int = 2) -> None:
        self._device = device
        self._ring: list[torch.Tensor | None] = [None] * ring
        self._turn = 0
        self._stream = torch.cuda.Stream() if device.type == "cuda" else None

    def __call__(self, frame: torch.Tensor, good: torch.Tensor) -> tuple[bytes, bool]:
        """The bytes of a uint8 tensor and the value of a bool scalar: the one wait of a frame."""
        if self._stream is None:
            return frame.cpu().numpy().tobytes(), bool(good)
        self._turn = (self._turn + 1) % len(self._ring)
        host = self._ring[self._turn]
        size = frame.numel() + 1
        if host is None or host.numel() != size:
            host = self._ring[self._turn] = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            host[1:].copy_(frame.reshape(-1), non_blocking=True)
            host[:1].copy_(good.reshape(1).to(torch.uint8), non_blocking=True)
        self._stream.synchronize()
        # The next frame writes into what was copied from: not before the copy has read it.
        torch.cuda.current_stream().wait_stream(self._stream)
        return host[1:].numpy().tobytes(), bool(host[0])
