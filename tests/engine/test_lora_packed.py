# SPDX-License-Identifier: GPL-3.0-or-later
"""LoRAs in the names of the transformers' authors, whose layers are packed: as if the file's tensor were changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from krita_sd.wire.errors import Code, WireError
from server.diffusion import load_model
from server.diffusion.features.lora import LoraWeights
from server.diffusion.original import load
from tests.tiny_flow import MAKERS, make_flow_model, words_tokenizer
from tests.tiny_flow2 import FAMILIES as LOOKING
from tests.tiny_original import make_files, transformer

MAKERS |= LOOKING
RANK, ALPHA, STRENGTH = 4, 2.0, 0.5
LAYERS = {
    "flux1": [
        "double_blocks.0.img_attn.qkv", "double_blocks.0.txt_attn.qkv", "double_blocks.0.img_attn.proj",
        "double_blocks.0.txt_mlp.2", "double_blocks.0.img_mod.lin", "single_blocks.0.linear1",
        "single_blocks.0.linear2", "final_layer.linear", "final_layer.adaLN_modulation.1", "guidance_in.in_layer",
    ],
    "flux2": [
        "double_blocks.0.img_attn.qkv", "double_blocks.0.txt_attn.proj", "double_blocks.0.img_mlp.0",
        "single_blocks.0.linear1", "single_blocks.0.linear2", "double_stream_modulation_txt.lin",
        "final_layer.adaLN_modulation.1", "time_in.in_layer",
    ],
    "chroma": ["double_blocks.0.img_attn.qkv", "single_blocks.0.linear1", "distilled_guidance_layer.layers.0.in_layer"],
    "sd3": [
        "joint_blocks.0.x_block.attn.qkv", "joint_blocks.1.context_block.attn.qkv", "joint_blocks.0.x_block.attn2.qkv",
        "joint_blocks.1.context_block.adaLN_modulation.1", "joint_blocks.0.x_block.mlp.fc1", "y_embedder.mlp.2",
    ],
    "z-image": [
        "layers.0.attention.qkv", "layers.1.attention.out", "noise_refiner.0.attention.qkv", "layers.0.feed_forward.w2",
        "x_embedder", "final_layer.linear", "cap_embedder.1",
    ],
    "qwen-image": ["transformer_blocks.0.attn.to_q", "transformer_blocks.1.img_mlp.net.0.proj", "txt_in"],
}  # fmt: skip
Models = Callable[[str], Any]


@pytest.fixture(autouse=True)
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny encoders know nine words; building the shipped tokenizers takes longer than all else here."""
    monkeypatch.setattr(load, "t5_tokenizer", words_tokenizer)
    monkeypatch.setattr(load, "qwen_tokenizer", words_tokenizer)


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """model_of(family) -> (folder, the tiny model loaded from it), made once."""
    made: dict[str, Any] = {}

    def get(family: str) -> Any:
        if family not in made:
            kind = {"second": True} if family == "sd3" else {}
            folder = make_flow_model(tmp_path_factory.mktemp("packed") / family, family, **kind)
            made[family] = folder, load_model(folder, family)
        return made[family]

    return get


def names_of(layout: str, layer: str) -> tuple[str, str, str]:
    """What kohya's trainer, ComfyUI's and ai-toolkit's users have: (down, up, alpha) of a layer."""
    if layout == "kohya":
        base = f"lora_unet_{layer.replace('.', '_')}"
        return f"{base}.lora_down.weight", f"{base}.lora_up.weight", f"{base}.alpha"
    return f"{layout}{layer}.lora_A.weight", f"{layout}{layer}.lora_B.weight", f"{layout}{layer}.alpha"


@pytest.mark.parametrize(
    ("family", "layout"),
    [
        ("flux1", "kohya"),
        ("flux1", "diffusion_model."),
        ("flux2", "diffusion_model."),
        ("flux2", "kohya"),
        ("chroma", "kohya"),
        ("sd3", "kohya"),
        ("z-image", "diffusion_model."),
        ("qwen-image", "transformer."),
    ],
)
def test_a_packed_layer_is_changed_as_in_its_own_file(
    family: str, layout: str, model_of: Models, tmp_path: Path
) -> None:
    folder, model = model_of(family)
    generator = torch.Generator().manual_seed(7)
    original = transformer(model, family)
    lora: dict[str, torch.Tensor] = {}
    for layer in LAYERS[family]:
        weight = original[f"{layer}.weight"]
        down = torch.randn(RANK, weight.shape[1], generator=generator)
        up = torch.randn(weight.shape[0], RANK, generator=generator)
        lora |= dict(zip(names_of(layout, layer), (down, up, torch.tensor(ALPHA))))
        original[f"{layer}.weight"] = weight + STRENGTH * ALPHA / RANK * (up @ down)
    save_file(lora, tmp_path / "lora.safetensors")
    parts = make_files(tmp_path / "changed.safetensors", folder, model, family)
    save_file(original, tmp_path / "changed.safetensors")
    changed: Any = load_model(tmp_path / "changed.safetensors", family, parts=parts)
    before = {name: tensor.clone() for name, tensor in model.transformer.state_dict().items()}
    wanted = changed.transformer.state_dict()
    with LoraWeights(model.transformer, model.encoders, ((tmp_path / "lora.safetensors", STRENGTH),)):
        found = {name: tensor.clone() for name, tensor in model.transformer.state_dict().items()}
    differing = {name for name in before if not torch.equal(before[name], wanted[name])}
    assert len(differing) >= len(LAYERS[family])
    for name, tensor in found.items():
        # Numbers are added in another order (up @ down of some rows, or of all): the last bit may differ.
        assert torch.allclose(tensor, wanted[name], rtol=1e-5, atol=1e-6), name
        assert name in differing or torch.equal(tensor, before[name]), name
    after = model.transformer.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("form", ["loha", "lokr", "dora"])
def test_other_forms_of_a_packed_layer(form: str, model_of: Models, tmp_path: Path) -> None:
    """Worked out on the whole packed weight, then cut as its file would be."""
    _, model = model_of("flux1")
    packed = transformer(model, "flux1")["double_blocks.0.img_attn.qkv.weight"]
    rows, width = packed.shape
    random = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random) * 0.3

    if form == "loha":
        a, b, c, d = draw(rows, 2), draw(2, width), draw(rows, 2), draw(2, width)
        stored, wanted = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d}, packed + (a @ b) * (c @ d)
    elif form == "lokr":
        a, b = draw(4, 4), draw(rows // 4, width // 4)
        stored, wanted = {"lokr_w1": a, "lokr_w2": b}, packed + torch.kron(a, b)
    else:
        up, down, size = draw(rows, 2), draw(2, width), draw(rows, 1).abs() + 1
        merged = packed + up @ down
        stored = {"lora_up.weight": up, "lora_down.weight": down, "dora_scale": size}
        wanted = merged * (size / torch.linalg.vector_norm(merged, dim=1, keepdim=True))
    path = tmp_path / f"{form}.safetensors"
    save_file({f"lora_unet_double_blocks_0_img_attn_qkv.{name}": tensor for name, tensor in stored.items()}, path)
    attention = model.transformer.transformer_blocks[0].attn
    with LoraWeights(model.transformer, model.encoders, ((path, 1.0),)):
        found = torch.cat([layer.weight.clone() for layer in (attention.to_q, attention.to_k, attention.to_v)])
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, packed, atol=1e-2)


def test_a_lora_for_a_packed_layer_of_another_size_is_refused(model_of: Models, tmp_path: Path) -> None:
    _, model = model_of("flux1")
    path = tmp_path / "large.safetensors"
    down, up, _ = names_of("kohya", "double_blocks.0.img_attn.qkv")
    for rows, width in ((9216, 3072), (9216, 64), (192, 3072)):
        save_file({down: torch.zeros(4, width), up: torch.zeros(rows, 4)}, path)
        with pytest.raises(WireError) as caught:
            LoraWeights(model.transformer, model.encoders, ((path, 1.0),)).__enter__()
        assert caught.value.code is Code.MODEL_UNSUPPORTED
    assert load_file(path)  # the file itself is sound


def test_loras_reach_t5_by_kohyas_names(model_of: Models, tmp_path: Path) -> None:
    _, model = model_of("flux1")
    layer = model.text_encoder_2.get_submodule("encoder.block.0.layer.0.SelfAttention.q")
    down, up = torch.ones(1, layer.in_features), torch.ones(layer.out_features, 1)
    base = "lora_te2_encoder_block_0_layer_0_SelfAttention_q"
    save_file({f"{base}.lora_down.weight": down, f"{base}.lora_up.weight": up}, tmp_path / "te.safetensors")
    before = layer.weight.clone()
    with LoraWeights(model.transformer, model.encoders, ((tmp_path / "te.safetensors", 1.0),)):
        assert torch.allclose(layer.weight, before + 1.0)
    assert torch.equal(layer.weight, before)
