# SPDX-License-Identifier: GPL-3.0-or-later
"""Loading a single file of a transformer family: the transformer, and its other parts from the same file or others."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import diffusers

from krita_sd.geometry import LARGE_NATIVE, NATIVE
from krita_sd.wire.errors import Code, WireError
from server.diffusion.model import LoadedModel
from server.diffusion.original import autoencoders, encoders, transformers
from server.diffusion.original.tokenizers import mistral_tokenizer, qwen_tokenizer, t5_tokenizer
from server.diffusion.tokenizer import published_image_reader, shipped_tokenizer
from server.diffusion.weights import PARTS, LoadJob, Source, TensorFiles, empty_module, incomplete, maker, unsupported
from server.library.capabilities import defaults_of
from server.library.companions import (
    SAYS,
    Inside,
    Need,
    build_of,
    encoder_role,
    found_inside,
    needs,
    transformer_prefix,
)

# As published; the same for every size and fine-tune, and in no file.
_DYNAMIC = {
    "num_train_timesteps": 1000,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "shift": 3.0,
}
_SCHEDULES: dict[str, dict[str, Any]] = {
    "flux1": _DYNAMIC,
    "flux2": _DYNAMIC,
    "chroma": {"num_train_timesteps": 1000, "shift": 1.0},
    "sd3": {"num_train_timesteps": 1000, "shift": 3.0},
    "z-image": {"num_train_timesteps": 1000, "shift": 3.0},
    "qwen-image": {**_DYNAMIC, "max_shift": 0.9, "max_image_seq_len": 8192, "shift": 1.0, "shift_terminal": 0.02},
}
_FEW_STEPS = {"num_train_timesteps": 1000, "shift": 1.0}  # Flux schnell's

Part = tuple[Any, dict[str, Source]]


def load_original(job: LoadJob) -> LoadedModel:
    """The model whose transformer is in the file `job.path`; `job.parts` names files of parts that it lacks.

    Raises as `load_model` does, and WireError(model_missing) when a part is nowhere.
    """
    return _Original(job).load()


class _Original:
    def __init__(self, job: LoadJob) -> None:
        self.job = job
        self.files: dict[Path, TensorFiles] = {}
        self.shapes: dict[Path, dict[str, tuple[int, ...]]] = {}

    def load(self) -> LoadedModel:
        job, family = self.job, self.job.family
        with ExitStack() as stack:
            for path in (job.path, *job.parts.values()):
                if not path.exists():
                    raise _gone(path)
                if path not in self.files:
                    self.files[path] = stack.enter_context(TensorFiles([path]))
                    self.shapes[path] = self.files[path].shapes()
            own = self.shapes[job.path]
            if transformer_prefix(own, family) is None:
                raise unsupported(job.path.name, f"it is not a {job.row.title} checkpoint")
            with _sentences(job.path.name, "transformer"):
                config = transformers.config(family, own)
                wanted, inside = needs(own, family), found_inside(own, family)
                transformer = self._transformer(config)
            places = {need.part: self._place(need, inside) for need in wanted}
            modules: dict[str, Any] = {"transformer": self._fill("transformer", job.path, transformer)}
            for need in sorted(wanted, key=lambda need: PARTS.index(need.part)):
                if (place := places[need.part]) is not None:
                    with _sentences(place[0].name, need.part.replace("_", " ")):
                        built = self._build(need, *place)
                    modules[need.part] = self._fill(need.part, place[0], built)
        modules |= self._tokenizers(wanted, modules)
        row = job.row
        if row.image_reader:
            if modules["text_encoder"].model.visual is None:
                file = (places["text_encoder"] or (job.path,))[0]
                raise unsupported(file.name, f"it has no eyes, and {row.title} looks at pictures")
            modules |= {"image_reader": published_image_reader(), "pipeline": "QwenImageEditPlusPipeline"}
        # Nothing in a file tells Klein, which runs in four steps, from its base: it is by far the more common.
        defaults = defaults_of(family, True) if family == "flux2" and not config["guidance_embeds"] else {}
        return maker(row.maker)(family, modules, self._schedule(config), NATIVE.get(family, LARGE_NATIVE), defaults)

    def _transformer(self, config: dict[str, Any]) -> Part:
        job, own = self.job, self.shapes[self.job.path]
        kind = getattr(diffusers, job.row.parts["transformer"].partition(":")[2])
        module = empty_module(lambda: kind(**config))
        sources = transformers.names(job.family, own)
        prefix = transformer_prefix(own, job.family) or ""
        read = {source.name for source in sources.values()}
        idle = {prefix + name for name in transformers.IDLE.get(build_of(job.family), ())}
        left = set(transformers.bare_names(own, prefix)) - {name.removeprefix(prefix) for name in read | idle}
        if left or set(sources) - set(module.state_dict()):
            raise unsupported(job.path.name, "it holds weights that this program does not know")
        return module, sources

    def _place(self, need: Need, inside: Mapping[str, Inside]) -> tuple[Path, Inside] | None:
        """The file and the place in it of a part; None for one that may be absent."""
        if need.part in inside:
            return self.job.path, inside[need.part]
        path = self.job.parts.get(need.part)
        if path is None:
            if need.optional:
                return None
            raise WireError(
                Code.MODEL_MISSING,
                f"The model {self.job.path.name} needs {SAYS[need.role]}, which is in none of the model folders.",
                "Put that file into a model folder, or choose another model.",
            )
        shapes = self.shapes[path]
        if need.part == "vae":
            with _sentences(path.name, "autoencoder"):
                return path, Inside(autoencoders.home(shapes), need.role, 0)
        role, width = encoder_role(shapes)
        # Small models tell CLIP-L from CLIP-G by nothing but what they are used as.
        if role.partition("_")[0] != need.role.partition("_")[0] or need.width not in (0, width):
            raise unsupported(path.name, f"it is not {SAYS[need.role]}")
        return path, Inside("", need.role, width)

    def _build(self, need: Need, path: Path, found: Inside) -> Part:
        shapes = self.shapes[path]
        if need.part == "vae":
            return autoencoders.build(shapes, found.prefix, found.role)
        return encoders.build(shapes, found, self.job.row.parts[need.part].endswith("WithProjection"))

    def _fill(self, part: str, path: Path, built: Part) -> Any:
        module, sources = built
        if any(source.name not in self.files[path] for source in sources.values()):
            raise incomplete(path.name, part)
        loader = self.job.loader(self.files[path], part)
        loader.model_name = path.name
        loader.fill(module, part, sources)
        _tie(module, sources)
        return module

    def _tokenizers(self, wanted: list[Need], modules: Mapping[str, Any]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for need in wanted:
            if need.part not in modules or need.part == "vae":
                continue
            place = need.part.replace("text_encoder", "tokenizer")
            if need.role.startswith("clip"):
                # In SD3 as in SDXL, the second encoder was trained with "!" behind its texts.
                out[place] = shipped_tokenizer("!") if need.role == "clip_g" else shipped_tokenizer()
            else:
                out[place] = {"t5": t5_tokenizer, "mistral": mistral_tokenizer}.get(need.role, qwen_tokenizer)()
        return out

    def _schedule(self, config: Mapping[str, Any]) -> dict[str, Any]:
        family = build_of(self.job.family)
        few = family == "flux1" and not config["guidance_embeds"]
        return {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            **(_FEW_STEPS if few else _SCHEDULES[family]),
        }


def _gone(path: Path) -> WireError:
    return WireError(Code.MODEL_MISSING, f"The model file {path.name} is no longer there.", "Rescan the models.")


class _sentences:
    """Turns what goes wrong while names and shapes are read into the sentence for an incomplete file."""

    def __init__(self, name: str, part: str) -> None:
        self._name, self._part = name, part

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (KeyError, ValueError, IndexError, TypeError, StopIteration, AttributeError)):
            raise incomplete(self._name, self._part) from error


def _tie(module: Any, sources: Mapping[str, Source]) -> None:
    """Weights that a file has once are one tensor in memory: T5's table of words, a language model's output."""
    first: dict[Source, Any] = {}
    for name, source in sources.items():
        home, _, leaf = name.rpartition(".")
        owner = module.get_submodule(home)
        if leaf in owner._parameters:
            kept = first.setdefault(source, getattr(owner, leaf))
            setattr(owner, leaf, kept)
