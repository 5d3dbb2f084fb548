# SPDX-License-Identifier: GPL-3.0-or-later
"""The noise of a picture, and variations of it: a walk from one noise to another along a sphere."""

from __future__ import annotations

import torch


def slerp(start: torch.Tensor, end: torch.Tensor, share: float) -> torch.Tensor:
    """Spherical interpolation of two noises as vectors (Shoemake 1985): 0 gives `start`, 1 gives `end`, both exactly.

    Unlike the straight line between them, every point has about the length that noise has, which models rely on.
    """
    if share <= 0.0:
        return start
    if share >= 1.0:
        return end
    one, two = start.to(torch.float64), end.to(torch.float64)
    cosine = float((one * two).sum() / (one.norm() * two.norm()).clamp_min(1e-12))
    angle = torch.arccos(torch.tensor(min(1.0, max(-1.0, cosine)), dtype=torch.float64))
    sine = torch.sin(angle)
    if float(sine) < 1e-6:
        return torch.lerp(one, two, share).to(start.dtype)
    mixed = torch.sin((1.0 - share) * angle) / sine * one + torch.sin(share * angle) / sine * two
    return mixed.to(start.dtype)
