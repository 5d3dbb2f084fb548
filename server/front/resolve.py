# SPDX-License-Identifier: GPL-3.0-or-later
"""From names in a recipe to files: model, VAE, LoRAs (also those that the prompt calls for), control models; and the
prompt itself, with comments and wildcards done, as a worker is given it. Everything here may block: call in a thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from krita_sd.wire.control_names import fits_family, is_for_all, is_named_for
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.limits import MAX_LORAS
from krita_sd.wire.queries import PromptReading, ReadPrompt
from krita_sd.wire.recipe import CONTROL_MAPS, Control, Recipe
from server.library import Library, ModelEntry
from server.library.capabilities import CAPABILITIES, LOOKING
from server.library.family import TITLES, read_json
from server.library.scan import GENERIC, POCKET
from server.prompt.inversions import called
from server.prompt.reading import CLIP_FAMILIES, Reading, Words, read_words, words_of
from server.prompt.tokens import TokenCounter, clip_counter, folder_counter
from server.prompt.wildcards import Wildcards

MAX_INVERSION = 2 * 1024**2
"""Bytes: 75 vectors for both encoders of SDXL are 0.6 MB in float32; a larger file is something else."""

CONTROL_KINDS = ("controlnet", "t2i_adapter", "ip_adapter", "redux")


@dataclass(frozen=True)
class Resolved:
    """A recipe's image, ready for a worker: files by name, words of both prompts, and how to say what was read."""

    model: dict[str, Any]
    words: Words
    negative: Words
    family: str

    def words_json(self) -> dict[str, str]:
        return {"prompt": self.words.text, "negative": self.negative.text}


class Resolver:
    """Knows the library, the wildcard files beside the models, and the tokenizers that count."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._wildcards: Wildcards | None = None
        self._counters: dict[str, TokenCounter | None] = {}

    def rescan(self) -> None:
        """The folders may have changed."""
        self._wildcards = None
        self._counters.clear()

    @property
    def wildcards(self) -> Wildcards:
        if self._wildcards is None:
            self._wildcards = Wildcards(self._library.roots)
        return self._wildcards

    def check(self, recipe: Recipe) -> None:
        """Raise WireError when a model that the recipe names is missing or cannot be used."""
        self._model(recipe, ())

    def resolve(self, recipe: Recipe) -> Resolved:
        """Everything for the image with this recipe's seed. Raises WireError(model_*, unsupported)."""
        words = words_of(recipe.prompt, recipe.seed, self.wildcards)
        negative = words_of(recipe.negative, recipe.seed, self.wildcards, "negative")
        model = self._model(recipe, (*words.loras, *negative.loras))
        if recipe.kind != "preprocess":
            entry = self._library.find(recipe.model)
            model["inversions"] = self._inversions(entry, words.text, negative.text)
        return Resolved(model, words, negative, model["family"])

    def reading(self, resolved: Resolved) -> dict[str, Any]:
        """How both prompts were read: {"prompt": ..., "negative": ...}, each as in `prompt_reading`."""
        entry = self._library.find(resolved.model["id"]) if resolved.model["id"] else None
        return {
            "prompt": self._read(resolved.words, entry).to_json(),
            "negative": self._read(resolved.negative, entry).to_json(),
        }

    def answer(self, question: ReadPrompt) -> PromptReading:
        """Answer `read_prompt`. Wildcards are drawn with seed 0: an example."""
        try:
            entry = self._library.find(question.model)
        except WireError:
            return PromptReading(question.id)
        words = words_of(question.prompt, 0, self.wildcards)
        negative = words_of(question.negative, 0, self.wildcards, "negative")
        return PromptReading(question.id, self._read(words, entry).to_json(), self._read(negative, entry).to_json())

    def _read(self, words: Words, entry: ModelEntry | None) -> Reading:
        family = entry.family if entry is not None else ""
        found = {tag.name: lora for tag in words.loras if (lora := self._lora(tag.name)) is not None}
        learned = {name: lora.inversion.vectors for name, lora in self._learned(entry).items() if lora.inversion}
        return read_words(words, family, self._counter(entry), found, learned, self._useless(entry, learned))

    def _learned(self, model: ModelEntry | None) -> dict[str, ModelEntry]:
        """The textual inversions of a model's family by the words that call them."""
        if model is None or model.family not in CLIP_FAMILIES:
            return {}
        fits = [entry for entry in self._library.entries if entry.usable and entry.family in ("", model.family)]
        return {word: entry for entry in reversed(fits) for word in entry.words}

    def _useless(self, model: ModelEntry | None, learned: Iterable[str]) -> dict[str, str]:
        """Words that would call a textual inversion which cannot be used, with the reason."""
        usable = {word.casefold() for word in learned}
        out: dict[str, str] = {}
        for entry in self._library.entries if model is not None else ():
            if entry.words and entry.usable:
                reason = f"a textual inversion for {TITLES.get(entry.family, 'another kind of model')}"
                out |= {word: reason for word in entry.words if word.casefold() not in usable}
            elif entry.code is Code.MODEL_UNSAFE and entry.size <= MAX_INVERSION and entry.path.stem not in GENERIC:
                if entry.path.stem.casefold() not in usable:
                    out[entry.path.stem] = "its file is not safe to open; convert it to safetensors first"
        return out

    def _inversions(self, model: ModelEntry, *texts: str) -> list[tuple[str, str]]:
        """The textual inversions that these texts call: (word, file)."""
        learned = self._learned(model)
        found = dict.fromkeys(word for text in texts for word in called(text, learned))
        return [(word, str(learned[word].path)) for word in found]

    def _counter(self, entry: ModelEntry | None) -> TokenCounter | None:
        if entry is None:
            return None
        folder = entry.path / "tokenizer"
        own = str(folder) if folder.is_dir() else ""
        key = own or ("clip" if entry.family in CLIP_FAMILIES else "none")
        if key not in self._counters:
            self._counters[key] = folder_counter(folder) if own else clip_counter() if key == "clip" else None
        return self._counters[key]

    def _model(self, recipe: Recipe, tags: Iterable[Any]) -> dict[str, Any]:
        if recipe.kind == "preprocess":
            out = {"id": "", "path": "", "family": "", "loras": {}, "prompt_loras": [], "controls": []}
            return {**out, "preprocessor": self._preprocessor(recipe.map)}
        entry = self._library.find(recipe.model)
        loras = {lora.id: str(self._library.find(lora.id, "lora").path) for lora in recipe.loras}
        chosen = {path: weight for path, weight in self._prompt_loras(tags) if path not in loras.values()}
        return {
            "id": entry.id,
            "path": str(entry.path),
            "parts": {part: str(path) for part, path in entry.parts.items()},
            "family": entry.family,
            "vae": str(self._library.find(recipe.vae, "vae").path) if recipe.vae else "",
            "upscaler": str(self._library.find(recipe.upscaler, "upscaler").path) if recipe.upscaler else "",
            "loras": loras,
            "prompt_loras": list(chosen.items())[: max(0, MAX_LORAS - len(loras))],
            "controls": [self._control(control, entry) for control in recipe.controls],
        }

    def _preprocessor(self, type: str) -> str:
        """The trained model that makes maps of this type; "" when there is none."""
        makes = (entry for entry in self._library.entries if entry.usable and type in entry.maps)
        return next((str(entry.path) for entry in makes), "")

    def _prompt_loras(self, tags: Iterable[Any]) -> list[tuple[str, float]]:
        found = [(self._lora(tag.name), tag.weight) for tag in tags]
        return [(str(entry.path), weight) for entry, weight in found if entry is not None]

    def _lora(self, name: str) -> ModelEntry | None:
        """The usable LoRA that a tag means: by id, by the name in the list, or by the file's name; case does not
        matter, nor does the suffix."""
        wanted = name.casefold().removesuffix(".safetensors")
        usable = [entry for entry in self._library.entries if entry.kind == "lora" and entry.usable]
        for key in (lambda e: e.id, lambda e: e.name, lambda e: e.path.stem):
            for entry in usable:
                if key(entry).casefold() == wanted:
                    return entry
        return None

    def _control(self, control: Control, model: ModelEntry) -> dict[str, Any]:
        if control.type == "reference" and not control.model and model.family in LOOKING:
            return {"path": "", "kind": "own", "name": model.name}
        entry = self._chosen_control(control) if control.model else self._best_control(control, model)
        return {"path": str(entry.path), "kind": entry.kind, "name": entry.name}

    def _chosen_control(self, control: Control) -> ModelEntry:
        for kind in CONTROL_KINDS:
            try:
                return self._library.find(control.model, kind)
            except WireError as error:
                if error.code is not Code.MODEL_MISSING:
                    raise
        raise WireError(
            Code.MODEL_MISSING, "The server has no such control model.", "Rescan the models and choose again."
        )

    def _best_control(self, control: Control, model: ModelEntry) -> ModelEntry:
        wanted_kinds = CONTROL_KINDS[:2] if control.type in (*CONTROL_MAPS, "stencil") else CONTROL_KINDS[2:]
        fits = [
            entry
            for entry in self._library.entries
            if entry.kind in wanted_kinds and entry.usable and belongs_together(entry, model)
        ]
        stated = _stated_types(model)
        named = [
            entry
            for entry in fits
            if stated.get(entry.path, stated.get(entry.path.parent)) == control.type
            or is_named_for(entry.name, control.type)
        ]
        general = [entry for entry in fits if is_for_all(entry.name)]
        if control.type in ("reference", "style", "composition"):
            whole = [entry for entry in fits if entry.kind != "redux" or control.type == "reference"]
            named, general = [entry for entry in named if entry in whole], general or whole
        if not (named or general):
            what = control.type.replace("_", " ")
            raise WireError(
                Code.UNSUPPORTED,
                f"There is no model for {what} control that fits {model.name}.",
                _what_to_do(control.type, model, wanted_kinds),
            )
        return (named or general)[0]


def belongs_together(part: ModelEntry, model: ModelEntry) -> bool:
    """Whether an addition was made for this model: the same family, and the embedded model's own parts for it alone."""
    if part.path.is_relative_to(POCKET) or model.path == POCKET:
        return part.path.is_relative_to(POCKET) and model.path == POCKET
    return fits_family(part.family, model.family)


def _stated_types(model: ModelEntry) -> dict[Path, str]:
    """Folder of a control model -> its type, as a model folder's own settings (krita_sd.json) state it."""
    try:
        listed = read_json(model.path / "krita_sd.json").get("controlnets")
    except WireError:
        return {}
    if not isinstance(listed, list):
        return {}
    known = [entry for entry in listed if isinstance(entry, dict) and isinstance(entry.get("folder"), str)]
    return {model.path / entry["folder"]: str(entry.get("type", "")) for entry in known}


def _looks_by(model: ModelEntry) -> str:
    row = CAPABILITIES.get(model.family)
    return row.references if row is not None else ""


def _what_to_do(type: str, model: ModelEntry, kinds: tuple[str, ...]) -> str:
    """How to get a control model of that type for that model."""
    if model.path == POCKET:
        return "The embedded model works with its own control models only: choose another model."
    if type == "reference" and _looks_by(model) == "redux":
        more = "A file that is Kontext looks by itself when it says so (docs/models.md)."
        return f"Put the Redux model of Flux 1 into the models folder and rescan. {more}"
    what = type.replace("_", " ")
    return f"Put a {_what_kind(kinds)} with “{what}” in its name into the models folder and rescan."


def _what_kind(kinds: tuple[str, ...]) -> str:
    return "ControlNet" if kinds[0] == "controlnet" else "IP-Adapter"
