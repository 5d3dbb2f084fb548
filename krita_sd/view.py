# SPDX-License-Identifier: GPL-3.0-or-later
"""What the docker shows, derived from jobs, settings, connection and document alone. Pure; the dock only draws it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from krita_sd import plan
from krita_sd.geometry import Bounds, Extent
from krita_sd.job_events import Phase
from krita_sd.jobs import Job, JobTable
from krita_sd.settings import Settings
from krita_sd.styles import NO_STYLE, Style
from krita_sd.text import mark, tr
from krita_sd.view_lists import Choice, LoraItem, choices_of, lora_items, style_choices

_PHASES = {
    Phase.CAPTURING: mark("reading the canvas"),
    Phase.SENDING: mark("sending"),
    Phase.QUEUED: mark("queued"),
    Phase.LOADING: mark("loading model"),
    Phase.ENCODING: mark("encoding"),
    Phase.DECODING: mark("decoding"),
}


@dataclass(frozen=True)
class ModelChoice:
    """One line of the model chooser. `problem`: why it cannot be used ("" when it can)."""

    id: str
    text: str
    problem: str = ""


@dataclass(frozen=True)
class ResultItem:
    """One thumbnail of the strip."""

    key: str
    text: str
    tip: str
    applied: bool
    starred: bool = False


@dataclass(frozen=True)
class View:
    """Everything the docker draws. `progress`: 0..1, None = busy without a known share, -1 = idle."""

    button: str = "Generate"
    can_generate: bool = True
    button_tip: str = ""
    can_cancel: bool = False
    can_keep: bool = False
    can_apply: bool = False
    can_discard: bool = False
    can_mask: bool = True
    progress: float | None = -1.0
    progress_text: str = ""
    status: str = ""
    status_is_error: bool = False
    note: str = ""
    steps_text: str = ""
    models: tuple[ModelChoice, ...] = ()
    model: str = ""
    default_steps: int = 20
    default_guidance: float = 7.0
    default_sampler: str = ""
    results: tuple[ResultItem, ...] = ()
    selected: str | None = None
    styles: tuple[Choice, ...] = ()
    style: str = ""
    style_is_own: bool = False
    loras: tuple[LoraItem, ...] = ()
    lora_choices: tuple[Choice, ...] = ()
    vaes: tuple[Choice, ...] = ()
    reading: str = ""
    reading_tip: str = ""
    reading_warns: bool = False
    negative_ignored: bool = False
    memory: str = ""
    memory_warns: bool = False


WAITING = (Phase.CAPTURING, Phase.SENDING, Phase.QUEUED)
"""The server has not begun with it."""


def progress_of(job: Job) -> tuple[float | None, str]:
    """(share done or None, text) for the progress bar: executed steps over all images of the job."""
    text = tr(_PHASES.get(job.phase, ""))
    if job.phase is Phase.SAMPLING:
        text = tr("step {step} of {total}", step=job.step, total=job.total) if job.total else tr("sampling")
    if job.phase is Phase.LOADING and job.step and job.total:
        text = f"{text} {100 * job.step // job.total} %"
    if job.count > 1 and (job.index or job.phase not in WAITING):
        text = f"{job.index + 1}/{job.count}: {text}"
    if job.keeping:
        text = tr("stopping: {phase}", phase=text)
    if job.phase in (Phase.SAMPLING, Phase.DECODING) and job.total:
        done = 1.0 if job.phase is Phase.DECODING else min(job.step / job.total, 1.0)
        return min((job.index + done) / job.count, 1.0), text
    if job.index:
        return job.index / job.count, text
    return (0.0 if job.phase in WAITING else None), text


def model_entry(models: Sequence[Mapping[str, Any]], chosen: str) -> Mapping[str, Any]:
    """The server's entry of the chosen model; of its default when none is chosen; empty when unknown."""
    checkpoints = [entry for entry in models if entry.get("kind", "checkpoint") == "checkpoint"]
    if not chosen:
        # The server's own rule for its default: the embedded model, else the first that can be used.
        usable = [entry for entry in checkpoints if entry.get("usable", True)]
        return next((entry for entry in usable if entry.get("id") == "pocket"), usable[0] if usable else {})
    return next((entry for entry in checkpoints if entry.get("id") == chosen), {})


def make(
    table: JobTable,
    settings: Settings,
    models: Sequence[Mapping[str, Any]],
    *,
    status: str = "",
    status_is_error: bool = False,
    extent: Extent | None = None,
    selection: Bounds | None = None,
    style: Style = NO_STYLE,
    styles: Sequence[Style] = (),
    transparent: bool = False,
) -> View:
    """The view. `extent` is None without a document; `status` is the sentence of the status line; `transparent`: what
    is selected is mostly empty."""
    job = table.current
    progress: float | None = -1.0
    text = ""
    if job is not None:
        progress, text = progress_of(job)
        if not table.connected and job.phase is not Phase.CAPTURING:
            text = tr("waiting for the server ({phase})", phase=text)
        if len(table.active) > 1:
            text = tr("{phase}, {count} waiting", phase=text, count=len(table.active) - 1)
    entry = model_entry(models, settings.model)
    run, total = plan.steps_text(settings, entry, style)
    size = plan.size_note(settings, entry, extent, selection) if extent is not None and entry else ""
    missing = tr("Open or create a document first.") if extent is None else ""
    shown = table.current_result
    return View(
        button=plan.label(settings.strength, selection, extent, transparent),
        can_generate=extent is not None,
        button_tip=missing,
        can_cancel=job is not None,
        can_keep=job is not None and job.can_keep,
        can_apply=shown is not None and not shown.applied,
        can_discard=shown is not None,
        progress=progress,
        progress_text=text,
        status=status,
        status_is_error=status_is_error,
        note=missing or f"{_note(settings, entry, style)} {size}".strip(),
        steps_text=""
        if missing
        else tr("runs {run} of {total} steps" if run < total else "runs {run} steps", run=run, total=total),
        models=_choices(models, settings.model),
        model=settings.model,
        default_steps=int(_default(style, entry, "steps", 20)),
        default_guidance=float(_default(style, entry, "guidance", 7.0)),
        default_sampler=str(_default(style, entry, "sampler", "")),
        results=tuple(_items(table)),
        selected=table.selected,
        styles=style_choices(styles, settings.style, str(entry.get("family", ""))),
        style=style.id,
        style_is_own=style.is_own,
        loras=lora_items(settings.loras, models, entry),
        lora_choices=choices_of(models, "lora", entry, {lora.id for lora in settings.loras}),
        vaes=choices_of(models, "vae", entry),
        negative_ignored=_ignores_negative(settings, entry, style),
    )


def _default(style: Style, entry: Mapping[str, Any], name: str, fallback: Any) -> Any:
    """What applies when the painter says nothing."""
    value = getattr(style, name)
    return plan.default(entry, name, fallback) if value is None else value


def _ignores_negative(settings: Settings, entry: Mapping[str, Any], style: Style) -> bool:
    return float(plan.effective(settings, style, entry, "guidance", 7.0)) <= 1.0


def _note(settings: Settings, entry: Mapping[str, Any], style: Style) -> str:
    notes = []
    if not style.words(settings.prompt).strip():
        notes.append(tr("No prompt: anything may come."))
    if style.negative_words(settings.negative).strip() and _ignores_negative(settings, entry, style):
        notes.append(tr("Negative prompt ignored at guidance 1 or less."))
    return " ".join(notes)


def _choices(models: Sequence[Mapping[str, Any]], chosen: str) -> tuple[ModelChoice, ...]:
    default = str(model_entry(models, "").get("name", ""))
    choices = [ModelChoice("", tr("Default ({name})", name=default) if default else tr("Default"))]
    for entry in models:
        if entry.get("kind", "checkpoint") != "checkpoint":
            continue
        name = str(entry.get("name") or entry.get("id") or "")
        family = str(entry.get("family") or "")
        problem = "" if entry.get("usable", True) else str(entry.get("problem") or "It cannot be used.")
        choices.append(ModelChoice(str(entry.get("id", "")), f"{name} ({family})" if family else name, problem))
    if chosen and all(choice.id != chosen for choice in choices):
        choices.append(
            ModelChoice(
                chosen,
                tr("{name} (not found)", name=chosen),
                tr("The server does not have this model.") if models else "",
            )
        )
    return tuple(choices)


_describe = functools.lru_cache(512)(plan.describe)  # 200 results are described anew with every step of a job


def _items(table: JobTable) -> list[ResultItem]:
    items = []
    for number, result in enumerate(table.results.values(), 1):
        marks = [mark for mark, on in ((tr("applied"), result.applied), (tr("stopped early"), result.partial)) if on]
        tip = _describe(result.recipe) + (f"\n({', '.join(marks)})" if marks else "")
        tip += f"\n{result.reading}" if result.reading else ""
        items.append(ResultItem(result.key, str(number), tip, result.applied, result.starred))
    return items
