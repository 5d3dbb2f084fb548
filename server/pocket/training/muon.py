# SPDX-License-Identifier: GPL-3.0-or-later
"""The optimizer: Muon for weight matrices and convolutions, AdamW for the rest, in one object with one state dict.

Muon: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/ (momentum made orthogonal by Newton-Schulz);
the update is scaled by 0.2 sqrt(max(m, n)) after Liu et al. 2025, arXiv 2502.16982, to the size of an AdamW update.
torch.optim.Muon takes matrices only, not convolutions.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """(n, rows, columns): the nearest semi-orthogonal matrices, roughly (singular values within about 0.7..1.2).

    A quintic iteration. Every step multiplies by a polynomial of the Gram matrix, and such polynomials commute: for
    long matrices they are gathered in the small square matrix and meet the long one only at the end.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    gram = x @ x.mT
    unit = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    gathered = None
    for step in range(steps):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) + a * unit
        gathered = factor if gathered is None else factor @ gathered
        if step + 1 < steps:
            gram = factor @ gram @ factor
    x = gathered @ x
    return x.mT if tall else x


class MuonAdamW(torch.optim.Optimizer):
    """Muon on the parameters of `matrices` (two or more dimensions), AdamW on `others`."""

    def __init__(
        self,
        matrices: Iterable[Tensor],
        others: Iterable[Tensor],
        muon_lr: float = 4e-3,
        adam_lr: float = 2e-3,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        groups = [
            {"params": list(matrices), "kind": "muon", "lr": muon_lr, "peak": muon_lr},
            {"params": list(others), "kind": "adam", "lr": adam_lr, "peak": adam_lr},
        ]
        super().__init__(groups, {"momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[override]
        for group in self.param_groups:
            if group["kind"] == "muon":
                self._muon(group)
                continue
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._adam(parameter, self.state[parameter], group)

    def _muon(self, group: dict) -> None:
        alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is not None:
                buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                buffer.lerp_(gradient, 1 - group["momentum"])
                direction = gradient.lerp(buffer, group["momentum"]).flatten(1)
                alike[tuple(direction.shape)].append((parameter, direction))
        for shape, members in alike.items():
            updates = orthogonal(torch.stack([direction for _, direction in members]))
            rate = -0.2 * max(shape) ** 0.5 * group["lr"]
            for (parameter, _), update in zip(members, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.reshape(parameter.shape), alpha=rate)

    def _adam(self, parameter: Tensor, state: dict, group: dict) -> None:
        gradient = parameter.grad
        assert gradient is not None
        first = state.setdefault("first", torch.zeros_like(parameter))
        second = state.setdefault("second", torch.zeros_like(parameter))
        state["count"] = state.get("count", 0) + 1
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient.square(), 0.01)
        corrected = (second / (1 - 0.99 ** state["count"])).sqrt_().add_(1e-8)
        parameter.addcdiv_(first / (1 - 0.9 ** state["count"]), corrected, value=-group["lr"])


def optimizer_for(module: torch.nn.Module, plain: tuple[str, ...], muon_lr: float = 4e-3, adam_lr: float = 2e-3):
    """The optimizer of a module: two or more dimensions by Muon, except names that start with `plain`."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (matrices if parameter.ndim >= 2 and not name.startswith(plain) else others).append(parameter)
    return MuonAdamW(matrices, others, muon_lr, adam_lr)


def set_pace(optimizer: torch.optim.Optimizer, step: int, steps: int, warmup: int = 50, falling: float = 0.3) -> None:
    """The learning rate at `step`: a warm-up, the peak, and a linear fall to 2 % over the last part."""
    tail = max(1, int(steps * falling))
    pace = min(1.0, (step + 1) / warmup, 0.02 + 0.98 * (steps - step) / tail)
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * pace
