# SPDX-License-Identifier: GPL-3.0-or-later
"""Styles: presets as JSON files, built in (`presets/`) or the painter's own; which values they give to a job. Qt-free.

A file holds any of: name, families, model, loras [{"id", "weight"}], sampler, steps, guidance, prompt (with {prompt}
where the painter's words go), negative, vae, clip_skip, tile, strength. What is absent is the model's own default.
A file can be given to another painter as it is. Models and LoRAs are named by the server's ids or by their names.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from krita_sd.settings import MAX_CLIP_SKIP
from krita_sd.text import tr
from krita_sd.wire.errors import WireError
from krita_sd.wire.limits import MAX_GUIDANCE, MAX_LORA_WEIGHT, MAX_LORAS, MAX_NAME, MAX_PROMPT, MAX_STEPS
from krita_sd.wire.recipe import SAMPLERS, TILINGS, Lora
from krita_sd.wire.values import Fields

log = logging.getLogger(__name__)

BUILT_IN = Path(__file__).parent / "presets"
MAX_FILE = 1024 * 1024
MAX_STYLES = 1000
PLACE = "{prompt}"


@dataclass(frozen=True)
class Style:
    """A preset. id: "built-in/x" or "own/x", the file's stem. None: the model's own default."""

    id: str
    name: str
    families: tuple[str, ...] = ()
    model: str = ""
    loras: tuple[Lora, ...] = field(default_factory=tuple)
    sampler: str | None = None
    steps: int | None = None
    guidance: float | None = None
    prompt: str = ""
    negative: str = ""
    vae: str | None = None
    clip_skip: int | None = None
    tile: str | None = None
    strength: float | None = None
    note: str = ""

    @property
    def is_own(self) -> bool:
        """Whether the painter may change it."""
        return self.id.startswith("own/")

    def fits(self, family: str) -> bool:
        """Whether it is made for models of that family ("" is not known)."""
        return not self.families or not family or family in self.families

    def words(self, prompt: str) -> str:
        """The prompt that the server gets. A style without a place for the painter's words adds its own after them."""
        return _into(self.prompt, prompt)

    def negative_words(self, negative: str) -> str:
        return _into(self.negative, negative)

    def replace(self, **changes: Any) -> Style:
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """What a file holds; nothing of what is not given."""
        out: dict[str, Any] = {"version": 1, "name": self.name}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name in ("id", "name") or value is None or value == "" or value == ():
                continue
            out[item.name] = [dataclasses.asdict(lora) for lora in value] if item.name == "loras" else value
        return out


NO_STYLE = Style("", "No style")


def read_style(id: str, data: Any) -> Style:
    """Check and read a file's content. Raises WireError with the sentence what is wrong."""
    read = Fields(data if isinstance(data, dict) else {}, "style")
    loras = []
    for entry in read.objects("loras", MAX_LORAS):
        item = Fields(entry, "style's LoRA")
        weight = item.number("weight", -MAX_LORA_WEIGHT, MAX_LORA_WEIGHT, 1.0)
        loras.append(Lora(item.identifier("id", MAX_NAME), weight))
    return Style(
        id=id,
        name=read.text("name", MAX_NAME),
        families=read.texts("families", 32, MAX_NAME) if "families" in read.data else (),
        model=read.text("model", MAX_NAME, ""),
        loras=tuple(loras),
        sampler=read.choice("sampler", SAMPLERS, None),
        steps=read.integer("steps", 1, MAX_STEPS, None),
        guidance=read.number("guidance", 0.0, MAX_GUIDANCE, None),
        prompt=read.text("prompt", MAX_PROMPT, ""),
        negative=read.text("negative", MAX_PROMPT, ""),
        vae=read.text("vae", MAX_NAME, None),
        clip_skip=read.integer("clip_skip", 1, MAX_CLIP_SKIP, None),
        tile=read.choice("tile", TILINGS, None),
        strength=read.number("strength", 0.0, 1.0, None),
        note=read.text("note", 1000, ""),
    )


class StyleBook:
    """All styles. `load`, `save` and `delete` touch the disk; they may be called in another thread than the rest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.styles: tuple[Style, ...] = ()
        self.problems: tuple[str, ...] = ()

    def get(self, id: str) -> Style:
        """The style, or the one that changes nothing."""
        return next((style for style in self.styles if style.id == id), NO_STYLE)

    def load(self) -> None:
        """Read both folders; a file that cannot be read is one sentence in `problems`."""
        found: list[Style] = []
        problems: list[str] = []
        for kind, folder in (("built-in", BUILT_IN), ("own", self.folder)):
            for path in _files(folder):
                try:
                    if path.stat().st_size > MAX_FILE:
                        raise ValueError("it is too large")
                    found.append(read_style(f"{kind}/{path.stem}", json.loads(path.read_text(encoding="utf-8"))))
                except (OSError, ValueError, RecursionError, WireError) as error:
                    problems.append(tr("The style file {name} was not read: {error}", name=path.name, error=error))
                    log.warning("%s", problems[-1])
        self.styles, self.problems = tuple(found[:MAX_STYLES]), tuple(problems)

    def add(self, style: Style) -> Style:
        """The style as one of the painter's own, under a new id where it was none. In memory; `save` writes it."""
        own = style if style.is_own else style.replace(id=f"own/{self._free(style.name)}")
        others = tuple(entry for entry in self.styles if entry.id != own.id)
        self.styles = (*others, own)
        return own

    def remove(self, id: str) -> None:
        """Take one of the painter's own out; `delete` takes its file away."""
        self.styles = tuple(entry for entry in self.styles if entry.id != id or not entry.is_own)

    def save(self, style: Style) -> None:
        """Write the file as a whole or not at all. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.path(style.id)
        draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        draft.write_text(json.dumps(style.to_json(), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        draft.replace(path)

    def delete(self, id: str) -> None:
        """Remove the file of one of the painter's own. Raises OSError."""
        self.path(id).unlink(missing_ok=True)

    def path(self, id: str) -> Path:
        """Where an own style is. The stem came from a folder listing or from `_free`: never from elsewhere."""
        return self.folder / f"{_stem(id.partition('/')[2])}.json"

    def _free(self, name: str) -> str:
        stem = _stem(name)
        taken = {style.id for style in self.styles}
        number = 2
        candidate = stem
        while f"own/{candidate}" in taken:
            candidate, number = f"{stem}-{number}", number + 1
        return candidate


def resolve(name: str, models: Sequence[Mapping[str, Any]], kind: str) -> str:
    """The id of the entry of that kind with this id or, as styles travel between machines, this name; else `name`."""
    entries = [entry for entry in models if entry.get("kind", "checkpoint") == kind]
    for key in ("id", "name"):
        for entry in entries:
            if entry.get(key) == name:
                return str(entry.get("id"))
    lower = Path(name).stem.lower()
    return next((str(e.get("id")) for e in entries if Path(str(e.get("name"))).stem.lower() == lower), name)


def merged_loras(first: Iterable[Lora], second: Iterable[Lora]) -> tuple[Lora, ...]:
    """Both, with the weight of the second where both have one; without those of weight 0."""
    weights = {lora.id: lora.weight for lora in first} | {lora.id: lora.weight for lora in second}
    return tuple(Lora(id, weight) for id, weight in weights.items() if weight)[:MAX_LORAS]


def _into(template: str, words: str) -> str:
    if PLACE in template:
        return template.replace(PLACE, words)
    if not template.strip() or not words.strip():
        return words if not template.strip() else template
    return f"{words}, {template}"


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".json")[:MAX_STYLES]
    except OSError:
        return []


def _stem(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name)
    return re.sub(r"[^\w-]+", "-", plain, flags=re.ASCII).strip("-").lower()[:60] or "style"
