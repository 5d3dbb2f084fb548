# SPDX-License-Identifier: GPL-3.0-or-later
"""Loading a diffusers folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from krita_sd.geometry import NativeRange, stated_native
from krita_sd.wire.errors import Code, WireError
from server.diffusion.families.sd import StableDiffusion
from server.diffusion.model import LoadedModel
from server.diffusion.tokenizer import folder_tokenizer
from server.diffusion.weights import LoadJob, Source, TensorFiles, corrupt, empty_module, incomplete, unsupported

# Names that diffusers used for the autoencoder's attention before 0.15; folders made then are still about.
_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
_NOT_WEIGHTS = ("position_ids",)


def load_folder(job: LoadJob) -> LoadedModel:
    """The model in the diffusers folder `job.path`. Raises as `load_model` does."""
    return _Folder(job).load()


class _Folder:
    def __init__(self, job: LoadJob) -> None:
        self.job = job

    def load(self) -> LoadedModel:
        index = self._json(self.job.path / "model_index.json")
        for part, wanted in {
            "unet": "UNet2DConditionModel",
            "vae": "AutoencoderKL",
            "text_encoder": "CLIPTextModel",
        }.items():
            entry = index.get(part)
            if not isinstance(entry, list) or len(entry) != 2 or entry[1] != wanted:
                raise unsupported(self.job.path.name, f"it is not a {self.job.row.title} model")
        unet_config = self._json(self.job.path / "unet" / "config.json")
        if index.get("text_encoder_2") or unet_config.get("addition_embed_type") == "text_time":
            raise unsupported(self.job.path.name, f"it is not a {self.job.row.title} model")
        unet = self._folder_part("unet", UNet2DConditionModel, unet_config)
        vae = self._folder_part("vae", AutoencoderKL, self._json(self.job.path / "vae" / "config.json"))
        text_config = self._json(self.job.path / "text_encoder" / "config.json")
        text = self._folder_text(text_config)
        extra = self._settings()
        tiny = None
        if isinstance(extra.get("tiny_decoder"), str):
            folder = _inside(self.job.path, extra["tiny_decoder"])
            tiny = self._folder_part("tiny", AutoencoderTiny, self._json(folder / "config.json"), folder)
        return StableDiffusion(
            self.job.family,
            {
                "unet": unet,
                "vae": vae,
                "text_encoder": text,
                "tokenizer": folder_tokenizer(self.job.path / "tokenizer"),
                "tiny": tiny,
            },
            self._json(self.job.path / "scheduler" / "scheduler_config.json"),
            self._native(extra, unet_config.get("sample_size"), vae),
            extra.get("defaults", {}),
        )

    def _settings(self) -> dict[str, Any]:
        """krita_sd.json: what a model says about itself; all of it optional."""
        path = self.job.path / "krita_sd.json"
        extra = self._json(path) if path.is_file() else {}
        if not isinstance(extra.get("defaults", {}), dict):
            raise corrupt(f"{self.job.path.name}/krita_sd.json")
        return extra

    def _folder_text(self, config: dict[str, Any]) -> Any:
        keep = {key: value for key, value in config.items() if key not in ("architectures", "torch_dtype", "dtype")}
        settings = CLIPTextConfig(**keep)
        module = empty_module(lambda: CLIPTextModel(settings))
        return self._fill("text_encoder", module, self.job.path / "text_encoder", prefix="text_model.")

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


def _plain(name: str, prefix: str) -> str:
    """A tensor's name without what changed between versions of the libraries."""
    name = name.removeprefix(prefix)
    for old, new in _OLD_ATTENTION.items():
        name = name.replace(old, new)
    return name


def _inside(root: Path, relative: str) -> Path:
    """A folder named by a model's own settings; never outside of the model's folder."""
    folder = (root / relative).resolve()
    if root.resolve() not in folder.parents:
        raise corrupt(f"{root.name}/krita_sd.json")
    return folder
