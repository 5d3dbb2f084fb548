# SPDX-License-Identifier: GPL-3.0-or-later
"""What the painter last chose, and the session id: one JSON file that survives damage. Qt-free.

A value of the wrong type or range is replaced by its default, never an error: settings must not be able to keep the
plugin from starting. None means "the model's own default".
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from krita_sd.beyond import REACHES
from krita_sd.live.settings import LiveSettings
from krita_sd.wire.errors import WireError
from krita_sd.wire.limits import (
    MAX_COUNT,
    MAX_FEATHER,
    MAX_GUIDANCE,
    MAX_LORA_WEIGHT,
    MAX_LORAS,
    MAX_NAME,
    MAX_PROMPT,
    MAX_SEED,
    MAX_STEPS,
)
from krita_sd.wire.messages import MAX_SEQ, PLACES, PREVIEW_LEVELS
from krita_sd.wire.recipe import FILLS, SAMPLERS, TILINGS, Lora
from krita_sd.wire.values import Fields

log = logging.getLogger(__name__)

APPLY_WAYS = ("top", "above", "into", "mask")
"""How a result becomes a layer; `canvas.insert` says what each means."""

SOURCES = ("visible", "active layer", "unmarked layers")
FOLLOW = "follow"
TILES = (FOLLOW, *TILINGS)
"""How a picture continues at its edges; "follow": as Krita's wrap-around mode does."""

PER_DOCUMENT = (
    "workspace", "style", "model", "prompt", "negative", "strength", "seed", "seed_fixed", "count", "source", "feather",
    "grow", "exact_mask", "fill", "loras", "exact_steps", "tile", "live",
)  # fmt: skip
"""Settings that every document keeps for itself."""

MAX_CLIP_SKIP = 12
MAX_LEAVE = 256.0
"""GB of the device's memory that a server can be told to leave to others."""

MAX_MODELS = 500
"""Models whose parameters are remembered; the oldest are forgotten."""


@dataclass(frozen=True)
class ModelParams:
    """What is remembered per model. None: the model's own default."""

    steps: int | None = None
    guidance: float | None = None
    sampler: str | None = None
    vae: str | None = None
    clip_skip: int | None = None

    @classmethod
    def read(cls, data: Any) -> ModelParams:
        read = _Tolerant(data)
        return cls(
            read.integer("steps", 1, MAX_STEPS, None),
            read.number("guidance", 0.0, MAX_GUIDANCE, None),
            read.choice("sampler", SAMPLERS, None),
            read.text("vae", MAX_NAME, None),
            read.integer("clip_skip", 1, MAX_CLIP_SKIP, None),
        )


@dataclass(frozen=True)
class Settings:
    """Everything that is remembered. `server_uri` "" means: the server on this machine, started when needed."""

    session: str = ""
    instance: str = ""
    last_seq: int = 0
    server_uri: str = ""
    server_token: str = ""
    leave_free: float = 0.0
    style: str = ""
    model: str = ""
    prompt: str = ""
    negative: str = ""
    strength: float = 1.0
    seed: int = 0
    seed_fixed: bool = False
    count: int = 1
    previews: str = "rgb"
    source: str = "visible"
    feather: int | None = None
    grow: int | None = None
    exact_mask: bool = False
    fill: str = "neutral"
    reach: str = "quarter"
    loras: tuple[Lora, ...] = ()
    exact_steps: bool = False
    tile: str = FOLLOW
    options_open: bool = False
    workspace: str = "generate"
    seen: bool = False
    place: str = "back"
    apply_way: str = "top"
    save_metadata: bool = True
    save_folder: str = ""
    live: LiveSettings = LiveSettings()
    models: dict[str, ModelParams] = field(default_factory=dict)

    @property
    def params(self) -> ModelParams:
        """What is remembered for the chosen style, without one for the chosen model."""
        return self.models.get(self._remembered_as, ModelParams())

    @property
    def _remembered_as(self) -> str:
        return f"style:{self.style}" if self.style else self.model

    def replace(self, **changes: Any) -> Settings:
        return dataclasses.replace(self, **changes)

    def with_params(self, **changes: Any) -> Settings:
        """The same with other steps, guidance and so on for the chosen style or model."""
        name = self._remembered_as
        models = {key: value for key, value in self.models.items() if key != name}
        models[name] = dataclasses.replace(self.params, **changes)
        for key in list(models)[:-MAX_MODELS]:
            del models[key]
        return self.replace(models=models)

    def of_document(self) -> dict[str, Any]:
        """The part that belongs to a document, as JSON values."""
        # Asked after every change: without what is remembered for hundreds of models.
        part = {name: getattr(self, name) for name in PER_DOCUMENT}
        part["loras"] = [dataclasses.asdict(lora) for lora in self.loras]
        part["live"] = dataclasses.asdict(self.live)
        return part

    def with_document(self, data: Any) -> Settings:
        """These settings with what a document has kept; what is damaged there is replaced by the default."""
        kept = {name: data[name] for name in PER_DOCUMENT if name in data} if isinstance(data, dict) else {}
        read = Settings.read({**self.to_json(), **kept})
        # Where this machine writes files is not for a document to say.
        read = read.replace(live=dataclasses.replace(read.live, record_folder=self.live.record_folder))
        return self.replace(**{name: getattr(read, name) for name in kept})

    def to_json(self) -> dict[str, Any]:
        return {"version": 1, **dataclasses.asdict(self)}

    @classmethod
    def read(cls, data: Any) -> Settings:
        """Read what `to_json` wrote, keeping every part that is intact."""
        read = _Tolerant(data)
        models = read.fields.data.get("models")
        models = models if isinstance(models, dict) else {}
        return cls(
            session=read.text("session", MAX_NAME, ""),
            instance=read.text("instance", MAX_NAME, ""),
            last_seq=read.integer("last_seq", 0, MAX_SEQ, 0),
            server_uri=read.text("server_uri", 1000, ""),
            server_token=read.text("server_token", 1000, ""),
            leave_free=read.number("leave_free", 0.0, MAX_LEAVE, 0.0),
            style=read.text("style", MAX_NAME, ""),
            model=read.text("model", MAX_NAME, ""),
            prompt=read.text("prompt", MAX_PROMPT, ""),
            negative=read.text("negative", MAX_PROMPT, ""),
            strength=read.number("strength", 0.0, 1.0, 1.0),
            seed=read.integer("seed", 0, MAX_SEED, 0),
            seed_fixed=read.flag("seed_fixed", False),
            count=read.integer("count", 1, MAX_COUNT, 1),
            previews=read.choice("previews", PREVIEW_LEVELS, "rgb"),
            source=read.choice("source", SOURCES, "visible"),
            feather=read.integer("feather", 0, MAX_FEATHER, None),
            grow=read.integer("grow", 0, MAX_FEATHER, None),
            exact_mask=read.flag("exact_mask", False),
            fill=read.choice("fill", FILLS, "neutral"),
            reach=read.choice("reach", tuple(REACHES), "quarter"),
            loras=_read_loras(read.fields.data.get("loras")),
            exact_steps=read.flag("exact_steps", False),
            tile=read.choice("tile", TILES, FOLLOW),
            options_open=read.flag("options_open", False),
            workspace=read.text("workspace", MAX_NAME, "generate"),
            seen=read.flag("seen", False),
            place=read.choice("place", PLACES, "back"),
            apply_way=read.choice("apply_way", APPLY_WAYS, "top"),
            save_metadata=read.flag("save_metadata", True),
            save_folder=read.text("save_folder", 4096, ""),
            live=LiveSettings.read(_Tolerant(read.fields.data.get("live"))),
            models={str(key): ModelParams.read(value) for key, value in list(models.items())[-MAX_MODELS:]},
        )


def _read_loras(data: Any) -> tuple[Lora, ...]:
    items = [_Tolerant(entry) for entry in data] if isinstance(data, list) else []
    named = [
        (item.text("id", MAX_NAME, ""), item.number("weight", -MAX_LORA_WEIGHT, MAX_LORA_WEIGHT, 1.0)) for item in items
    ]
    return tuple(Lora(id, weight) for id, weight in named if id)[:MAX_LORAS]


class _Tolerant:
    """`wire.values.Fields` that answers a wrong value with the default."""

    def __init__(self, data: Any) -> None:
        self.fields = Fields(data if isinstance(data, dict) else {}, "settings")

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.fields, name)

        def read(key: str, *arguments: Any) -> Any:
            if self.fields.data.get(key) is None:
                return arguments[-1]
            try:
                return method(key, *arguments)
            except WireError as error:
                log.warning("settings: %s", error.message)
                return arguments[-1]

        return read


def load(path: Path) -> Settings:
    """Settings of that file; defaults, with a new session id, where there is none or it is damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        if not isinstance(error, FileNotFoundError):
            log.warning("settings were not read (%s); defaults are used", error)
        data = {}
    settings = Settings.read(data)
    if not settings.session.isalnum():
        # The position belongs to the session: a new one begins at 0.
        settings = settings.replace(session=uuid.uuid4().hex, instance="", last_seq=0)
    return settings


def save(path: Path, settings: Settings) -> None:
    """Write the file as a whole or not at all. Readable by the user only: it may hold the token of a remote server."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(settings.to_json(), file, ensure_ascii=True, indent=1)
        draft.replace(path)
    except OSError as error:
        log.warning("settings were not saved (%s)", error)
