# SPDX-License-Identifier: GPL-3.0-or-later
"""CLIP's tokenizer, rebuilt from the shipped merges or read from a model folder, without the network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, CLIPTokenizer

from krita_sd.wire.errors import Code, WireError
from server.prompt.vocabulary import END, MAX_TOKENS, clip_vocabulary

CONFIGS = Path(__file__).parent / "configs"


def shipped_tokenizer(pad_token: str = END) -> Any:
    """The tokenizer of every SD1.x and SD2.x checkpoint; `pad_token` is the end token in SD1.x and "!" in SD2.x."""
    vocabulary, merges = clip_vocabulary()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad_token, model_max_length=MAX_TOKENS)


def folder_tokenizer(folder: Path) -> Any:
    """The tokenizer of a diffusers folder's `tokenizer/`: tokenizer.json, or vocab.json with merges.txt.

    Raises WireError(model_corrupt) when the files are missing or unreadable.
    """
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
        if (folder / "tokenizer.json").is_file():
            tables = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]
            vocabulary = tables["vocab"]
            lines = tables["merges"]
        else:
            vocabulary = json.loads((folder / "vocab.json").read_text("utf-8"))
            lines = (folder / "merges.txt").read_text("utf-8").split("\n")
        merges = [_pair(line) for line in lines if line and not (isinstance(line, str) and line.startswith("#version"))]
        special = {}
        special_file = folder / "special_tokens_map.json"
        stored = json.loads(special_file.read_text("utf-8")) if special_file.is_file() else {}
        for name in ("unk_token", "bos_token", "eos_token", "pad_token"):
            value = settings.get(name, stored.get(name))
            if value is not None:
                special[name] = value["content"] if isinstance(value, dict) else value
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WireError(
            Code.MODEL_CORRUPT,
            "The model's tokenizer files are missing or damaged.",
            "Download the model folder again.",
        ) from error
    length = settings.get("model_max_length", MAX_TOKENS)
    length = int(length) if isinstance(length, (int, float)) and length <= 4096 else MAX_TOKENS
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length, **special)


def any_tokenizer(folder: Path) -> Any:
    """The tokenizer of T5 or of a language model, as its own library reads it from a folder.

    Raises WireError(model_corrupt) when the files are missing or unreadable.
    """
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise WireError(
            Code.MODEL_CORRUPT,
            "The model's tokenizer files are missing or damaged.",
            "Download the model folder again; its tokenizer folders need their tokenizer.json.",
        ) from error


def image_reader(folder: Path) -> Any:
    """What cuts pictures into patches for a language model that sees, by the settings in `folder`.

    Raises WireError(model_corrupt) when they are missing or unreadable.
    """
    # Not the default one: that needs torchvision.
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    try:
        return Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WireError(
            Code.MODEL_CORRUPT,
            f"The model's {folder.name} files are missing or damaged.",
            "Download the model folder again; its processor folder needs its preprocessor_config.json.",
        ) from error


def published_image_reader() -> Any:
    """The same for single files, which have no settings: as Qwen2.5-VL was published, patches of 14 pixels by twos."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384})


def _pair(line: str | list[str]) -> tuple[str, str]:
    left, right = line.split(" ") if isinstance(line, str) else line
    return left, right
