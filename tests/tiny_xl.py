# SPDX-License-Identifier: GPL-3.0-or-later
"""The parts of a tiny random SDXL model, and its two text encoders in the original layout."""

from __future__ import annotations

from typing import Any

import torch

WIDTH = 32
SIZES = 8
PREFIXES = ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model.")


def xl_parts(inpaint: bool, seed: int, schedule: dict[str, Any], sample_size: int, side: int) -> dict[str, Any]:
    """unet, vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2, scheduler. The same for the same seed."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from server.diffusion.tokenizer import shipped_tokenizer

    def text(act: str, pad: int) -> Any:
        return CLIPTextConfig(
            vocab_size=49408,
            hidden_size=WIDTH,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=1,
            max_position_embeddings=77,
            hidden_act=act,
            projection_dim=WIDTH,
            bos_token_id=49406,
            eos_token_id=49407,
            pad_token_id=pad,
        )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=sample_size,
            in_channels=9 if inpaint else 4,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(32, 64),
            layers_per_block=1,
            cross_attention_dim=2 * WIDTH,
            attention_head_dim=[1, 1],
            transformer_layers_per_block=[1, 2],
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=SIZES,
            projection_class_embeddings_input_dim=WIDTH + 6 * SIZES,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(32, 32, 32, 32),
            layers_per_block=1,
            latent_channels=4,
            scaling_factor=0.13025,
            sample_size=side,
        )
        encoders = {
            "text_encoder": CLIPTextModel(text("quick_gelu", 49407)),
            "text_encoder_2": CLIPTextModelWithProjection(text("gelu", 0)),
        }
    for module in (unet, vae, *encoders.values()):
        module.eval().requires_grad_(False)
    return {
        "unet": unet,
        "vae": vae,
        **encoders,
        "tokenizer": shipped_tokenizer(),
        "tokenizer_2": shipped_tokenizer("!"),
        "scheduler": EulerDiscreteScheduler.from_config(schedule),
    }
