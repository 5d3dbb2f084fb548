# SPDX-License-Identifier: GPL-3.0-or-later
"""Control layers: ControlNets and T2I-Adapters add to what the UNet computes, each in its share of the steps.

Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion Models", 2023; Mou et al., "T2I-Adapter", 2023.
What depends on the control picture alone is computed once and kept with the control model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch

from krita_sd.wire.errors import Code, WireError
from server.diffusion.model import Condition, LoadedModel, bytes_to_device
from server.diffusion.sampling import Feature
from server.diffusion.schedules import Schedule
from server.diffusion.task import ControlLayer, Pixels
from server.diffusion.tiles import Tile

UNION_TYPES = {
    "pose": 0,
    "depth": 1,
    "scribble": 2,
    "soft_edge": 2,
    "canny": 3,
    "line_art": 3,
    "normal": 4,
    "segmentation": 5,
    "tile": 6,
    "blur": 6,
}
"""Which input of a union ControlNet takes which type (the order in which the published ones were trained)."""


class Controls(Feature):
    """The control layers of one job. `added` gives what the denoiser is called with besides its ordinary inputs.

    A layer acts at call i of n when i/n >= start and (i+1)/n <= end, as in the diffusers pipelines. Raises
    WireError(model_unsupported) when a control model does not fit the model.
    """

    def __init__(self, model: LoadedModel, schedule: Schedule, layers: Sequence[ControlLayer]) -> None:
        # Any: only models with a UNet pass the check below, and have `conditioning`.
        self._model: Any = model
        self._schedule = schedule
        self._index = 0
        self._inputs: torch.Tensor | None = None
        self._stack: list[_Embedded] = []
        for layer in layers:
            check_fit(layer, model)
        self._layers = [(layer, picture_hash(layer.image)) for layer in layers]

    def __enter__(self) -> Controls:
        for layer, _ in self._layers:
            if layer.model.kind == "controlnet":
                self._stack.append(_Embedded(layer.model))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for embedded in reversed(self._stack):
            embedded.undo()
        self._stack.clear()

    def before_model(self, index: int, inputs: torch.Tensor) -> torch.Tensor:
        # Before channels of a mask are appended: control models know latents only.
        self._index, self._inputs = index, inputs
        return inputs

    def added(self, timestep: torch.Tensor, condition: Condition, tile: Tile | None = None) -> dict[str, Any]:
        """Keyword arguments for the UNet's call at this step, on the whole latents or on a tile of them."""
        down: list[torch.Tensor] | None = None
        middle: torch.Tensor | None = None
        inner: list[torch.Tensor] | None = None
        for layer, digest in self._layers:
            if not acts(layer, self._index, self._schedule):
                continue
            if layer.model.kind == "t2i_adapter":
                features = self._adapter(layer, digest, condition.is_pair, tile)
                inner = features if inner is None else [a + b for a, b in zip(inner, features)]
                continue
            residuals, last = self._controlnet(layer, digest, timestep, condition, tile)
            down = list(residuals) if down is None else [a + b for a, b in zip(down, residuals)]
            middle = last if middle is None else middle + last
        out: dict[str, Any] = {}
        if down is not None:
            out["down_block_additional_residuals"] = down
            out["mid_block_additional_residual"] = middle
        if inner is not None:
            # The UNet takes them off the list as it goes.
            out["down_intrablock_additional_residuals"] = [feature.clone() for feature in inner]
        return out

    def _controlnet(
        self, layer: ControlLayer, digest: str, timestep: torch.Tensor, condition: Condition, tile: Tile | None
    ) -> tuple[Sequence[torch.Tensor], torch.Tensor]:
        assert self._inputs is not None
        net, pair = layer.model.module, condition.is_pair
        dtype = net.dtype
        inputs = self._inputs
        if tile is not None:
            inputs = inputs[..., tile.y : tile.y + tile.height, tile.x : tile.x + tile.width]
        inputs = (torch.cat([inputs, inputs]) if pair else inputs).to(dtype)
        key = (digest, dtype, pair, _place(tile))
        more = self._model.conditioning(condition, dtype)

        def image() -> torch.Tensor:
            # In the order in which the pipelines lay it out: kernels round by memory order.
            one = picture_tensor(self._part(layer.image, tile), self._model.device).to(dtype).contiguous()
            return torch.cat([one, one]) if pair else one

        if layer.model.kind == "union":
            place = UNION_TYPES[layer.type]
            types = torch.zeros(1, net.config.num_control_type, device=inputs.device, dtype=dtype)
            types[:, place] = 1.0
            more |= {"control_type": types.repeat(len(inputs), 1), "control_type_idx": [place]}
            shown: Any = [layer.model.maps.get(key, image)]
        else:
            # The embedding of the picture is remembered; the picture itself is only made to compute it.
            net.controlnet_cond_embedding.choose(key, image)
            shown = inputs
        out: tuple[Sequence[torch.Tensor], torch.Tensor] = net(
            inputs,
            timestep,
            encoder_hidden_states=condition.embeds.to(dtype),
            controlnet_cond=shown,
            conditioning_scale=layer.weight,
            return_dict=False,
            **more,
        )
        return out

    def _adapter(self, layer: ControlLayer, digest: str, pair: bool, tile: Tile | None) -> list[torch.Tensor]:
        module = layer.model.module
        dtype = module.dtype

        def features() -> list[torch.Tensor]:
            image = picture_tensor(self._part(layer.image, tile), self._model.device)
            if module.config.in_channels == 1:
                image = image.mean(dim=1, keepdim=True)
            computed: list[torch.Tensor] = module(image.to(dtype))
            return computed

        made = [feature * layer.weight for feature in layer.model.maps.get((digest, dtype, _place(tile)), features)]
        return [torch.cat([feature, feature]) for feature in made] if pair else made

    def _part(self, image: Pixels, tile: Tile | None) -> Pixels:
        if tile is None:
            return image
        f = self._model.factor
        return image[tile.y * f : (tile.y + tile.height) * f, tile.x * f : (tile.x + tile.width) * f]


def acts(layer: ControlLayer, index: int, schedule: Schedule) -> bool:
    """Whether a layer takes part in the call `index` of a schedule."""
    calls, done = schedule.total - schedule.start, index - schedule.start
    return layer.weight != 0.0 and done / calls >= layer.start and (done + 1) / calls <= layer.end


def _place(tile: Tile | None) -> tuple[int, ...]:
    return () if tile is None else (tile.x, tile.y, tile.width, tile.height)


class _Embedded(torch.nn.Module):
    """Stands in for the part of a ControlNet that embeds the picture, and remembers what that computed."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._owner = [model]  # in a list, so that it is no sub-module
        home = model.module.controlnet_cond_embedding
        self._nested = isinstance(home, _Embedded)
        if not self._nested:
            self.inner = home
            model.module.controlnet_cond_embedding = self

    def choose(self, key: Any, image: Callable[[], torch.Tensor]) -> None:
        """Which picture the next call is about."""
        self._key, self._image = key, image

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = self._owner[0].maps.get(self._key, lambda: self.inner(self._image()))
        return embedded

    def undo(self) -> None:
        if not self._nested:
            self._owner[0].module.controlnet_cond_embedding = self.inner


def picture_tensor(image: Pixels, device: torch.device) -> torch.Tensor:
    """RGB bytes (h, w, 3) to float32 (1, 3, h, w), 0..1."""
    return bytes_to_device(image, device)[None].permute(0, 3, 1, 2).to(torch.float32) / 255.0


def check_fit(layer: ControlLayer, model: LoadedModel) -> None:
    """Raise WireError(model_unsupported) unless the control model was made for models of this shape."""
    ours, theirs = model.denoiser.config, layer.model.module.config
    if layer.model.kind == "t2i_adapter":
        fits = list(theirs.channels) == list(getattr(ours, "block_out_channels", ()))
    else:
        same = ("block_out_channels", "cross_attention_dim", "layers_per_block")
        fits = all(_plain(getattr(ours, key, None)) == _plain(getattr(theirs, key, ())) for key in same)
    if layer.model.kind == "union" and layer.type not in UNION_TYPES:
        fits = False
    if not fits:
        raise WireError(
            Code.MODEL_UNSUPPORTED,
            f"The control model {layer.model.name} does not fit this model; it was made for another kind.",
            "Choose a control model of this model's family.",
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (tuple, list)) else value


def picture_hash(image: Pixels) -> str:
    """What tells control pictures apart."""
    return hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest() + str(image.shape)
