# SPDX-License-Identifier: GPL-3.0-or-later
"""Scan model folders into a table of opaque ids. The table is the only way from an id to a path.

An id that came from a peer is looked up in a dict and nothing else: it never takes part in building a path, so no
hostile id can make the server touch a file outside the roots.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from krita_sd.geometry import NATIVE, NativeRange
from krita_sd.wire.errors import Code, WireError
from krita_sd.wire.places import folder_id, read_folders

from .capabilities import FILES, FOLDERS, LOOKING, defaults_of
from .companions import ENTRIES, Need, build_of, missing
from .complete import completed
from .family import (
    UNKNOWN,
    Detected,
    detect,
    detect_folder,
    is_distilled,
    native_of,
    read_json,
)
from .header import corrupt, read_header
from .kinds import Inversion, inversion_of
from .layouts import layout_of, title_of
from .preprocessors import maps_of
from .refusals import COMPONENTS, UNSAFE, offers_of, unsafe_folder, unsupported
from .stated import may_be_other, stated_family, statement_stamp
from .upscalers import cannot_run, extra_present

log = logging.getLogger(__name__)

GENERIC = frozenset({"diffusion_pytorch_model", "model", "adapter_model", "pytorch_lora_weights", "learned_embeds"})
"""Names of weights inside a folder that carries the model's own name."""

MAX_DEPTH = 16
MAX_ENTRIES = 200_000
POCKET = Path(__file__).resolve().parents[1] / "pocket"
"""The embedded model."""


@dataclass(frozen=True)
class ModelEntry:
    """One model on disk. `problem` is a sentence when it is not usable, with the error code that using it gives;
    `inversion` belongs to textual inversions. A single file of a transformer alone has `needs`, and `parts` says which
    files meet them; `offers` is the (role, width) in which a text encoder or autoencoder can be such a part."""

    id: str
    name: str
    path: Path
    kind: str
    family: str
    size: int
    problem: str = ""
    code: Code = Code.MODEL_UNSUPPORTED
    inpainting: bool = False
    native: NativeRange | None = None
    defaults: dict[str, Any] = field(default_factory=dict)
    stamp: tuple[int, ...] = ()
    inversion: Inversion | None = None
    needs: tuple[Need, ...] = ()
    offers: tuple[str, int] = ("", 0)
    parts: dict[str, Path] = field(default_factory=dict)
    maps: tuple[str, ...] = ()

    @property
    def usable(self) -> bool:
        return not self.problem

    @property
    def words(self) -> tuple[str, ...]:
        """What prompts call a textual inversion: the file's name, and the token that it states itself."""
        if self.inversion is None:
            return ()
        return tuple(dict.fromkeys(word for word in (_name(self.path), self.inversion.token) if word))

    def to_json(self) -> dict[str, Any]:
        """What a client may know: no path."""
        out: dict[str, Any] = {"id": self.id, "name": self.name, "kind": self.kind, "family": self.family}
        out |= {"bytes": self.size, "usable": self.usable, "problem": self.problem, "inpainting": self.inpainting}
        if self.path.is_relative_to(POCKET):
            out["embedded"] = True  # the embedded model and its own parts, which fit nothing else
        if self.native is not None:
            out["native"] = self.native._asdict()
        if self.defaults:
            out["defaults"] = self.defaults
        if self.kind == "checkpoint" and self.family in LOOKING:
            out["looks"] = True  # at reference pictures, without an adapter
        if self.maps:
            out["maps"] = list(self.maps)  # control maps that it makes
        if self.inversion is not None:
            out["words"] = list(self.words)
        return out

    def error(self) -> WireError:
        """What a job that names this model fails with when it is not usable."""
        return WireError(self.code, self.problem, "Choose another model.")


@dataclass(frozen=True)
class FolderReport:
    """What a scan found in one folder. `program`: whose folder it is; `problem`: a sentence when it gave nothing."""

    id: str
    program: str = ""
    models: int = 0
    unusable: int = 0
    problem: str = ""

    def to_json(self) -> dict[str, Any]:
        """What a client may know: no path."""
        return asdict(self)


class Library:
    """The models under `roots` and under the folders that the painter chose (`krita_sd.wire.places.read_folders` of the
    folder `state`, read at every scan); `pocket` is the folder of the embedded model. Thread-safe; `scan` blocks."""

    def __init__(self, roots: Sequence[Path], pocket: Path | None = POCKET, state: Path | None = None) -> None:
        self.roots = self._fixed = tuple(roots)
        self.folders: tuple[FolderReport, ...] = ()
        self._state = state
        self._pocket = pocket
        self._lock = threading.Lock()
        self._entries: dict[str, ModelEntry] = {}
        self._known: dict[str, ModelEntry] = {}

    def scan(self) -> None:
        """Look at every root again. Files whose size and time have not changed are not opened."""
        with self._lock:
            chosen = read_folders(self._state) if self._state is not None else ()
            self.roots = tuple(dict.fromkeys((*self._fixed, *chosen)))
            found = list(self._find())
            self._known = {str(entry.path): entry for entry in found}
            named = completed(_distinguish(found))
            self._entries = {entry.id: entry for entry in named}

    @property
    def entries(self) -> tuple[ModelEntry, ...]:
        return tuple(self._entries.values())

    def default(self) -> ModelEntry | None:
        """The embedded model, else the first usable checkpoint."""
        usable = [entry for entry in self.entries if entry.usable and entry.kind == "checkpoint"]
        return next((entry for entry in usable if entry.id == "pocket"), usable[0] if usable else None)

    def find(self, id: str, kind: str = "checkpoint") -> ModelEntry:
        """The usable model `id`; "" is the default checkpoint. Raises WireError(model_*)."""
        entry = self._entries.get(id) if id else self.default()
        if entry is None and not id:
            raise WireError(
                Code.MODEL_MISSING, "There is no usable model.", "Put a model into the models folder and rescan."
            )
        if entry is None or entry.kind != kind and entry.usable:
            what = {"checkpoint": "model", "lora": "LoRA", "vae": "VAE"}.get(kind, kind)
            raise WireError(
                Code.MODEL_MISSING, f"The server has no such {what}.", "Rescan the models and choose again."
            )
        if not entry.usable:
            raise entry.error()
        return entry

    def _find(self) -> Iterator[ModelEntry]:
        seen: set[tuple[int, int]] = set()
        if self._pocket is not None and (self._pocket / "model_index.json").is_file():
            own = self._folder(self._pocket, "pocket")
            yield own
            for extra in ("lora", "controlnet"):
                if (self._pocket / extra).is_dir():
                    for _, path, stamp in _walk(self._pocket / extra, seen, 0):
                        # Its words are too narrow to tell a family by; its additions are of its own.
                        part = self._file(path, stamp)
                        yield replace(part, family=part.family or own.family)
        budget = MAX_ENTRIES
        reports: list[FolderReport] = []
        for folder in self.roots:
            layout = layout_of(folder)
            count = unusable = 0
            for kind, path, stamp in (item for root in layout.roots for item in _walk(root, seen, 0)):
                budget -= 1
                if budget < 0:
                    log.warning("more than %d model files; the rest is ignored", MAX_ENTRIES)
                    break
                entry = self._folder(path) if kind == "folder" else self._file(path, stamp)
                count += 1
                unusable += not entry.usable
                yield entry
            problem = _why_empty(folder) if not count else ""
            reports.append(FolderReport(folder_id(folder), layout.program, count, unusable, problem))
        self.folders = tuple(reports)

    def _folder(self, path: Path, id: str = "") -> ModelEntry:
        stamp = _folder_stamp(path)
        known = self._known.get(str(path))
        if known is not None and known.stamp == stamp:
            return known
        detected, settings, problem, code = UNKNOWN, {}, "", Code.MODEL_CORRUPT
        native = None
        defaults: dict[str, Any] = {}
        name = title_of(path)
        try:
            detected = detect_folder(path)
            if (path / "krita_sd.json").is_file():
                settings = read_json(path / "krita_sd.json")
                name = settings["name"] if isinstance(settings.get("name"), str) else name
            problem, code = unsupported(name, detected, FOLDERS) or unsafe_folder(path, detected.kind) or ("", code)
            if not problem:
                defaults = defaults_of(detected.family, is_distilled(path, detected.family))
                native = native_of(path, detected.family, settings) if detected.kind == "checkpoint" else None
                for file in _weights(path):
                    read_header(file)
        except WireError as error:
            problem, code = error.message, error.code
        size = sum(file.stat().st_size for file in _weights(path))
        return ModelEntry(
            id or _id(path), name, path, detected.kind, detected.family, size, problem, code,
            detected.inpainting, native, {**defaults, **_defaults(settings)}, stamp,
        )  # fmt: skip

    def _file(self, path: Path, stamp: tuple[int, ...]) -> ModelEntry:
        known = self._known.get(str(path))
        if known is not None and known.kind == "checkpoint" and may_be_other(known.family):
            stamp += statement_stamp(path)
        elif known is not None and known.kind == "upscaler":
            stamp += (int(extra_present()),)  # it may have been installed since
        if known is not None and known.stamp == stamp:
            return known
        size = stamp[0]
        if path.suffix.lower() in UNSAFE:
            problem = (
                f"{path.name} can run code when it is opened and is not safe to load; convert it to safetensors first."
            )
            return ModelEntry(
                _id(path), path.name, path, "checkpoint", "", size, problem, Code.MODEL_UNSAFE, stamp=stamp
            )
        inversion = None
        needs: tuple[Need, ...] = ()
        offers = ("", 0)
        maps: tuple[str, ...] = ()
        defaults: dict[str, Any] = {}
        try:
            header = read_header(path)
            maps, refused = maps_of(path)
            detected = Detected("preprocessor") if maps else detect(header)
            if detected.kind == "checkpoint" and may_be_other(detected.family):
                family = stated_family(path, detected.family, header.metadata)
                detected = replace(detected, family=family)
                stamp = (*stamp[:3], *statement_stamp(path))
            offers = offers_of(header, detected)
            inversion = inversion_of(header.shapes) if detected.kind == "embedding" else None
            problem, code = unsupported(path.name, detected, FILES, offers) or (refused, Code.MODEL_UNSUPPORTED)
            if detected.kind == "upscaler":
                stamp = (*stamp[:3], int(extra_present()))
                lacking = cannot_run(path.name, header.shapes)
                problem, code = (lacking.message, lacking.code) if lacking else (problem, code)
            if detected.kind == "checkpoint":
                guided = any(name.endswith("guidance_in.in_layer.weight") for name in header.shapes)
                defaults = defaults_of(detected.family, detected.family in ("flux1", "flux2") and not guided)
            if not problem and detected.kind == "checkpoint" and build_of(detected.family) in ENTRIES:
                try:
                    needs = tuple(missing(header.shapes, detected.family))
                except (KeyError, ValueError, IndexError):
                    lacks = corrupt(path.name, "lacks weights of its network")
                    problem, code = lacks.message, lacks.code
        except WireError as error:
            detected, problem, code = Detected("checkpoint"), error.message, error.code
        return ModelEntry(
            _id(path), _name(path), path, detected.kind, detected.family, size, problem, code,
            detected.inpainting, NATIVE.get(detected.family) if detected.kind == "checkpoint" else None, defaults,
            stamp, inversion, needs, offers, maps=maps,
        )  # fmt: skip


def _name(path: Path) -> str:
    return title_of(path.parent) if path.stem.partition(".")[0] in GENERIC else path.stem


def _why_empty(folder: Path) -> str:
    """Why a folder gave no model, in a sentence that says what to do."""
    try:
        with os.scandir(folder):
            pass
    except FileNotFoundError:
        return "This folder does not exist. Connect the disk, or take the folder out of the list."
    except OSError as error:
        return f"This folder cannot be read ({error.strerror}). Change its permissions."
    return "No model was found in it, or all of them are in another folder of this list."


def _walk(root: Path, seen: set[tuple[int, int]], depth: int) -> Iterator[tuple[str, Path, tuple[int, ...]]]:
    """Model files and diffusers folders under `root`, each real folder once however links lead to it."""
    try:
        info = os.stat(root)
        if (info.st_dev, info.st_ino) in seen or depth > MAX_DEPTH:
            return
        seen.add((info.st_dev, info.st_ino))
        with os.scandir(root) as entries:
            items = sorted(entries, key=lambda item: item.name)
    except FileNotFoundError:
        return  # the default folder before the first download; a chosen one is reported
    except OSError as error:
        log.warning("cannot read the models folder %s: %s", root, error.strerror)
        return
    if any(item.name == "model_index.json" for item in items):
        yield "folder", root, ()
        return
    for item in items:
        if item.name.startswith("."):
            continue
        try:
            if item.is_dir():
                yield from _walk(Path(item.path), seen, depth + 1)
                continue
            suffix = os.path.splitext(item.name)[1].lower()
            if suffix != ".safetensors" and suffix not in UNSAFE:
                continue
            info = item.stat()
        except OSError:
            continue
        yield "file", Path(item.path), (info.st_size, info.st_mtime_ns, info.st_ino)


def _weights(folder: Path) -> list[Path]:
    found: list[Path] = []
    for part in COMPONENTS:
        try:
            found += sorted((folder / part).glob("*.safetensors"))
        except OSError:
            continue
    return found


def _folder_stamp(folder: Path) -> tuple[int, ...]:
    stamp: list[int] = []
    for path in (folder / "model_index.json", folder / "krita_sd.json", *_weights(folder)):
        try:
            info = path.stat()
        except OSError:
            continue
        stamp += (info.st_size, info.st_mtime_ns, info.st_ino)
    return tuple(stamp)


def _defaults(settings: dict[str, Any]) -> dict[str, Any]:
    given = settings.get("defaults")
    return given if isinstance(given, dict) else {}


def _id(path: Path) -> str:
    """Stable between runs, readable, and useless as a path."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", path.stem).strip("-")[:40].lower() or "model"
    return (
        f"{stem}-{hashlib.blake2b(str(path.absolute()).encode('utf-8', 'surrogateescape'), digest_size=4).hexdigest()}"
    )


def _distinguish(found: list[ModelEntry]) -> list[ModelEntry]:
    """Names that occur twice get their folder's name behind them."""
    counts: dict[str, int] = {}
    for entry in found:
        counts[entry.name] = counts.get(entry.name, 0) + 1
    out = []
    for entry in found:
        name = entry.name.encode("utf-8", "replace").decode("utf-8")
        if counts[entry.name] > 1 and entry.id != "pocket":
            name = f"{name} ({entry.path.parent.name})"
        out.append(entry if name == entry.name else replace(entry, name=name))
    return out
