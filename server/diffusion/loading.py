# SPDX-License-Identifier: GPL-3.0-or-later
"""Loading a model from a diffusers folder or a single safetensors file: offline, checked tensor by tensor.

Importing this module imports all the heavy libraries: a worker does it while nobody waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import diffusers
import torch
import transformers

from krita_sd.wire.errors import Code, WireError
from server.diffusion.families import FAMILIES
from server.diffusion.load_file import load_file
from server.diffusion.load_folder import load_folder
from server.diffusion.model import LoadedModel
from server.diffusion.weights import IsCancelled, LoadJob, Progress, unsupported


def load_model(
    path: Path,
    family: str,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
    cancelled: IsCancelled | None = None,
    parts: Mapping[str, Path] | None = None,
) -> LoadedModel:
    """Load the model at `path` (diffusers folder or single .safetensors file) of a family ("sd1", "sd2", ...).

    `dtype` defaults to float32 on the CPU and float16 elsewhere. `progress` hears 0..1; `cancelled` is asked at every
    tensor, and True raises Cancelled. `parts`: files of text encoders and autoencoder that a single file lacks.
    Raises WireError: model_missing, model_corrupt, model_unsupported.
    """
    if family not in FAMILIES:
        raise unsupported(path.name, f"the family {family!r} is not known")
    if not path.exists():
        raise WireError(Code.MODEL_MISSING, f"The model {path.name} is no longer there.", "Rescan the model folders.")
    place = torch.device(device)
    if dtype is None:
        dtype = torch.float32 if place.type == "cpu" else torch.float16
    if dtype == torch.float16 and "transformer" in FAMILIES[family].parts:
        dtype = torch.bfloat16  # trained in it: their activations and T5's leave float16's range
    _quiet_libraries()
    job = LoadJob(path, family, FAMILIES[family], place, dtype, progress, cancelled, dict(parts or {}))
    model = load_folder(job) if path.is_dir() else load_file(job)
    if progress is not None:
        progress(1.0)
    return model


def _quiet_libraries() -> None:
    """Leave out the libraries' advice on standard error; what matters to the user is raised as an error."""
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
