# SPDX-License-Identifier: GPL-3.0-or-later
"""Tiny random models of the families that look at reference pictures themselves: Flux 2, Kontext, Qwen-Image Edit."""

from __future__ import annotations

from typing import Any

import torch

from tests import tiny_flow
from tests.tiny_flow import WORDS

_READ = 8  # width of the language models of Flux 2; three of their layers side by side are the words


def flux2_autoencoder() -> Any:
    from diffusers import AutoencoderKLFlux2

    vae = AutoencoderKLFlux2(
        block_out_channels=(32, 32, 32, 32), layers_per_block=1, latent_channels=32, sample_size=64
    )
    vae.bn.running_mean.copy_(torch.linspace(-0.5, 0.5, 128))
    vae.bn.running_var.copy_(torch.linspace(0.5, 2.0, 128))
    return vae


def flux2_transformer(guidance: bool) -> Any:
    from diffusers import Flux2Transformer2DModel

    return Flux2Transformer2DModel(
        in_channels=128,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * _READ,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance,
    )


def flux2(dev: bool = False, distilled: bool = False) -> dict[str, Any]:
    sizes = {
        "vocab_size": len(WORDS), "hidden_size": _READ, "intermediate_size": 8, "num_attention_heads": 1,
        "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 512,
    }  # fmt: skip
    parts = {
        "transformer": flux2_transformer(guidance=dev),
        "vae": flux2_autoencoder(),
        "schedule": tiny_flow.DYNAMIC,
    }
    if dev:
        from transformers import Mistral3Config, Mistral3ForConditionalGeneration

        vision = {
            "model_type": "pixtral", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 1, "image_size": 28, "patch_size": 14,
        }  # fmt: skip
        rope = {"rope_type": "default", "rope_theta": 1_000_000_000.0}
        depth = {"num_hidden_layers": 31, "rms_norm_eps": 1e-5, "sliding_window": None, "rope_parameters": rope}
        text = {"model_type": "mistral", **sizes, **depth}  # one layer more than are read, as the published one has
        config = Mistral3Config(text_config=text, vision_config=vision)
        return {"class": "Flux2Pipeline", **parts, "text_encoder": Mistral3ForConditionalGeneration(config)}
    from transformers import Qwen3Config, Qwen3ForCausalLM

    rope = {"rope_type": "default", "rope_theta": 1_000_000.0}
    encoder = Qwen3ForCausalLM(Qwen3Config(num_hidden_layers=27, rope_parameters=rope, **sizes))
    settings = {"is_distilled": True} if distilled else {}
    return {"class": "Flux2KleinPipeline", **parts, "text_encoder": encoder, "index": settings}


def kontext() -> dict[str, Any]:
    return {**tiny_flow.flux1(), "class": "FluxKontextPipeline"}


SEEN = ["<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>"]


def qwen_edit(plus: bool = False) -> dict[str, Any]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    parts = tiny_flow.qwen_image()
    config = parts["text_encoder"].config
    text = {**config.text_config.to_dict(), "vocab_size": len(WORDS) + len(SEEN)}
    vision = {**config.vision_config.to_dict(), "window_size": 28, "fullatt_block_indexes": [0]}
    places = {"image_token_id": len(WORDS), "vision_start_token_id": len(WORDS) + 1}
    encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **places))
    reader = Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28, "longest_edge": 56 * 56})
    name = "QwenImageEditPlusPipeline" if plus else "QwenImageEditPipeline"
    return {**parts, "class": name, "text_encoder": encoder, "processor": reader}


FAMILIES = {"flux2": flux2, "flux1-kontext": kontext, "qwen-image-edit": qwen_edit}
tiny_flow.MAKERS |= FAMILIES
tiny_flow.SPECIAL_WORDS["qwen-image-edit"] = SEEN
