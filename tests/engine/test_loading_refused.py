# SPDX-License-Identifier: GPL-3.0-or-later
"""Damaged, incomplete, foreign and unsafe models are refused, each in one sentence."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from krita_sd.wire.errors import Code, WireError
from server.diffusion import load_model
from tests.engine.conftest import Loaded
from tests.tiny import make_model


def header(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


OVERLAP = json.dumps({name: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for name in ("a", "b")}).encode()
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "seven bytes": lambda data: data[:7],
    "header cut": lambda data: data[:1000],
    "body cut": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "trailing bytes": lambda data: data + b"x",
    "web page": lambda data: b"<!DOCTYPE html><html><title>404 Not Found</title></html>" * 20,
    "pickle": lambda data: b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00id\x85R." * 20,
    "zip": lambda data: b"PK\x03\x04" + bytes(500),
    "huge header": lambda data: header(b"{}", 2**63 - 1),
    "header of 100 GB": lambda data: header(b"{}", 10**11),
    "bad JSON": lambda data: header(b'{"a": ') + bytes(64),
    "not UTF-8": lambda data: header(b'{"\xff": 1}') + bytes(64),
    "deep JSON": lambda data: header(b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}"),
    "overlapping tensors": lambda data: header(OVERLAP) + bytes(16),
    "list": lambda data: header(b"[]"),
    "zeros": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_are_one_sentence(kind: str, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(DAMAGE[kind](checkpoint.read_bytes()))
    with pytest.raises(WireError) as caught:
        load_model(path, "sd1")
    assert caught.value.code is Code.MODEL_CORRUPT
    assert "damaged.safetensors" in caught.value.message and caught.value.message.endswith(".")
    assert "\n" not in str(caught.value)


def test_many_tiny_tensors_are_refused_quickly(tmp_path: Path) -> None:
    count = 100_000
    entries = {f"t{i}": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(count)}
    (tmp_path / "many.safetensors").write_bytes(header(json.dumps(entries).encode()) + bytes(count))
    with pytest.raises(WireError) as caught:
        load_model(tmp_path / "many.safetensors", "sd1")
    assert caught.value.code in (Code.MODEL_CORRUPT, Code.MODEL_UNSUPPORTED)


def changed(tensors: dict[str, torch.Tensor], **kind: Any) -> dict[str, torch.Tensor]:
    prefix = "model.diffusion_model."
    if kind.get("without"):
        return {name: tensor for name, tensor in tensors.items() if not name.startswith(kind["without"])}
    if kind.get("reshape"):
        return {**tensors, kind["reshape"]: torch.zeros(3, 3)}
    if kind.get("also"):
        return {**tensors, prefix + kind["also"]: torch.zeros(4, 4)}
    if kind.get("integers"):
        return {**tensors, kind["integers"]: torch.zeros_like(tensors[kind["integers"]], dtype=torch.int32)}
    conv = tensors[prefix + "input_blocks.0.0.weight"]
    return {**tensors, prefix + "input_blocks.0.0.weight": conv.repeat(1, 2, 1, 1)[:, : kind["channels"]].contiguous()}


FOREIGN: dict[str, tuple[dict[str, Any], Code]] = {
    "a weight missing": ({"without": "model.diffusion_model.middle_block.0.in_layers.0.weight"}, Code.MODEL_CORRUPT),
    "a VAE weight missing": ({"without": "first_stage_model.quant_conv.bias"}, Code.MODEL_CORRUPT),
    "a text weight missing": (
        {"without": "cond_stage_model.transformer.text_model.encoder.layers.1.mlp.fc2"},
        Code.MODEL_CORRUPT,
    ),
    "half of the UNet missing": ({"without": "model.diffusion_model.output_blocks"}, Code.MODEL_CORRUPT),
    "a wrong shape": ({"reshape": "model.diffusion_model.out.0.weight"}, Code.MODEL_CORRUPT),
    "integers for weights": ({"integers": "model.diffusion_model.out.0.weight"}, Code.MODEL_CORRUPT),
    "no autoencoder": ({"without": "first_stage_model"}, Code.MODEL_UNSUPPORTED),
    "no text encoder": ({"without": "cond_stage_model"}, Code.MODEL_UNSUPPORTED),
    "no UNet": ({"without": "model.diffusion_model"}, Code.MODEL_UNSUPPORTED),
    "an adapter inside": ({"also": "input_blocks.1.1.transformer_blocks.0.fuser.weight"}, Code.MODEL_UNSUPPORTED),
    "class embeddings": ({"also": "label_emb.0.0.weight"}, Code.MODEL_UNSUPPORTED),
    "depth model": ({"channels": 5}, Code.MODEL_UNSUPPORTED),
    "pix2pix model": ({"channels": 8}, Code.MODEL_UNSUPPORTED),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_incomplete_and_foreign_files_are_one_sentence(kind: str, checkpoint: Path, tmp_path: Path) -> None:
    change, code = FOREIGN[kind]
    path = tmp_path / "foreign.safetensors"
    save_file(changed(load_file(checkpoint), **change), path)
    with pytest.raises(WireError) as caught:
        load_model(path, "sd1")
    assert caught.value.code is code and caught.value.message.endswith(".")


def test_the_other_family_is_refused(checkpoint: Path, folder_of: Loaded) -> None:
    for path, family in ((checkpoint, "sd2"), (checkpoint, "sdxl")):
        with pytest.raises(WireError) as caught:
            load_model(path, family)
        assert caught.value.code is Code.MODEL_UNSUPPORTED


def test_unsafe_formats_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("unpickled")

    monkeypatch.setattr(pickle, "load", never)
    monkeypatch.setattr(torch, "load", never)
    (tmp_path / "old.ckpt").write_bytes(b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00id\x85R.")
    with pytest.raises(WireError) as caught:
        load_model(tmp_path / "old.ckpt", "sd1")
    assert caught.value.code is Code.MODEL_UNSAFE
    folder = make_model(tmp_path / "folder")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(WireError) as caught:
        load_model(folder, "sd1")
    assert caught.value.code is Code.MODEL_UNSAFE


def test_missing_model(tmp_path: Path) -> None:
    with pytest.raises(WireError) as caught:
        load_model(tmp_path / "gone.safetensors", "sd1")
    assert caught.value.code is Code.MODEL_MISSING


FOLDER_DAMAGE: dict[str, tuple[Callable[[Path], Any], Code]] = {
    "no unet config": (lambda f: (f / "unet/config.json").unlink(), Code.MODEL_CORRUPT),
    "unet config is a list": (lambda f: (f / "unet/config.json").write_text("[]"), Code.MODEL_CORRUPT),
    "unet config is cut": (lambda f: (f / "unet/config.json").write_text('{"in_ch'), Code.MODEL_CORRUPT),
    "unet config is nonsense": (
        lambda f: (f / "unet/config.json").write_text('{"block_out_channels": "x"}'),
        Code.MODEL_UNSUPPORTED,
    ),
    "no scheduler": (lambda f: (f / "scheduler/scheduler_config.json").unlink(), Code.MODEL_CORRUPT),
    "no tokenizer": (lambda f: shutil.rmtree(f / "tokenizer"), Code.MODEL_CORRUPT),
    "no vae weights": (
        lambda f: (f / "vae/diffusion_pytorch_model.safetensors").unlink(),
        Code.MODEL_CORRUPT,
    ),
    "vae weights in the unet": (
        lambda f: shutil.copy(
            f / "vae/diffusion_pytorch_model.safetensors", f / "unet/diffusion_pytorch_model.safetensors"
        ),
        Code.MODEL_UNSUPPORTED,
    ),
    "another pipeline": (
        lambda f: (f / "model_index.json").write_text('{"_class_name": "FluxPipeline"}'),
        Code.MODEL_UNSUPPORTED,
    ),
    "no index": (lambda f: (f / "model_index.json").unlink(), Code.MODEL_CORRUPT),
    "native size in words": (
        lambda f: (f / "krita_sd.json").write_text('{"native": {"min_side": "small"}}'),
        Code.MODEL_CORRUPT,
    ),
    "native multiple of five": (
        lambda f: (f / "krita_sd.json").write_text('{"native": {"multiple": 5}}'),
        Code.MODEL_CORRUPT,
    ),
    "defaults are a list": (lambda f: (f / "krita_sd.json").write_text('{"defaults": [1]}'), Code.MODEL_CORRUPT),
    "tiny decoder elsewhere": (
        lambda f: (f / "krita_sd.json").write_text('{"tiny_decoder": "../../etc"}'),
        Code.MODEL_CORRUPT,
    ),
}


@pytest.mark.parametrize("kind", FOLDER_DAMAGE)
def test_damaged_folders_are_one_sentence(kind: str, folder_of: Loaded, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(folder_of("sd1"), folder)
    damage, code = FOLDER_DAMAGE[kind]
    damage(folder)
    with pytest.raises(WireError) as caught:
        load_model(folder, "sd1")
    assert caught.value.code is code and caught.value.message.endswith(".")
