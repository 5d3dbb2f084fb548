# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading safetensors files: memory-mapped, one tensor at a time, every failure one plain sentence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open

from krita_sd.wire.errors import Code, WireError
from server.diffusion.families import Family
from server.diffusion.task import Cancelled

MAX_TENSORS = 50_000  # the largest real checkpoints have a few thousand; a million would take a minute to look at

Progress = Callable[[float], None]
IsCancelled = Callable[[], bool]


def corrupt(name: str) -> WireError:
    """The file is not what it should be: cut off, overwritten, or not safetensors at all."""
    return WireError(
        Code.MODEL_CORRUPT, f"The model file {name} is damaged or incomplete.", "Download it again, or choose another."
    )


def incomplete(name: str, part: str) -> WireError:
    """The file is readable and of the right kind, but weights are missing or do not fit together."""
    return WireError(
        Code.MODEL_CORRUPT,
        f"The model {name} lacks weights of its {part}, or they do not fit together.",
        "Download it again, or choose another.",
    )


def unsupported(name: str, why: str) -> WireError:
    """A kind of model that this engine cannot run; `why` continues the sentence."""
    return WireError(Code.MODEL_UNSUPPORTED, f"The model {name} cannot be used: {why}.", "Choose another model.")


class TensorFiles:
    """The tensors of one or more safetensors files under one set of names. A context manager; reads lazily.

    Raises WireError(model_corrupt) for files that cannot be read.
    """

    def __init__(self, files: list[Path]) -> None:
        self._files = files
        self._stack = ExitStack()
        self._homes: dict[str, tuple[Any, Path]] = {}
        self.metadata: dict[str, str] = {}

    def __enter__(self) -> TensorFiles:
        for path in self._files:
            try:
                handle = self._stack.enter_context(safe_open(path, framework="pt", device="cpu"))
                self.metadata.update(handle.metadata() or {})
                names = handle.keys()
                if len(names) > MAX_TENSORS:
                    raise ValueError("too many tensors")
                self._homes.update((name, (handle, path)) for name in names)
            except (SafetensorError, OSError, ValueError) as error:
                self._stack.close()
                raise corrupt(path.name) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def names(self) -> list[str]:
        return list(self._homes)

    def __contains__(self, name: str) -> bool:
        return name in self._homes

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, from the headers alone."""
        return {name: tuple(handle.get_slice(name).get_shape()) for name, (handle, _) in self._homes.items()}

    def rows(self, name: str) -> int:
        """How many rows a tensor has, from the header alone; 0 for a single number."""
        shape = self._homes[name][0].get_slice(name).get_shape()
        return int(shape[0]) if shape else 0

    def read(self, name: str, rows: Sequence[tuple[int, int]] = ()) -> torch.Tensor:
        """One tensor on the CPU in its stored precision, or some of its rows one behind the other."""
        handle, path = self._homes[name]
        try:
            if not rows:
                return handle.get_tensor(name)
            part = handle.get_slice(name)
            pieces = [part[first:last] for first, last in rows]
            return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        except (SafetensorError, OSError, ValueError) as error:
            raise corrupt(path.name) from error


SCALES = (".scale_weight", ".weight_scale")
"""Endings under which files with 8-bit weights keep the scale of `<layer>.weight`."""

_ABOUT_WEIGHTS = (*SCALES, ".scale_input", ".input_scale", ".comfy_quant", "scaled_fp8")


def is_weight(name: str) -> bool:
    """Whether a stored tensor is a weight, and not something about one in 8 bits."""
    return not name.endswith(_ABOUT_WEIGHTS)


@dataclass(frozen=True)
class Source:
    """Where one tensor of a module comes from: a stored tensor, rows of it, and the shape it has in the module."""

    name: str
    rows: tuple[tuple[int, int], ...] = ()  # [first, last) of the stored tensor, one behind the other: packed q, k, v
    transposed: bool = False


# Shares of the whole load, by size in the real models, for the progress bar.
_SHARES = {
    "unet": (0.0, 0.6),
    "transformer": (0.0, 0.6),
    "vae": (0.6, 0.65),
    "text_encoder": (0.65, 0.75),
    "text_encoder_2": (0.75, 0.85),
    "text_encoder_3": (0.85, 0.95),
    "tiny": (0.95, 1.0),
}
PARTS = tuple(_SHARES)
"""Parts with weights, in the order in which they are loaded."""


@dataclass(frozen=True)
class LoadJob:
    """One call of `load_model`: what is loaded, to where, and who listens. parts: files of what `path` lacks."""

    path: Path
    family: str
    row: Family
    device: torch.device
    dtype: torch.dtype
    progress: Progress | None
    cancelled: IsCancelled | None
    parts: Mapping[str, Path] = field(default_factory=dict)

    def loader(self, files: TensorFiles, part: str) -> Loader:
        """Fills the module `part` (one of PARTS) from `files`."""
        begin, end = _SHARES[part]
        return Loader(files, self.path.name, self.dtype, self.device, self.progress, self.cancelled, begin, end)


@dataclass
class Loader:
    """Fills modules from files; knows how far it is and whether somebody gave up waiting."""

    files: TensorFiles
    model_name: str
    dtype: torch.dtype
    device: torch.device
    progress: Progress | None
    cancelled: IsCancelled | None
    begin: float = 0.0
    end: float = 1.0

    def fill(self, module: Any, part: str, sources: Mapping[str, Source]) -> Any:
        """Give a module made on the meta device its weights: exactly one source for each tensor it has.

        Returns the module in eval mode on the device. Raises WireError(model_corrupt) when a tensor is missing or has
        another shape, Cancelled when cancelled.
        """
        wanted = module.state_dict()
        # Counters, such as how often a norm was trained, are no weights.
        if any(tensor.is_floating_point() for name, tensor in wanted.items() if name not in sources):
            raise incomplete(self.model_name, part)
        state: dict[str, torch.Tensor] = {}
        for count, (name, empty) in enumerate(wanted.items()):
            if self.cancelled is not None and self.cancelled():
                raise Cancelled
            if name not in sources:
                state[name] = empty
                continue
            state[name] = self._fetch(sources[name], tuple(empty.shape), part)
            if self.progress is not None:
                self.progress(self.begin + (self.end - self.begin) * (count + 1) / len(wanted))
        module.load_state_dict(state, strict=True, assign=True)
        # Tensors that are no weights (position ids) were made on the CPU; the weights are there already.
        return module.to(self.device).eval().requires_grad_(False)

    def _fetch(self, source: Source, shape: tuple[int, ...], part: str) -> torch.Tensor:
        tensor = self.files.read(source.name, source.rows)
        if tensor.dtype in (torch.uint8, torch.int8):
            raise unsupported(self.model_name, f"the weights of its {part} are packed in a form that is not known here")
        if (scale := self._scale(source)) is not None:
            tensor = tensor.to(torch.float32) * scale.reshape(-1, *[1] * (tensor.ndim - 1))
        if source.transposed:
            tensor = tensor.T
        if tuple(tensor.shape) != shape:
            squeezed = tuple(size for size in tensor.shape if size != 1)
            # The autoencoder's attention is stored as 1x1 convolutions in original files and as matrices by diffusers.
            if squeezed != tuple(size for size in shape if size != 1):
                raise incomplete(self.model_name, part)
            tensor = tensor.reshape(shape)
        if not tensor.is_floating_point():
            raise incomplete(self.model_name, part)
        # A copy: a file that is replaced or truncated later must not change or crash a loaded model.
        return tensor.to(device=self.device, dtype=self.dtype, copy=True).contiguous()

    def _scale(self, source: Source) -> torch.Tensor | None:
        """What the numbers of an 8-bit weight are multiplied with: one for all, or one for each row; or None."""
        base = source.name.removesuffix(".weight")
        found = next((f"{base}{end}" for end in SCALES if f"{base}{end}" in self.files), None)
        if found is None or base == source.name:
            return None
        scale = self.files.read(found).to(torch.float32).flatten()
        if len(scale) not in (1, self.files.rows(source.name)):
            raise unsupported(self.model_name, "its weights are scaled in blocks, which is not known here")
        if len(scale) == 1 or not source.rows:
            return scale
        return torch.cat([scale[first:last] for first, last in source.rows])


def empty_module(make: Callable[[], Any]) -> Any:
    """A module without memory for its weights; buffers that are not stored get their real values."""
    with init_empty_weights(include_buffers=False):
        return make()


# Names that diffusers used for the autoencoder's attention before 0.15; files made then are still about.
_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def modern_name(name: str) -> str:
    """A tensor's name as diffusers writes it today."""
    for old, new in _OLD_ATTENTION.items():
        name = name.replace(old, new)
    return name


def maker(where: str) -> Any:
    """The class named "module:name"."""
    import importlib

    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)
