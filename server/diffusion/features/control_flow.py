# SPDX-License-Identifier: GPL-3.0-or-later
"""ControlNets of the transformer families (Flux 1, SD3, Qwen-Image, Z-Image): they add to the tokens between blocks.

They see the control picture through the model's autoencoder, and of what it says they take the middle: the pipelines
draw from it, which moves the noise of the picture itself. XLabs' for Flux have small convolutions of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from krita_sd.wire.errors import Code, WireError
from server.diffusion.families.flow import pack
from server.diffusion.features import control_z_image
from server.diffusion.features.control import acts, picture_tensor
from server.diffusion.model import Condition, LoadedModel
from server.diffusion.sampling import Feature
from server.diffusion.schedules import Schedule
from server.diffusion.task import ControlLayer, Pixels
from server.diffusion.tiles import Tile

FLOW_NETS = {
    "flux_net": ("flux1", "flux1-kontext"),
    "sd3_net": ("sd3",),
    "qwen_net": ("qwen-image", "qwen-image-edit"),
    "z_image_net": ("z-image",),
}
"""Kinds of these control models, with the families that they are for."""

FLUX_UNION_TYPES = {
    "canny": 0, "line_art": 0, "soft_edge": 0, "scribble": 0, "tile": 1, "depth": 2, "blur": 3, "pose": 4, "stencil": 5,
}  # fmt: skip
"""Modes of the union ControlNet for Flux 1 (the order in which it was trained); 5 is a picture in grey."""

Stack = dict[int, torch.Tensor]
"""What is added after the blocks of one stack of a transformer: tensors (n, tokens, width) by number of the block."""


class FlowControls(Feature):
    """The control layers of one job. `added` gives what the denoiser is called with besides its ordinary inputs.

    shift: by how many cells (down, across) the picture is rolled at this call. Raises WireError(model_unsupported) when
    a control model does not fit the model.
    """

    shift = (0, 0)

    def __init__(self, model: LoadedModel, schedule: Schedule, layers: Sequence[ControlLayer], guidance: float) -> None:
        self._model: Any = model
        self._schedule = schedule
        self._layers = tuple(layers)
        self._guidance = guidance
        self._index = 0
        self._inputs: torch.Tensor | None = None
        for layer in layers:
            _check(layer, model)

    def before_model(self, index: int, inputs: torch.Tensor) -> torch.Tensor:
        # Before channels of a mask are appended: control models know latents only.
        self._index, self._inputs = index, inputs
        return inputs

    def added(self, timestep: torch.Tensor, condition: Condition, tile: Tile | None = None) -> dict[str, Any]:
        """Keyword arguments for the transformer's call at this step, on the whole latents or on a tile of them."""
        total: list[Stack] = []
        for layer in self._layers:
            if not acts(layer, self._index, self._schedule):
                continue
            found = self._residuals(layer, timestep, condition, tile)
            total = [_sum(a, b) for a, b in zip(total, found)] if total else found
        if self._model.family == "z-image":
            return {"controlnet_block_samples": total[0]} if total else {}
        names = ["controlnet_block_samples", "controlnet_single_block_samples"]
        if self._model.family == "sd3":
            names = ["block_controlnet_hidden_states"]
        return {name: list(stack.values()) for name, stack in zip(names, total) if stack}

    def _residuals(
        self, layer: ControlLayer, timestep: torch.Tensor, condition: Condition, tile: Tile | None
    ) -> list[Stack]:
        assert self._inputs is not None
        net, model = layer.model.module, self._model
        inputs = torch.roll(self._inputs, self.shift, (2, 3)) if any(self.shift) else self._inputs
        if tile is not None:
            inputs = inputs[..., tile.y : tile.y + tile.height, tile.x : tile.x + tile.width]
        inputs = inputs.to(net.dtype)
        hinted = getattr(net, "input_hint_block", None) is not None
        # Latents of a picture whose edges meet can be rolled themselves; a part of one is cut from the rolled picture.
        before = hinted or tile is not None
        image = self._part(self._rolled(layer.image) if before and any(self.shift) else layer.image, tile)
        if hinted:
            shown = picture_tensor(image, model.device) * 2.0 - 1.0
        else:
            mean = model.encode_pixels(image)[0]  # kept by the model: encoded once for all steps and jobs
            mean = mean if before else torch.roll(mean, self.shift, (2, 3))
            # The first ones for SD3 (they ignore the pooled words too) were trained without the shift.
            shown = mean * model.latent_scale if _is_first_sd3(net) else model.scaled(mean)
        calls = {"flux_net": self._flux, "sd3_net": self._sd3, "qwen_net": self._qwen, "z_image_net": self._z_image}
        return calls[layer.model.kind](layer, inputs, shown.to(net.dtype), timestep, condition)

    def _flux(
        self, layer: ControlLayer, inputs: torch.Tensor, shown: torch.Tensor, timestep: torch.Tensor, words: Condition
    ) -> list[Stack]:
        net, model = layer.model.module, self._model
        height, width = inputs.shape[-2] // 2, inputs.shape[-1] // 2
        repeats = net.input_hint_block is not None
        guided = bool(net.config.guidance_embeds)
        mode = None
        if net.union:
            mode = torch.full((1, 1), FLUX_UNION_TYPES[layer.type], dtype=torch.long, device=inputs.device)
        double, single = net(
            hidden_states=pack(inputs),
            controlnet_cond=shown if repeats else pack(shown),
            controlnet_mode=mode,
            conditioning_scale=layer.weight,
            timestep=timestep.expand(1).to(torch.float32) / 1000,
            guidance=torch.full([1], self._guidance, dtype=torch.float32, device=inputs.device) if guided else None,
            pooled_projections=None if words.pooled is None else words.pooled.to(net.dtype),
            encoder_hidden_states=words.embeds.to(net.dtype),
            txt_ids=torch.zeros(words.embeds.shape[1], 3, device=inputs.device, dtype=net.dtype),
            img_ids=model.places(height, width, net.dtype),
            return_dict=False,
        )
        transformer = model.transformer
        # Behind the picture's own tokens there may be those of pictures that are looked at: nothing is added to them.
        beside = sum(part.shape[-2] * part.shape[-1] // 4 for part in words.references)
        return [
            _spread(double, len(transformer.transformer_blocks), repeats, beside),
            _spread(single, len(transformer.single_transformer_blocks), False, beside),
        ]

    def _sd3(
        self, layer: ControlLayer, inputs: torch.Tensor, shown: torch.Tensor, timestep: torch.Tensor, words: Condition
    ) -> list[Stack]:
        net, transformer = layer.model.module, self._model.transformer
        if words.is_pair:
            inputs, shown = torch.cat([inputs, inputs]), torch.cat([shown, shown])
        if net.pos_embed is None:
            # Those for 3.5 large share the model's table of places, and read no words.
            inputs = transformer.pos_embed(inputs.to(transformer.dtype)).to(net.dtype)
        assert words.pooled is not None
        pooled = words.pooled.to(net.dtype)
        (found,) = net(
            hidden_states=inputs,
            controlnet_cond=shown,
            conditioning_scale=layer.weight,
            encoder_hidden_states=None if net.context_embedder is None else words.embeds.to(net.dtype),
            pooled_projections=torch.zeros_like(pooled) if _is_first_sd3(net) else pooled,
            timestep=timestep.expand(len(inputs)),
            return_dict=False,
        )
        blocks = len(transformer.transformer_blocks)
        return [{index: found[int(index / (blocks / len(found)))] for index in range(blocks)}]

    def _qwen(
        self, layer: ControlLayer, inputs: torch.Tensor, shown: torch.Tensor, timestep: torch.Tensor, words: Condition
    ) -> list[Stack]:
        net = layer.model.module
        found = net(
            hidden_states=pack(inputs),
            controlnet_cond=pack(shown),
            conditioning_scale=layer.weight,
            timestep=timestep.expand(1).to(torch.float32) / 1000,
            encoder_hidden_states=words.embeds.to(net.dtype),
            encoder_hidden_states_mask=None,
            img_shapes=[[(1, inputs.shape[-2] // 2, inputs.shape[-1] // 2)]],
            return_dict=False,
        )
        beside = sum(part.shape[-2] * part.shape[-1] // 4 for part in words.references)
        return [_spread(found, len(self._model.transformer.transformer_blocks), False, beside)]

    def _z_image(
        self, layer: ControlLayer, inputs: torch.Tensor, shown: torch.Tensor, timestep: torch.Tensor, words: Condition
    ) -> list[Stack]:
        net, transformer = layer.model.module, self._model.transformer
        return [control_z_image.residuals(net, transformer, inputs, shown, timestep, words, layer.weight)]

    def _rolled(self, image: Pixels) -> Pixels:
        down, across = (cells * self._model.factor for cells in self.shift)
        return np.ascontiguousarray(np.roll(image, (down, across), (0, 1)))

    def _part(self, image: Pixels, tile: Tile | None) -> Pixels:
        if tile is None:
            return image
        f = self._model.factor
        return image[tile.y * f : (tile.y + tile.height) * f, tile.x * f : (tile.x + tile.width) * f]


def _spread(found: Sequence[torch.Tensor] | None, blocks: int, repeats: bool, beside: int) -> Stack:
    """A net's few residuals for all blocks of the transformer, with zeros for `beside` more tokens; {} for none."""
    if not found:
        return {}
    if beside:
        found = [torch.nn.functional.pad(part, (0, 0, 0, beside)) for part in found]
    if repeats:
        return {index: found[index % len(found)] for index in range(blocks)}
    every = math.ceil(blocks / len(found))
    return {index: found[index // every] for index in range(blocks)}


def _sum(one: Stack, other: Stack) -> Stack:
    return one | other | {index: one[index] + other[index] for index in one.keys() & other.keys()}


def _is_first_sd3(net: Any) -> bool:
    return bool(getattr(net.config, "force_zeros_for_pooled_projection", False))


def _check(layer: ControlLayer, model: LoadedModel) -> None:
    """Raise WireError(model_unsupported) unless the control model was made for models of this shape."""
    kind, net = layer.model.kind, layer.model.module
    ours, theirs = model.denoiser.config, net.config
    fits = model.family in FLOW_NETS.get(kind, ())
    if fits and kind == "z_image_net":
        fits = control_z_image.fits(net, model.denoiser)
    elif fits:
        width = ours.num_attention_heads * ours.attention_head_dim
        fits = width == theirs.num_attention_heads * theirs.attention_head_dim
        fits = fits and theirs.joint_attention_dim in (None, ours.joint_attention_dim)
    if not fits:
        raise WireError(
            Code.MODEL_UNSUPPORTED,
            f"The control model {layer.model.name} does not fit this model; it was made for another kind.",
            "Choose a control model of this model's family.",
        )
    more = getattr(theirs, "extra_conditioning_channels", 0) or getattr(theirs, "extra_condition_channels", 0)
    if more:
        raise WireError(
            Code.MODEL_UNSUPPORTED,
            f"The control model {layer.model.name} is one for inpainting, which is not supported.",
            "Choose another control model; selections work with every one.",
        )
    if kind == "flux_net" and net.union and layer.type not in FLUX_UNION_TYPES:
        what = layer.type.replace("_", " ")
        raise WireError(
            Code.MODEL_UNSUPPORTED,
            f"The control model {layer.model.name} does not know {what} control.",
            "Choose another control model or another type for the control layer.",
        )
