# SPDX-License-Identifier: GPL-3.0-or-later
"""Tiny random models of the flow-matching families as diffusers folders, made on the fly."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

WIDTH = 32
QWEN_WIDTH = 256  # heads of Qwen2.5-VL have 128, which no shape shows
WORDS = ["<pad>", "</s>", "<unk>", "a", "red", "boat", "fog", "at", "night"]


def words_tokenizer(special_words: Sequence[str] = ()) -> Any:
    """A tokenizer of a few words that ends every text with </s>, as T5's does; special words stand for themselves."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **special)
    made.add_tokens(list(special_words), special_tokens=True)
    said = "{{ said.content if said.content is string else said.content[0].text }}"
    made.chat_template = "{% for said in messages %}at " + said + " night{% endfor %}"
    return made


def clip_encoder(projected: bool = False, layers: int = 2, activation: str = "quick_gelu") -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=1,
        max_position_embeddings=77,
        projection_dim=WIDTH,
        hidden_act=activation,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=49407,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def t5_encoder(width: int = WIDTH) -> Any:
    from transformers import T5Config, T5EncoderModel

    sizes = {"vocab_size": len(WORDS), "d_model": width, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2}
    return T5EncoderModel(T5Config(**sizes, pad_token_id=0, feed_forward_proj="gated-gelu"))


def autoencoder(channels: int = 16, scale: float = 0.3611, shift: float = 0.1159) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 32, 32, 32),
        layers_per_block=1,
        latent_channels=channels,
        scaling_factor=scale,
        shift_factor=shift,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=64,
    )


DYNAMIC = {
    "num_train_timesteps": 1000,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "shift": 3.0,
}


def flux1(inpaint: bool = False, few_steps: bool = False) -> dict[str, Any]:
    from diffusers import FluxTransformer2DModel

    transformer = FluxTransformer2DModel(
        in_channels=384 if inpaint else 64,
        out_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=not few_steps,
        axes_dims_rope=(4, 14, 14),
    )
    schedule = {"num_train_timesteps": 1000, "shift": 1.0} if few_steps else DYNAMIC
    return {
        "class": "FluxFillPipeline" if inpaint else "FluxPipeline",
        "transformer": transformer,
        "vae": autoencoder(),
        "text_encoder": clip_encoder(),
        "text_encoder_2": t5_encoder(),
        "schedule": schedule,
    }


def sd3(with_t5: bool = True, dynamic: bool = False, second: bool = False) -> dict[str, Any]:
    """second: as 3.5 medium, with normed queries and keys and a second attention in its first block."""
    from diffusers import SD3Transformer2DModel

    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=2 * WIDTH,
        out_channels=16,
        pos_embed_max_size=24,
        dual_attention_layers=(0,) if second else (),
        qk_norm="rms_norm" if second else None,
    )
    parts = {
        "class": "StableDiffusion3Pipeline",
        "transformer": transformer,
        "vae": autoencoder(scale=1.5305, shift=0.0609),
        "text_encoder": clip_encoder(projected=True, layers=3),
        "text_encoder_2": clip_encoder(projected=True, layers=3, activation="gelu"),
        "schedule": DYNAMIC if dynamic else {"num_train_timesteps": 1000, "shift": 3.0},
    }
    return {**parts, "text_encoder_3": t5_encoder(3 * WIDTH)} if with_t5 else parts


def chroma() -> dict[str, Any]:
    from diffusers import ChromaTransformer2DModel

    transformer = ChromaTransformer2DModel(
        in_channels=64,
        out_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 14, 14),
        approximator_num_channels=8,
        approximator_hidden_dim=32,
        approximator_layers=1,
    )
    return {
        "class": "ChromaPipeline",
        "transformer": transformer,
        "vae": autoencoder(),
        "text_encoder": t5_encoder(),
        "schedule": {"num_train_timesteps": 1000, "shift": 1.0},
    }


def z_image() -> dict[str, Any]:
    from diffusers import ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    transformer = ZImageTransformer2DModel(
        in_channels=16,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6],
        axes_lens=[1024, 64, 64],
    )
    config = Qwen3Config(
        vocab_size=len(WORDS),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
    )
    return {
        "class": "ZImagePipeline",
        "transformer": transformer,
        "vae": autoencoder(),
        "text_encoder": Qwen3Model(config),
        "schedule": {"num_train_timesteps": 1000, "shift": 3.0},
    }


def qwen_image() -> dict[str, Any]:
    from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=64,
        out_channels=16,
        num_layers=2,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=QWEN_WIDTH,
        axes_dims_rope=(4, 14, 14),
    )
    vae = AutoencoderKLQwenImage(base_dim=8, z_dim=16)
    text = {
        "vocab_size": len(WORDS),
        "hidden_size": QWEN_WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"mrope_section": [16, 24, 24], "rope_type": "default", "rope_theta": 1_000_000.0},
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 1, "out_hidden_size": QWEN_WIDTH}
    encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))
    return {
        "class": "QwenImagePipeline",
        "transformer": transformer,
        "vae": vae,
        "text_encoder": encoder,
        "schedule": {**DYNAMIC, "max_shift": 0.9, "max_image_seq_len": 8192, "shift": 1.0, "shift_terminal": 0.02},
    }


MAKERS: dict[str, Callable[..., dict[str, Any]]] = {
    "flux1": flux1,
    "sd3": sd3,
    "chroma": chroma,
    "z-image": z_image,
    "qwen-image": qwen_image,
}


SPECIAL_WORDS: dict[str, Sequence[str]] = {}  # of a family's tokenizers


def make_flow_model(folder: Path, family: str, seed: int = 0, **kind: Any) -> Path:
    """Write a diffusers folder of a random model of `family` and return it."""
    from server.diffusion.tokenizer import shipped_tokenizer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = MAKERS[family](**kind)
    index: dict[str, Any] = {"_class_name": parts.pop("class"), "_diffusers_version": "0.42.1"}
    index |= parts.pop("index", {})
    reader = parts.pop("processor", None)
    if reader is not None:
        reader.save_pretrained(folder / "processor")
    schedule = {"_class_name": "FlowMatchEulerDiscreteScheduler", **parts.pop("schedule")}
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        part.eval().requires_grad_(False)
        for parameter in part.parameters():
            if parameter.abs().max() == 0 or parameter.ndim > 1:
                # Fresh models start with zeros where it helps training; then nothing would reach the output.
                torch.nn.init.normal_(parameter, std=0.08, generator=torch.Generator().manual_seed(seed))
        part.save_pretrained(folder / name)
        index[name] = [type(part).__module__.partition(".")[0], type(part).__name__]
        if name.startswith("text_encoder"):
            clip = "CLIP" in type(part).__name__
            padding = "!" if (family, name) == ("sd3", "text_encoder_2") else "<|endoftext|>"
            tokenizer = shipped_tokenizer(padding) if clip else words_tokenizer(SPECIAL_WORDS.get(family, ()))
            place = name.replace("text_encoder", "tokenizer")
            tokenizer.save_pretrained(folder / place)
            index[place] = ["transformers", "CLIPTokenizer" if clip else "T5TokenizerFast"]
    index["scheduler"] = ["diffusers", schedule["_class_name"]]
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule))
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
