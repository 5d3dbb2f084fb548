# SPDX-License-Identifier: GPL-3.0-or-later
"""What each family can do here: one row each, sent to clients in the hello and printed as docs/models.md."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from krita_sd.wire.recipe import SAMPLERS

from .companions import ROLES, SAYS
from .family import TITLES
from .preprocessors import NEEDED
from .upscalers import models_page_section as upscalers_section

FLOW_SAMPLERS = ("Euler", "Heun", "LCM")
"""What the flow-matching families can be run with; a test compares it with the engine's own table."""


@dataclass(frozen=True)
class Capabilities:
    """One row. guidance: "pair" (negative and positive in one batch), "calls" (one after the other), "input" (a
    number that the network reads), "none". negative: a negative prompt means something. weights: so do weights of
    words. file: single .safetensors files load. inpainting: models with mask channels are known. lora: LoRAs apply.
    references: who looks at reference pictures, "model" itself, "ip_adapter" or "redux"; "" for nobody. control: kinds
    of control models that there are for it. note: sentences about what is missing.
    """

    guidance: str
    negative: bool = True
    weights: bool = True
    clip_skip: bool = True
    file: bool = True
    inpainting: bool = False
    lora: bool = True
    samplers: tuple[str, ...] = SAMPLERS
    references: str = ""
    control: tuple[str, ...] = ("controlnet",)
    note: str = ""

    def to_json(self, family: str) -> dict[str, Any]:
        """As the hello carries it; kinds of task are the same for every family."""
        return {"title": TITLES[family], "kinds": ["txt2img", "img2img", "inpaint"], **asdict(self)}


_FILES = (
    "A single file may hold everything or the transformer alone, in 8 bits too; text encoders and autoencoder then "
    "come from files of their own in any model folder."
)

_TOLD = (
    "Nothing in a single file tells it from {0}: unless its metadata says so, put a file of the same name that ends in "
    '.json beside it, with {{"family": "{1}"}} inside. '
)

CAPABILITIES: dict[str, Capabilities] = {
    "sd1": Capabilities("pair", inpainting=True, references="ip_adapter", control=("controlnet", "t2i_adapter")),
    "sd2": Capabilities("pair", inpainting=True),
    "sdxl": Capabilities(
        "pair", inpainting=True, references="ip_adapter", control=("controlnet", "t2i_adapter"),
        note="The refiner is not used.",
    ),
    "sd3": Capabilities(
        "pair", inpainting=True, samplers=FLOW_SAMPLERS,
        note="Weights of words reach CLIP, not T5. " + _FILES,
    ),
    "flux1": Capabilities(
        "input", negative=False, weights=False, clip_skip=False, inpainting=True,
        samplers=FLOW_SAMPLERS, references="redux", note="Dev, schnell and Fill. " + _FILES,
    ),
    "flux1-kontext": Capabilities(
        "input", negative=False, weights=False, clip_skip=False, samplers=FLOW_SAMPLERS, references="model",
        note="Sees the canvas whenever it starts from it. " + _TOLD.format("Flux 1", "flux1-kontext") + _FILES,
    ),
    "flux2": Capabilities(
        "calls", weights=False, clip_skip=False, samplers=FLOW_SAMPLERS, references="model", control=(),
        note="Dev reads guidance as a number and knows no negative prompt; Klein, where it is distilled, knows "
        "neither. Sees the canvas when it repaints a part of it. Single files of Klein start with four steps and no "
        "guidance, as nothing tells the base from the distilled one. " + _FILES,
    ),
    "chroma": Capabilities(
        "calls", weights=False, clip_skip=False, samplers=FLOW_SAMPLERS, control=(), note=_FILES,
    ),
    "z-image": Capabilities(
        "pair", weights=False, clip_skip=False, samplers=FLOW_SAMPLERS, note=_FILES,
    ),
    "qwen-image": Capabilities(
        "calls", weights=False, clip_skip=False, samplers=FLOW_SAMPLERS,
        note=_FILES,
    ),
    "qwen-image-edit": Capabilities(
        "calls", weights=False, clip_skip=False, samplers=FLOW_SAMPLERS, references="model",
        note="Edit and Edit Plus; Edit reads only the first picture, Plus all; single files run as Plus. Sees the "
        "canvas whenever it starts from it. " + _TOLD.format("Qwen-Image", "qwen-image-edit") + _FILES,
    ),
}  # fmt: skip

_OWN: dict[str, tuple[int, float]] = {
    "sd3": (28, 5.0), "flux1": (28, 3.5), "flux1-kontext": (28, 2.5), "flux2": (28, 4.0), "chroma": (30, 5.0),
    "z-image": (9, 1.0), "qwen-image": (30, 4.0), "qwen-image-edit": (30, 4.0),
}  # fmt: skip
"""Steps and guidance with which their authors show them; of Z-Image the turbo."""


def defaults_of(family: str, few_steps: bool = False) -> dict[str, Any]:
    """What a model of this family is run with when neither the painter nor its own settings say otherwise; {} where the
    general defaults are right. few_steps: it was distilled (Flux 1 schnell, Klein)."""
    if family not in _OWN:
        return {}
    steps, guidance = (4, 1.0) if few_steps else _OWN[family]
    return {"steps": steps, "guidance": guidance, "sampler": FLOW_SAMPLERS[0]}


FOLDERS = frozenset(CAPABILITIES)
"""Families of which diffusers folders load."""

FILES = frozenset(family for family, row in CAPABILITIES.items() if row.file)
"""Families of which single files load."""

CONTROLLED = frozenset(family for family, row in CAPABILITIES.items() if "controlnet" in row.control)
"""Families whose ControlNets work."""

LOOKING = frozenset(family for family, row in CAPABILITIES.items() if row.references == "model")
"""Families that look at reference pictures without an adapter."""


_CONTROL = {"controlnet": "ControlNet", "t2i_adapter": "T2I-Adapter"}


def families_json() -> dict[str, Any]:
    """The rows by family, for the hello."""
    return {family: row.to_json(family) for family, row in CAPABILITIES.items()}


def models_page() -> str:
    """docs/models.md."""
    lines = [
        "# Models",
        "",
        "Generated from `server/library/capabilities.py`; a test says when it is not current, and how to make it anew.",
        "Every family runs text to picture, picture to picture and inpainting with soft masks.",
        "",
        "| family | diffusers folder | single file | guidance | negative | weights of words | clip skip "
        "| inpainting models | LoRA | control | references | samplers |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for family, row in CAPABILITIES.items():
        flags = (row.negative, row.weights, row.clip_skip, row.inpainting, row.lora)
        samplers = "all" if row.samplers == SAMPLERS else ", ".join(row.samplers)
        looks = {"model": "itself", "ip_adapter": "IP-Adapter", "redux": "Redux", "": "no"}[row.references]
        control = ", ".join(_CONTROL[kind] for kind in row.control) or "no"
        cells = (TITLES[family], "yes", _say(row.file), row.guidance, *map(_say, flags), control, looks, samplers)
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Guidance: `pair` and `calls` run a negative prompt, `input` is a number the network reads."]
    lines += [
        "References: who looks at the pictures of reference layers. An IP-Adapter also takes style and composition "
        "layers. A model that looks itself needs no file; of a layer's weight it knows only zero and more.",
        "",
    ]
    lines += [f"- {TITLES[family]}: {row.note}" for family, row in CAPABILITIES.items() if row.note]
    missing = [title for family, title in TITLES.items() if family not in CAPABILITIES]
    lines += ["", f"Recognised and refused in one sentence, not supported yet: {', '.join(missing)}."]
    made = sorted({(needed, type) for type, needed in NEEDED.items()})
    lines += ["", "Control maps out of a picture, by trained models of the painter's (folders with `config.json` and"]
    lines += [
        "`model.safetensors`, anywhere in a model folder); all others need none, and depth without one is brightness:",
        "",
    ]
    lines += [f"- {type}: {needed}" for needed, type in made]
    lines += ["", *upscalers_section()]
    lines += ["", "What single files need, inside or as files of their own in any model folder:", ""]
    for family, roles in ROLES.items():
        optional = " T5 may be absent." if family == "sd3" else ""
        lines.append(f"- {TITLES[family]}: {'; '.join(SAYS[role] for role in roles)}.{optional}")
    lines += ["", f"All samplers: {', '.join(SAMPLERS)}.", ""]
    return "\n".join(lines)


def _say(flag: bool) -> str:
    return "yes" if flag else "no"
