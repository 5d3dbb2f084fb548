# SPDX-License-Identifier: GPL-3.0-or-later
"""Loading control models: ControlNets (also union ones) of UNets and of transformers, and T2I-Adapters, as diffusers
folders or single files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    ControlNetModel,
    ControlNetUnionModel,
    FluxControlNetModel,
    QwenImageControlNetModel,
    SD3ControlNetModel,
    T2IAdapter,
    ZImageControlNetModel,
)

from krita_sd.wire.errors import Code, WireError
from server.diffusion import control_flow_names, control_names
from server.diffusion.model import Recent
from server.diffusion.weights import (
    IsCancelled,
    Loader,
    Progress,
    Source,
    TensorFiles,
    corrupt,
    empty_module,
    incomplete,
)

_KINDS: dict[str, Any] = {
    "controlnet": ControlNetModel,
    "union": ControlNetUnionModel,
    "t2i_adapter": T2IAdapter,
    "flux_net": FluxControlNetModel,
    "sd3_net": SD3ControlNetModel,
    "qwen_net": QwenImageControlNetModel,
    "z_image_net": ZImageControlNetModel,
}
_CLASSES = {made.__name__: kind for kind, made in _KINDS.items()}
_MAPS_KEPT = 8


@dataclass(eq=False)
class ControlModel:
    """A control model in memory. kind: controlnet | union | t2i_adapter | flux_net | sd3_net | qwen_net | z_image_net.
    `maps`: what was computed of control pictures alone, and is the same in every step and job."""

    name: str
    kind: str
    module: Any
    maps: Recent[Any] = field(default_factory=lambda: Recent(_MAPS_KEPT))

    def unload(self) -> None:
        """Free the memory; the model cannot be used afterwards."""
        self.maps.clear()
        self.module = None


def load_control(
    path: Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
) -> ControlModel:
    """Load the control model at `path`: a folder, the file in one, or a file alone. Raises
    WireError(model_missing, model_corrupt, model_unsupported), Cancelled.

    `dtype` defaults to float32 on the CPU and float16 elsewhere.
    """
    if not path.exists():
        raise WireError(
            Code.MODEL_MISSING, f"The control model {path.name} is no longer there.", "Rescan the model folders."
        )
    place = torch.device(device)
    if dtype is None:
        dtype = torch.float32 if place.type == "cpu" else torch.float16
    weights = _weights(path) if path.is_dir() else path
    if _is_described(path):
        path = path.parent
    with TensorFiles([weights]) as files:
        shapes = {name: shape for name, shape in files.shapes().items() if not name.endswith("position_ids")}
        if path.is_dir():
            kind, config, names = _from_folder(path, shapes)
        else:
            kind, config, names = _from_file(path, shapes)
            entry = control_flow_names.REFINER_ENTRY
            if kind == "z_image_net" and entry in shapes and not files.read(entry).to(torch.float32).any():
                config = control_flow_names.without_refiner(config)
                names = {name: name for name in names if not name.startswith(control_flow_names.REFINER)}
        try:
            module = empty_module(lambda: _KINDS[kind].from_config(config))
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, NotImplementedError) as error:
            # A config that the class does not accept; the kinds of exception are the library's own business.
            raise _unknown(path) from error
        if set(names) - set(module.state_dict()):
            raise _unknown(path)
        loader = Loader(files, path.name, dtype, place, progress, cancelled)
        loader.fill(module, "control", {name: Source(stored) for name, stored in names.items()})
    return ControlModel(path.stem if path.is_file() else path.name, kind, module)


def _is_described(file: Path) -> bool:
    """Whether a file lies in a diffusers folder, whose configuration says more than shapes can. Classes that only their
    authors know are no help: there the shapes have to do."""
    if file.stem.partition(".")[0] != "diffusion_pytorch_model":
        return False
    try:
        return json.loads((file.parent / "config.json").read_text("utf-8"))["_class_name"] in _CLASSES
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _weights(folder: Path) -> Path:
    found = sorted(folder.glob("*.safetensors"))
    plain = [file for file in found if ".fp16" not in file.name] or found
    if len(plain) != 1 and not any(file.name == "diffusion_pytorch_model.safetensors" for file in plain):
        raise incomplete(folder.name, "control model")
    return next((file for file in plain if file.name == "diffusion_pytorch_model.safetensors"), plain[0])


def _from_folder(folder: Path, shapes: control_names.Shapes) -> tuple[str, dict[str, Any], dict[str, str]]:
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        kind = _CLASSES[config["_class_name"]]
    except (OSError, ValueError) as error:
        raise corrupt(f"{folder.name}/config.json") from error
    except (KeyError, TypeError) as error:
        raise _unknown(folder) from error
    return kind, config, {name: name for name in shapes}


def _from_file(path: Path, shapes: control_names.Shapes) -> tuple[str, dict[str, Any], dict[str, str]]:
    try:
        if control_flow_names.is_flow_net(shapes):
            return *control_flow_names.flow_net(shapes), {name: name for name in shapes}
        if control_names.is_controlnet(shapes):
            names = control_names.controlnet_names(shapes)
            config = control_names.controlnet_config({name: shapes[stored] for name, stored in names.items()})
            return ("union" if "task_embedding" in names else "controlnet"), config, names
        if control_names.is_adapter(shapes):
            names = control_names.adapter_names(shapes)
            config = control_names.adapter_config({name: shapes[stored] for name, stored in names.items()})
            return "t2i_adapter", config, names
    except (KeyError, ValueError, IndexError, StopIteration) as error:
        raise _unknown(path) from error
    raise _unknown(path)


def _unknown(path: Path) -> WireError:
    return WireError(
        Code.MODEL_UNSUPPORTED,
        f"The file {path.name} is not a control model of a kind that is known here.",
        "Use a ControlNet for SD 1.x, SD 2.x, SDXL, SD3, Flux 1, Qwen-Image or Z-Image, or a T2I-Adapter.",
    )
