# SPDX-License-Identifier: GPL-3.0-or-later
"""The contract of the families that look at pictures themselves: what their diffusers pipelines give, bit for bit.

Tolerance zero on the CPU in float32. Where diffusers has no pipeline for a kind of task, its text-to-image pipeline is
given the noised canvas and the rest of the noise levels, and blends by a callback.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from krita_sd.wire.errors import Code, WireError
from server.diffusion import Task, generate, load_model, schedules
from server.diffusion.families import kontext, qwen_edit
from server.diffusion.families.flow import pack
from server.diffusion.features.looks import OwnEyes, fitted
from server.diffusion.task import ControlLayer
from server.library import Library
from tests.engine.cells import Cell, lora_by_hand, soft_mask, still_known
from tests.engine.conftest import picture, run
from tests.engine.test_contract import off_by_one
from tests.tiny_flow import make_flow_model
from tests.tiny_flow2 import SEEN, WORDS

Models = Callable[[str], Any]
SIDE = 64
STEPS = 4


@dataclass(frozen=True)
class Oracle:
    """family, kind: what is made. pipelines: by kind of task. guidance: its name; negative: how it is asked."""

    family: str
    pipelines: dict[str, str]
    kind: dict[str, Any] = field(default_factory=dict)
    guidance: str = "guidance_scale"
    negative: str = ""


KLEIN, KONTEXT = "Flux2KleinPipeline", "FluxKontextPipeline"
EDIT, PLUS = "QwenImageEditPipeline", "QwenImageEditPlusPipeline"
ORACLES = {
    "klein": Oracle(
        "flux2",
        {"txt2img": KLEIN, "img2img": KLEIN, "inpaint": "Flux2KleinInpaintPipeline", "soft mask": KLEIN}
        | {"reference": KLEIN, "two": KLEIN},
        negative="embeds",
    ),
    "klein-distilled": Oracle("flux2", {"txt2img": KLEIN}, {"distilled": True}),
    "dev": Oracle(
        "flux2",
        dict.fromkeys(("txt2img", "img2img", "inpaint", "soft mask", "reference"), "Flux2Pipeline"),
        {"dev": True},
    ),
    "kontext": Oracle(
        "flux1-kontext",
        {"txt2img": KONTEXT, "img2img": KONTEXT, "edit": KONTEXT, "inpaint": "FluxKontextInpaintPipeline"}
        | {"reference": KONTEXT, "soft mask": KONTEXT},
    ),
    "edit": Oracle(
        "qwen-image-edit",
        {"img2img": EDIT, "edit": EDIT, "inpaint": "QwenImageEditInpaintPipeline", "reference": EDIT}
        | {"soft mask": EDIT},
        guidance="true_cfg_scale",
        negative="text",
    ),
    "edit-plus": Oracle(
        "qwen-image-edit",
        {"img2img": PLUS, "edit": PLUS, "soft mask": PLUS, "reference": PLUS, "two": PLUS},
        {"plus": True},
        guidance="true_cfg_scale",
        negative="text",
    ),
}  # fmt: skip
LOOSER: dict[tuple[str, str], float] = {}  # (model, kind) -> largest error of the latents
COLUMN = {"edit": "img2img", "two": "reference"}
CELLS = [(name, kind) for name, oracle in ORACLES.items() for kind in oracle.pipelines]


def a_mask() -> np.ndarray:
    """255 on whole cells of 16 pixels, off the middle."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[16:48, 32:] = 255
    return mask


def looks(*seeds: int) -> tuple[ControlLayer, ...]:
    return tuple(ControlLayer(OwnEyes(), picture(seed=seed), type="reference") for seed in seeds)


TASKS: dict[str, dict[str, Any]] = {
    "txt2img": {"height": 96},
    "img2img": {"image": picture(), "start_step": 2},
    "edit": {"image": picture()},
    "inpaint": {"image": picture(), "mask": a_mask(), "start_step": 1},
    "soft mask": {"image": picture(), "mask": soft_mask(), "start_step": 1},
    "reference": {"controls": looks(5)},
    "two": {"controls": looks(5, 6)},
}


def task_of(kind: str) -> Task:
    more = {"width": SIDE, "height": SIDE, **TASKS[kind]}
    return Task(
        prompt="a red boat", negative="fog at night", seed=2**40 + 7, total_steps=STEPS, guidance=4.0, sampler="Euler",
        **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def looking_model(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """A loaded tiny model of an oracle's family, made once."""
    made: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in made:
            oracle = ORACLES[name]
            folder = make_flow_model(tmp_path_factory.mktemp("looks") / name, oracle.family, **oracle.kind)
            made[name] = load_model(folder, oracle.family)
        return made[name]

    return get


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides look at 64 x 64 pixels, where the real models look at a megapixel."""
    monkeypatch.setattr(kontext, "SIZES", ((SIDE, SIDE),))
    monkeypatch.setattr(qwen_edit, "LATENT_AREA", SIDE * SIDE)
    monkeypatch.setattr(qwen_edit, "READ_AREA", SIDE * SIDE)
    home = diffusers.pipelines.qwenimage
    for module, more in (("edit", (None,)), ("edit_inpaint", (None,)), ("edit_plus", ())):
        place = getattr(home, f"pipeline_qwenimage_{module}")
        monkeypatch.setattr(place, "calculate_dimensions", lambda area, ratio, more=more: (SIDE, SIDE, *more))


class Reader:
    """The processor of Qwen-Image Edit, whose own class needs torchvision: patches, and as many tokens for them."""

    def __init__(self, model: Any) -> None:
        self.tokenizer, self.image_reader = model.tokenizer, model.image_reader

    def __call__(self, text: list[str], images: Any, padding: bool, return_tensors: str) -> Any:
        images = images if isinstance(images, list) else [images]
        seen = self.image_reader(images=images, return_tensors="pt")
        before, *rest = text[0].split(SEEN[0])
        for (_, rows, columns), after in zip(seen["image_grid_thw"].tolist(), rest, strict=True):
            before += SEEN[0] * (rows * columns // 4) + after
        words = self.tokenizer([before], padding=padding, return_tensors=return_tensors)
        seen.update(words)
        return seen


def pipe_for(name: str, kind: str, model: Any, task: Task) -> Any:
    import inspect

    made = getattr(diffusers, ORACLES[name].pipelines[kind])
    wanted = inspect.signature(made.__init__).parameters
    parts = {part: module for part, module in model.parts.items() if part in wanted}
    parts |= {part: None for part in ("image_encoder", "feature_extractor", "processor") if part in wanted}
    pipe = made(scheduler=schedules.make_scheduler(task.sampler, model.schedule_config), **parts)
    pipe.set_progress_bar_config(disable=True)
    if "processor" in wanted:
        pipe.processor = Reader(model)
    if kind == "inpaint" and "Qwen" in made.__name__:
        # This one draws the latents that it looks at from the distribution; the pipelines for editing take its middle.
        pipe._encode_vae_image = diffusers.QwenImageEditPipeline._encode_vae_image.__get__(pipe)
    return pipe


def ask(name: str, kind: str, model: Any, task: Task) -> torch.Tensor:
    """Tokens (1, n, channels) after the last step of the diffusers pipeline with the model's own modules."""
    import inspect

    oracle, pipe = ORACLES[name], pipe_for(name, kind, model, task)
    known = inspect.signature(pipe.__call__).parameters
    generator = torch.Generator().manual_seed(task.seed)
    inputs: dict[str, Any] = {oracle.guidance: task.guidance, "width": task.width, "height": task.height}
    if oracle.negative == "embeds":
        inputs["negative_prompt_embeds"] = pipe.encode_prompt(task.negative)[0]
    elif oracle.negative:
        inputs["negative_prompt"] = task.negative
    pictures = [Image.fromarray(layer.image) for layer in task.controls]
    if task.image is not None and (oracle.family != "flux2" or task.mask is not None):
        pictures.insert(0, Image.fromarray(task.image))
    if pictures:
        inputs["image"] = pictures if len(pictures) > 1 else pictures[0]
    if "_auto_resize" in known:
        inputs |= {"_auto_resize": False, "max_area": task.width * task.height}
    if "strength" in known and task.mask is not None:
        inputs |= {"strength": 1.0 - task.start_step / STEPS, "mask_image": Image.fromarray(task.mask)}
    blend = start_from_canvas(model, task, pipe, generator, inputs) if "strength" not in known else None
    seen: list[torch.Tensor] = []

    def after_step(_: Any, index: int, when: Any, values: dict[str, Any]) -> dict[str, Any]:
        latents = blend(index, values["latents"]) if blend is not None else values["latents"]
        seen.append(latents)
        return {"latents": latents}

    pipe(
        prompt=task.prompt,
        num_inference_steps=task.total_steps,
        generator=generator,
        output_type="latent",
        callback_on_step_end=after_step,
        **inputs,
    )
    return seen[-1]


def start_from_canvas(
    model: Any, task: Task, pipe: Any, generator: torch.Generator, inputs: dict[str, Any]
) -> Callable[[int, torch.Tensor], torch.Tensor] | None:
    """Noise the canvas for a pipeline without strength, and leave the early levels out. How it blends, or None."""
    if task.image is None or task.start_step == 0:
        return None
    sigmas = np.linspace(1.0, 1 / task.total_steps, task.total_steps)
    pipe.scheduler.set_timesteps(**{**model.spacing(task.width, task.height)(task.total_steps), "sigmas": sigmas})
    level = pipe.scheduler.sigmas[task.start_step :].clone()
    flux2 = model.family == "flux2"
    pixels = pipe.image_processor.preprocess(Image.fromarray(task.image))
    canvas = pipe._encode_vae_image(pixels if flux2 or "Qwen" not in type(pipe).__name__ else pixels[:, :, None], None)
    canvas = canvas.reshape(1, model.latent_channels, *canvas.shape[-2:])
    noise = torch.randn(canvas.shape, generator=generator)
    latents = level[0] * noise + (1.0 - level[0]) * canvas
    inputs |= {"latents": latents if flux2 else pack(latents), "sigmas": sigmas[task.start_step :]}
    if task.mask is None:
        return None
    noise, canvas = tokens(model, noise), tokens(model, canvas)
    mask, steps = task.mask, task.total_steps - task.start_step

    def blend(index: int, latents: torch.Tensor) -> torch.Tensor:
        known = level[index + 1] * noise + (1.0 - level[index + 1]) * canvas
        fixed = still_known(mask, model.multiple, index + 1, steps).reshape(1, -1, 1)
        return torch.where(fixed, known, latents)

    return blend


def tokens(model: Any, latents: torch.Tensor) -> torch.Tensor:
    return latents.flatten(2).transpose(1, 2) if model.family == "flux2" else pack(latents)


@pytest.fixture
def true_places(looking_model: Models) -> Any:
    """diffusers 0.42 leaves out what transformers 5 needs to give the patches of a picture their places in rows and
    columns, as the model was trained; here both sides have them."""

    def add(_: Any, args: Any, more: dict[str, Any]) -> Any:
        ids = more["input_ids"]
        return args, {**more, "mm_token_type_ids": (ids == len(WORDS)).to(ids.dtype)}

    hooks = []
    for name in ("edit", "edit-plus"):
        encoder = looking_model(name).text_encoder
        hooks.append(encoder.register_forward_pre_hook(add, with_kwargs=True))
    yield
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(("name", "kind"), CELLS, ids=["/".join(cell) for cell in CELLS])
def test_equals_the_diffusers_pipeline(name: str, kind: str, looking_model: Models, request: Any, cell: Cell) -> None:
    model, task = looking_model(name), task_of(kind)
    output, latents = run(model, task)
    if "edit" in name:
        request.getfixturevalue("true_places")
    wanted = ask(name, kind, model, task)
    ours = tokens(model, latents)
    assert ours.shape == wanted.shape
    error = float((ours - wanted).abs().max())
    cell(name, COLUMN.get(kind, kind), error)
    assert error <= LOOSER.get((name, kind), 0.0)
    assert output.steps_run == task.total_steps - task.start_step
    others = off_by_one(task)
    if task.mask is not None:
        others["mask one cell to the right"] = replace(task, mask=np.roll(task.mask, 16, axis=1))
    if task.controls:
        others["another picture"] = replace(task, controls=looks(8, *range(6, 5 + len(task.controls))))
        others["no picture"] = replace(task, controls=())
    for label, other in others.items():
        found = tokens(model, run(model, other)[1])
        assert not torch.allclose(found, wanted, atol=1e-5), f"does not notice: {label}"


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("klein", "single_transformer_blocks.0.attn.to_qkv_mlp_proj"),
        ("kontext", "single_transformer_blocks.0.attn.to_q"),
        ("klein-distilled", "transformer_blocks.0.attn.to_k"),
        ("dev", "transformer_blocks.0.attn.to_q"),
        ("edit", "transformer_blocks.0.attn.to_q"),
        ("edit-plus", "transformer_blocks.1.attn.to_v"),
    ],
)
def test_loras_equal_weights_added_by_hand(
    name: str, layer: str, looking_model: Models, tmp_path: Path, cell: Cell
) -> None:
    model, task = looking_model(name), task_of("reference")
    error = lora_by_hand(model, model.transformer, layer, "transformer.", task, tmp_path / "style.safetensors")
    cell(name, "LoRA", error)
    assert error == 0.0


@pytest.mark.parametrize("name", ["klein", "kontext", "edit"])
def test_references_act_in_their_share_of_the_steps(name: str, looking_model: Models) -> None:
    model, task = looking_model(name), task_of("reference")
    layer = task.controls[0]
    whole, none = run(model, task)[1], run(model, replace(task, controls=()))[1]
    late = run(model, replace(task, controls=(replace(layer, start=0.5),)))[1]
    assert not torch.equal(late, whole) and not torch.equal(late, none)
    assert torch.equal(run(model, replace(task, controls=(replace(layer, weight=0.0),)))[1], none)


def test_the_canvas_is_cut_with_the_pieces(looking_model: Models) -> None:
    """A picture in one piece that covers all of it is the picture as a whole; in smaller ones each sees its part."""
    model, task = looking_model("kontext"), task_of("edit")
    whole = run(model, task)[1]
    assert torch.equal(run(model, replace(task, pieces=64))[1], whole)
    seen: list[tuple[int, ...]] = []
    predict = type(model).predict

    def recording(inputs: torch.Tensor, timestep: Any, condition: Any, *rest: Any) -> torch.Tensor:
        seen.append((*inputs.shape[-2:], *condition.references[0].shape[-2:]))
        return predict(model, inputs, timestep, condition, *rest)

    model.predict = recording
    try:
        run(model, replace(task, pieces=48))
    finally:
        del model.predict
    assert set(seen) == {(6, 6, 6, 6)}


@pytest.mark.parametrize(("width", "height"), [(64, 64), (100, 70), (1700, 900), (5, 9)])
def test_references_are_cut_to_whole_cells(width: int, height: int) -> None:
    found = fitted(picture(width, height), 640 * 640, 16)
    assert found.shape[0] % 16 == found.shape[1] % 16 == 0 and found.shape[0] * found.shape[1] <= 640 * 640
    assert abs(found.shape[1] / found.shape[0] - width / height) < 0.8
    if (width, height) == (64, 64):
        assert np.array_equal(found, picture())


def test_kontext_takes_the_nearest_of_its_sizes(monkeypatch: pytest.MonkeyPatch, looking_model: Models) -> None:
    from diffusers.pipelines.flux import pipeline_flux_kontext

    monkeypatch.undo()
    assert set(kontext.SIZES) == set(pipeline_flux_kontext.PREFERRED_KONTEXT_RESOLUTIONS)
    model = looking_model("kontext")
    assert model.reference_pixels(picture(300, 200)).shape[:2] == (832, 1248)


@pytest.mark.parametrize(
    ("name", "steps", "guidance"), [("klein", 28, 4.0), ("klein-distilled", 4, 1.0), ("edit", 30, 4.0)]
)
def test_defaults_are_the_familys_own_and_the_librarys(
    name: str, steps: int, guidance: float, looking_model: Models, tmp_path: Path
) -> None:
    oracle = ORACLES[name]
    make_flow_model(tmp_path / name, oracle.family, **oracle.kind)
    library = Library([tmp_path], None)
    library.scan()
    (entry,) = library.entries
    assert entry.defaults == looking_model(name).defaults == {"steps": steps, "guidance": guidance, "sampler": "Euler"}


def test_other_models_say_that_they_do_not_look(tmp_path: Any) -> None:
    model = load_model(make_flow_model(tmp_path / "schnell", "flux1", few_steps=True), "flux1")
    with pytest.raises(WireError) as caught:
        generate(model, task_of("reference"))
    assert caught.value.code is Code.MODEL_UNSUPPORTED and caught.value.hint
