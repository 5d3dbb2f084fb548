# SPDX-License-Identifier: GPL-3.0-or-later
"""Control maps that only a trained model can make: depth, normals, segments, poses. The painter brings the model, a
folder of a transformers model (config.json, model.safetensors); server/library/preprocessors.py tells them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError

from krita_sd.wire.errors import Code, WireError
from server.diffusion.task import Cancelled
from server.diffusion.weights import IsCancelled, Progress, corrupt
from server.library.preprocessors import ARCHITECTURES, DEPTH, POSE, architecture_of, stated

from .bodies import drawn, joints

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

_COLOURS = (
    "787878b4787806e6e650323204c8037878508c8c8ccc05ffe6e6e604fa07e005ffebff0796053d78784608ff33ff06528fff8c"
    "ccff04ff3307cc46030066c83de6faff06330b66ffff0747ff09e00907e6dcdcdcff095c7009ff08ffd607ffe0ffb8060aff47"
    "ff290a07ffffe0ff086608ffff3d06ffc207ff7a0800ff14ff0829ff05990633ffeb0cffa0961400a3ff8c8c8cfa0a0f14ff00"
    "1fff00ff1f00ffe00099ff000000ffff470000ebff00adff1f00ff0bc8c8ff520000fff5003dff00ff7000ff85ff0000ffa300"
    "ff6600c2ff00008fff33ff000052ff00ff2900ffad0a00ffadff0000ff99ff5c00ff00ffff00f5ff0066ffad00ff0014ffb8b8"
    "001fff00ff3d0047ffff00cc00ffc200ff52000aff0070ff3300ff00c2ff007aff00ffa3ff990000ff0aff70008fff005200ff"
    "a3ff00ffeb0008b8aa8500ff00ff5cb800ffff001f00b8ff00d6ffff00705cff0000e0ff70e0ff46b8a0a300ff9900ff47ff00"
    "ff00a3ffcc00ff008f00ffeb85ff00ff00ebf500ffff007afff5000abed4d6ff0000ccff1400ffffff000099ff0029ff00ffcc"
    "2900ff29ff00ad00ff00f5ff4700ff7a00ff00ffb8005cffb8ff000085ffffd60019c2c266ff005c00ff"
)
COLOURS: Pixels = np.frombuffer(bytes.fromhex(_COLOURS), np.uint8).reshape(-1, 3)
"""The colour of each of the 150 classes of ADE20K, as the segmentation ControlNets were trained."""

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the pictures in ImageNet
_AROUND = 1.25  # how much wider than a body what the pose model sees is
_STEEPEST = 12.0  # how far depth from 0 to 1 stretches, in short sides of the picture, for normals


@dataclass(eq=False)
class Preprocessor:
    """A model in memory that makes `maps`. reader: what makes its input of a picture (none for poses)."""

    name: str
    maps: tuple[str, ...]
    module: Any
    reader: Any = None

    def unload(self) -> None:
        """Free the memory; it cannot be used afterwards."""
        self.module = self.reader = None


def load_preprocessor(
    path: Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
) -> Preprocessor:
    """Load the model whose weights are in `path`. Raises WireError(model_missing, model_corrupt), Cancelled.

    Runs in float32 whatever `dtype` says: one call per map.
    """
    if not path.is_file():
        raise WireError(
            Code.MODEL_MISSING, f"The model {path.parent.name} is no longer there.", "Rescan the model folders."
        )
    folder = path.parent
    name = architecture_of(stated(path))
    if not name:
        raise corrupt(f"{folder.name}/config.json")
    try:
        module, report = getattr(transformers, name).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
        reader = None if ARCHITECTURES[name] == POSE else _reader(name, folder)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, SafetensorError) as error:
        raise corrupt(f"{folder.name}/{path.name}") from error
    if report["missing_keys"] or report["mismatched_keys"]:
        raise corrupt(f"{folder.name}/{path.name}")
    if cancelled is not None and cancelled():
        raise Cancelled
    return Preprocessor(folder.name, ARCHITECTURES[name], module.to(device).eval().requires_grad_(False), reader)


def _reader(name: str, folder: Path) -> Any:
    """What sizes and normalises a picture, by the settings in the folder, else by those of its kind."""
    # By their own modules: the default ones need torchvision.
    from transformers.models.dpt.image_processing_pil_dpt import DPTImageProcessorPil
    from transformers.models.segformer.image_processing_pil_segformer import SegformerImageProcessorPil

    kind = SegformerImageProcessorPil if name.startswith(("Segformer", "UperNet")) else DPTImageProcessorPil
    if (folder / "preprocessor_config.json").is_file():
        return kind.from_pretrained(folder, local_files_only=True)
    return kind()


@torch.inference_mode()
def learned_map(picture: Pixels, type: str, model: Preprocessor) -> Pixels:
    """The map of `type` for a picture, RGB of the same size: near is white, normals face the viewer in blue."""
    height, width = picture.shape[:2]
    if model.maps == POSE:
        return drawn(joints(*_points(picture, model.module)), width, height)
    inputs = model.reader(images=Image.fromarray(picture), return_tensors="pt")["pixel_values"].to(model.module.device)
    if model.maps != DEPTH:
        logits = _sized(model.module(pixel_values=inputs).logits, height, width)
        return np.ascontiguousarray(COLOURS[logits[0].argmax(dim=0).cpu().numpy()])
    found = model.module(pixel_values=inputs).predicted_depth
    depth = _sized(found[:, None], height, width)[0, 0].to(torch.float32).cpu().numpy()
    near = _unit(-depth if getattr(model.module.config, "depth_estimation_type", "") == "metric" else depth)
    if type == "normal":
        return normals(near)
    return np.repeat(np.rint(near * 255.0).astype(np.uint8)[..., None], 3, axis=2)


def normals(near: Floats) -> Pixels:
    """How surfaces of a nearness (height, width), 0..1, face: red to the right, green up, blue to the viewer."""
    scale = _STEEPEST * min(near.shape) / 16.0
    down, across = (np.gradient(near, axis=axis) if near.shape[axis] > 1 else near * 0 for axis in (0, 1))
    facing = np.stack([-across * scale, down * scale, np.ones_like(near)], axis=-1)
    facing /= np.linalg.norm(facing, axis=-1, keepdims=True)
    return np.rint((facing * 0.5 + 0.5) * 255.0).astype(np.uint8)


def _sized(values: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return torch.nn.functional.interpolate(values, size=(height, width), mode="bilinear", align_corners=False)


def _unit(values: Floats) -> Floats:
    low, high = float(values.min()), float(values.max())
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def _points(picture: Pixels, module: Any) -> tuple[Floats, Floats]:
    """COCO's 17 points (17, 2) of the one body that the picture shows, x and y in pixels, and how certain they are."""
    rows, columns = module.config.backbone_config.image_size
    height, width = picture.shape[:2]
    scale = max(width / columns, height / rows) * _AROUND  # pixels of the picture per pixel that the model sees
    size = (round(columns * scale), round(rows * scale))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    canvas = Image.new("RGB", size)
    canvas.paste(Image.fromarray(picture), (left, top))
    seen = np.array(canvas.resize((columns, rows), Image.Resampling.BILINEAR))
    pixels = torch.from_numpy(seen).permute(2, 0, 1)[None].to(torch.float32) / 255.0
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _DEVIATION))
    pixels = ((pixels - mean) / deviation).to(module.device)
    heat = module(pixel_values=pixels).heatmaps[0].to(torch.float32).cpu().numpy()
    _, tall, wide = heat.shape
    best = heat.reshape(len(heat), -1).argmax(axis=1)
    cells = np.stack([best % wide, best // wide], axis=1).astype(np.float32) + 0.5
    points: Floats = cells * (np.asarray(size, np.float32) / (wide, tall)) - (left, top)
    return points.astype(np.float32), heat.reshape(len(heat), -1).max(axis=1)
