# SPDX-License-Identifier: GPL-3.0-or-later
"""Loading a model from a diffusers folder or a single safetensors file: offline, checked tensor by tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from krita_sd.geometry import NATIVE, NativeRange
from krita_sd.wire.errors import Code, WireError
from server.diffusion.families import FAMILIES, Family
from server.diffusion.families.sd import StableDiffusion
from server.diffusion.model import LoadedModel
from server.diffusion.tokenizer import CONFIGS, folder_tokenizer
from server.diffusion.weights import (
    IsCancelled,
    Loader,
    Progress,
    Source,
    TensorFiles,
    corrupt,
    empty_module,
    incomplete,
    unsupported,
)

# Names that diffusers used for the autoencoder's attention before 0.15; folders made then are still about.
_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
_NOT_WEIGHTS = ("position_ids",)
_SHARES = {"unet": (0.0, 0.7), "vae": (0.7, 0.8), "text_encoder": (0.8, 0.95), "tiny": (0.95, 1.0)}


def load_model(
    path: Path,
    family: str,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
) -> LoadedModel:
    """Load the model at `path` (diffusers folder or single .safetensors file) of a family ("sd1", "sd2").

    `dtype` defaults to float32 on the CPU and float16 elsewhere. `progress` hears 0..1; `cancelled` is asked at every
    tensor, and True raises Cancelled. Raises WireError: model_missing, model_corrupt, model_unsupported.
    """
    if family not in FAMILIES:
        raise unsupported(path.name, f"the family {family!r} is not known")
    if not path.exists():
        raise WireError(Code.MODEL_MISSING, f"The model {path.name} is no longer there.", "Rescan the model folders.")
    place = torch.device(device)
    if dtype is None:
        dtype = torch.float32 if place.type == "cpu" else torch.float16
    job = _Load(path, FAMILIES[family], family, place, dtype, progress, cancelled)
    model = job.from_folder() if path.is_dir() else job.from_file()
    if progress is not None:
        progress(1.0)
    return model


class _Load:
    """One call of `load_model`."""

    def __init__(
        self,
        path: Path,
        row: Family,
        family: str,
        device: torch.device,
        dtype: torch.dtype,
        progress: Progress | None,
        cancelled: IsCancelled | None,
    ) -> None:
        self.path = path
        self.row = row
        self.family = family
        self.device = device
        self.dtype = dtype
        self.progress = progress
        self.cancelled = cancelled
        self.shipped = json.loads((CONFIGS / row.config).read_text("utf-8"))

    def from_folder(self) -> LoadedModel:
        import diffusers
        import transformers

        _quiet(diffusers, transformers)
        index = self._json(self.path / "model_index.json")
        for part, wanted in {
            "unet": "UNet2DConditionModel",
            "vae": "AutoencoderKL",
            "text_encoder": "CLIPTextModel",
        }.items():
            entry = index.get(part)
            if not isinstance(entry, list) or len(entry) != 2 or entry[1] != wanted:
                raise unsupported(self.path.name, f"it is not a {self.row.title} model")
        unet_config = self._json(self.path / "unet" / "config.json")
        if index.get("text_encoder_2") or unet_config.get("addition_embed_type") == "text_time":
            raise unsupported(self.path.name, f"it is not a {self.row.title} model")
        unet = self._folder_part("unet", diffusers.UNet2DConditionModel, unet_config)
        vae = self._folder_part("vae", diffusers.AutoencoderKL, self._json(self.path / "vae" / "config.json"))
        text_config = self._json(self.path / "text_encoder" / "config.json")
        text = self._folder_text(transformers, text_config)
        extra = self._json(self.path / "krita_sd.json") if (self.path / "krita_sd.json").is_file() else {}
        tiny = None
        if isinstance(extra.get("tiny_decoder"), str):
            folder = _inside(self.path, extra["tiny_decoder"])
            tiny = self._folder_part("tiny", diffusers.AutoencoderTiny, self._json(folder / "config.json"), folder)
        return StableDiffusion(
            self.family,
            unet,
            vae,
            text,
            folder_tokenizer(self.path / "tokenizer"),
            self._json(self.path / "scheduler" / "scheduler_config.json"),
            self._native(extra, unet_config.get("sample_size"), vae),
            dict(extra.get("defaults", {})),
            tiny,
        )

    def from_file(self) -> LoadedModel:
        raise unsupported(self.path.name, "single files are not read yet")

    def _folder_text(self, transformers: Any, config: dict[str, Any]) -> Any:
        keep = {key: value for key, value in config.items() if key not in ("architectures", "torch_dtype", "dtype")}
        settings = transformers.CLIPTextConfig(**keep)
        module = empty_module(lambda: transformers.CLIPTextModel(settings))
        return self._fill("text_encoder", module, self.path / "text_encoder", prefix="text_model.")

    def _folder_part(self, part: str, kind: Any, config: dict[str, Any], folder: Path | None = None) -> Any:
        try:
            module = empty_module(lambda: kind.from_config(config))
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, NotImplementedError) as error:
            # A config that the class does not accept; the kinds of exception are the library's own business.
            raise unsupported(self.path.name, f"the configuration of its {part} is not understood") from error
        return self._fill(part, module, folder or self.path / part)

    def _fill(self, part: str, module: Any, folder: Path, prefix: str = "") -> Any:
        with TensorFiles(self._weight_files(folder)) as files:
            begin, end = _SHARES[part]
            loader = Loader(files, self.path.name, self.dtype, self.device, self.progress, self.cancelled, begin, end)
            stored = {_plain(name, prefix): name for name in files.names() if not name.endswith(_NOT_WEIGHTS)}
            names = {_plain(name, prefix): name for name in module.state_dict()}
            if set(stored) - set(names):
                raise unsupported(self.path.name, f"its {part} has weights that its configuration does not explain")
            return loader.fill(module, part, {names[key]: Source(name) for key, name in stored.items()})

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
                f"The model {self.path.name} holds weights in a format that is not safe to open.",
                "Convert it to safetensors first.",
            )
        raise incomplete(self.path.name, folder.name)

    def _native(self, extra: dict[str, Any], sample_size: Any, vae: Any) -> NativeRange:
        given = extra.get("native")
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        if not isinstance(sample_size, int) and not isinstance(given, dict):
            return NATIVE[self.family]
        side = sample_size * factor if isinstance(sample_size, int) else NATIVE[self.family].min_side
        values = {
            "min_side": side,
            "max_side": side * 3 // 2,
            "min_pixels": side * side,
            "max_pixels": side * side * 3 // 2,
            "pixels": side * side,
        }
        if isinstance(given, dict):
            values.update(pixels=0)
            values.update({key: int(given[key]) for key in values if key in given})
        return NativeRange(**values, multiple=factor, second_pass=bool(extra.get("second_pass", True)))

    def _json(self, path: Path) -> dict[str, Any]:
        try:
            value = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise corrupt(f"{self.path.name}/{path.relative_to(self.path)}") from error
        if not isinstance(value, dict):
            raise corrupt(f"{self.path.name}/{path.relative_to(self.path)}")
        return value


def _quiet(diffusers: Any, transformers: Any) -> None:
    """Leave out the libraries' advice on standard error; what matters to the user is raised as an error."""
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


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
