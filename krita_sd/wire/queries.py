# SPDX-License-Identifier: GPL-3.0-or-later
"""Small questions and orders beside the jobs: how a prompt is read, whether a job fits in memory, the queue's order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .limits import MAX_COUNT, MAX_NAME, MAX_PROMPT
from .message import Message
from .recipe import Recipe
from .values import Fields

VERDICTS = ("fits", "offloads", "too_big", "unknown")


@dataclass(frozen=True)
class ReadPrompt(Message):
    """How would this model read these prompts? Answered by `prompt_reading` with the same id."""

    type = "read_prompt"
    id: str
    model: str = ""
    prompt: str = ""
    negative: str = ""

    @classmethod
    def read(cls, read: Fields) -> ReadPrompt:
        return cls(
            read.identifier("id", MAX_NAME),
            read.text("model", MAX_NAME, ""),
            read.text("prompt", MAX_PROMPT, ""),
            read.text("negative", MAX_PROMPT, ""),
        )


@dataclass(frozen=True)
class PromptReading(Message):
    """Answer to `read_prompt`. Each of prompt and negative: {parts: [[text, weight]], tokens, limit, chunks,
    loras: [[name, weight, found]], inversions: [name], ignored: [text], text: one sentence}. Empty objects when the
    model is not known."""

    type = "prompt_reading"
    id: str
    prompt: dict[str, Any] = field(default_factory=dict)
    negative: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, read: Fields) -> PromptReading:
        return cls(read.identifier("id", MAX_NAME), read.object("prompt", {}), read.object("negative", {}))


@dataclass(frozen=True)
class Estimate(Message):
    """Would this recipe fit into the memory of the device? Answered by `memory_estimate` with the same id."""

    type = "estimate"
    id: str
    recipe: Recipe

    @classmethod
    def read(cls, read: Fields) -> Estimate:
        return cls(read.identifier("id", MAX_NAME), Recipe.from_json(read.object("recipe"), live=True))


@dataclass(frozen=True)
class MemoryEstimate(Message):
    """Answer to `estimate`: the verdict, a sentence, and bytes (0: not known)."""

    type = "memory_estimate"
    id: str
    verdict: str = "unknown"
    text: str = ""
    needed: int = 0
    free: int = 0

    @classmethod
    def read(cls, read: Fields) -> MemoryEstimate:
        return cls(
            read.identifier("id", MAX_NAME),
            read.choice("verdict", VERDICTS, "unknown"),
            read.text("text", 4096, ""),
            read.integer("needed", 0, 2**53, 0),
            read.integer("free", 0, 2**53, 0),
        )


@dataclass(frozen=True)
class Move(Message):
    """Put a waiting job of this session before another of its waiting jobs, or at the end when `before` is "". A job
    that runs or has ended is left where it is."""

    type = "move"
    job: str
    before: str = ""

    @classmethod
    def read(cls, read: Fields) -> Move:
        return cls(read.identifier("job", MAX_NAME), read.text("before", MAX_NAME, ""))


@dataclass(frozen=True)
class QueueOrder(Message):
    """The jobs of this session that have not ended, in the order in which they will run; sent when it changes."""

    type = "queue"
    jobs: tuple[str, ...] = ()

    @classmethod
    def read(cls, read: Fields) -> QueueOrder:
        return cls(read.texts("jobs", 64 * MAX_COUNT, MAX_NAME))


@dataclass(frozen=True)
class FreeMemory(Message):
    """Unload every model that is not in use; the next job loads again. `models` tells the device's memory after."""

    type = "free_memory"

    @classmethod
    def read(cls, read: Fields) -> FreeMemory:
        return cls()


DOWNLOADS = ("list", "ask", "start", "stop", "discard")
"""What can be done about downloads: list them; ask the hub for a size; fetch, or go on; stop and keep what has arrived;
throw that away. Only "ask" and "start" let the server reach out."""

MAX_OFFERS = 500


@dataclass(frozen=True)
class Download(Message):
    """Do something about the download that the server offers under `id` ("" for "list"). Answered by `downloads`."""

    type = "download"
    do: str = "list"
    id: str = ""

    @classmethod
    def read(cls, read: Fields) -> Download:
        return cls(read.choice("do", DOWNLOADS, "list"), read.text("id", MAX_NAME, ""))


@dataclass(frozen=True)
class Downloads(Message):
    """What can be downloaded and how far each is: [{id, title, kind, family, licence, note, account, source, phase,
    bytes, done, rate, problem}]; sent when it changes (lossy, the newest replaces one that has not left).

    phase: offered, asking, waiting, running, checking, stopping, partial, installed. bytes: in all, 0 while not known.
    done: bytes that are here. rate: bytes per second. `free`: bytes of the disk they go to.
    """

    type = "downloads"
    offers: tuple[dict[str, Any], ...] = ()
    free: int = 0

    @classmethod
    def read(cls, read: Fields) -> Downloads:
        return cls(tuple(read.objects("offers", MAX_OFFERS)), read.integer("free", 0, 2**53, 0))
