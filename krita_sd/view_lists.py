# SPDX-License-Identifier: GPL-3.0-or-later
"""The lists that the docker offers (styles, LoRAs, VAEs) and what it says about each entry. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from krita_sd.styles import Style
from krita_sd.text import mark, tr
from krita_sd.wire.control_names import fits_family
from krita_sd.wire.recipe import Lora


@dataclass(frozen=True)
class Choice:
    """One line of a chooser. `problem`: why it cannot be used, or not with the chosen model ("" when it can)."""

    id: str
    text: str
    tip: str = ""
    problem: str = ""


@dataclass(frozen=True)
class LoraItem:
    """One LoRA that is on."""

    id: str
    text: str
    weight: float
    problem: str = ""


def style_choices(styles: Sequence[Style], chosen: str, family: str) -> tuple[Choice, ...]:
    """ "No style", then those that fit the model, then the others with the reason."""
    fitting: list[Choice] = []
    others: list[Choice] = []
    for style in styles:
        problem = "" if style.fits(family) else tr("Made for other models: ") + ", ".join(style.families)
        line = Choice(style.id, style.name, _style_tip(style), problem)
        (others if problem else fitting).append(line)
    missing = []
    if chosen and all(style.id != chosen for style in styles):
        missing.append(
            Choice(chosen, tr("{name} (not found)", name=chosen.partition("/")[2]), problem=tr("Its file is gone."))
        )
    return (
        Choice("", tr("No style"), tr("The prompt as it is typed, the model's own defaults.")),
        *fitting,
        *others,
        *missing,
    )


def _style_tip(style: Style) -> str:
    lines = [style.note] if style.note else []
    lines += [
        f"{tr(title)}: {value}"
        for title, value in ((mark("Prompt"), style.prompt), (mark("Negative"), style.negative))
        if value
    ]
    facts = []
    if style.steps is not None:
        facts.append(tr("{steps} steps", steps=style.steps))
    if style.guidance is not None:
        facts.append(tr("guidance {guidance:g}", guidance=style.guidance))
    facts += [str(value) for value in (style.sampler, style.model) if value]
    facts += [f"{lora.id} {lora.weight:g}" for lora in style.loras]
    facts += [tr("seamless")] if style.tile else []
    return "\n".join([*lines, ", ".join(facts)]).strip()


def choices_of(
    models: Iterable[Mapping[str, Any]], kind: str, chosen: Mapping[str, Any], without: Collection[str] = ()
) -> tuple[Choice, ...]:
    """The server's models of that kind in the order of their names; those that do not fit the chosen model say why."""
    found = []
    for entry in models:
        id = str(entry.get("id", ""))
        if entry.get("kind") != kind or id in without:
            continue
        name = str(entry.get("name") or id)
        found.append(
            Choice(id, PurePath(name).stem if "." in name else name, _size_tip(entry), problem_of(entry, chosen))
        )
    return tuple(sorted(found, key=lambda choice: (bool(choice.problem), choice.text.lower())))


def problem_of(entry: Mapping[str, Any], chosen: Mapping[str, Any]) -> str:
    """Why that model cannot be used with the chosen one ("" when it can, or when it is not known)."""
    if not entry.get("usable", True):
        return str(entry.get("problem") or tr("It cannot be used."))
    own, family = str(entry.get("family") or ""), str(chosen.get("family") or "")
    if chosen and entry.get("embedded", False) != chosen.get("embedded", False):
        ours = entry.get("embedded", False)
        return tr("Made for the embedded model alone.") if ours else tr("The embedded model takes its own only.")
    if own and family and not fits_family(own, family):
        return tr("Made for another family of models: ") + own
    return ""


def lora_items(
    loras: Sequence[Lora], models: Iterable[Mapping[str, Any]], chosen: Mapping[str, Any]
) -> tuple[LoraItem, ...]:
    """The LoRAs that are on, each with its name, and what is wrong with it."""
    known = {str(entry.get("id")): entry for entry in models if entry.get("kind") == "lora"}
    items = []
    for lora in loras:
        entry = known.get(lora.id)
        if entry is None:
            problem = tr("The server does not have this LoRA.") if known else ""
            items.append(LoraItem(lora.id, lora.id, lora.weight, problem))
        else:
            items.append(LoraItem(lora.id, str(entry.get("name") or lora.id), lora.weight, problem_of(entry, chosen)))
    return tuple(items)


def size_text(size: int) -> str:
    """Bytes as a painter reads them."""
    if size >= 10**9:
        return f"{size / 10**9:.1f} GB"
    return f"{size / 10**6:.0f} MB" if size >= 10**6 else f"{max(1, size // 1000)} kB"


def _size_tip(entry: Mapping[str, Any]) -> str:
    size = entry.get("bytes")
    return ", ".join(
        part for part in (str(entry.get("family") or ""), size_text(size) if isinstance(size, int) else "") if part
    )
