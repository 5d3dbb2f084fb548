# SPDX-License-Identifier: GPL-3.0-or-later
"""Loading IP-Adapters, and the CLIP image encoder that each of them looks through.

The encoder is a folder `image_encoder` (config.json and safetensors) beside the adapter's file or one folder above, as
the published collections are laid out; the first whose width fits is taken.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from krita_sd.wire.errors import Code, WireError
from server.diffusion.model import Recent
from server.diffusion.weights import (
    IsCancelled,
    Loader,
    Progress,
    Source,
    TensorFiles,
    corrupt,
    empty_module,
)

ENCODER = "image_encoder"
_KEPT = 8


@dataclass(eq=False)
class ReferenceModel:
    """An IP-Adapter in memory. state: its tensors, "image_proj" and "ip_adapter". `maps`: what the encoder saw."""

    name: str
    state: dict[str, dict[str, torch.Tensor]]
    encoder: Any
    kind: str = "ip_adapter"
    maps: Recent[Any] = field(default_factory=lambda: Recent(_KEPT))

    @property
    def plain(self) -> bool:
        """Whether it takes the encoder's pooled output; the "plus" ones take the last layer but one."""
        return "proj.weight" in self.state["image_proj"]

    def unload(self) -> None:
        """Free the memory; it cannot be used afterwards."""
        self.maps.clear()
        self.state.clear()
        self.encoder = None


def load_reference(
    path: Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
) -> ReferenceModel:
    """Load the IP-Adapter at `path`. Raises WireError(model_missing, model_corrupt, model_unsupported), Cancelled."""
    if not path.is_file():
        raise WireError(
            Code.MODEL_MISSING, f"The IP-Adapter {path.name} is no longer there.", "Rescan the model folders."
        )
    place = torch.device(device)
    if dtype is None:
        dtype = torch.float32 if place.type == "cpu" else torch.float16
    state: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    with TensorFiles([path]) as files:
        for name in files.names():
            part, _, rest = name.partition(".")
            if part not in state:
                raise _unknown(path)
            state[part][rest] = files.read(name).to(place, dtype, copy=True)
    projection = state["image_proj"]
    first = projection.get("proj.weight", projection.get("proj_in.weight"))
    if first is None or "1.to_k_ip.weight" not in state["ip_adapter"]:
        raise _unknown(path)
    encoder = _encoder(path, "proj.weight" in projection, int(first.shape[1]), place, dtype, progress, cancelled)
    return ReferenceModel(path.stem, state, encoder)


def _encoder(
    path: Path,
    plain: bool,
    width: int,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress | None,
    cancelled: IsCancelled | None,
) -> Any:
    for folder in (path.parent / ENCODER, path.parent.parent / ENCODER):
        if not (folder / "config.json").is_file():
            continue
        try:
            stated = json.loads((folder / "config.json").read_text("utf-8"))
            keep = {key: value for key, value in stated.items() if key not in ("architectures", "torch_dtype", "dtype")}
            config = CLIPVisionConfig(**keep)
        except (OSError, ValueError, TypeError) as error:
            raise corrupt(f"{folder.name}/config.json") from error
        if (config.projection_dim if plain else config.hidden_size) != width:
            continue
        module = empty_module(partial(CLIPVisionModelWithProjection, config))
        with TensorFiles(sorted(folder.glob("*.safetensors"))[:1]) as files:
            stored = {_bare(name): name for name in files.names() if not name.endswith("position_ids")}
            names = {name: stored[_bare(name)] for name in module.state_dict() if _bare(name) in stored}
            loader = Loader(files, folder.name, dtype, device, progress, cancelled)
            return loader.fill(module, ENCODER, {name: Source(source) for name, source in names.items()})
    raise WireError(
        Code.MODEL_MISSING,
        f"The IP-Adapter {path.name} needs an image encoder of width {width}, which is not there.",
        f"Put its folder {ENCODER} beside it.",
    )


def _bare(name: str) -> str:
    return name.removeprefix("vision_model.")


def _unknown(path: Path) -> WireError:
    return WireError(
        Code.MODEL_UNSUPPORTED,
        f"The file {path.name} is not an IP-Adapter of a kind that is known here.",
        "Use a plain or “plus” IP-Adapter for SD 1.x or SDXL.",
    )
