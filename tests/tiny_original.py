# SPDX-License-Identifier: GPL-3.0-or-later
"""The tiny models of tests.tiny_flow as single files, in the layouts of their authors and of ComfyUI.

Names are written out here by walking the modules; the loader asks diffusers' converters. Neither knows the other.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.tiny import write_vae

Tensors = dict[str, torch.Tensor]

ENCODERS = {
    "flux1": {"text_encoder": "clip_l", "text_encoder_2": "t5xxl"},
    "flux2": {"text_encoder": "qwen3_4b"},  # dev's Mistral lies there, too: the loader goes by what a file holds
    "chroma": {"text_encoder": "t5xxl"},
    "sd3": {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"},
    "z-image": {"text_encoder": "qwen3_4b"},
    "qwen-image": {"text_encoder": "qwen25_7b"},
}
"""What ComfyUI calls the text encoders inside its checkpoints."""

TWINS = {"flux1-kontext": "flux1", "qwen-image-edit": "qwen-image"}


def part_tensors(folder: Path, part: str) -> Tensors:
    """The tensors of one part of a diffusers folder."""
    return {name: tensor for path in sorted((folder / part).glob("*.safetensors")) for name, tensor in
            load_file(path).items()}  # fmt: skip


def transformer(model: Any, family: str) -> Tensors:
    """The transformer of a loaded model under the names of its authors, bare."""
    out: Tensors = {}
    family = TWINS.get(family, family)
    _WRITERS[family](out, model.transformer)
    return {name: tensor.contiguous() for name, tensor in out.items()}


def encoder(folder: Path, part: str) -> Tensors:
    """A text encoder as the files of that one encoder have it: transformers' names before its fifth version."""
    out: Tensors = {}
    stored = part_tensors(folder, part)
    if "embeddings.position_embedding.weight" in stored:
        # People's clip_l has a projection, which only Stable Diffusion 3 reads.
        out["text_projection.weight"] = torch.eye(len(stored["final_layer_norm.weight"])) * 3
    for name, tensor in stored.items():
        if name.startswith(("embeddings.", "encoder.layers.", "final_layer_norm.")):
            name = f"text_model.{name}"
        elif name.startswith(("layers.", "norm.", "embed_tokens.")):
            name = f"model.{name}"
        out[name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")] = tensor
    return out


def autoencoder(model: Any, family: str) -> Tensors:
    """The autoencoder of a loaded model in the names of its authors, bare."""
    out: Tensors = {}
    family = TWINS.get(family, family)
    if family == "qwen-image":
        _wan(out, model.vae)
    else:
        write_vae(out, model.vae, "")
    if family == "flux2":
        for half, name in (("encoder", "quant_conv"), ("decoder", "post_quant_conv")):
            out |= {f"{half}.{name}.{leaf}": out.pop(f"{name}.{leaf}") for leaf in ("weight", "bias")}
        _put(out, "bn", model.vae.bn)
    return {name: tensor.contiguous() for name, tensor in out.items()}


def make_single(path: Path, folder: Path, model: Any, family: str, prefix: str = "model.diffusion_model.") -> Path:
    """Write the model in `folder` (loaded: `model`) as one file with everything inside, as ComfyUI does; return it."""
    tensors = {prefix + name: tensor for name, tensor in transformer(model, family).items()}
    for part, label in ENCODERS[TWINS.get(family, family)].items():
        if (folder / part).is_dir():
            home = f"text_encoders.{label}.transformer."
            tensors |= {home + name: tensor for name, tensor in encoder(folder, part).items()}
    home = "first_stage_model." if family == "sd3" else "vae."
    tensors |= {home + name: tensor for name, tensor in autoencoder(model, family).items()}
    save_file(tensors, path)
    return path


def make_files(path: Path, folder: Path, model: Any, family: str) -> dict[str, Path]:
    """Write the transformer alone to `path` and the other parts beside it; returns the files by part."""
    save_file(transformer(model, family), path)
    parts = {}
    for part, label in ENCODERS[TWINS.get(family, family)].items():
        if (folder / part).is_dir():
            parts[part] = path.with_name(f"{label}.safetensors")
            save_file(encoder(folder, part), parts[part])
    parts["vae"] = path.with_name("ae.safetensors")
    save_file(autoencoder(model, family), parts["vae"])
    return parts


def _put(out: Tensors, name: str, module: Any) -> None:
    out.update({f"{name}.{key}": tensor.clone() for key, tensor in module.state_dict().items()})


def _pack(out: Tensors, name: str, *layers: Any) -> None:
    """Several layers as one, their rows behind one another."""
    for leaf in layers[0].state_dict():
        out[f"{name}.{leaf}"] = torch.cat([layer.state_dict()[leaf] for layer in layers])


def _swap(out: Tensors, name: str, layer: Any) -> None:
    """A modulation that the authors store as shift, scale and diffusers as scale, shift."""
    for leaf, tensor in layer.state_dict().items():
        out[f"{name}.{leaf}"] = torch.cat(list(reversed(tensor.chunk(2))))


def _flux_blocks(out: Tensors, model: Any) -> None:
    _put(out, "img_in", model.x_embedder)
    _put(out, "txt_in", model.context_embedder)
    for number, block in enumerate(model.transformer_blocks):
        home, attention = f"double_blocks.{number}", block.attn
        _pack(out, f"{home}.img_attn.qkv", attention.to_q, attention.to_k, attention.to_v)
        _pack(out, f"{home}.txt_attn.qkv", attention.add_q_proj, attention.add_k_proj, attention.add_v_proj)
        out[f"{home}.img_attn.norm.query_norm.scale"] = attention.norm_q.weight.clone()
        out[f"{home}.img_attn.norm.key_norm.scale"] = attention.norm_k.weight.clone()
        out[f"{home}.txt_attn.norm.query_norm.scale"] = attention.norm_added_q.weight.clone()
        out[f"{home}.txt_attn.norm.key_norm.scale"] = attention.norm_added_k.weight.clone()
        _put(out, f"{home}.img_attn.proj", attention.to_out[0])
        _put(out, f"{home}.txt_attn.proj", attention.to_add_out)
        for side, net in (("img", block.ff.net), ("txt", block.ff_context.net)):
            _put(out, f"{home}.{side}_mlp.0", net[0].proj)
            _put(out, f"{home}.{side}_mlp.2", net[2])
    for number, block in enumerate(model.single_transformer_blocks):
        home, attention = f"single_blocks.{number}", block.attn
        _pack(out, f"{home}.linear1", attention.to_q, attention.to_k, attention.to_v, block.proj_mlp)
        _put(out, f"{home}.linear2", block.proj_out)
        out[f"{home}.norm.query_norm.scale"] = attention.norm_q.weight.clone()
        out[f"{home}.norm.key_norm.scale"] = attention.norm_k.weight.clone()
    _put(out, "final_layer.linear", model.proj_out)


def _embedder(out: Tensors, name: str, module: Any) -> None:
    _put(out, f"{name}.in_layer", module.linear_1)
    _put(out, f"{name}.out_layer", module.linear_2)


def _flux1(out: Tensors, model: Any) -> None:
    _flux_blocks(out, model)
    _embedder(out, "time_in", model.time_text_embed.timestep_embedder)
    _embedder(out, "vector_in", model.time_text_embed.text_embedder)
    if hasattr(model.time_text_embed, "guidance_embedder"):
        _embedder(out, "guidance_in", model.time_text_embed.guidance_embedder)
    for number, block in enumerate(model.transformer_blocks):
        _put(out, f"double_blocks.{number}.img_mod.lin", block.norm1.linear)
        _put(out, f"double_blocks.{number}.txt_mod.lin", block.norm1_context.linear)
    for number, block in enumerate(model.single_transformer_blocks):
        _put(out, f"single_blocks.{number}.modulation.lin", block.norm.linear)
    _swap(out, "final_layer.adaLN_modulation.1", model.norm_out.linear)


def _flux2(out: Tensors, model: Any) -> None:
    _put(out, "img_in", model.x_embedder)
    _put(out, "txt_in", model.context_embedder)
    _embedder(out, "time_in", model.time_guidance_embed.timestep_embedder)
    if model.config.guidance_embeds:
        _embedder(out, "guidance_in", model.time_guidance_embed.guidance_embedder)
    for name in ("double_stream_modulation_img", "double_stream_modulation_txt", "single_stream_modulation"):
        _put(out, f"{name}.lin", getattr(model, name).linear)
    for number, block in enumerate(model.transformer_blocks):
        home, attention = f"double_blocks.{number}", block.attn
        _pack(out, f"{home}.img_attn.qkv", attention.to_q, attention.to_k, attention.to_v)
        _pack(out, f"{home}.txt_attn.qkv", attention.add_q_proj, attention.add_k_proj, attention.add_v_proj)
        for side, query, key in (
            ("img", attention.norm_q, attention.norm_k),
            ("txt", attention.norm_added_q, attention.norm_added_k),
        ):
            out[f"{home}.{side}_attn.norm.query_norm.scale"] = query.weight.clone()
            out[f"{home}.{side}_attn.norm.key_norm.scale"] = key.weight.clone()
        _put(out, f"{home}.img_attn.proj", attention.to_out[0])
        _put(out, f"{home}.txt_attn.proj", attention.to_add_out)
        for side, net in (("img", block.ff), ("txt", block.ff_context)):
            _put(out, f"{home}.{side}_mlp.0", net.linear_in)
            _put(out, f"{home}.{side}_mlp.2", net.linear_out)
    for number, block in enumerate(model.single_transformer_blocks):
        home, attention = f"single_blocks.{number}", block.attn
        _put(out, f"{home}.linear1", attention.to_qkv_mlp_proj)
        _put(out, f"{home}.linear2", attention.to_out)
        out[f"{home}.norm.query_norm.scale"] = attention.norm_q.weight.clone()
        out[f"{home}.norm.key_norm.scale"] = attention.norm_k.weight.clone()
    _put(out, "final_layer.linear", model.proj_out)
    _swap(out, "final_layer.adaLN_modulation.1", model.norm_out.linear)


def _chroma(out: Tensors, model: Any) -> None:
    _flux_blocks(out, model)
    guide = model.distilled_guidance_layer
    _put(out, "distilled_guidance_layer.in_proj", guide.in_proj)
    _put(out, "distilled_guidance_layer.out_proj", guide.out_proj)
    for number, (layer, norm) in enumerate(zip(guide.layers, guide.norms)):
        _embedder(out, f"distilled_guidance_layer.layers.{number}", layer)
        out[f"distilled_guidance_layer.norms.{number}.scale"] = norm.weight.clone()


def _sd3(out: Tensors, model: Any) -> None:
    out["pos_embed"] = model.pos_embed.pos_embed.clone()
    _put(out, "x_embedder.proj", model.pos_embed.proj)
    _put(out, "context_embedder", model.context_embedder)
    for name, module in (
        ("t", model.time_text_embed.timestep_embedder),
        ("y", model.time_text_embed.text_embedder),
    ):
        _put(out, f"{name}_embedder.mlp.0", module.linear_1)
        _put(out, f"{name}_embedder.mlp.2", module.linear_2)
    for number, block in enumerate(model.transformer_blocks):
        x, context, attention = f"joint_blocks.{number}.x_block", f"joint_blocks.{number}.context_block", block.attn
        last = number == len(model.transformer_blocks) - 1
        _pack(out, f"{x}.attn.qkv", attention.to_q, attention.to_k, attention.to_v)
        _pack(out, f"{context}.attn.qkv", attention.add_q_proj, attention.add_k_proj, attention.add_v_proj)
        _put(out, f"{x}.attn.proj", attention.to_out[0])
        if attention.norm_q is not None:
            _put(out, f"{x}.attn.ln_q", attention.norm_q)
            _put(out, f"{x}.attn.ln_k", attention.norm_k)
            _put(out, f"{context}.attn.ln_q", attention.norm_added_q)
            _put(out, f"{context}.attn.ln_k", attention.norm_added_k)
        if getattr(block, "attn2", None) is not None:
            _pack(out, f"{x}.attn2.qkv", block.attn2.to_q, block.attn2.to_k, block.attn2.to_v)
            _put(out, f"{x}.attn2.proj", block.attn2.to_out[0])
            _put(out, f"{x}.attn2.ln_q", block.attn2.norm_q)
            _put(out, f"{x}.attn2.ln_k", block.attn2.norm_k)
        _put(out, f"{x}.adaLN_modulation.1", block.norm1.linear)
        _put(out, f"{x}.mlp.fc1", block.ff.net[0].proj)
        _put(out, f"{x}.mlp.fc2", block.ff.net[2])
        if last:
            _swap(out, f"{context}.adaLN_modulation.1", block.norm1_context.linear)
            continue
        _put(out, f"{context}.adaLN_modulation.1", block.norm1_context.linear)
        _put(out, f"{context}.attn.proj", attention.to_add_out)
        _put(out, f"{context}.mlp.fc1", block.ff_context.net[0].proj)
        _put(out, f"{context}.mlp.fc2", block.ff_context.net[2])
    _put(out, "final_layer.linear", model.proj_out)
    _swap(out, "final_layer.adaLN_modulation.1", model.norm_out.linear)


def _z_image(out: Tensors, model: Any) -> None:
    for name in ("t_embedder", "cap_embedder"):
        _put(out, name, getattr(model, name))
    out["x_pad_token"], out["cap_pad_token"] = model.x_pad_token.clone(), model.cap_pad_token.clone()
    _put(out, "x_embedder", model.all_x_embedder["2-1"])
    _put(out, "final_layer", model.all_final_layer["2-1"])
    out["norm_final.weight"] = torch.ones(model.config.dim)  # published, and read by nothing
    for name in ("layers", "noise_refiner", "context_refiner"):
        for number, block in enumerate(getattr(model, name)):
            home, attention = f"{name}.{number}", block.attention
            _pack(out, f"{home}.attention.qkv", attention.to_q, attention.to_k, attention.to_v)
            _put(out, f"{home}.attention.out", attention.to_out[0])
            _put(out, f"{home}.attention.q_norm", attention.norm_q)
            _put(out, f"{home}.attention.k_norm", attention.norm_k)
            for leaf, tensor in block.state_dict().items():
                if not leaf.startswith("attention."):
                    out[f"{home}.{leaf}"] = tensor.clone()


def _qwen_image(out: Tensors, model: Any) -> None:
    out.update({name: tensor.clone() for name, tensor in model.state_dict().items()})


_WRITERS: dict[str, Callable[[Tensors, Any], None]] = {
    "flux1": _flux1,
    "flux2": _flux2,
    "chroma": _chroma,
    "sd3": _sd3,
    "z-image": _z_image,
    "qwen-image": _qwen_image,
}


def _wan(out: Tensors, vae: Any) -> None:
    """Wan's names: one numbered row of layers down, and one up."""

    def resnet(home: str, block: Any) -> None:
        for place, module in (("0", block.norm1), ("2", block.conv1), ("3", block.norm2), ("6", block.conv2)):
            _put(out, f"{home}.residual.{place}", module)
        if not isinstance(block.conv_shortcut, torch.nn.Identity):
            _put(out, f"{home}.shortcut", block.conv_shortcut)

    for half, module in (("encoder", vae.encoder), ("decoder", vae.decoder)):
        _put(out, f"{half}.conv1", module.conv_in)
        _put(out, f"{half}.head.0", module.norm_out)
        _put(out, f"{half}.head.2", module.conv_out)
        resnet(f"{half}.middle.0", module.mid_block.resnets[0])
        _put(out, f"{half}.middle.1", module.mid_block.attentions[0])
        resnet(f"{half}.middle.2", module.mid_block.resnets[1])
    for number, block in enumerate(vae.encoder.down_blocks):
        if hasattr(block, "conv1"):
            resnet(f"encoder.downsamples.{number}", block)
        else:
            _put(out, f"encoder.downsamples.{number}", block)
    number = 0
    for block in vae.decoder.up_blocks:
        for unit in block.resnets:
            resnet(f"decoder.upsamples.{number}", unit)
            number += 1
        if block.upsamplers is not None:
            _put(out, f"decoder.upsamples.{number}", block.upsamplers[0])
            number += 1
    _put(out, "conv1", vae.quant_conv)
    _put(out, "conv2", vae.post_quant_conv)
