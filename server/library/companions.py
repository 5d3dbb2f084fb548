# SPDX-License-Identifier: GPL-3.0-or-later
"""What a single file of a transformer family holds and what it needs beside it: text encoders and an autoencoder.

Such files are all-in-one checkpoints, or the transformer alone, with the encoders as files of their own that several
models share. Told by names and shapes; the widths must fit the transformer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]

TRANSFORMER_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
VAE_PREFIXES = ("vae.", "first_stage_model.")
_ENCODER_HOME = re.compile(r"(text_encoders\.([^.]+)\.(?:transformer\.)?)")
MISTRAL_WORDS = 131072  # in the table of Mistral Small 3; Llama and others of its build have other numbers
MISTRAL_READ = 30  # layers: Flux 2 dev reads no later one, and the files made for it end there
_LANGUAGE = re.compile(r"model\.(?:language_model\.)?(?:embed_tokens\.|layers\.(\d+)\.)")
_CLIP_G = 1024  # CLIP-L's width is 768, OpenCLIP-G's is 1280

SAYS = {
    "clip_l": "the text encoder CLIP-L (clip_l.safetensors)",
    "clip_g": "the text encoder CLIP-G (clip_g.safetensors)",
    "t5": "the text encoder T5 XXL (t5xxl_fp16.safetensors or one in fp8)",
    "qwen3": "the text encoder Qwen3 (qwen_3_4b.safetensors; Flux 2 Klein 9B: qwen_3_8b.safetensors)",
    "mistral": "the text encoder Mistral Small 3 (mistral_3_small_flux2_bf16.safetensors or one in fp8)",
    "qwen2.5-vl": "the text encoder Qwen2.5-VL (qwen_2.5_vl_7b.safetensors or one in fp8)",
    "vae:flux1": "Flux's autoencoder (ae.safetensors)",
    "vae:flux2": "Flux 2's autoencoder (flux2-vae.safetensors)",
    "vae:sd3": "Stable Diffusion 3's autoencoder, which belongs inside the file",
    "vae:qwen-image": "Qwen-Image's autoencoder (qwen_image_vae.safetensors)",
}
"""What each role is called, with the file that people usually have."""


ROLES = {
    "sd3": ("clip_l", "clip_g", "t5", "vae:sd3"),
    "flux1": ("clip_l", "t5", "vae:flux1"),
    "flux2": ("qwen3", "mistral", "vae:flux2"),
    "chroma": ("t5", "vae:flux1"),
    "z-image": ("qwen3", "vae:flux1"),
    "qwen-image": ("qwen2.5-vl", "vae:qwen-image"),
}
"""The roles that `needs` asks for, by family (Flux 2: Klein reads with Qwen3, dev with Mistral)."""

TWINS = {"flux1-kontext": "flux1", "qwen-image-edit": "qwen-image"}
"""Families that no tensor tells from the one that they were trained from."""


def build_of(family: str) -> str:
    """The family whose layout of tensors a family has."""
    return TWINS.get(family, family)


@dataclass(frozen=True)
class Need:
    """A part that a transformer runs with. width: of its words, 0 when any fits. optional: runs without, too."""

    part: str
    role: str
    width: int = 0
    optional: bool = False

    def met_by(self, role: str, width: int) -> bool:
        """Whether a file of that role and width can be this part."""
        return role == self.role and self.width in (0, width)


@dataclass(frozen=True)
class Inside:
    """A part found in a file: where its tensors are, and what it is."""

    prefix: str
    role: str
    width: int


ENTRIES = {
    "flux1": "double_blocks.0.img_attn.qkv.weight",
    "flux2": "double_blocks.0.img_attn.qkv.weight",
    "chroma": "double_blocks.0.img_attn.qkv.weight",
    "sd3": "joint_blocks.0.x_block.attn.qkv.weight",
    "z-image": "layers.0.attention.qkv.weight",
    "qwen-image": "transformer_blocks.0.attn.add_k_proj.weight",
}
"""A tensor that every transformer of the family has, by which its place in a file is found."""


def transformer_prefix(shapes: Shapes, family: str) -> str | None:
    """What stands before the names of the transformer's tensors; None when there is none of that family."""
    entry = ENTRIES[build_of(family)]
    return next((prefix for prefix in TRANSFORMER_PREFIXES if prefix + entry in shapes), None)


def needs(shapes: Shapes, family: str) -> list[Need]:
    """The parts that the transformer in a file runs with, inside it or not. Raises KeyError, ValueError, IndexError."""
    family = build_of(family)
    prefix = transformer_prefix(shapes, family)
    if prefix is None:
        raise KeyError(family)

    def width(name: str) -> int:
        return shapes[f"{prefix}{name}.weight"][1]

    if family == "flux1":
        return [
            Need("text_encoder", "clip_l", width("vector_in.in_layer")),
            Need("text_encoder_2", "t5", width("txt_in")),
            Need("vae", "vae:flux1"),
        ]
    if family == "flux2":
        reader = "mistral" if f"{prefix}guidance_in.in_layer.weight" in shapes else "qwen3"
        # Three of its layers side by side are the words.
        return [Need("text_encoder", reader, width("txt_in") // 3), Need("vae", "vae:flux2")]
    if family == "chroma":
        return [Need("text_encoder", "t5", width("txt_in")), Need("vae", "vae:flux1")]
    if family == "sd3":
        t5 = Need("text_encoder_3", "t5", width("context_embedder"), optional=True)
        return [Need("text_encoder", "clip_l"), Need("text_encoder_2", "clip_g"), t5, Need("vae", "vae:sd3")]
    if family == "z-image":
        return [Need("text_encoder", "qwen3", width("cap_embedder.1")), Need("vae", "vae:flux1")]
    return [Need("text_encoder", "qwen2.5-vl", width("txt_in")), Need("vae", "vae:qwen-image")]


def found_inside(shapes: Shapes, family: str) -> dict[str, Inside]:
    """The parts of `needs` that are in the file itself, by part."""
    homes: dict[str, str] = {}
    for name in shapes:
        if match := _ENCODER_HOME.match(name):
            homes.setdefault(match[1], match[2])
    offers = []
    for home, label in homes.items():
        role, width = encoder_role(shapes, home)
        offers.append(Inside(home, "clip_g" if role == "clip_l" and label == "clip_g" else role, width))
    out: dict[str, Inside] = {}
    for need in needs(shapes, family):
        if need.part == "vae":
            prefix = next((prefix for prefix in VAE_PREFIXES if any(n.startswith(prefix) for n in shapes)), None)
            if prefix is not None:
                out["vae"] = Inside(prefix, need.role, 0)
            continue
        match_ = next((offer for offer in offers if need.met_by(offer.role, offer.width)), None)
        if match_ is not None:
            out[need.part] = match_
    return out


def missing(shapes: Shapes, family: str) -> list[Need]:
    """The parts that must come from other files."""
    inside = found_inside(shapes, family)
    return [need for need in needs(shapes, family) if need.part not in inside]


def is_loaded(name: str, role: str) -> bool:
    """Whether the tensor `name` of a text encoder with that role is ever loaded: of Mistral the words and the layers
    that are read, not its eyes and what comes behind."""
    if role != "mistral":
        return True
    found = _LANGUAGE.search(name)
    return found is not None and int(found[1] or 0) < MISTRAL_READ


def encoder_role(shapes: Shapes, home: str = "") -> tuple[str, int]:
    """(role, width of its words) of the text encoder below `home`; ("", 0) for those that no family here uses."""
    token = shapes.get(f"{home}text_model.embeddings.token_embedding.weight")
    places = shapes.get(f"{home}text_model.embeddings.position_embedding.weight", (0,))
    if token is not None and len(token) == 2 and places[0] == 77:
        return ("clip_g" if token[1] >= _CLIP_G else "clip_l"), token[1]
    block = f"{home}encoder.block.{{}}.layer.0.SelfAttention."
    query = shapes.get(block.format(0) + "q.weight")
    if query is not None and len(query) == 2:
        # UMT5 of the film models is of the same build, but every block has its own table of distances.
        other = block.format(1) + "relative_attention_bias.weight" in shapes
        return ("", 0) if other else ("t5", query[1])
    for root in ("model.", "model.language_model.", "language_model.model."):
        layer = f"{home}{root}layers.0."
        words = shapes.get(f"{home}{root}embed_tokens.weight")
        if words is None or len(words) != 2 or f"{layer}pre_feedforward_layernorm.weight" in shapes:  # Gemma's
            continue
        if f"{layer}self_attn.q_norm.weight" in shapes:
            return "qwen3", words[1]
        if f"{layer}self_attn.q_proj.bias" in shapes:
            return "qwen2.5-vl", words[1]
        if f"{layer}self_attn.q_proj.weight" in shapes and words[0] == MISTRAL_WORDS:
            return "mistral", words[1]
    return "", 0
