# SPDX-License-Identifier: GPL-3.0-or-later
"""LoRAs for one job: added into the weights before it and taken out after it, bit for bit.

Adding once costs nothing per step and keeps every weight where it is in memory. What was there is kept as a copy and
copied back: subtracting again would leave rounding behind. Several LoRAs of one layer are each worked out on the weight
as the model has it, so their order does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from server.diffusion.features.lora_files import Change, flat_names, read_lora
from server.diffusion.sampling import Feature

Loras = tuple[tuple[Path, float], ...]


def fingerprint(loras: Loras) -> tuple[Any, ...]:
    """What the text encoder's output depends on, besides the prompt: changes when a file is replaced."""
    out: list[Any] = []
    for path, weight in loras:
        try:
            stat = path.stat()
        except OSError:
            out.append((str(path), weight, None))
            continue
        out.append((str(path), weight, stat.st_mtime_ns, stat.st_size))
    return tuple(out)


class LoraWeights(Feature):
    """The LoRAs of a job in the weights of the denoiser and the text encoder.

    Raises WireError on entering: model_missing, model_corrupt, model_unsupported (made for another kind of model).
    """

    def __init__(self, denoiser: Any, encoders: Mapping[str, Any], loras: Loras) -> None:
        self._targets = {"unet": denoiser, **encoders}
        self._loras = loras
        self._kept: list[tuple[Change, torch.Tensor]] = []

    def __enter__(self) -> LoraWeights:
        names = {part: flat_names(part, module) for part, module in self._targets.items()}
        changes: dict[tuple[int, str], list[Change]] = {}
        # All files are read and checked before the first weight is touched.
        for path, weight in self._loras:
            for change in read_lora(path, weight, names):
                changes.setdefault((id(change.module), change.name), []).append(change)
        try:
            with torch.inference_mode(False), torch.no_grad():
                for group in changes.values():
                    self._apply(group)
        except BaseException:
            self._restore()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _apply(self, changes: list[Change]) -> None:
        parameter = getattr(changes[0].module, changes[0].name)
        self._kept.append((changes[0], parameter.detach().clone()))
        base = parameter.to(torch.float32)
        total = base
        for change in changes:
            total = total + change.form.change(base, change.strength)
        parameter.copy_(total)

    def _restore(self) -> None:
        with torch.inference_mode(False), torch.no_grad():
            for change, before in self._kept:
                getattr(change.module, change.name).copy_(before)
        self._kept.clear()
