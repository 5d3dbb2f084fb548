# SPDX-License-Identifier: GPL-3.0-or-later
"""How a prompt was read, for the line under the prompt field and for the result's memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .attention import BREAK, Part, parse_attention, plain_text
from .blend import split_blend
from .expand import expand
from .inversions import called
from .loras import Tag, take_loras
from .tokens import TokenCounter
from .wildcards import Wildcards

CLIP_FAMILIES = frozenset({"sd1", "sd2", "sdxl"})
"""Families whose text encoders are all CLIP: weights, BREAK and prompts of any length have their full meaning."""

TEXT_LIMIT = {"sd3": 256, "flux1": 512, "flux2": 512, "z-image": 512, "qwen-image": 1024, "chroma": 512}
"""Tokens after which the text encoders (T5 or a language model) of the other families stop reading."""


@dataclass(frozen=True)
class Words:
    """A prompt without comments, wildcards and LoRA tags: what the engine is given, and what was found on the way.

    `notes`: what is ignored, each a piece of the prompt with the reason. `drawn`: wildcards were drawn.
    """

    text: str
    loras: tuple[Tag, ...] = ()
    notes: tuple[str, ...] = ()
    drawn: bool = False


def words_of(prompt: str, seed: int = 0, wildcards: Wildcards | None = None, stream: str = "prompt") -> Words:
    """Take a painter's prompt apart for the image with this seed."""
    expanded = expand(prompt, seed, wildcards, stream)
    text, tags, ignored = take_loras(expanded.text)
    notes = [f"{name} (there is no wildcard file of that name)" for name in expanded.unknown]
    notes += [f"{tag} (not a LoRA with a weight)" for tag in ignored]
    return Words(text, tags, tuple(notes), expanded.draws > 0)


@dataclass(frozen=True)
class Reading:
    """What `prompt_reading` says about one prompt. parts: (text, weight), weights with the share of their blend."""

    parts: tuple[Part, ...] = ()
    tokens: int = 0
    limit: int = 0
    chunks: int = 1
    loras: tuple[tuple[str, float, bool], ...] = ()
    ignored: tuple[str, ...] = ()
    blended: bool = False
    drawn: bool = False
    shares: tuple[float, ...] = field(default=())
    inversions: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "parts": [[text, round(weight, 4)] for text, weight in self.parts],
            "tokens": self.tokens,
            "limit": self.limit,
            "chunks": self.chunks,
            "loras": [[name, weight, found] for name, weight, found in self.loras],
            "inversions": list(self.inversions),
            "ignored": list(self.ignored),
            "text": self.sentence(),
        }

    def sentence(self) -> str:
        """One line for a painter."""
        said = []
        if self.limit:
            said.append(f"{self.tokens} of {self.limit} tokens" if self.tokens else f"up to {self.limit} tokens")
        if self.chunks > 1:
            said.append(f"{self.chunks} chunks")
        if self.blended:
            said.append("a blend of " + " : ".join(f"{share:.3f}" for share in self.shares))
        weighted = sum(1 for _, weight in self.parts if weight != 1.0) if not self.blended else 0
        if weighted:
            said.append("1 weighted part" if weighted == 1 else f"{weighted} weighted parts")
        found = [f"{name} ({weight:g})" for name, weight, known in self.loras if known]
        if found:
            said.append(("LoRA " if len(found) == 1 else "LoRAs ") + ", ".join(found))
        if self.inversions:
            few = len(self.inversions) == 1
            said.append(f"textual inversion{'' if few else 's'} " + ", ".join(self.inversions))
        if self.drawn:
            said.append("wildcards are drawn anew for each picture")
        text = ", ".join(said) or "nothing is asked for"
        if self.ignored:
            text += "; ignored: " + ", ".join(self.ignored)
        return text[:1].upper() + text[1:] + "."


def read_words(
    words: Words,
    family: str,
    counter: TokenCounter | None = None,
    known: Mapping[str, Any] | Callable[[str], bool] | None = None,
    learned: Mapping[str, int] | None = None,
    useless: Mapping[str, str] | None = None,
) -> Reading:
    """How `family` reads these words. `counter`: of the model's tokenizer, None when it is not at hand; `known`: which
    LoRAs exist, by the name in the tag; `learned`: textual inversions of the family with their numbers of vectors;
    `useless`: the others, with the reason why they are not used."""
    notes = list(words.notes)
    exists = known if callable(known) else (known or {}).__contains__
    loras = tuple((tag.name, tag.weight, exists(tag.name)) for tag in words.loras)
    notes += [f"<lora:{name}> (there is no LoRA of that name)" for name, _, found in loras if not found]
    variants = split_blend(words.text)
    clip = family in CLIP_FAMILIES
    parts: list[Part] = []
    tokens, chunks = 0, 1
    inversions: list[str] = []
    for text, share in variants:
        parsed = parse_attention(text)
        if not clip:
            notes += _unknown_to_language_models(parsed)
            parsed = [(plain_text(text), 1.0)]
        for part, _ in parsed:
            inversions += called(part, learned or ())
            notes += [f"{name} ({(useless or {})[name]})" for name in called(part, useless or ())]
        parts += [("BREAK" if part is BREAK else part, weight * share) for part, weight in parsed if part]
        if counter is not None:
            measured = counter.measure(parsed, learned) if clip else (counter.count(parsed[0][0]) + 1, 1)
            tokens, chunks = max(tokens, measured[0]), max(chunks, measured[1])
    limit = (counter.limit if counter is not None else 77) * chunks if clip else TEXT_LIMIT.get(family, 0)
    if not clip and limit and tokens > limit:
        notes.append(f"what comes after {limit} tokens")
    return Reading(
        tuple(parts),
        tokens,
        limit,
        chunks,
        loras,
        tuple(dict.fromkeys(notes)),
        len(variants) > 1,
        words.drawn,
        tuple(variant.share for variant in variants),
        tuple(dict.fromkeys(inversions)),
    )


def _unknown_to_language_models(parts: list[Part]) -> list[str]:
    """What of the attention syntax an encoder that reads sentences cannot follow."""
    out = [f"the weight {weight:g} of “{text.strip()}”" for text, weight in parts if weight != 1.0 and text.strip()]
    if any(text is BREAK for text, _ in parts):
        out.append("BREAK")
    return out
