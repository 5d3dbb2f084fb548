# SPDX-License-Identifier: GPL-3.0-or-later
"""Control layers: which layers of a document steer a picture and how; which types the server has models for. Pure.

Marks belong to a document and are kept in it: they name layers by Krita's own ids, and survive their renaming.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from krita_sd.text import mark, tr
from krita_sd.wire.control_names import fits_family, is_for_all, is_named_for
from krita_sd.wire.errors import WireError, bad_request
from krita_sd.wire.limits import MAX_CONTROL_WEIGHT, MAX_CONTROLS, MAX_NAME
from krita_sd.wire.recipe import CONTROLS, REFERENCES, Control
from krita_sd.wire.values import Fields

TITLES = {
    "scribble": mark("Scribble"),
    "line_art": mark("Line art"),
    "soft_edge": mark("Soft edges"),
    "canny": mark("Canny edges"),
    "depth": mark("Depth"),
    "normal": mark("Normals"),
    "pose": mark("Pose"),
    "segmentation": mark("Segmentation"),
    "tile": mark("Tile"),
    "blur": mark("Blur"),
    "stencil": mark("Stencil"),
    "reference": mark("Reference"),
    "style": mark("Style of a picture"),
    "composition": mark("Composition"),
    "face": mark("Face"),
}
LINES = ("scribble", "line_art", "soft_edge", "canny")
"""Types whose map is lines: white on black for the model, whatever the painter drew with."""

MAKEABLE = ("scribble", "line_art", "soft_edge", "canny", "depth", "tile", "blur")
"""Types that a server makes out of a picture without a trained model, unless it tells otherwise."""

MAX_LEFT_OUT = 200


@dataclass(frozen=True)
class ControlLayer:
    """One layer that steers. layer: Krita's id of it. weight 0..2; it acts from start to end, 0..1 of the steps."""

    layer: str
    type: str
    weight: float = 1.0
    start: float = 0.0
    end: float = 1.0
    on: bool = True
    model: str = ""

    def wire(self) -> Control:
        """For a recipe; the picture's hash is filled in by the link."""
        return Control(self.type, "", self.weight, min(self.start, self.end), self.end, self.model)


@dataclass(frozen=True)
class ControlItem:
    """One row of the list. problem: why it will not act ("" when it does)."""

    control: ControlLayer
    name: str
    visible: bool
    problem: str


@dataclass(frozen=True)
class Marks:
    """What a document says about its layers: those that steer, and those left out of the input."""

    controls: tuple[ControlLayer, ...] = field(default_factory=tuple)
    left_out: tuple[str, ...] = field(default_factory=tuple)

    def with_control(self, control: ControlLayer) -> Marks:
        """The same with that layer as a control layer (of one type at a time). Raises WireError when there are too
        many."""
        others = tuple(entry for entry in self.controls if entry.layer != control.layer)
        if len(others) >= MAX_CONTROLS:
            raise bad_request(
                tr("More than {max_controls} control layers cannot be used together.", max_controls=MAX_CONTROLS),
                tr("Unmark one first."),
            )
        return dataclasses.replace(self, controls=(*others, control))

    def changed(self, layer: str, **changes: Any) -> Marks:
        """The same with another weight, range or type of one control layer."""
        controls = tuple(dataclasses.replace(c, **changes) if c.layer == layer else c for c in self.controls)
        return dataclasses.replace(self, controls=controls)

    def without(self, layer: str) -> Marks:
        """The same with that layer unmarked."""
        return Marks(
            tuple(entry for entry in self.controls if entry.layer != layer),
            tuple(entry for entry in self.left_out if entry != layer),
        )

    def toggled(self, layer: str) -> Marks:
        """The same with that layer left out of the input, or no longer."""
        if layer in self.left_out:
            return dataclasses.replace(self, left_out=tuple(entry for entry in self.left_out if entry != layer))
        return dataclasses.replace(self, left_out=(*self.left_out, layer)[-MAX_LEFT_OUT:])

    def to_json(self) -> dict[str, Any]:
        return {"controls": [dataclasses.asdict(entry) for entry in self.controls], "left_out": list(self.left_out)}

    @classmethod
    def read(cls, data: Any) -> Marks:
        """Read what `to_json` wrote, leaving out what is damaged."""
        data = data if isinstance(data, dict) else {}
        entries = data.get("controls")
        controls = []
        for entry in entries[:MAX_CONTROLS] if isinstance(entries, list) else ():
            try:
                controls.append(_read(entry))
            except WireError:
                continue  # one damaged mark must not cost the others
        names = data.get("left_out")
        left_out = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
        return cls(tuple(controls), tuple(left_out[:MAX_LEFT_OUT]))


def _read(entry: Any) -> ControlLayer:
    read = Fields(entry if isinstance(entry, dict) else {}, "control layer")
    return ControlLayer(
        read.identifier("layer", MAX_NAME),
        read.choice("type", CONTROLS),
        read.number("weight", 0.0, MAX_CONTROL_WEIGHT, 1.0),
        read.number("start", 0.0, 1.0, 0.0),
        read.number("end", 0.0, 1.0, 1.0),
        read.flag("on", True),
        read.text("model", MAX_NAME, ""),
    )


def problem_of(type: str, models: Iterable[Mapping[str, Any]], chosen: Mapping[str, Any]) -> str:
    """The sentence what to get before this type can be used with the chosen model; "" when it can be used."""
    adapter = type in REFERENCES
    kinds = ("ip_adapter", "redux") if adapter else ("controlnet", "t2i_adapter")
    if type == "reference" and chosen.get("looks") is True:
        return ""
    family = str(chosen.get("family") or "")
    embedded = chosen.get("embedded") is True
    for entry in models:
        if entry.get("kind") not in kinds or not entry.get("usable", True):
            continue
        own = entry.get("embedded") is True
        if own != embedded or (not fits_family(str(entry.get("family") or ""), family) and not own):
            continue
        if entry["kind"] == "redux" and type != "reference":
            continue
        named = str(entry.get("name") or "")
        if type in ("reference", "style", "composition") or is_named_for(named, type) or is_for_all(named):
            return ""
    if embedded:
        return tr(
            "The embedded model has no {control} control: choose another model, or switch this layer off.",
            control=tr(TITLES[type]).lower(),
        )
    words = type.replace("_", " ")
    what = tr("an IP-Adapter") if adapter else tr("a ControlNet")
    if type == "reference" and family == "flux1":
        return tr("Needs the Redux model of Flux 1: put it into the models folder and rescan.")
    name = str(chosen.get("name") or tr("the chosen model"))
    return tr(
        'Needs {what} for {model} with "{words}" in its name: put it into the models folder and rescan.',
        what=what,
        model=family or name,
        words=words,
    )


def make_problem(type: str, features: Mapping[str, Any], models: Iterable[Mapping[str, Any]] = ()) -> str:
    """Why the server cannot make this type out of the canvas; "" when it can: by itself or by one of its models."""
    kinds = features.get("kinds")
    if not isinstance(kinds, list) or "preprocess" not in kinds:
        return tr("This server cannot make control layers from the canvas. Update it, or paint the layer by hand.")
    told = features.get("maps")
    learned = (entry.get("maps") for entry in models if entry.get("usable", True))
    if any(isinstance(maps, list) and type in maps for maps in learned):
        return ""
    if type not in (told if isinstance(told, list) else MAKEABLE):
        return tr(
            "Finding this in a picture needs a trained model: put its folder into the models folder and rescan, or "
            "paint it by hand."
        )
    return ""
