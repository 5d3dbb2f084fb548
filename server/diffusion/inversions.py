# SPDX-License-Identifier: GPL-3.0-or-later
"""Textual inversions: learned vectors that stand in a prompt where their name is written. Gal et al. 2022.

Nothing of the text encoder changes: the vectors take the places of words behind its table of words, for one call.
Layouts (safetensors only): A1111 (emb_params, string_to_param.*), diffusers (one tensor under its token), SDXL's
(clip_l and clip_g, one per encoder).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from krita_sd.wire.errors import Code, WireError
from server.diffusion.weights import TensorFiles, corrupt

MAX_VECTORS = 75

Inversions = tuple[tuple[str, Path], ...]
"""Names as they stand in a prompt, with their files."""

Vectors = Mapping[str, torch.Tensor]
"""By name: (vectors, width of the encoder), float32 on the CPU."""


class Slot(NamedTuple):
    """The place of one vector of a textual inversion among the tokens of a prompt."""

    name: str
    row: int


def read_inversions(inversions: Inversions, widths: Sequence[int]) -> list[Vectors]:
    """The vectors of every file for each of the text encoders, whose widths are given in their order.

    Raises WireError: model_missing, model_corrupt, model_unsupported (made for another kind of model).
    """
    found: list[dict[str, torch.Tensor]] = [{} for _ in widths]
    for name, path in inversions:
        for home, tensor in zip(found, _read(path, widths)):
            home[name] = tensor
    return list(found)


def _read(path: Path, widths: Sequence[int]) -> list[torch.Tensor]:
    if not path.is_file():
        raise WireError(
            Code.MODEL_MISSING, f"The textual inversion {path.name} is no longer there.", "Rescan the model folders."
        )
    with TensorFiles([path]) as files:
        stored = {name: files.read(name) for name in files.names()}
    if "clip_g" in stored:
        wanted = ["clip_l", "clip_g"]
    else:
        wanted = [next((name for name in ("emb_params", "string_to_param.*", "clip_l") if name in stored), "")]
        if not wanted[0] and len(stored) == 1:
            wanted = list(stored)
    tensors = [stored[name] for name in wanted if name in stored]
    if len(tensors) != len(wanted):
        raise corrupt(path.name)
    tensors = [tensor[None] if tensor.ndim == 1 else tensor for tensor in tensors]
    if len(tensors) != len(widths) or any(t.ndim != 2 or t.shape[1] != width for t, width in zip(tensors, widths)):
        raise WireError(
            Code.MODEL_UNSUPPORTED,
            f"The textual inversion {path.name} does not fit this model; it was made for another kind of model.",
            "Choose one for this model's family, or take its name out of the prompt.",
        )
    sizes = {len(tensor) for tensor in tensors}
    if len(sizes) != 1 or not 1 <= sizes.pop() <= MAX_VECTORS:
        raise corrupt(path.name)
    tensors = [tensor.to(torch.float32) for tensor in tensors]
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        raise corrupt(path.name)
    return tensors


@contextmanager
def in_place(encoder: Any, slots: Mapping[int, Slot], vectors: Vectors) -> Iterator[None]:
    """The encoder's table of words gives the vectors at these positions of (1, length) tokens."""
    if not slots:
        yield
        return
    rows = torch.stack([vectors[slot.name][slot.row] for slot in slots.values()])
    places = list(slots)

    def put(module: Any, arguments: Any, out: torch.Tensor) -> torch.Tensor:
        out = out.clone()
        out[:, places] = rows.to(device=out.device, dtype=out.dtype)
        return out

    hook = encoder.get_input_embeddings().register_forward_hook(put)
    try:
        yield
    finally:
        hook.remove()
