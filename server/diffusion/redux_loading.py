# SPDX-License-Identifier: GPL-3.0-or-later
"""Loading Redux, the reference model of Flux 1, and the SigLIP encoder that it looks through.

Redux is a file of its own or the folder `image_embedder` of its diffusers folder. The encoder is a folder
`image_encoder` in, beside or above it, or a single file beside it or in a folder `clip_vision`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from transformers import SiglipVisionConfig, SiglipVisionModel

from krita_sd.wire.errors import Code, WireError
from server.diffusion.model import Recent
from server.diffusion.weights import IsCancelled, Loader, Progress, Source, TensorFiles, corrupt, empty_module

ENCODER = "image_encoder"
_KEPT = 8
_HEAD = 72  # channels of one attention head in the encoder that was published with Redux


@dataclass(eq=False)
class ReduxModel:
    """Redux in memory. width: of its words. `maps`: the words of the last pictures."""

    name: str
    embedder: Any
    encoder: Any
    width: int
    kind: str = "redux"
    maps: Recent[Any] = field(default_factory=lambda: Recent(_KEPT))

    def unload(self) -> None:
        """Free the memory; it cannot be used afterwards."""
        self.maps.clear()
        self.embedder = self.encoder = None


def load_redux(
    path: Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
) -> ReduxModel:
    """Load the Redux file or folder at `path`. Raises WireError(model_missing, model_corrupt, model_unsupported)."""
    place = torch.device(device)
    if dtype is None or dtype == torch.float16:
        dtype = torch.float32 if place.type == "cpu" else torch.bfloat16
    files = [path] if path.is_file() else sorted((path / "image_embedder").glob("*.safetensors"))[:1]
    if not files:
        raise WireError(
            Code.MODEL_MISSING, f"The Redux model {path.name} is no longer there.", "Rescan the model folders."
        )

    def loader(stored: TensorFiles) -> Loader:
        return Loader(stored, path.name, dtype, place, progress, cancelled)

    with TensorFiles(files) as stored:
        shapes = stored.shapes()
        down, up = shapes.get("redux_down.weight", ()), shapes.get("redux_up.weight", ())
        if len(down) != 2 or len(up) != 2:
            raise WireError(
                Code.MODEL_UNSUPPORTED,
                f"The file {path.name} is not a Redux model of a kind that is known here.",
                "Use the Redux model of Flux 1.",
            )
        module = empty_module(partial(ReduxImageEncoder, redux_dim=up[1], txt_in_features=down[0]))
        sources = {name: Source(name) for name in module.state_dict() if name in shapes}
        embedder = loader(stored).fill(module, "redux", sources)
    encoder = _encoder(path, up[1], loader)
    return ReduxModel(path.stem, embedder, encoder, down[0])


def _encoder(path: Path, width: int, loader: Callable[[TensorFiles], Loader]) -> Any:
    """The encoder of that width in any of its places."""
    for file, stated in _candidates(path):
        with TensorFiles([file]) as stored:
            shapes = {_bare(name): shape for name, shape in stored.shapes().items()}
            names = {_bare(name): name for name in stored.names() if not name.endswith("position_ids")}
            if "head.probe" not in shapes or shapes.get("post_layernorm.weight") != (width,):
                continue
            try:
                config = SiglipVisionConfig(**(stated or _config(shapes)))
            except (KeyError, ValueError, TypeError) as error:
                raise corrupt(file.name) from error
            module = empty_module(partial(SiglipVisionModel, config))
            sources = {name: Source(names[_bare(name)]) for name in module.state_dict() if _bare(name) in names}
            return loader(stored).fill(module, ENCODER, sources)
    raise WireError(
        Code.MODEL_MISSING,
        f"The Redux model {path.name} needs a SigLIP image encoder of width {width}, which is not there.",
        f"Put its folder {ENCODER}, or the encoder's file, beside it.",
    )


def _candidates(path: Path) -> Iterator[tuple[Path, dict[str, Any] | None]]:
    """Files that may hold the encoder, with their stated configuration."""
    home = path if path.is_dir() else path.parent
    for folder in (home / ENCODER, home.parent / ENCODER):
        if not (folder / "config.json").is_file():
            continue
        try:
            stated = json.loads((folder / "config.json").read_text("utf-8"))
            keep = {key: value for key, value in stated.items() if key not in ("architectures", "torch_dtype", "dtype")}
        except (OSError, ValueError, AttributeError) as error:
            raise corrupt(f"{folder.name}/config.json") from error
        yield from ((file, keep) for file in sorted(folder.glob("*.safetensors"))[:1])
    for folder in (home, home / "clip_vision", home.parent / "clip_vision"):
        yield from ((file, None) for file in sorted(folder.glob("*.safetensors")) if file != path)


def _config(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """What a single file's shapes say. Raises KeyError or ValueError when they are not an encoder's."""
    width, _, patch, _ = shapes["embeddings.patch_embedding.weight"]
    layers = {name.split(".")[2] for name in shapes if name.startswith("encoder.layers.")}
    side = round(shapes["embeddings.position_embedding.weight"][0] ** 0.5)
    return {
        "hidden_size": width,
        "intermediate_size": shapes["encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, width // _HEAD),
        "patch_size": patch,
        # 384 is not a whole number of patches of 14; the rest of a patch is not looked at.
        "image_size": 384 if (side, patch) == (27, 14) else side * patch,
    }


def _bare(name: str) -> str:
    return name.removeprefix("vision_model.")
