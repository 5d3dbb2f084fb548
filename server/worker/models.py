# SPDX-License-Identifier: GPL-3.0-or-later
"""The models a worker holds: the last used stay loaded within a bound of bytes; a file that was replaced is noticed."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from krita_sd.wire.errors import Code, WireError

KEEP_BYTES = 3 * 1024**3
"""Bytes of model files that stay loaded beside the one in use."""


@dataclass
class _Held:
    model: Any
    stamp: tuple[tuple[int, int, int], ...]
    size: int


class ModelCache:
    """Loaded models by path, least recently used first."""

    def __init__(self, device: str, keep_bytes: int = KEEP_BYTES) -> None:
        self._device = device
        self._keep_bytes = keep_bytes
        self._held: OrderedDict[str, _Held] = OrderedDict()

    def peek(self, path: Path) -> bool:
        """Whether `path` is loaded and unchanged."""
        held = self._held.get(str(path))
        return held is not None and held.stamp == _stamp(path)

    def get(self, path: Path, family: str, cancelled: Callable[[], bool]) -> Any:
        """The loaded model. Raises WireError(model_*) or the engine's Cancelled; caches no failure."""
        from server.diffusion import load_model

        stamp = _stamp(path)
        held = self._held.get(str(path))
        if held is not None and held.stamp == stamp:
            self._held.move_to_end(str(path))
            return held.model
        if not stamp:
            raise WireError(Code.MODEL_MISSING, f"The model {path.name} is no longer there.", "Rescan the models.")
        if held is not None:
            self._drop(str(path))
        size = sum(item[0] for item in stamp)
        self._make_room(size)
        model = load_model(path, family, device=self._device, cancelled=cancelled)
        self._held[str(path)] = _Held(model, stamp, size)
        return model

    def _make_room(self, size: int) -> None:
        while self._held and sum(held.size for held in self._held.values()) + size > self._keep_bytes:
            self._drop(next(iter(self._held)))

    def _drop(self, key: str) -> None:
        self._held.pop(key).model.unload()


def _stamp(path: Path) -> tuple[tuple[int, int, int], ...]:
    """Size, time and inode of every weight and configuration file; empty when there is none."""
    files = [path] if path.is_file() else sorted(path.glob("*.json")) + sorted(path.glob("*/*"))
    out = []
    for file in files:
        try:
            info = os.stat(file)
        except OSError:
            continue
        out.append((info.st_size, info.st_mtime_ns, info.st_ino))
    return tuple(out)
