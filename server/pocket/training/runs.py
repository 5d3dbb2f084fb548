# SPDX-License-Identifier: GPL-3.0-or-later
"""What every training stage shares: checkpoints that resume exactly, running averages of weights, a progress line."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch
from torch import nn


def has_bfloat16(device: str) -> bool:
    """True if the device multiplies bfloat16 faster than float32."""
    if torch.device(device).type == "cpu":
        return any(torch.cpu.get_capabilities().get(name, False) for name in ("avx512_bf16", "amx_bf16"))
    return True


def layout(device: str) -> torch.memory_format:
    """How convolutions like their pictures: group norms of bfloat16 in channels_last are slow on a CPU."""
    return torch.contiguous_format if has_bfloat16(device) else torch.channels_last


def lighter(device: str) -> torch.autocast:
    """Matrix products and convolutions in bfloat16 inside this context, where the device is made for it."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=has_bfloat16(device))


class Average:
    """Exponential moving average of a module's weights, with a start that forgets the initial ones quickly."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {k: v.detach().clone() for k, v in module.state_dict().items()}
        self.count = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        for name, value in module.state_dict().items():
            mine = self.weights[name]
            if mine.is_floating_point():
                mine.lerp_(value, 1 - decay)
            else:
                mine.copy_(value)


class Run:
    """One stage of training: the module, its optimizer, its average, the step reached, all in one file."""

    def __init__(self, file: Path, module: nn.Module, optimizer: torch.optim.Optimizer, decay: float) -> None:
        self.file, self.module, self.optimizer = file, module, optimizer
        self.average = Average(module, decay)
        self.step, self.seconds = 0, 0.0
        if file.exists():
            saved = torch.load(file, map_location="cpu", weights_only=True)
            module.load_state_dict(saved["module"])
            optimizer.load_state_dict(saved["optimizer"])
            self.average.weights, self.average.count = saved["average"], saved["count"]
            self.step, self.seconds = saved["step"], saved["seconds"]

    def learn(self, loss: torch.Tensor, progress: Progress, began: float) -> None:
        """One step down the gradient of `loss`, which took since `began` (time.process_time)."""
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.average.update(self.module)
        progress(self.step, float(loss.detach()))
        self.step += 1
        self.seconds += time.process_time() - began
        if self.step % 50 == 0:
            self.save()

    def save(self) -> None:
        """Write the checkpoint in one atomic replacement."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_suffix(".partial")
        state = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.weights,
            "count": self.average.count,
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, partial)
        os.replace(partial, self.file)


class Progress:
    """Prints "name step/steps, loss, speed, time left" about every `every` seconds."""

    def __init__(self, name: str, start: int, steps: int, every: float = 20.0) -> None:
        self.name, self.start, self.steps, self.every = name, start, steps, every
        self.began = self.last = time.monotonic()
        self.loss = 0.0

    def __call__(self, step: int, loss: float) -> None:
        self.loss = loss if step == self.start else 0.98 * self.loss + 0.02 * loss
        now = time.monotonic()
        if now - self.last < self.every and step + 1 < self.steps:
            return
        self.last = now
        pace = (now - self.began) / (step + 1 - self.start)
        left = pace * (self.steps - step - 1)
        line = f"{self.name} {step + 1}/{self.steps} loss {self.loss:.4f} {pace:.3f} s/step, {left / 60:.1f} min left"
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def generator_at(seed: int, step: int) -> torch.Generator:
    """The random numbers of one step: the same whether the run was interrupted or not."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)
