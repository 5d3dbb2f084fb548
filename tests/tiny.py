# SPDX-License-Identifier: GPL-3.0-or-later
"""Tiny models with random weights, made on the fly: every layout that the engine loads, in a second or two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tests import tiny_xl
from tests.tiny_xl import xl_parts

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
    embedded_guidance: bool = False,
    parts: dict[str, Any] | None = None,
) -> Path:
    """Write a diffusers folder of a random model and return it.

    family: "sd1" (epsilon), "sd2" (v-prediction, linear projections) or "sdxl". inpaint: a 9-channel UNet.
    tiny_decoder: also a random AutoencoderTiny, named in krita_sd.json. extra: more entries for krita_sd.json.
    embedded_guidance: the UNet takes the guidance scale as an input, as LCM models do. Native side 64 pixels.
    parts: these instead of the ones that `make_parts` makes.
    """
    parts = parts or make_parts(family, inpaint, seed, prediction, embedded_guidance)
    folder.mkdir(parents=True, exist_ok=True)
    encoders = [name for name in parts if name.startswith("text_encoder")]
    for name in ("unet", "vae", *encoders):
        _converted(parts[name], dtype).save_pretrained(folder / name)
    tokenizers = [name for name in parts if name.startswith("tokenizer")]
    for name in tokenizers:
        parts[name].save_pretrained(folder / name)
    # By hand, as in the published folders: saving would also write every default of this scheduler's class.
    (folder / "scheduler").mkdir(exist_ok=True)
    schedule = {"_class_name": type(parts["scheduler"]).__name__, **_schedule(family, prediction)}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule))
    index = {
        "_class_name": "StableDiffusionXLPipeline" if family == "sdxl" else "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "scheduler": ["diffusers", type(parts["scheduler"]).__name__],
        **{name: ["transformers", type(parts[name]).__name__] for name in encoders},
        **{name: ["transformers", "CLIPTokenizer"] for name in tokenizers},
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
    family: str = "sd1",
    inpaint: bool = False,
    seed: int = 0,
    prediction: str | None = None,
    embedded_guidance: bool = False,
) -> dict[str, Any]:
    """The components of a random model: unet, vae, text_encoder, tokenizer, scheduler. The same for the same seed."""
    from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from server.diffusion.tokenizer import shipped_tokenizer

    if family == "sdxl":
        return xl_parts(inpaint, seed, _schedule(family, prediction), SIDE // FACTOR, SIDE)
    second = family == "sd2"
    scheduler = (DDIMScheduler if second else PNDMScheduler).from_config(_schedule(family, prediction))
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
            time_cond_proj_dim=32 if embedded_guidance else None,
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


def _schedule(family: str, prediction: str | None) -> dict[str, Any]:
    if family == "sd2":
        return {**_SD1_SCHEDULE, "prediction_type": prediction or "v_prediction"}
    if family == "sdxl":
        extra = {"interpolation_type": "linear", "timestep_spacing": "leading"}
        return {**_SD1_SCHEDULE, **extra, "prediction_type": prediction or "epsilon"}
    return {**_SD1_SCHEDULE, "skip_prk_steps": True, "prediction_type": prediction or "epsilon"}


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


def make_file(
    path: Path,
    family: str = "sd1",
    inpaint: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    prediction: str | None = None,
    metadata: dict[str, str] | None = None,
    clip_prefix: str = "text_model.",
) -> Path:
    """Write the model that `make_model` makes for the same arguments as one file in the original layout; return it.

    SD2.x files have a last text layer that is never run, as the real ones do. `metadata` goes into the header;
    by default the prediction type of SD2.x, which tensors do not show.
    """
    from safetensors.torch import save_file

    parts = make_parts(family, inpaint, seed, prediction)
    if metadata is None and family == "sd2":
        v = parts["scheduler"].config.prediction_type == "v_prediction"
        metadata = {"modelspec.prediction_type": "v" if v else "epsilon"}
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = original_layout(parts, family, clip_prefix)
    save_file({name: tensor.to(dtype).contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path


def original_layout(
    parts: dict[str, Any], family: str = "sd1", clip_prefix: str = "text_model."
) -> dict[str, torch.Tensor]:
    """The weights of `make_parts` under the names of the original training code, found by walking the modules."""
    out: dict[str, torch.Tensor] = {}
    _write_unet(out, parts["unet"], "model.diffusion_model.")
    write_vae(out, parts["vae"], "first_stage_model.")
    if family == "sd2":
        encoder = getattr(parts["text_encoder"], "text_model", parts["text_encoder"])
        _write_openclip(out, encoder, "cond_stage_model.model.", unused_layer=True)
        out["cond_stage_model.model.text_projection"] = torch.eye(encoder.embeddings.token_embedding.weight.shape[1])
    elif family == "sdxl":
        first, second = tiny_xl.PREFIXES
        for name, tensor in parts["text_encoder"].state_dict().items():
            out[f"{first}{clip_prefix}{name.removeprefix('text_model.')}"] = tensor
        _write_openclip(out, parts["text_encoder_2"].text_model, second)
        out[f"{second}text_projection"] = parts["text_encoder_2"].text_projection.weight.T.clone()
    else:
        for name, tensor in parts["text_encoder"].state_dict().items():
            out[f"cond_stage_model.transformer.{clip_prefix}{name.removeprefix('text_model.')}"] = tensor
        out[f"cond_stage_model.transformer.{clip_prefix}embeddings.position_ids"] = torch.arange(77)[None]
    out["alphas_cumprod"] = parts["scheduler"].alphas_cumprod.clone()
    return out


def _put(out: dict[str, torch.Tensor], name: str, module: Any) -> None:
    out.update({f"{name}.{key}": tensor.clone() for key, tensor in module.state_dict().items()})


def _write_unet(out: dict[str, torch.Tensor], unet: Any, prefix: str) -> None:
    def resnet(home: str, block: Any) -> None:
        _put(out, f"{home}.in_layers.0", block.norm1)
        _put(out, f"{home}.in_layers.2", block.conv1)
        _put(out, f"{home}.emb_layers.1", block.time_emb_proj)
        _put(out, f"{home}.out_layers.0", block.norm2)
        _put(out, f"{home}.out_layers.3", block.conv2)
        if block.conv_shortcut is not None:
            _put(out, f"{home}.skip_connection", block.conv_shortcut)

    _put(out, f"{prefix}time_embed.0", unet.time_embedding.linear_1)
    _put(out, f"{prefix}time_embed.2", unet.time_embedding.linear_2)
    if getattr(unet, "add_embedding", None) is not None:
        _put(out, f"{prefix}label_emb.0.0", unet.add_embedding.linear_1)
        _put(out, f"{prefix}label_emb.0.2", unet.add_embedding.linear_2)
    _put(out, f"{prefix}input_blocks.0.0", unet.conv_in)
    _put(out, f"{prefix}out.0", unet.conv_norm_out)
    _put(out, f"{prefix}out.2", unet.conv_out)
    number = 0
    for block in unet.down_blocks:
        attentions = getattr(block, "attentions", None)
        for layer, unit in enumerate(block.resnets):
            number += 1
            resnet(f"{prefix}input_blocks.{number}.0", unit)
            if attentions is not None:
                _put(out, f"{prefix}input_blocks.{number}.1", attentions[layer])
        if block.downsamplers is not None:
            number += 1
            _put(out, f"{prefix}input_blocks.{number}.0.op", block.downsamplers[0].conv)
    resnet(f"{prefix}middle_block.0", unet.mid_block.resnets[0])
    _put(out, f"{prefix}middle_block.1", unet.mid_block.attentions[0])
    resnet(f"{prefix}middle_block.2", unet.mid_block.resnets[1])
    number = -1
    for block in unet.up_blocks:
        attentions = getattr(block, "attentions", None)
        for layer, unit in enumerate(block.resnets):
            number += 1
            resnet(f"{prefix}output_blocks.{number}.0", unit)
            if attentions is not None:
                _put(out, f"{prefix}output_blocks.{number}.1", attentions[layer])
        if block.upsamplers is not None:
            place = 1 if attentions is None else 2
            _put(out, f"{prefix}output_blocks.{number}.{place}.conv", block.upsamplers[0].conv)


def write_vae(out: dict[str, torch.Tensor], vae: Any, prefix: str) -> None:
    """Add the tensors of an AutoencoderKL to `out` under their original names."""

    def resnet(home: str, block: Any) -> None:
        for part in ("norm1", "conv1", "norm2", "conv2"):
            _put(out, f"{home}.{part}", getattr(block, part))
        if block.conv_shortcut is not None:
            _put(out, f"{home}.nin_shortcut", block.conv_shortcut)

    def middle(home: str, block: Any) -> None:
        resnet(f"{home}.block_1", block.resnets[0])
        resnet(f"{home}.block_2", block.resnets[1])
        attention = block.attentions[0]
        _put(out, f"{home}.attn_1.norm", attention.group_norm)
        parts = {"q": attention.to_q, "k": attention.to_k, "v": attention.to_v, "proj_out": attention.to_out[0]}
        for name, layer in parts.items():
            out[f"{home}.attn_1.{name}.weight"] = layer.weight[:, :, None, None].clone()
            out[f"{home}.attn_1.{name}.bias"] = layer.bias.clone()

    for half in ("encoder", "decoder"):
        module = getattr(vae, half)
        _put(out, f"{prefix}{half}.conv_in", module.conv_in)
        _put(out, f"{prefix}{half}.norm_out", module.conv_norm_out)
        _put(out, f"{prefix}{half}.conv_out", module.conv_out)
        middle(f"{prefix}{half}.mid", module.mid_block)
    for number, block in enumerate(vae.encoder.down_blocks):
        for layer, unit in enumerate(block.resnets):
            resnet(f"{prefix}encoder.down.{number}.block.{layer}", unit)
        if block.downsamplers is not None:
            _put(out, f"{prefix}encoder.down.{number}.downsample.conv", block.downsamplers[0].conv)
    for number, block in enumerate(reversed(vae.decoder.up_blocks)):
        for layer, unit in enumerate(block.resnets):
            resnet(f"{prefix}decoder.up.{number}.block.{layer}", unit)
        if block.upsamplers is not None:
            _put(out, f"{prefix}decoder.up.{number}.upsample.conv", block.upsamplers[0].conv)
    if vae.quant_conv is not None:
        _put(out, f"{prefix}quant_conv", vae.quant_conv)
        _put(out, f"{prefix}post_quant_conv", vae.post_quant_conv)


def _write_openclip(out: dict[str, torch.Tensor], encoder: Any, prefix: str, unused_layer: bool = False) -> None:
    out[f"{prefix}token_embedding.weight"] = encoder.embeddings.token_embedding.weight.clone()
    out[f"{prefix}positional_embedding"] = encoder.embeddings.position_embedding.weight.clone()
    _put(out, f"{prefix}ln_final", encoder.final_layer_norm)
    layers = list(encoder.encoder.layers)
    for number, layer in enumerate([*layers, layers[0]] if unused_layer else layers):
        home = f"{prefix}transformer.resblocks.{number}"
        _put(out, f"{home}.ln_1", layer.layer_norm1)
        _put(out, f"{home}.ln_2", layer.layer_norm2)
        _put(out, f"{home}.mlp.c_fc", layer.mlp.fc1)
        _put(out, f"{home}.mlp.c_proj", layer.mlp.fc2)
        _put(out, f"{home}.attn.out_proj", layer.self_attn.out_proj)
        packed = [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]
        out[f"{home}.attn.in_proj_weight"] = torch.cat([part.weight for part in packed])
        out[f"{home}.attn.in_proj_bias"] = torch.cat([part.bias for part in packed])
    out[f"{prefix}logit_scale"] = torch.tensor(4.6)
