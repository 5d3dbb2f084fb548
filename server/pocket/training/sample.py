# SPDX-License-Identifier: GPL-3.0-or-later
"""A plain batched sampler for evaluation: txt2img, img2img and inpainting with the parts of a model folder."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DPMSolverMultistepScheduler,
    LCMScheduler,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from .export import CONTROL
from .tokenizer import encode


@dataclass
class Model:
    """The parts of a Stable Diffusion folder, in fp32."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: dict
    side: int
    control: ControlNetModel | None = None

    @classmethod
    def load(cls, folder: Path) -> Model:
        root = str(folder.resolve())
        common = {"torch_dtype": torch.float32, "local_files_only": True}
        return cls(
            UNet2DConditionModel.from_pretrained(root, subfolder="unet", **common).eval(),
            AutoencoderKL.from_pretrained(root, subfolder="vae", **common).eval(),
            CLIPTextModel.from_pretrained(f"{root}/text_encoder", dtype=torch.float32, local_files_only=True).eval(),
            CLIPTokenizer.from_pretrained(f"{root}/tokenizer", local_files_only=True),
            dict(DPMSolverMultistepScheduler.load_config(root, subfolder="scheduler")),
            native_side(folder),
            ControlNetModel.from_pretrained(root, subfolder=CONTROL["folder"], **common).eval()
            if (folder / CONTROL["folder"]).exists()
            else None,
        )

    def told(self, texts: list[str]) -> Tensor:
        return self.text_encoder(encode(self.tokenizer, texts)).last_hidden_state

    def to_latents(self, pictures: np.ndarray) -> Tensor:
        """(n, h, w, 3) uint8 to latents of unit variance."""
        x = torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return self.vae.encode(x).latent_dist.mode() * self.vae.config.scaling_factor

    def to_pictures(self, latents: Tensor) -> np.ndarray:
        x = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def native_side(folder: Path) -> int:
    """The largest square the model is made for (pixels, at most 256), from krita_sd.json."""
    return min(256, math.isqrt(json.loads((folder / "krita_sd.json").read_text())["native"]["max_pixels"]) // 64 * 64)


def noise(seeds: list[int], height: int, width: int) -> Tensor:
    """One latent noise per seed, the same whatever else is in the batch."""
    shape = (4, height // 8, width // 8)
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


@torch.inference_mode()
def sample(
    model: Model,
    prompts: list[str],
    seeds: list[int],
    width: int,
    height: int,
    steps: int = 12,
    guidance: float = 2.0,
    negative: str = "",
    pictures: np.ndarray | None = None,
    strength: float = 1.0,
    mask: np.ndarray | None = None,
    lines: np.ndarray | None = None,
    control: float = 0.0,
    lcm: bool = False,
    batch: int = 16,
) -> np.ndarray:
    """(n, height, width, 3) uint8 pictures by DPM++ 2M (or LCM); `mask` is (h, w), 1 where a given picture may change.

    `lines` are (n, height, width, 3) uint8 for the ControlNet of strength `control`.
    """
    made = []
    for start in range(0, len(prompts), batch):
        part = slice(start, start + batch)
        count = len(prompts[part])
        scheduler = (LCMScheduler if lcm else DPMSolverMultistepScheduler).from_config(model.scheduler)
        renoise = torch.Generator().manual_seed(seeds[start])
        scheduler.set_timesteps(steps)
        first = min(steps - max(1, round(steps * strength)), steps - 1) if pictures is not None else 0
        scheduler.set_begin_index(first)
        timesteps = scheduler.timesteps[first:]
        e = noise(seeds[part], height, width)
        clean = None if pictures is None else model.to_latents(pictures[part])
        x = e if clean is None else scheduler.add_noise(clean, e, timesteps[:1].expand(count))
        told = model.told(prompts[part])
        if guidance != 1:
            told = torch.cat([model.told([negative] * count), told])
        keep = None
        if mask is not None:
            small = torch.from_numpy(mask)[None, None].float()
            keep = 1 - torch.nn.functional.interpolate(small, size=x.shape[2:], mode="area")
        for i, t in enumerate(timesteps):
            given = x if guidance == 1 else torch.cat([x, x])
            more: dict[str, Any] = {}
            if lines is not None and control and model.control is not None:
                hint = torch.from_numpy(lines[part]).permute(0, 3, 1, 2).float() / 255
                hint = hint if guidance == 1 else torch.cat([hint, hint])
                down, mid = model.control(given, t, told, hint, conditioning_scale=control, return_dict=False)
                more = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
            v = model.unet(given, t, told, **more).sample
            if guidance != 1:
                plain, guided = v.chunk(2)
                v = plain + guidance * (guided - plain)
            x = scheduler.step(v, t, x, return_dict=False, **({"generator": renoise} if lcm else {}))[0]
            if keep is not None and clean is not None:
                known = clean
                if i + 1 < len(timesteps):
                    known = scheduler.add_noise(clean, e, timesteps[i + 1 : i + 2].expand(count))
                x = known * keep + x * (1 - keep)
        made.append(model.to_pictures(x))
    return np.concatenate(made)


def grid(pictures: np.ndarray, columns: int, side: int | None = None):
    """One picture of many (a PIL image), `columns` wide, each scaled to `side`."""
    from PIL import Image

    side = side or pictures.shape[1]
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * side, rows * side), (255, 255, 255))
    for i, p in enumerate(pictures):
        small = Image.fromarray(p).resize((side, side), Image.Resampling.LANCZOS)
        sheet.paste(small, ((i % columns) * side, (i // columns) * side))
    return sheet
