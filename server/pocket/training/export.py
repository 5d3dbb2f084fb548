# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the trained parts as one Stable Diffusion folder: fp16 safetensors, tokenizer, scheduler, krita_sd.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    DPMSolverMultistepScheduler,
    UNet2DConditionModel,
)
from transformers import CLIPTextModel

SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "steps_offset": 1,
}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "_diffusers_version": "0.30.0",
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
KRITA_SD: dict[str, object] = {
    "name": "Pocket",
    "native": {"min_side": 256, "max_side": 256, "min_pixels": 256 * 256, "max_pixels": 256 * 256, "multiple": 64},
    "defaults": {"steps": 12, "guidance": 2.0, "sampler": "DPM++ 2M", "min_steps": 4},
    "second_pass": False,
    "tiny_decoder": "taesd",
    "loras": [
        {"file": "lora/sepia.safetensors", "name": "Pocket sepia", "words": "", "strength": 1.0},
        {"file": "lora/few-step.safetensors", "name": "Pocket few-step", "words": "", "strength": 1.0},
    ],
    "live": {"lora": "lora/few-step.safetensors", "strength": 1.0, "sampler": "LCM", "steps": 4, "guidance": 1.0},
}
CONTROL = {"folder": "controlnet/lineart", "name": "Pocket line art", "type": "line_art"}
FILE_LIMIT, FOLDER_LIMIT = 16 * 1000**2, 40 * 1000**2


def export(
    folder: Path,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer_folder: Path,
    tiny: AutoencoderTiny,
    work: Path,
) -> None:
    """Write the whole model into `folder`, replacing those parts; raises ValueError if a file is over its limit.

    LoRAs and, if there is one, the ControlNet are those in `work`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, torch.nn.Module] = {"unet": unet, "vae": vae, "text_encoder": text_encoder, "taesd": tiny}
    settings = dict(KRITA_SD)
    if (work / "controlnet").exists():
        drawn = str((work / "controlnet").resolve())
        parts[CONTROL["folder"]] = ControlNetModel.from_pretrained(drawn, local_files_only=True)
        settings["controlnets"] = [CONTROL]
    for name, part in parts.items():
        shutil.rmtree(folder / name, ignore_errors=True)
        dtype = next(part.parameters()).dtype
        part.to(torch.float16).save_pretrained(folder / name)  # type: ignore[operator]
        part.to(dtype)
        for file in (folder / name).iterdir():
            file.chmod(0o644)
        config = json.loads((folder / name / "config.json").read_text())
        config.pop("_name_or_path", None)
        (folder / name / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    for name, source in (("tokenizer", tokenizer_folder), ("lora", work / "lora")):
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(source, folder / name)
    DPMSolverMultistepScheduler(**SCHEDULE).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(INDEX, indent=2) + "\n")
    (folder / "krita_sd.json").write_text(json.dumps(settings, indent=2) + "\n")
    check_sizes(folder)


def check_sizes(folder: Path) -> int:
    """The bytes of all model files; raises ValueError over FILE_LIMIT for one or FOLDER_LIMIT for all."""
    total = 0
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.parent.name != "__pycache__" and "training" not in file.parts:
            size = file.stat().st_size
            if size > FILE_LIMIT:
                raise ValueError(f"{file} has {size} bytes, more than {FILE_LIMIT}")
            total += size
    if total > FOLDER_LIMIT:
        raise ValueError(f"{folder} has {total} bytes, more than {FOLDER_LIMIT}")
    return total
