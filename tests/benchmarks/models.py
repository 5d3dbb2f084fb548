# SPDX-License-Identifier: GPL-3.0-or-later
"""The random models of the card's column: SD1.5, SDXL and Flux as diffusers folders, in full size or tiny."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

FAMILIES = {"SD1.5": "sd1", "SDXL": "sdxl", "Flux": "flux1"}
"""The engine's names of the families, by the names in the table."""

SIDES = {"SD1.5": 512, "SDXL": 1024, "Flux": 1024}
TINY_SIDE = 64

_VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}


def side_of(title: str, sizes: str) -> int:
    """Pixels of one side of the square that the model `title` is native to; sizes: "full" or "tiny"."""
    return SIDES[title] if sizes == "full" else TINY_SIDE


def write_model(root: Path, title: str, sizes: str, device: str, dtype: str) -> Path:
    """Write the random model `title` into a folder of that name below `root` and return it; it is made on `device`.

    dtype: torch's name of the precision in which the weights are stored.
    """
    import torch

    from tests.tiny import make_model
    from tests.tiny_flow import make_flow_model

    folder, family, side = root / title, FAMILIES[title], side_of(title, sizes)
    kind = getattr(torch, dtype)
    if family == "flux1":
        return make_flow_model(folder, family) if sizes == "tiny" else _write_flux(folder, device, kind)
    native = {"min_side": side, "max_side": side, "min_pixels": side**2, "max_pixels": side**2, "multiple": 8}
    extra = {"name": title, "native": native, "second_pass": False, "defaults": {"sampler": "DPM++ 2M"}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = full_parts(family, device, kind) if sizes == "full" else None
        make_model(folder, family, dtype=kind, tiny_decoder=True, extra=extra, parts=parts)
        if sizes == "full":
            from diffusers import AutoencoderTiny

            _made(AutoencoderTiny, device, kind).save_pretrained(folder / "taesd")
    return folder


def full_parts(family: str, device: str, dtype: Any) -> dict[str, Any]:
    """The components of SD1.5 ("sd1") or SDXL ("sdxl") in their published sizes, random; as tests.tiny.make_parts."""
    from diffusers import AutoencoderKL, DDIMScheduler
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    from server.diffusion.tokenizer import shipped_tokenizer

    large = family == "sdxl"
    parts: dict[str, Any] = {
        "unet": _made(_unet_xl if large else _unet, device, dtype),
        "vae": _made(lambda: AutoencoderKL(**_VAE, scaling_factor=0.13025 if large else 0.18215), device, dtype),
        "text_encoder": _made(lambda: CLIPTextModel(_clip(768, 12, "quick_gelu")), device, dtype),
        "tokenizer": shipped_tokenizer(),
        "scheduler": DDIMScheduler(),
    }
    if large:
        parts["text_encoder_2"] = _made(lambda: CLIPTextModelWithProjection(_clip(1280, 32, "gelu")), device, dtype)
        parts["tokenizer_2"] = shipped_tokenizer("!")
    return parts


def flux_parts() -> dict[str, Callable[[], Any]]:
    """What makes each part of a Flux1 dev in its published size: 12 billion parameters and those of T5-XXL."""
    from diffusers import AutoencoderKL, FluxTransformer2DModel
    from transformers import CLIPTextModel, T5Config, T5EncoderModel

    t5 = {"vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
    vae: dict[str, Any] = {**_VAE, "latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159}
    return {
        "transformer": lambda: FluxTransformer2DModel(guidance_embeds=True),
        "vae": lambda: AutoencoderKL(**vae, use_quant_conv=False, use_post_quant_conv=False),
        "text_encoder": lambda: CLIPTextModel(_clip(768, 12, "quick_gelu")),
        "text_encoder_2": lambda: T5EncoderModel(T5Config(**t5, pad_token_id=0, feed_forward_proj="gated-gelu")),
    }


def _write_flux(folder: Path, device: str, dtype: Any) -> Path:
    """One part after another: together they are 34 GB."""
    from server.diffusion.original.tokenizers import t5_tokenizer
    from server.diffusion.tokenizer import shipped_tokenizer
    from tests.tiny_flow import DYNAMIC

    index: dict[str, Any] = {"_class_name": "FluxPipeline", "_diffusers_version": "0.42.1"}
    for name, make in flux_parts().items():
        part = _made(make, device, dtype)
        part.save_pretrained(folder / name)
        index[name] = [type(part).__module__.partition(".")[0], type(part).__name__]
        del part
    for name, tokenizer in {"tokenizer": shipped_tokenizer(), "tokenizer_2": t5_tokenizer()}.items():
        tokenizer.save_pretrained(folder / name)
        index[name] = ["transformers", "CLIPTokenizer" if name == "tokenizer" else "T5TokenizerFast"]
    schedule = {"_class_name": "FlowMatchEulerDiscreteScheduler", **DYNAMIC}
    index["scheduler"] = ["diffusers", schedule["_class_name"]]
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule))
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _made(make: Callable[[], Any], device: str, dtype: Any) -> Any:
    """What `make` makes, with its weights drawn on `device` in `dtype` from the start: no copy in float32."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            module = make()
    finally:
        torch.set_default_dtype(before)
    return module.to(dtype).eval().requires_grad_(False)


def _unet() -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


def _unet_xl() -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=128,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(320, 640, 1280),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def _clip(width: int, layers: int, activation: str) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        max_position_embeddings=77,
        hidden_act=activation,
        projection_dim=width,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=49407 if activation == "quick_gelu" else 0,
    )
