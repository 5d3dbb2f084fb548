# SPDX-License-Identifier: GPL-3.0-or-later
"""The models a worker holds: the last used stay loaded while memory permits; a file that was replaced is noticed.

Before a job its model is put on the rung of the memory ladder that the job's estimate asks for; when memory runs out
all the same, it goes one rung down and the job is tried again.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from krita_sd.wire.errors import Code, WireError
from server.library.memory import RUNGS, Load, Verdict, Weights, judge, next_rung, weights_of

from .device import free_memory, is_out_of_memory, release, total_memory

if TYPE_CHECKING:
    from server.diffusion.residency import Residency

log = logging.getLogger(__name__)

KEEP_BYTES = 3 * 1024**3
"""Bytes of model files that stay loaded beside the one in use on the processor, whose memory is everybody's."""

KEEP_SHARE = 0.5
"""Share of a graphics card's memory that loaded models may take together, beside the one in use."""


@dataclass
class _Held:
    model: Any
    stamp: tuple[tuple[int, int, int], ...]
    size: int
    residency: Residency
    weights: Weights
    parts: dict[str, Path]
    family: str  # a file may be told to be of another one


class ModelCache:
    """Loaded models by path, least recently used first. `reserve`: bytes of the device left to other programs."""

    def __init__(self, device: str, keep_bytes: int | None = None, reserve: int = 0, dtype: Any = None) -> None:
        self._device = device
        self._dtype = dtype
        self._reserve = reserve
        self._keep_bytes = keep_bytes if keep_bytes is not None else _keep_bytes(device)
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self.loads = 0

    @property
    def device(self) -> str:
        return self._device

    @property
    def dtype(self) -> Any:
        """What models are loaded in; None: the device's default."""
        return self._dtype

    def free_bytes(self) -> int:
        """What can still be taken on the device beside the reserve; 0 where nobody knows."""
        available = free_memory(self._device)
        return max(1, available - self._reserve) if available > 0 else 0

    def peek(self, path: Path) -> bool:
        """Whether `path` is loaded and unchanged."""
        held = self._held.get(str(path))
        return held is not None and held.stamp == _stamp(path, held.parts)

    def loaded(self, path: Path) -> Any | None:
        """The model at `path` if it is loaded; counts as no use of it."""
        held = self._held.get(str(path))
        return held.model if held is not None else None

    def get(
        self,
        path: Path,
        family: str,
        cancelled: Callable[[], bool],
        progress: Callable[[float], None] | None = None,
        parts: Mapping[str, str] | None = None,
        told: Callable[[str], None] | None = None,
    ) -> Any:
        """The loaded model; `parts`: files of what a single file lacks. `progress` hears 0..1 while it loads, `told` in
        a sentence that memory ran out and what is done about it.

        Raises WireError(model_*) or the engine's Cancelled; caches no failure.
        """
        from server.diffusion import load_model

        files = {part: Path(file) for part, file in (parts or {}).items()}
        stamp = _stamp(path, files)
        held = self._held.get(str(path))
        if held is not None and (held.stamp, held.parts, held.family) == (stamp, files, family):
            self._held.move_to_end(str(path))
            return held.model
        if not file_stamp(path):
            raise WireError(Code.MODEL_MISSING, f"The model {path.name} is no longer there.", "Rescan the models.")
        if held is not None:
            self._drop(str(path))
        size = sum(item[0] for item in stamp)
        self._make_room(size)
        weights = weights_of(path, files)

        def load(device: str, dtype: Any) -> Any:
            return load_model(path, family, device, dtype, progress, cancelled, files)

        model, residency = self._load(family, weights, load, told)
        self.loads += 1
        self._held[str(path)] = _Held(model, stamp, size, residency, weights, files, family)
        return model

    def _load(
        self, family: str, weights: Weights, load: Callable[[str, Any], Any], told: Callable[[str], None] | None
    ) -> tuple[Any, Residency]:
        """The loaded model and where its parts are. A model that the device cannot hold, by the estimate
        or because memory ran out while it was loaded, is left beside it and comes a part at a time."""
        import torch

        from server.diffusion.residency import Residency

        outside = self._offloads and self._holds_too_little(family, weights)
        floor = "full"
        while True:
            try:
                if outside:
                    model = load("cpu", self._dtype or torch.float16)
                    model.compute_on(torch.device(self._device))
                else:
                    model = load(self._device, self._dtype)
                residency = Residency(parts_of(model), model.device, outside)
                residency.floor = floor
                return model, residency
            except Exception as error:  # every device has its own type for it; all else goes on
                if not is_out_of_memory(error) or not self._held and (outside or not self._offloads):
                    raise
            # Outside the handler: its traceback holds what must be freed first.
            if self._held:
                text = "Memory ran out while loading; once more without the other models."
            else:
                outside, floor = True, "model"
                text = "Memory ran out while loading; the model waits in main memory and comes a part at a time."
            self.free()
            log.warning("%s", text)
            if told is not None:
                told(text)

    def _holds_too_little(self, family: str, weights: Weights) -> bool:
        """Whether the weights alone, with a small picture, do not fit on the device; others are let go for them."""
        itemsize = 2 if self._dtype is None else int(self._dtype.itemsize)
        load = Load(family, weights, 512, 512, False, itemsize)
        while True:
            rung = judge(load, self.free_bytes()).rung
            if RUNGS.index(rung) < RUNGS.index("model") or not self._held:
                return RUNGS.index(rung) >= RUNGS.index("model")
            self._drop(next(iter(self._held)))

    def place(self, path: Path, width: int, height: int, pair: bool, extra: int = 0) -> Verdict:
        """Put the loaded model at `path` on the rung that a picture of this render size needs. What else is loaded is
        let go before anything is offloaded. Never refuses: an estimate may be wrong, memory that ran out is not."""
        held = self._held[str(path)]
        load = Load(held.model.family, held.weights, width, height, pair, _itemsize(held.model), extra)
        verdict = self._judge(held, load)
        while verdict.rung != "full" and len(self._held) > 1:
            self._drop(next(key for key in self._held if key != str(path)))
            verdict = self._judge(held, load)
        held.residency.settle(verdict.rung, verdict.tiled)
        return verdict

    def can_step_down(self, path: Path) -> bool:
        """Whether there is a rung below the one on which the model at `path` is."""
        held = self._held.get(str(path))
        return held is not None and next_rung(held.residency.rung, self._offloads) is not None

    def step_down(self, path: Path) -> str | None:
        """Memory ran out: everything else goes, and the model at `path` one rung down. The rung, None at the foot."""
        for key in [key for key in self._held if key != str(path)]:
            self._drop(key)
        held = self._held.get(str(path))
        rung = next_rung(held.residency.rung, self._offloads) if held is not None else None
        release(self._device)
        if held is None or rung is None:
            return None
        held.residency.floor = rung
        held.residency.step_to(rung)
        log.warning("out of memory: the model %s goes down to %r", path.name, rung)
        return rung

    def free(self) -> int:
        """Unload everything; bytes of model files that were let go."""
        size = sum(held.size for held in self._held.values())
        for key in list(self._held):
            self._drop(key)
        release(self._device)
        return size

    @property
    def _offloads(self) -> bool:
        return not self._device.startswith("cpu")

    def _judge(self, held: _Held, load: Load) -> Verdict:
        available = free_memory(self._device)
        if available <= 0:
            return judge(load, 0, self._offloads)
        # What the model occupies already counts as free for it: the estimate holds its weights too.
        here = sum(getattr(held.weights, part) for part in held.residency.here if part in _PARTS)
        return judge(load, max(1, available + here * load.itemsize - self._reserve), self._offloads)

    def _make_room(self, size: int) -> None:
        while self._held and sum(held.size for held in self._held.values()) + size > self._keep_bytes:
            self._drop(next(iter(self._held)))

    def _drop(self, key: str) -> None:
        self._held.pop(key).model.unload()
        if not self._offloads:
            release(self._device)  # main memory is everybody's; a graphics card's is asked for when it runs out


_PARTS = ("denoiser", "encoders", "autoencoder")


def parts_of(model: Any) -> dict[str, list[Any]]:
    """A loaded model's modules as the memory ladder moves them."""
    return {
        "encoders": list(model.encoders.values()),
        "denoiser": [model.denoiser],
        "autoencoder": [module for module in (model.autoencoder, model.tiny_decoder) if module is not None],
    }


def _keep_bytes(device: str) -> int:
    return KEEP_BYTES if device.startswith("cpu") else int(KEEP_SHARE * total_memory(device))


def _itemsize(model: Any) -> int:
    return int(model.dtype.itemsize)


def _stamp(path: Path, parts: Mapping[str, Path]) -> tuple[tuple[int, int, int], ...]:
    """The stamp of a model and of the files that it borrows parts from."""
    return tuple(item for file in (path, *parts.values()) for item in file_stamp(file))


def file_stamp(path: Path) -> tuple[tuple[int, int, int], ...]:
    """Size, time and inode of every weight and configuration file; empty when there is none."""
    files = [path] if path.is_file() else sorted(path.glob("*.*")) + sorted(path.glob("*/*"))
    out = []
    for file in files:
        try:
            info = os.stat(file)
        except OSError:
            continue
        out.append((info.st_size, info.st_mtime_ns, info.st_ino))
    return tuple(out)
