# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tensors of one layer in a LoRA file say: the change of its weight, in every form that is about.

Low rank with or without a core (LoCon's Tucker form), LoHa (a product of two low ranks, entry by entry), LoKr (a
Kronecker product), a plain difference; each may come with DoRA's magnitudes. Hu et al. 2021, arXiv 2106.09685; Yeh et
al. 2023 (LyCORIS), arXiv 2309.14859; Liu et al. 2024 (DoRA), arXiv 2402.09353.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

_PLAIN = (
    *(f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")),
    *(f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")),
    "diff", "diff_b", "alpha", "dora_scale",
)  # fmt: skip
_SUFFIXES = {
    "down": r"\.lora_down\.weight|\.lora_A(?:\.[^.]+)?\.weight|(?:[._]lora|\.lora_linear_layer)\.down\.weight",
    "up": r"\.lora_up\.weight|\.lora_B(?:\.[^.]+)?\.weight|(?:[._]lora|\.lora_linear_layer)\.up\.weight",
    "mid": r"\.lora_mid\.weight",
    "magnitude": r"\.lora_magnitude_vector(?:\.[^.]+)*",
    **{name: rf"\.{name}" for name in _PLAIN},
}
_KINDS = {kind: re.compile(rf"(.+?)(?:{pattern})") for kind, pattern in _SUFFIXES.items()}

Tensors = Mapping[str, torch.Tensor]


def split_name(key: str) -> tuple[str, str] | None:
    """(kind of tensor, name of the layer) of a tensor's name in a file; None when it is of no known form."""
    for kind, pattern in _KINDS.items():
        if match := pattern.fullmatch(key):
            return kind, match[1]
    return None


@dataclass(frozen=True)
class Form:
    """The change of one weight: `scale` times what the tensors make, then DoRA's magnitudes where there are some.

    tensors: float32 on the CPU, by the kinds of `split_name`. rows: the weight is these rows, [first, last), of a
    packed one with `total` rows, which the tensors are for.
    """

    tensors: Tensors
    scale: float
    rows: tuple[tuple[int, int], ...] = ()
    total: int = 0

    def delta(self, shape: torch.Size, device: torch.device) -> torch.Tensor:
        """What would be added to a weight of `shape`, float32, before magnitudes. Raises RuntimeError or ValueError
        when the tensors do not fit together or with the shape."""
        tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        if self.rows and "up" in tensors and "mid" not in tensors and len(tensors["up"]) == self.total:
            tensors["up"] = self._own(tensors["up"])  # the same rows, without working out the others
            made = _product(tensors)
        else:
            made = _product(tensors)
            if self.rows and len(made) != self.total:
                raise ValueError(f"{len(made)} rows for a packed weight of {self.total}")
            made = self._own(made)
        if (made.shape[0], made.shape[1:].numel()) != (shape[0], shape[1:].numel()):
            raise ValueError(f"{tuple(made.shape)} for a weight of {tuple(shape)}")
        return made.reshape(shape)

    def change(self, weight: torch.Tensor, strength: float) -> torch.Tensor:
        """What a LoRA of this strength adds to `weight` (float32, its device)."""
        factor = strength * self.scale
        delta = self.delta(weight.shape, weight.device)
        magnitude, axis = self._magnitude()
        if magnitude is None:
            return factor * delta
        merged = weight + self.scale * delta
        others = [place for place in range(merged.ndim) if place != axis]
        norm = torch.linalg.vector_norm(merged, dim=others, keepdim=True) + torch.finfo(torch.float32).eps
        return strength * (merged * (magnitude.to(weight.device).reshape(norm.shape) / norm) - weight)

    def check(self, weight: torch.Tensor) -> None:
        """Raise RuntimeError or ValueError when this does not fit `weight`; nothing is computed."""
        meta = torch.device("meta")
        self.delta(weight.shape, meta)
        magnitude, axis = self._magnitude()
        if magnitude is not None and magnitude.numel() != weight.shape[axis]:
            raise ValueError(f"{magnitude.numel()} magnitudes for a weight of {tuple(weight.shape)}")

    def _magnitude(self) -> tuple[torch.Tensor | None, int]:
        """DoRA's magnitudes and the axis of the weight that they belong to: outputs, or inputs in older LyCORIS."""
        if "magnitude" in self.tensors:
            return self._own(self.tensors["magnitude"]), 0
        scale = self.tensors.get("dora_scale")
        by_inputs = scale is not None and scale.ndim > 1 and scale.shape[0] == 1
        if by_inputs and self.rows:
            raise ValueError("magnitudes of a packed weight's inputs need all of its rows")
        return scale if scale is None or by_inputs else self._own(scale), int(by_inputs)

    def _own(self, tensor: torch.Tensor) -> torch.Tensor:
        """The rows of a packed weight's tensor that belong to this one."""
        return torch.cat([tensor[first:last] for first, last in self.rows]) if self.rows else tensor


def form_of(tensors: Tensors, alpha: float | None, rows: tuple[tuple[int, int], ...] = (), total: int = 0) -> Form:
    """The form that these tensors are of; `alpha` None: equal to the rank. Raises KeyError when tensors are missing."""
    if "diff" in tensors:
        return Form(tensors, 1.0, rows, total)
    if any(name.startswith("hada_") for name in tensors):
        rank: int | None = tensors["hada_w1_b"].shape[0]
    elif any(name.startswith("lokr_") for name in tensors):
        small = [tensors[name].shape[0] for name in ("lokr_w2_b", "lokr_w1_b") if name in tensors]
        rank = small[0] if small else None  # both factors whole: alpha means nothing
    else:
        rank = tensors["down"].shape[0]
    return Form(tensors, 1.0 if alpha is None or not rank else alpha / rank, rows, total)


def _product(tensors: Tensors) -> torch.Tensor:
    if "diff" in tensors:
        return tensors["diff"]
    if any(name.startswith("hada_") for name in tensors):
        return _half(tensors, "hada_w1", "hada_t1") * _half(tensors, "hada_w2", "hada_t2")
    if any(name.startswith("lokr_") for name in tensors):
        return torch.kron(_half(tensors, "lokr_w1", ""), _half(tensors, "lokr_w2", "lokr_t2"))
    up, down = tensors["up"].flatten(1), tensors["down"].flatten(1)
    if "mid" not in tensors:
        return up @ down
    return torch.einsum("nmkl,in,mj->ijkl", tensors["mid"], up, down)


def _half(tensors: Tensors, name: str, core: str) -> torch.Tensor:
    """One factor as a matrix (outputs, the rest): whole, of low rank, or of low rank around a core."""
    if name in tensors:
        return tensors[name].flatten(1)
    a, b = tensors[f"{name}_a"], tensors[f"{name}_b"]
    if core in tensors:
        return torch.einsum("ijkl,jr,ip->prkl", tensors[core], b, a).flatten(1)
    return a.flatten(1) @ b.flatten(1)
