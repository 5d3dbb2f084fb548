# SPDX-License-Identifier: GPL-3.0-or-later
"""Loading a diffusers folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import transformers
from diffusers import AutoencoderTiny
from safetensors import SafetensorError
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from krita_sd.geometry import LARGE_NATIVE, NATIVE, NativeRange, stated_native
from krita_sd.wire.errors import Code, WireError
from server.diffusion.model import LoadedModel
from server.diffusion.task import Cancelled
from server.diffusion.tokenizer import any_tokenizer, folder_tokenizer, image_reader
from server.diffusion.weights import (
    PARTS,
    LoadJob,
    Source,
    TensorFiles,
    corrupt,
    empty_module,
    incomplete,
    maker,
    modern_name,
    unsupported,
)

_NOT_WEIGHTS = ("position_ids", "num_batches_tracked")


def load_folder(job: LoadJob) -> LoadedModel:
    """The model in the diffusers folder `job.path`. Raises as `load_model` does."""
    return _Folder(job).load()


class _Folder:
    def __init__(self, job: LoadJob) -> None:
        self.job = job

    def load(self) -> LoadedModel:
        row, path = self.job.row, self.job.path
        index = self._json(path / "model_index.json")
        missing = {part for part in row.optional if index.get(part) in (None, [None, None])}
        for part, wanted in row.parts.items():
            if part in missing:
                continue
            entry = index.get(part)
            if not isinstance(entry, list) or len(entry) != 2 or entry[1] not in _names(wanted):
                raise unsupported(path.name, f"it is not a {row.title} model")
        configs = {part: self._json(path / part / "config.json") for part in row.parts if part not in missing}
        other = index.get("text_encoder_2") or configs.get("unet", {}).get("addition_embed_type") == "text_time"
        if other and "text_encoder_2" not in row.parts:
            raise unsupported(path.name, f"it is not a {row.title} model")
        parts: dict[str, Any] = {
            part: self._part(part, index[part][1], configs[part]) for part in PARTS if part in configs
        }
        for part, kind in row.tokenizers.items():
            if part in missing:
                continue
            parts[part] = folder_tokenizer(path / part) if kind == "clip" else any_tokenizer(path / part)
        if row.image_reader:
            parts["image_reader"] = image_reader(path / row.image_reader)
        parts["pipeline"] = index.get("_class_name")
        parts["is_distilled"] = index.get("is_distilled") is True
        parts["zeros_for_empty"] = index.get("force_zeros_for_empty_prompt", True) is True
        extra = self._settings()
        if isinstance(extra.get("tiny_decoder"), str):
            folder = _inside(path, extra["tiny_decoder"])
            parts["tiny"] = self._folder_part("tiny", AutoencoderTiny, self._json(folder / "config.json"), folder)
        schedule = self._json(path / "scheduler" / "scheduler_config.json")
        native = self._native(extra, configs.get("unet", {}).get("sample_size"), parts["vae"])
        return maker(row.maker)(self.job.family, parts, schedule, native, extra.get("defaults", {}))

    def _part(self, part: str, name: str, config: dict[str, Any]) -> Any:
        library = self.job.row.parts[part].partition(":")[0]
        if library == "diffusers":
            return self._folder_part(part, getattr(diffusers, name), config)
        return self._folder_text(part, getattr(transformers, name), config)

    def _settings(self) -> dict[str, Any]:
        """krita_sd.json: what a model says about itself; all of it optional."""
        path = self.job.path / "krita_sd.json"
        extra = self._json(path) if path.is_file() else {}
        if not isinstance(extra.get("defaults", {}), dict):
            raise corrupt(f"{self.job.path.name}/krita_sd.json")
        return extra

    def _folder_text(self, part: str, kind: Any, config: dict[str, Any]) -> Any:
        if not issubclass(kind, (CLIPTextModel, CLIPTextModelWithProjection)):
            return self._large_text(part, kind)
        keep = {key: value for key, value in config.items() if key not in ("architectures", "torch_dtype", "dtype")}
        settings = kind.config_class(**keep)
        module = empty_module(lambda: kind(settings))
        return self._fill(part, module, self.job.path / part, prefix="text_model.")

    def _large_text(self, part: str, kind: Any) -> Any:
        """A text encoder whose names and tied weights its own library knows how to read."""
        folder = self.job.path / part
        self._weight_files(folder)  # refuses what is not safe to open
        try:
            module, report = kind.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=self.job.dtype, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise incomplete(self.job.path.name, part) from error
        if report["missing_keys"] or report["mismatched_keys"]:
            raise incomplete(self.job.path.name, part)
        if self.job.cancelled is not None and self.job.cancelled():
            raise Cancelled
        return module.to(self.job.device).eval().requires_grad_(False)

    def _folder_part(self, part: str, kind: Any, config: dict[str, Any], folder: Path | None = None) -> Any:
        try:
            module = empty_module(lambda: kind.from_config(config))
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, NotImplementedError) as error:
            # A config that the class does not accept; the kinds of exception are the library's own business.
            raise unsupported(self.job.path.name, f"the configuration of its {part} is not understood") from error
        return self._fill(part, module, folder or self.job.path / part)

    def _fill(self, part: str, module: Any, folder: Path, prefix: str = "") -> Any:
        with TensorFiles(self._weight_files(folder)) as files:
            stored = {_plain(name, prefix): name for name in files.names() if not name.endswith(_NOT_WEIGHTS)}
            names = {_plain(name, prefix): name for name in module.state_dict()}
            if set(stored) - set(names):
                raise unsupported(self.job.path.name, f"its {part} has weights that its configuration does not explain")
            return self.job.loader(files, part).fill(
                module, part, {names[key]: Source(name) for key, name in stored.items()}
            )

    def _weight_files(self, folder: Path) -> list[Path]:
        """The safetensors files of one part: full precision before fp16, one file or numbered ones."""
        found = sorted(folder.glob("*.safetensors"))
        plain = [path for path in found if path.name in ("diffusion_pytorch_model.safetensors", "model.safetensors")]
        if plain:
            return plain
        half = [path for path in found if path.name.endswith(".fp16.safetensors") and "-of-" not in path.name]
        if half:
            return half[:1]
        whole = [path for path in found if ".fp16" not in path.name and ".non_ema" not in path.name]
        if whole or found:
            return whole or found
        if any(folder.glob("*.bin")):
            raise WireError(
                Code.MODEL_UNSAFE,
                f"The model {self.job.path.name} holds weights in a format that is not safe to open.",
                "Convert it to safetensors first.",
            )
        raise incomplete(self.job.path.name, folder.name)

    def _native(self, extra: dict[str, Any], sample_size: Any, vae: Any) -> NativeRange:
        given = extra.get("native")
        if self.job.family not in NATIVE:
            return LARGE_NATIVE
        try:
            return stated_native(
                self.job.family,
                sample_size if isinstance(sample_size, int) else None,
                2 ** (len(vae.config.block_out_channels) - 1),
                given if isinstance(given, dict) else None,
                bool(extra.get("second_pass", True)),
            )
        except ValueError as error:
            raise corrupt(f"{self.job.path.name}/krita_sd.json") from error

    def _json(self, path: Path) -> dict[str, Any]:
        try:
            value = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise corrupt(f"{self.job.path.name}/{path.relative_to(self.job.path)}") from error
        if not isinstance(value, dict):
            raise corrupt(f"{self.job.path.name}/{path.relative_to(self.job.path)}")
        return value


def _names(wanted: str) -> list[str]:
    """The classes that a family's part may have: "library:class|class"."""
    return wanted.partition(":")[2].split("|")


def _plain(name: str, prefix: str) -> str:
    """A tensor's name without what changed between versions of the libraries."""
    return modern_name(name.removeprefix(prefix))


def _inside(root: Path, relative: str) -> Path:
    """A folder named by a model's own settings; never outside of the model's folder."""
    folder = (root / relative).resolve()
    if root.resolve() not in folder.parents:
        raise corrupt(f"{root.name}/krita_sd.json")
    return folder
