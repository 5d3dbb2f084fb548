# SPDX-License-Identifier: GPL-3.0-or-later
"""The transformers in full size, without values: published counts of parameters, and every name of their files maps."""

from __future__ import annotations

import math
from typing import Any

import diffusers
import pytest
import torch
import transformers as hf

from server.diffusion.original import encoders, transformers
from server.diffusion.original.layers import packed_layers
from server.library.companions import Inside, encoder_role
from tests.tiny_original import transformer

CLASSES = {
    "flux1": "FluxTransformer2DModel",
    "flux2": "Flux2Transformer2DModel",
    "chroma": "ChromaTransformer2DModel",
    "sd3": "SD3Transformer2DModel",
    "z-image": "ZImageTransformer2DModel",
    "qwen-image": "QwenImageTransformer2DModel",
}
SD3 = {"sample_size": 128, "joint_attention_dim": 4096, "pooled_projection_dim": 2048}
SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "flux1 dev": ("flux1", {"guidance_embeds": True}),
    "flux1 schnell": ("flux1", {"guidance_embeds": False}),
    "flux1 fill": ("flux1", {"guidance_embeds": True, "in_channels": 384, "out_channels": 64}),
    "flux2 dev": ("flux2", {}),
    "flux2 klein 4B": (
        "flux2",
        {
            "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "joint_attention_dim": 7680,
            "guidance_embeds": False,
        },
    ),
    "chroma": ("chroma", {}),
    "sd3 medium": (
        "sd3",
        {**SD3, "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536, "pos_embed_max_size": 192},
    ),
    "sd3.5 medium": (
        "sd3",
        {
            **SD3, "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536,
            "pos_embed_max_size": 384, "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm",
        },
    ),
    "sd3.5 large": (
        "sd3",
        {
            **SD3, "num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432,
            "pos_embed_max_size": 192, "qk_norm": "rms_norm",
        },
    ),
    "z-image": ("z-image", {}),
    "qwen-image": ("qwen-image", {}),
}  # fmt: skip


class Shell:
    """Looks like a loaded model to the writer of original files."""

    def __init__(self, module: Any) -> None:
        self.transformer = module


@pytest.fixture(scope="module")
def full() -> Any:
    """full(name) -> the module in full size on the meta device."""

    def make(name: str) -> Any:
        family, settings = SIZES[name]
        with torch.device("meta"):
            return getattr(diffusers, CLASSES[family])(**settings)

    return make


PARAMETERS = {
    "flux1 dev": 11_901_408_320,  # published as 12 billion
    "flux1 schnell": 11_891_178_560,
    "flux1 fill": 11_902_391_360,
    "flux2 dev": 32_223_281_152,  # 32
    "flux2 klein 4B": 3_875_544_576,  # 4
    "chroma": 8_899_983_424,  # 8.9
    "sd3 medium": 2_028_328_000,  # 2
    "sd3.5 medium": 2_243_171_520,  # 2.5, with its table of places, which is no parameter
    "sd3.5 large": 8_056_627_520,  # 8.1
    "z-image": 6_154_908_736,  # 6
    "qwen-image": 20_430_401_088,  # 20
}
TENSORS = {"flux1 dev": 780, "flux1 schnell": 776}
"""In the published files."""


@pytest.mark.parametrize("name", SIZES)
def test_counts_and_names(name: str, full: Any) -> None:
    family, _ = SIZES[name]
    module = full(name)
    assert sum(parameter.numel() for parameter in module.parameters()) == PARAMETERS[name]
    stored = {key: tuple(tensor.shape) for key, tensor in transformer(Shell(module), family).items()}
    assert len(stored) == TENSORS.get(name, len(stored))
    file = {f"model.diffusion_model.{key}": shape for key, shape in stored.items()}
    sources = transformers.names(family, file)
    wanted = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    assert sources.keys() == wanted.keys()
    for key, source in sources.items():
        shape = file[source.name]
        rows = sum(last - first for first, last in source.rows) if source.rows else shape[0]
        assert (rows, *shape[1:]) == wanted[key], key
    idle = {f"model.diffusion_model.{key}" for key in transformers.IDLE.get(family, ())}
    assert {source.name for source in sources.values()} | idle == set(file)
    read = transformers.config(family, file)
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in module.config.items()}
    tables = ("axes_lens", "out_channels")  # longer tables of places; None there means as many as come in
    assert {key for key, value in read.items() if plain[key] != value} <= set(tables)
    layers = {
        key.removesuffix(".weight") for key, shape in stored.items() if key.endswith(".weight") and len(shape) > 1
    }
    known = set(packed_layers(module)) | {key.removesuffix(".weight") for key in wanted}
    assert layers - known <= {"pos_embed"}


TEXT: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "clip_l": (
        "CLIPTextModel",
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
        "text_model.", 123_060_480,
    ),
    "clip_g": (
        "CLIPTextModelWithProjection",
        {
            "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
            "hidden_act": "gelu", "projection_dim": 1280,
        },
        "", 694_659_840,
    ),
    "t5": (
        "T5EncoderModel",
        {
            "d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64, "num_layers": 24, "vocab_size": 32128,
            "feed_forward_proj": "gated-gelu",
        },
        "", 4_762_310_656,
    ),
    "qwen3": (
        "Qwen3Model",
        {
            "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
            "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        },
        "model.", 4_022_468_096,
    ),
    "qwen2.5-vl": (
        "Qwen2_5_VLForConditionalGeneration",
        {
            "text_config": {
                "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
                "num_key_value_heads": 4, "vocab_size": 152064, "rms_norm_eps": 1e-6,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            },
            "vision_config": {
                "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
            },
        },
        "", 8_292_166_656,
    ),
}  # fmt: skip
"""Class, published sizes, what their files put before transformers' own names, and parameters."""


@pytest.mark.parametrize("depth", [40, 30])
def test_mistral(depth: int) -> None:
    """Mistral Small 3, whole and as the file made for Flux 2 dev: the layers that are read, with published settings."""
    settings = {
        "hidden_size": 5120, "intermediate_size": 32768, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 128, "vocab_size": 131072, "rms_norm_eps": 1e-5, "sliding_window": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e9},
    }  # fmt: skip
    with torch.device("meta"):
        module = hf.MistralModel(hf.MistralConfig(**settings, num_hidden_layers=depth))
    file = {f"model.{name}": tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    found = encoder_role(file)
    assert found == ("mistral", 5120)
    again, sources = encoders.build(file, Inside("", *found))
    assert {key: getattr(again.config, key) for key in settings} == settings
    assert again.config.num_hidden_layers == 30
    assert {name: file[source.name] for name, source in sources.items()} == {
        name: tuple(tensor.shape)
        for name, tensor in module.state_dict().items()
        if name.split(".")[1] not in {str(number) for number in range(30, 40)} and name != "norm.weight"
    }
    assert depth < 40 or sum(math.prod(shape) for shape in file.values()) == 22_901_314_560


@pytest.mark.parametrize("role", TEXT)
def test_text_encoders(role: str) -> None:
    """Sizes read off the names and shapes of a file give the published encoder."""
    kind, settings, prefix, count = TEXT[role]
    made = getattr(hf, kind)
    with torch.device("meta"):
        module = made(made.config_class(**settings))
    assert sum(parameter.numel() for parameter in module.parameters()) == count
    file = {}
    for name, tensor in module.state_dict().items():
        home = prefix if not name.startswith(prefix or " ") else ""
        name = (home + name).replace("model.language_model.", "model.").replace("model.visual.", "visual.")
        file[name] = tuple(tensor.shape)
    found = encoder_role(file)
    assert found[0] == role
    again, sources = encoders.build(file, Inside("", *found))
    assert {name: file[source.name] for name, source in sources.items()} == {
        name: tuple(tensor.shape) for name, tensor in module.state_dict().items()
    }
    for section in ("text_config", "vision_config"):
        if section in settings:
            before, after = getattr(module.config, section).to_dict(), getattr(again.config, section).to_dict()
            assert {key: after[key] for key in settings[section]} == {key: before[key] for key in settings[section]}
    assert {key: getattr(again.config, key) for key in settings if "config" not in key} == {
        key: value for key, value in settings.items() if "config" not in key
    }
