# SPDX-License-Identifier: GPL-3.0-or-later
"""Another autoencoder for one job: a VAE file in the place of the model's own, and the model's own put back."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

from krita_sd.wire.errors import Code, WireError
from server.diffusion import ldm
from server.diffusion.sampling import Feature
from server.diffusion.weights import Loader, Source, TensorFiles, empty_module, modern_name

_PREFIXES = ("first_stage_model.", "vae.", "")


class OtherAutoencoder(Feature):
    """Puts the autoencoder of a file into a model for the time of a job.

    Raises WireError on entering: model_missing, model_corrupt, model_unsupported (made for another kind of model).
    """

    def __init__(self, model: Any, path: Path) -> None:
        self._model = model
        self._path = path
        self._before: tuple[Any, tuple[Any, ...]] | None = None

    def __enter__(self) -> OtherAutoencoder:
        model, path = self._model, self._path
        try:
            stat = path.stat()
        except OSError as error:
            raise WireError(
                Code.MODEL_MISSING, f"The VAE {path.name} is no longer there.", "Rescan the model folders."
            ) from error
        key = (str(path), stat.st_mtime_ns, stat.st_size)
        other = model.autoencoders.get(key, lambda: load_autoencoder(path, model.vae))
        self._before = model.vae, model.encoding
        model.vae, model.encoding = other, (*model.encoding, key)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            self._model.vae, self._model.encoding = self._before
            self._before = None


def load_autoencoder(path: Path, like: Any) -> Any:
    """The autoencoder in a safetensors file, of the same build, precision and place as `like`.

    Reads the names of the original training code and those of diffusers, with or without the prefix of a checkpoint.
    """
    with TensorFiles([path]) as files:
        shapes = files.shapes()
        module = empty_module(lambda: type(like).from_config(like.config))
        wanted = module.state_dict()
        for prefix in _PREFIXES:
            stored = {modern_name(name.removeprefix(prefix)): name for name in shapes if name.startswith(prefix)}
            for names in ({name: name for name in wanted}, _original_names(wanted, stored, like.config)):
                if names and all(name in stored for name in names.values()):
                    sources = {name: Source(stored[place]) for name, place in names.items()}
                    _check_sizes(path, shapes, wanted, sources)
                    return Loader(files, path.name, like.dtype, like.device, None, None).fill(module, "VAE", sources)
    raise _foreign(path)


def _original_names(wanted: dict[str, Any], stored: dict[str, str], config: Any) -> dict[str, str]:
    """diffusers name -> name in the original training code; none for autoencoders of another build."""
    if "block_out_channels" not in config:
        if "encoder.conv1.weight" not in stored:
            return {}
        translated = convert_wan_vae_to_diffusers({name: name for name in stored})  # Qwen-Image's is the film model's
        return {name: translated.get(name, name) for name in wanted}
    return {name: source.name.removeprefix(ldm.VAE) for name, source in ldm.vae_sources(wanted, config).items()}


def _check_sizes(path: Path, shapes: ldm.Shapes, wanted: dict[str, Any], sources: dict[str, Source]) -> None:
    for name, source in sources.items():
        # Attention is stored as 1x1 convolutions in original files.
        stored, own = (
            tuple(size for size in shape if size != 1) for shape in (shapes[source.name], wanted[name].shape)
        )
        if stored != own:
            raise _foreign(path)


def _foreign(path: Path) -> WireError:
    return WireError(
        Code.MODEL_UNSUPPORTED,
        f"The VAE {path.name} does not fit this model; it was made for another kind of model.",
        "Choose a VAE for this model's family, or the model's own.",
    )
