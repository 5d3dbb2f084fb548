# SPDX-License-Identifier: GPL-3.0-or-later
"""Tiny models with random weights, made on the fly: every layout that the engine loads, in a second or two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

FACTOR = 8
SIDE = 64

_SD1_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def make_model(
    folder: Path,
    family: str = "sd1",
    inpaint: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    tiny_decoder: bool = False,
    prediction: str | None = None,
    extra: dict[str, Any] | None = None,
) -> Path:
    """Write a diffusers folder of a random model and return it.

    family: "sd1" (epsilon, clip text encoder) or "sd2" (v-prediction, linear projections). inpaint: a 9-channel UNet.
    tiny_decoder: also a random AutoencoderTiny, named in krita_sd.json. extra: more entries for krita_sd.json. Native
    side 64 pixels.
    """
    parts = make_parts(family, inpaint, seed, prediction)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("unet", "vae", "text_encoder"):
        _converted(parts[name], dtype).save_pretrained(folder / name)
    parts["tokenizer"].save_pretrained(folder / "tokenizer")
    parts["scheduler"].save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "scheduler": ["diffusers", type(parts["scheduler"]).__name__],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    settings = dict(extra or {})
    if tiny_decoder:
        _converted(_tiny_autoencoder(seed), dtype).save_pretrained(folder / "taesd")
        settings["tiny_decoder"] = "taesd"
    if settings:
        (folder / "krita_sd.json").write_text(json.dumps(settings))
    return folder


def make_parts(
    family: str = "sd1", inpaint: bool = False, seed: int = 0, prediction: str | None = None
) -> dict[str, Any]:
    """The components of a random model: unet, vae, text_encoder, tokenizer, scheduler. The same for the same seed."""
    from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from server.diffusion.tokenizer import shipped_tokenizer

    second = family == "sd2"
    prediction = prediction or ("v_prediction" if second else "epsilon")
    scheduler: Any
    if second:
        scheduler = DDIMScheduler(**_SD1_SCHEDULE, prediction_type=prediction)
    else:
        scheduler = PNDMScheduler(
            **{key: value for key, value in _SD1_SCHEDULE.items() if key != "clip_sample"},
            skip_prk_steps=True,
            prediction_type=prediction,
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=SIDE // FACTOR,
            in_channels=9 if inpaint else 4,
            out_channels=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(32, 64),
            layers_per_block=1,
            cross_attention_dim=32,
            attention_head_dim=[1, 1] if second else 8,
            use_linear_projection=second,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(32, 32, 32, 32),
            layers_per_block=1,
            latent_channels=4,
            scaling_factor=0.18215,
            sample_size=SIDE,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=1,
                max_position_embeddings=77,
                hidden_act="gelu" if second else "quick_gelu",
                bos_token_id=49406,
                eos_token_id=49407,
                pad_token_id=0 if second else 49407,
            )
        )
    for module in (unet, vae, text_encoder):
        module.eval().requires_grad_(False)
    tokenizer = shipped_tokenizer("!" if second else "<|endoftext|>")
    return {
        "unet": unet,
        "vae": vae,
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "scheduler": scheduler,
    }


def _tiny_autoencoder(seed: int) -> Any:
    from diffusers import AutoencoderTiny

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderTiny(
            encoder_block_out_channels=(16, 16, 16, 16),
            decoder_block_out_channels=(16, 16, 16, 16),
            num_encoder_blocks=(1, 1, 1, 1),
            num_decoder_blocks=(1, 1, 1, 1),
        )


def _converted(module: Any, dtype: torch.dtype) -> Any:
    """The module in `dtype`; untouched when it already is, because diffusers warns about every conversion."""
    return module if module.dtype == dtype else module.to(dtype)
