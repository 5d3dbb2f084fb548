# SPDX-License-Identifier: GPL-3.0-or-later
"""ControlNets of Z-Image: more of the transformer's own blocks, beside some of its layers.

They have no layers of their own for reading the picture, the words and the time; they borrow the transformer's, with
whatever a LoRA does to them, for one call at a time, so that a control model never keeps a model in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from server.diffusion.checks import in_float32
from server.diffusion.model import Condition

_LENT = ("t_scale", "t_embedder", "all_x_embedder", "cap_embedder", "rope_embedder", "noise_refiner", "context_refiner")
_PADS = ("x_pad_token", "cap_pad_token")


def fits(net: Any, transformer: Any) -> bool:
    """Whether a control model was made for transformers of this shape."""
    ours, theirs = transformer.config, net.config
    same = ("dim", "n_heads", "all_patch_size", "all_f_patch_size")
    return (
        all(_plain(ours[key]) == _plain(theirs[key]) for key in same)
        and theirs.control_in_dim >= ours.in_channels
        and max(theirs.control_layers_places) < ours.n_layers
    )


def residuals(
    net: Any,
    transformer: Any,
    inputs: torch.Tensor,
    shown: torch.Tensor,
    timestep: torch.Tensor,
    words: Condition,
    weight: float,
) -> dict[int, torch.Tensor]:
    """What is added after the transformer's layers, by number of the layer: (n, tokens, width) each.

    inputs, shown: latents (1, channels, h, w) and those of the control picture. timestep: as `predict` gets it.
    """
    dtype = transformer.dtype
    texts = [part.embeds[0].to(dtype) for part in (words, words.negative) if part is not None]
    picture, shown = inputs.to(dtype)[0].unsqueeze(1), shown.to(dtype)[0].unsqueeze(1)
    # Those that can also inpaint have more channels: a mask and what is outside it. Nothing there is plain control.
    more = net.config.control_in_dim - len(shown)
    shown = torch.cat([shown, shown.new_zeros(more, *shown.shape[1:])]) if more else shown
    time = ((1000 - timestep) / 1000).expand(len(texts))
    # The transformer is widened where narrow numbers ran over; a net beside it has to be as wide.
    with in_float32(net) if dtype == torch.float32 else nullcontext(), _lent(net, transformer, inputs.device):
        found: dict[int, torch.Tensor] = net(
            [picture] * len(texts), time, texts, [shown] * len(texts), conditioning_scale=weight
        )
    return found


@contextmanager
def _lent(net: Any, transformer: Any, device: torch.device) -> Iterator[None]:
    """The transformer's layers as the net's for the time of a call, though never as modules inside it: those would be
    converted, moved and freed with it."""
    here = vars(net)
    before = {name: here[name] for name in (*_LENT, *_PADS) if name in here}
    try:
        here.update((name, getattr(transformer, name)) for name in _LENT)
        # Layers are brought to the device when they are called; these two are no layers.
        here.update((name, getattr(transformer, name).to(device)) for name in _PADS)
        yield
    finally:
        for name in (*_LENT, *_PADS):
            here.pop(name, None)
        here.update(before)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (tuple, list)) else value
