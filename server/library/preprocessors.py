# SPDX-License-Identifier: GPL-3.0-or-later
"""Trained models that make control maps: folders of transformers models (config.json beside model.safetensors).

Told by the architecture that the configuration states; which maps each makes is one table.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DEPTH, SEGMENTATION, POSE = ("depth", "normal"), ("segmentation",), ("pose",)
ARCHITECTURES = {
    "DepthAnythingForDepthEstimation": DEPTH,
    "DPTForDepthEstimation": DEPTH,
    "SegformerForSemanticSegmentation": SEGMENTATION,
    "UperNetForSemanticSegmentation": SEGMENTATION,
    "DPTForSemanticSegmentation": SEGMENTATION,
    "VitPoseForPoseEstimation": POSE,
}
"""Maps by architecture; normals are the slope of a depth."""

NEEDED = {
    "depth": "a depth model (Depth Anything or DPT)",
    "normal": "a depth model (Depth Anything or DPT)",
    "segmentation": "a segmentation model for ADE20K (SegFormer or UperNet)",
    "pose": "a pose model (ViTPose)",
}
"""What makes a map of a type, for a sentence."""

CLASSES, POINTS = 150, 17
"""Classes of ADE20K, whose colours the ControlNets know; points of a body in COCO."""

_MAX_CONFIG = 1024 * 1024


def stated(file: Path) -> dict[str, Any]:
    """The configuration beside a file of weights; {} when there is none that can be read."""
    path = file.parent / "config.json"
    try:
        if path.stat().st_size > _MAX_CONFIG:
            return {}
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def architecture_of(config: dict[str, Any]) -> str:
    """The known architecture that a configuration states, or ""."""
    named = config.get("architectures")
    first = named[0] if isinstance(named, list) and named else ""
    return first if isinstance(first, str) and first in ARCHITECTURES else ""


def maps_of(file: Path) -> tuple[tuple[str, ...], str]:
    """The maps that the model in `file` makes, and why it cannot ("" when it can); ((), "") for other files."""
    if file.name != "model.safetensors":
        return (), ""
    config = stated(file)
    maps = ARCHITECTURES.get(architecture_of(config), ())
    if maps == SEGMENTATION:
        labels = config.get("id2label")
        count = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
        if count != CLASSES:
            name = file.parent.name
            return maps, f"{name} knows {count} classes; control models are made for the {CLASSES} of ADE20K."
    return maps, ""
