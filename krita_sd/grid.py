# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare grids: one or two of a recipe's values vary, every cell is the recipe of an ordinary single picture. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from krita_sd.metadata.restore import find_model
from krita_sd.text import tr
from krita_sd.wire.errors import bad_request
from krita_sd.wire.recipe import SAMPLERS, Lora, Recipe

KINDS = ("none", "steps", "guidance", "strength", "sampler", "seed", "model", "lora", "replace")
MAX_CELLS = 200
MAX_TEXT = 10_000

_RANGE = re.compile(r"^(-?[\d.]+)\s*-\s*(-?[\d.]+)(?:\s*\(\s*([+-]?[\d.]+)\s*\)|\s*\[\s*(\d+)\s*\])?$")
_TAG = re.compile(r"<lora:([^:<>]+)(?::[^<>]*)?>")


@dataclass(frozen=True)
class Axis:
    """`labels[i]` says what cell i of this axis has; `changes[i]` makes its recipe out of the common one."""

    kind: str
    labels: tuple[str, ...]
    changes: tuple[Callable[[Recipe], Recipe], ...]


@dataclass(frozen=True)
class Wish:
    """What the painter has typed for both axes."""

    x_kind: str = "guidance"
    x_text: str = "1.1, 3, 7, 14"
    y_kind: str = "seed"
    y_text: str = "x4"


NOTHING = Axis("none", ("",), (lambda recipe: recipe,))


@dataclass(frozen=True)
class Cell:
    """`recipe` is complete: a single picture with it has the same bytes."""

    row: int
    column: int
    recipe: Recipe


@dataclass(frozen=True)
class Grid:
    """Rows vary by `y`, columns by `x`."""

    x: Axis
    y: Axis
    cells: tuple[Cell, ...]

    def label(self, cell: Cell) -> str:
        """What is special about that cell."""
        return ", ".join(text for text in (self.x.labels[cell.column], self.y.labels[cell.row]) if text)


def make(recipe: Recipe, x: Axis, y: Axis) -> Grid:
    """All cells, row by row. Raises WireError when they are too many, or one cannot be."""
    if len(x.labels) * len(y.labels) > MAX_CELLS:
        raise bad_request(
            tr("A grid of {columns} x {rows} pictures is too large.", columns=len(x.labels), rows=len(y.labels)),
            tr("At most {max_cells} are possible.", max_cells=MAX_CELLS),
        )
    if x.kind == y.kind and x.kind not in ("none", "replace", "lora"):
        raise bad_request(tr("Both axes vary {kind}.", kind=x.kind), tr("Choose something else for one of them."))
    cells = []
    for row, down in enumerate(y.changes):
        for column, across in enumerate(x.changes):
            made = down(across(recipe))
            # The wire's own check of every range; the pictures are still to come.
            Recipe.from_json({**made.to_json(), "kind": "txt2img"})
            cells.append(Cell(row, column, made))
    return Grid(x, y, tuple(cells))


def axis(kind: str, text: str, recipe: Recipe, models: Sequence[Mapping[str, Any]]) -> Axis:
    """Read what the painter typed:

    steps, guidance, strength, seed: `1.1, 3, 7`, `10-30 (+10)` with a step, `1-7 [4]` with a number of values;
    seed also `x4`: four pictures from the docker's seed on. sampler, model: names. lora: `name: 0.2, 0.6, 1`.
    replace: `red, blue, green`: the first is looked for in the prompt, and is the first value.

    Raises WireError with a sentence.
    """
    if kind == "none":
        return NOTHING
    text = text.strip()
    if not text or len(text) > MAX_TEXT:
        raise bad_request(tr("No values to compare for {kind}.", kind=kind), tr("Separate them by commas."))
    return _READERS[kind](text, recipe, models)


def _numbers(text: str, whole: bool) -> list[float]:
    values: list[float] = []
    for part in _parts(text):
        match = _RANGE.match(part)
        try:
            values += _range(match, whole) if match else [float(part)]
        except ValueError:
            raise bad_request(
                tr("{part} is no number.", part=part), tr("Write for example 1.1, 3, 7 or 10-30 (+10).")
            ) from None
        if len(values) > MAX_CELLS:
            raise bad_request(tr("These are more than {max_cells} values.", max_cells=MAX_CELLS), tr("Use fewer."))
    if whole and any(value != int(value) for value in values):
        raise bad_request(tr("{what} must be whole numbers.", what=text))
    return list(dict.fromkeys(values))


def _range(match: re.Match[str], whole: bool) -> list[float]:
    first, last = float(match[1]), float(match[2])
    if match[4]:
        count = int(match[4])
        if not 1 <= count <= MAX_CELLS:
            raise ValueError(match[0])
        values = [first + (last - first) * i / max(count - 1, 1) for i in range(count)]
        return [float(round(value)) if whole else round(value, 4) for value in values]
    step = float(match[3]) if match[3] else 1.0
    step = abs(step) if last >= first else -abs(step)
    if step == 0 or abs((last - first) / step) > MAX_CELLS:
        raise ValueError(match[0])
    return [round(first + step * i, 6) for i in range(int(abs((last - first) / step) + 1e-9) + 1)]


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _field(kind: str, values: list[Any], label: Callable[[Any], str]) -> Axis:
    changes = tuple(lambda recipe, value=value: recipe.replace(**{kind: value}) for value in values)
    return Axis(kind, tuple(label(value) for value in values), changes)


def _steps(text: str, recipe: Recipe, models: Any) -> Axis:
    return _field("steps", [int(value) for value in _numbers(text, True)], lambda value: f"{value} steps")


def _guidance(text: str, recipe: Recipe, models: Any) -> Axis:
    return _field("guidance", _numbers(text, False), lambda value: f"guidance {value:g}")


def _strength(text: str, recipe: Recipe, models: Any) -> Axis:
    """Numbers above 1 are percent. Without a selection, 100 % is a new picture and less starts from the canvas."""
    values = [value / 100 if value > 1 else value for value in _numbers(text.replace("%", ""), False)]

    def change(recipe: Recipe, value: float) -> Recipe:
        kind = recipe.kind if recipe.kind == "inpaint" else "txt2img" if value >= 1 else "img2img"
        return recipe.replace(strength=value, kind=kind)

    changes = tuple(lambda recipe, value=value: change(recipe, value) for value in values)
    return Axis("strength", tuple(f"strength {value:.0%}" for value in values), changes)


def _seed(text: str, recipe: Recipe, models: Any) -> Axis:
    if text[:1] in "xX" and text[1:].strip().isdigit() and len(text) < 6:
        values = [(recipe.seed + i) % 2**63 for i in range(min(int(text[1:]), MAX_CELLS + 1))]
    elif all(part.isdigit() and len(part) < 20 for part in _parts(text)):
        values = [int(part) for part in _parts(text)]  # a float would round large seeds
    else:
        values = [int(value) for value in _numbers(text, True)]
    return _field("seed", values, lambda value: f"seed {value}")


def _sampler(text: str, recipe: Recipe, models: Any) -> Axis:
    known = {name.casefold(): name for name in SAMPLERS}
    for part in _parts(text):
        if part.casefold() not in known:
            raise bad_request(
                tr("There is no sampler {part}.", part=part), tr("These are known: {known}.", known=", ".join(SAMPLERS))
            )
    return _field("sampler", [known[part.casefold()] for part in _parts(text)], str)


def _model(text: str, recipe: Recipe, models: Sequence[Mapping[str, Any]]) -> Axis:
    found = []
    for part in _parts(text):
        id = find_model(models, "checkpoint", part, part)
        if id is None:
            raise bad_request(
                tr("There is no model {part} here.", part=part), tr("Write the names as in the list of models.")
            )
        found.append((id, part))
    changes = tuple(lambda recipe, id=id: recipe.replace(model=id) for id, _ in found)
    return Axis("model", tuple(name for _, name in found), changes)


def _lora(text: str, recipe: Recipe, models: Sequence[Mapping[str, Any]]) -> Axis:
    name, colon, rest = text.rpartition(":")
    if not colon:
        raise bad_request(tr("Write the LoRA's name, a colon, and weights."), tr("For example: ink: 0.4, 0.8, 1."))
    name = name.strip()
    id = find_model(models, "lora", name, name) or name
    tagged = any(match[1].strip() == name for match in _TAG.finditer(recipe.prompt))
    if not tagged and find_model(models, "lora", name, name) is None:
        raise bad_request(tr("There is no LoRA {name} here.", name=name), tr("Write its name as in the list of LoRAs."))

    def change(recipe: Recipe, weight: float) -> Recipe:
        if tagged:
            tag = f"<lora:{name}:{weight:g}>"
            prompt = _TAG.sub(lambda match: tag if match[1].strip() == name else match[0], recipe.prompt)
            return recipe.replace(prompt=prompt)
        loras = [Lora(lora.id, weight) if lora.id == id else lora for lora in recipe.loras]
        if all(lora.id != id for lora in loras):
            loras.append(Lora(id, weight))
        return recipe.replace(loras=tuple(loras))

    weights = _numbers(rest, False)
    changes = tuple(lambda recipe, weight=weight: change(recipe, weight) for weight in weights)
    return Axis("lora", tuple(f"{name} {weight:g}" for weight in weights), changes)


def _replace(text: str, recipe: Recipe, models: Any) -> Axis:
    words = [part.strip() for part in text.split(",")]
    wanted = words[0]
    if not wanted or wanted not in recipe.prompt + recipe.negative:
        raise bad_request(
            tr("The prompt does not contain {wanted}.", wanted=wanted or tr("anything to replace")),
            tr("Write it first."),
        )

    def change(recipe: Recipe, word: str) -> Recipe:
        return recipe.replace(
            prompt=recipe.prompt.replace(wanted, word), negative=recipe.negative.replace(wanted, word)
        )

    changes = tuple(lambda recipe, word=word: change(recipe, word) for word in words)
    return Axis("replace", tuple(word or "(nothing)" for word in words), changes)


_READERS: dict[str, Callable[[str, Recipe, Any], Axis]] = {
    "steps": _steps,
    "guidance": _guidance,
    "strength": _strength,
    "sampler": _sampler,
    "seed": _seed,
    "model": _model,
    "lora": _lora,
    "replace": _replace,
}
