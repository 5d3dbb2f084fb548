# SPDX-License-Identifier: GPL-3.0-or-later
"""Single files of the transformer families: what is inside, what is missing, and which files of the library can be it.

Headers only, with the published widths and next to no rows.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from krita_sd.wire.errors import Code, WireError
from server.library import Library
from server.library.companions import ROLES as NEEDED
from server.library.companions import encoder_role, found_inside, missing
from tests.server.test_library import pack, tensor

Shapes = dict[str, tuple[int, ...]]
LDM = "model.diffusion_model."

FLUX: Shapes = {
    "double_blocks.0.img_attn.qkv.weight": (1, 1),
    "img_in.weight": (1, 64),
    "txt_in.weight": (1, 4096),
    "vector_in.in_layer.weight": (1, 768),
}
FLUX2: Shapes = {
    "double_stream_modulation_img.lin.weight": (1, 1),
    "double_blocks.0.img_attn.qkv.weight": (1, 1),
    "img_in.weight": (1, 128),
    "txt_in.weight": (1, 3 * 2560),
}
CHROMA: Shapes = {
    "distilled_guidance_layer.in_proj.weight": (1, 64),
    **{name: shape for name, shape in FLUX.items() if "vector" not in name},
}
SD3: Shapes = {
    "joint_blocks.0.x_block.attn.qkv.weight": (1, 1),
    "context_embedder.weight": (1, 4096),
    "x_embedder.proj.weight": (1, 16, 2, 2),
}
Z_IMAGE: Shapes = {
    "layers.0.attention.qkv.weight": (1, 1),
    "noise_refiner.0.attention.qkv.weight": (1, 1),
    "cap_pad_token": (1, 1),
    "cap_embedder.1.weight": (1, 2560),
}
QWEN: Shapes = {
    "transformer_blocks.0.attn.add_k_proj.weight": (1, 1),
    "txt_norm.weight": (1,),
    "txt_in.weight": (1, 3584),
    "img_in.weight": (1, 64),
}


def clip(width: int) -> Shapes:
    home = "text_model.embeddings."
    return {
        f"{home}token_embedding.weight": (1, width),
        f"{home}position_embedding.weight": (77, width),
        "text_model.encoder.layers.0.mlp.fc1.weight": (1, 1),
    }


def t5(width: int = 4096) -> Shapes:
    return {"encoder.block.0.layer.0.SelfAttention.q.weight": (1, width), "shared.weight": (1, width)}


def language_model(width: int, mark: str, root: str = "model.") -> Shapes:
    layer = f"{root}layers.0."
    return {f"{root}embed_tokens.weight": (1, width), f"{layer}self_attn.{mark}": (1,), f"{layer}mlp.x": (1,)}


MISTRAL = {**language_model(5120, "q_proj.weight"), "model.embed_tokens.weight": (131072, 5120)}
QWEN3, QWEN_VL = language_model(2560, "q_norm.weight"), language_model(3584, "q_proj.bias")
VAE: Shapes = {"decoder.conv_in.weight": (1, 16, 1, 1)}
QWEN_VAE: Shapes = {"decoder.conv1.weight": (1, 16, 1, 1, 1)}
UMT5: Shapes = {**t5(), "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight": (1, 1)}

ROLES: dict[str, tuple[Shapes, tuple[str, int]]] = {
    "clip l": (clip(768), ("clip_l", 768)),
    "clip g": (clip(1280), ("clip_g", 1280)),
    "t5": (t5(), ("t5", 4096)),
    "qwen3": (QWEN3, ("qwen3", 2560)),
    "qwen2.5-vl": (QWEN_VL, ("qwen2.5-vl", 3584)),
    "qwen2.5-vl, newer names": (language_model(3584, "q_proj.bias", "model.language_model."), ("qwen2.5-vl", 3584)),
    "mistral": (MISTRAL, ("mistral", 5120)),
    "mistral, older names": (
        {name.replace("model.", "language_model.model."): shape for name, shape in MISTRAL.items()},
        ("mistral", 5120),
    ),
    # Of the same build, and none of ours: the film models' T5, Gemma, Llama, a CLIP with longer texts.
    "umt5": (UMT5, ("", 0)),
    "gemma": ({**QWEN3, "model.layers.0.pre_feedforward_layernorm.weight": (1,)}, ("", 0)),
    "llama": (language_model(4096, "q_proj.weight"), ("", 0)),
    "long clip": ({**clip(768), "text_model.embeddings.position_embedding.weight": (248, 768)}, ("", 0)),
}


@pytest.mark.parametrize("name", ROLES)
def test_text_encoders_are_told_by_names_and_widths(name: str) -> None:
    shapes, expected = ROLES[name]
    assert encoder_role(shapes) == expected


def under(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + name: shape for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("family", "shapes", "wanted"),
    [
        ("flux1", FLUX, ["clip_l", "t5", "vae:flux1"]),
        ("flux2", FLUX2, ["qwen3", "vae:flux2"]),
        ("flux2", {**FLUX2, "guidance_in.in_layer.weight": (1, 1)}, ["mistral", "vae:flux2"]),
        ("chroma", CHROMA, ["t5", "vae:flux1"]),
        ("sd3", SD3, ["clip_l", "clip_g", "t5", "vae:sd3"]),
        ("z-image", Z_IMAGE, ["qwen3", "vae:flux1"]),
        ("qwen-image", QWEN, ["qwen2.5-vl", "vae:qwen-image"]),
    ],
)
def test_what_a_bare_transformer_lacks(family: str, shapes: Shapes, wanted: list[str]) -> None:
    assert set(wanted) <= set(NEEDED[family]) and len(NEEDED[family]) - len(wanted) == (family == "flux2")
    for prefix in ("", "diffusion_model.", LDM):
        assert [need.role for need in missing(under(prefix, shapes), family)] == wanted


def test_what_is_inside_is_not_missing() -> None:
    whole = {
        **under(LDM, FLUX),
        **under("text_encoders.clip_l.transformer.", clip(768)),
        **under("text_encoders.t5xxl.transformer.", t5()),
        **under("vae.", VAE),
    }
    assert missing(whole, "flux1") == []
    assert found_inside(whole, "flux1")["text_encoder_2"].prefix == "text_encoders.t5xxl.transformer."
    # An encoder of another width, or the film models', is not the one that the transformer reads.
    assert [need.role for need in missing({**whole, **under("text_encoders.t5xxl.transformer.", UMT5)}, "flux1")] == [
        "t5"
    ]
    narrow = {name: shape for name, shape in whole.items() if "t5xxl" not in name}
    narrow |= under("text_encoders.t5xxl.transformer.", t5(2048))
    assert [need.part for need in missing(narrow, "flux1")] == ["text_encoder_2"]


def write(path: Path, shapes: Shapes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table, position = {}, 0
    for name, shape in shapes.items():
        size = 2
        for side in shape:
            size *= side
        table[name] = tensor(position, position + size, list(shape), "F16")
        position += size
    path.write_bytes(pack(table, bytes(position)))
    return path


def scanned(root: Path) -> Library:
    library = Library([root], None)
    library.scan()
    return library


def test_files_of_the_library_complete_a_transformer(tmp_path: Path) -> None:
    flux = write(tmp_path / "diffusion_models" / "flux1-dev.safetensors", FLUX)
    write(tmp_path / "text_encoders" / "long.safetensors", ROLES["long clip"][0])
    write(tmp_path / "text_encoders" / "umt5.safetensors", UMT5)

    def entry() -> tuple[str, dict[str, str]]:
        library = scanned(tmp_path)
        (found,) = [entry for entry in library.entries if entry.path == flux]
        return found.problem, {part: path.name for part, path in found.parts.items()}

    assert "needs the text encoder CLIP-L (clip_l.safetensors)" in entry()[0] and entry()[0].endswith(".")
    write(tmp_path / "text_encoders" / "clip_l.safetensors", clip(768))
    assert "T5 XXL" in entry()[0]
    write(tmp_path / "text_encoders" / "t5xxl_fp8.safetensors", t5())
    assert "ae.safetensors" in entry()[0]
    write(tmp_path / "vae" / "sd3_vae.safetensors", {**VAE, "more": (9, 9)})
    write(tmp_path / "vae" / "ae.safetensors", VAE)
    wanted = {"text_encoder": "clip_l.safetensors", "text_encoder_2": "t5xxl_fp8.safetensors", "vae": "ae.safetensors"}
    assert entry() == ("", wanted)
    # The more precise of two; and one that lies beside the model before all others.
    write(tmp_path / "text_encoders" / "t5xxl_fp16.safetensors", {**t5(), "more": (99,)})
    assert entry()[1]["text_encoder_2"] == "t5xxl_fp16.safetensors"
    write(flux.with_name("own_t5.safetensors"), t5())
    assert entry()[1]["text_encoder_2"] == "own_t5.safetensors"
    problems = {found.path.name: found.problem for found in scanned(tmp_path).entries}
    assert problems["clip_l.safetensors"] == "" and "no model here reads" in problems["umt5.safetensors"]


def test_a_missing_part_is_said_by_the_job_too(tmp_path: Path) -> None:
    write(tmp_path / "z.safetensors", Z_IMAGE)
    library = scanned(tmp_path)
    with pytest.raises(WireError, match=r"qwen_3_4b\.safetensors") as caught:
        library.find(library.entries[0].id)
    assert caught.value.code is Code.MODEL_MISSING


def test_t5_may_be_absent_from_sd3(tmp_path: Path) -> None:
    inside = under("first_stage_model.", VAE)
    sd3 = write(tmp_path / "sd3.safetensors", {**under(LDM, SD3), **inside})
    for name, width in (("clip_l", 768), ("clip_g", 1280)):
        write(tmp_path / f"{name}.safetensors", clip(width))
    (found,) = [entry for entry in scanned(tmp_path).entries if entry.path == sd3]
    assert found.problem == "" and set(found.parts) == {"text_encoder", "text_encoder_2"}


def test_a_transformer_that_is_cut_short_is_listed_with_a_sentence(tmp_path: Path) -> None:
    write(tmp_path / "cut.safetensors", {"double_blocks.0.img_attn.qkv.weight": (1, 1), "img_in.weight": (1, 64)})
    (entry,) = scanned(tmp_path).entries
    assert entry.problem == "The model file cut.safetensors lacks weights of its network."
    write(tmp_path / "cut.safetensors", {**FLUX, "img_in.weight": (1, 128)})
    (entry,) = scanned(tmp_path).entries
    assert "128 input channels" in entry.problem  # a control model: it reads a second picture
