# SPDX-License-Identifier: GPL-3.0-or-later
"""Text encoders in single files, with transformers' own names: sizes read off shapes, the rest as published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers

from server.diffusion.weights import Source, empty_module
from server.library.companions import MISTRAL_READ, Inside

Shapes = Mapping[str, tuple[int, ...]]
Sources = dict[str, Source]

_ROOTS = ("model.", "model.language_model.", "language_model.model.")  # the second since transformers 4.52
_HEAD = 128  # width of a head of Qwen2.5-VL and Mistral Small; Qwen3 shows its own


def build(shapes: Shapes, found: Inside, projected: bool = True) -> tuple[Any, Sources]:
    """The empty encoder that lies at `found`, and where each of its weights is. Raises KeyError, ValueError.

    projected: the family reads CLIP's pooled output through the projection that most files have (Flux 1 does not).
    """
    if not projected:
        shapes = {name: shape for name, shape in shapes.items() if not name.endswith("text_projection.weight")}
    return _BUILDERS[found.role](shapes, found.prefix)


def _layers(shapes: Shapes, pattern: str) -> int:
    """How many layers there are; `pattern` names a tensor of layer {}."""
    count = 0
    while pattern.format(count) in shapes:
        count += 1
    if not count:
        raise KeyError(pattern)
    return count


def _clip(activation: str) -> Callable[[Shapes, str], tuple[Any, Sources]]:
    def make(shapes: Shapes, home: str) -> tuple[Any, Sources]:
        root = f"{home}text_model."
        vocabulary, width = shapes[f"{root}embeddings.token_embedding.weight"]
        projection = shapes.get(f"{home}text_projection.weight")
        config = transformers.CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=shapes[f"{root}encoder.layers.0.mlp.fc1.weight"][0],
            num_hidden_layers=_layers(shapes, f"{root}encoder.layers.{{}}.mlp.fc1.weight"),
            num_attention_heads=max(1, width // 64),
            max_position_embeddings=77,
            projection_dim=projection[0] if projection is not None else width,
            hidden_act=activation,
            bos_token_id=49406,
            eos_token_id=49407,
            pad_token_id=49407,
        )
        # Files without a projection leave the pooled output as it is.
        kind = transformers.CLIPTextModel if projection is None else transformers.CLIPTextModelWithProjection
        module = empty_module(lambda: kind(config))
        return module, {
            name: Source(
                home + name if name.startswith("text_projection.") else root + name.removeprefix("text_model.")
            )
            for name in module.state_dict()
        }

    return make


def _t5(shapes: Shapes, home: str) -> tuple[Any, Sources]:
    block = f"{home}encoder.block.{{}}.layer."
    table = next(name for name in (f"{home}shared.weight", f"{home}encoder.embed_tokens.weight") if name in shapes)
    vocabulary, width = shapes[table]
    heads = shapes[f"{block.format(0)}0.SelfAttention.relative_attention_bias.weight"][1]
    config = transformers.T5Config(
        vocab_size=vocabulary,
        d_model=width,
        d_kv=shapes[f"{block.format(0)}0.SelfAttention.q.weight"][0] // heads,
        d_ff=shapes[f"{block.format(0)}1.DenseReluDense.wi_0.weight"][0],
        num_layers=_layers(shapes, f"{block}0.SelfAttention.q.weight"),
        num_heads=heads,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    module = empty_module(lambda: transformers.T5EncoderModel(config))
    shared = ("shared.weight", "encoder.embed_tokens.weight")
    return module, {name: Source(table if name in shared else home + name) for name in module.state_dict()}


def _language_model(shapes: Shapes, home: str) -> tuple[str, dict[str, Any]]:
    """(where its tensors are, what its configuration says of sizes) of a Qwen or a Mistral."""
    root = next(home + root for root in _ROOTS if f"{home}{root}embed_tokens.weight" in shapes)
    first = f"{root}layers.0.self_attn."
    head = shapes.get(f"{first}q_norm.weight", (min(_HEAD, shapes[f"{first}k_proj.weight"][0]),))[0]
    vocabulary, width = shapes[f"{root}embed_tokens.weight"]
    return root, {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes[f"{root}layers.0.mlp.gate_proj.weight"][0],
        "num_hidden_layers": _layers(shapes, f"{root}layers.{{}}.self_attn.q_proj.weight"),
        "num_attention_heads": shapes[f"{first}q_proj.weight"][0] // head,
        "num_key_value_heads": shapes[f"{first}k_proj.weight"][0] // head,
        "rms_norm_eps": 1e-6,
    }


def _qwen3(shapes: Shapes, home: str) -> tuple[Any, Sources]:
    root, sizes = _language_model(shapes, home)
    config = transformers.Qwen3Config(
        **sizes,
        head_dim=shapes[f"{root}layers.0.self_attn.q_norm.weight"][0],
        max_position_embeddings=40960,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
    )
    module = empty_module(lambda: transformers.Qwen3Model(config))
    return module, {name: Source(root + name) for name in module.state_dict()}


def _mistral(shapes: Shapes, home: str) -> tuple[Any, Sources]:
    root, sizes = _language_model(shapes, home)
    if sizes["num_hidden_layers"] < MISTRAL_READ:
        raise KeyError(f"{root}layers.{MISTRAL_READ - 1}")
    config = transformers.MistralConfig(
        **{**sizes, "num_hidden_layers": MISTRAL_READ, "rms_norm_eps": 1e-5},
        head_dim=min(_HEAD, shapes[f"{root}layers.0.self_attn.k_proj.weight"][0]),
        max_position_embeddings=131072,
        sliding_window=None,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000_000.0},
    )
    module = empty_module(lambda: transformers.MistralModel(config))
    module.norm = torch.nn.Identity()  # behind the last of all layers, of which most are left out here
    return module, {name: Source(root + name) for name in module.state_dict()}


def _qwen_vl(shapes: Shapes, home: str) -> tuple[Any, Sources]:
    root, sizes = _language_model(shapes, home)
    eyes = next((home + place for place in ("visual.", "model.visual.") if _has(shapes, home + place)), "")
    rope = {"rope_type": "default", "rope_theta": 1_000_000.0, "mrope_section": [16, 24, 24]}
    text = {**sizes, "max_position_embeddings": 128000, "rope_parameters": rope}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=_vision(shapes, eyes, sizes["hidden_size"]))
    module = empty_module(lambda: transformers.Qwen2_5_VLForConditionalGeneration(config))
    if not eyes:
        module.model.visual = None  # some files have the language model alone, and prompts need no more
    head = f"{home}lm_head.weight"
    sources: Sources = {}
    for name in module.state_dict():
        if name == "lm_head.weight":
            sources[name] = Source(head if head in shapes else f"{root}embed_tokens.weight")
        elif name.startswith("model.visual."):
            sources[name] = Source(eyes + name.removeprefix("model.visual."))
        else:
            sources[name] = Source(root + name.removeprefix("model.language_model."))
    return module, sources


def _vision(shapes: Shapes, home: str, words: int) -> dict[str, Any]:
    if not home:
        return {"depth": 1, "out_hidden_size": words}
    width = shapes[f"{home}patch_embed.proj.weight"][0]
    return {
        "depth": _layers(shapes, f"{home}blocks.{{}}.attn.qkv.weight"),
        "hidden_size": width,
        "intermediate_size": shapes[f"{home}blocks.0.mlp.gate_proj.weight"][0],
        "num_heads": max(1, width // 80),
        "out_hidden_size": words,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "window_size": 112,
        "tokens_per_second": 2,
    }


def _has(shapes: Shapes, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in shapes)


_BUILDERS: dict[str, Callable[[Shapes, str], tuple[Any, Sources]]] = {
    "clip_l": _clip("quick_gelu"),
    "clip_g": _clip("gelu"),
    "t5": _t5,
    "qwen3": _qwen3,
    "qwen2.5-vl": _qwen_vl,
    "mistral": _mistral,
}
