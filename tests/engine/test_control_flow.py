# SPDX-License-Identifier: GPL-3.0-or-later
"""ControlNets of the transformer families against the diffusers pipelines, bit for bit, from folders and files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from safetensors.torch import load_file, save_file

from krita_sd.wire.errors import Code, WireError
from server.diffusion import Task, control_flow_names, generate, load_model, schedules
from server.diffusion.control_loading import load_control
from server.diffusion.families import kontext
from server.diffusion.families.flow import unpack
from server.diffusion.features.control import check_fit
from server.diffusion.features.looks import OwnEyes
from server.diffusion.pieces import walk
from server.diffusion.residency import Residency
from server.diffusion.task import ControlLayer
from server.library import Library
from server.worker.models import parts_of
from tests.engine.cells import Cell
from tests.engine.conftest import Loaded, hard_mask, picture, run
from tests.tiny_flow import MAKERS, WIDTH, make_flow_model
from tests.tiny_flow2 import FAMILIES as LOOKING

Nets = Callable[[str], tuple[Any, Any]]

FLUX = {
    "in_channels": 64, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 32, "num_attention_heads": 2,
    "joint_attention_dim": WIDTH, "pooled_projection_dim": WIDTH, "axes_dims_rope": (4, 14, 14),
}  # fmt: skip
SD3 = {
    "sample_size": 8, "num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2, "out_channels": 16,
    "joint_attention_dim": 3 * WIDTH, "caption_projection_dim": 32, "pooled_projection_dim": 2 * WIDTH,
    "pos_embed_max_size": 24,
}  # fmt: skip
QWEN = {
    "num_layers": 1, "attention_head_dim": 32, "num_attention_heads": 2, "joint_attention_dim": 256,
    "axes_dims_rope": (4, 14, 14),
}  # fmt: skip
Z_IMAGE = {"dim": 32, "n_heads": 2, "n_kv_heads": 2, "n_refiner_layers": 1, "control_refiner_layers_places": [0]}
Z_IMAGE_2 = {**Z_IMAGE, "control_layers_places": [0, 1], "control_in_dim": 33}
BARE = {"joint_attention_dim": None, "use_pos_embed": False, "force_zeros_for_pooled_projection": False}


@dataclass(frozen=True)
class Row:
    """A net: family of the model, class of the net, its settings on top of the tiny ones, the pipeline's arguments."""

    family: str
    made: str
    config: dict[str, Any]
    arguments: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)


NETS = {
    "flux": Row("flux1", "FluxControlNetModel", {**FLUX, "guidance_embeds": True}),
    "flux-union": Row("flux1", "FluxControlNetModel", {**FLUX, "num_mode": 7}, {"control_mode": 2}),
    "flux-xlabs": Row(
        "flux1", "FluxControlNetModel",
        {**FLUX, "num_single_layers": 0, "patch_size": 2, "conditioning_embedding_channels": 16},
    ),
    "sd3": Row("sd3", "SD3ControlNetModel", SD3),
    "sd3.5": Row(
        "sd3", "SD3ControlNetModel", {**SD3, "qk_norm": "rms_norm", "force_zeros_for_pooled_projection": False},
        model={"second": True},
    ),
    "sd3.5-large": Row("sd3", "SD3ControlNetModel", {key: SD3[key] for key in SD3 if "pos" not in key} | BARE),
    "qwen": Row("qwen-image", "QwenImageControlNetModel", QWEN),
    "z-image": Row(
        "z-image", "ZImageControlNetModel", {**Z_IMAGE, "control_layers_places": [0], "control_in_dim": 16}
    ),
    "z-image-2.0": Row(
        "z-image", "ZImageControlNetModel",
        {**Z_IMAGE_2, "add_control_noise_refiner": "control_layers", "n_refiner_layers": 2,
         "control_refiner_layers_places": [0, 1]},
    ),
    "z-image-2.1": Row(
        "z-image", "ZImageControlNetModel", {**Z_IMAGE_2, "add_control_noise_refiner": "control_noise_refiner"}
    ),
}  # fmt: skip
PIPELINES = {
    "flux1": "FluxControlNet", "sd3": "StableDiffusion3ControlNet", "qwen-image": "QwenImageControlNet",
    "z-image": "ZImageControlNet",
}  # fmt: skip
TASK = Task(prompt="a red boat", negative="fog", seed=3, total_steps=3, guidance=4.0, width=64, height=64)
KINDS = {
    "txt2img": replace(TASK, sampler="Euler"),
    "img2img": replace(TASK, sampler="Euler", total_steps=4, start_step=2, image=picture()),
    "inpaint": replace(TASK, sampler="Euler", total_steps=4, start_step=1, image=picture(), mask=hard_mask()),
}
CELLS = [(name, "txt2img") for name in NETS] + [("flux", "img2img"), ("flux", "inpaint")]


@pytest.fixture(scope="module")
def net_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a net, with values where fresh ones have zeros."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            row = NETS[name]
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(5)
                net = getattr(diffusers, row.made)(**row.config)
                for parameter in net.parameters():
                    torch.nn.init.normal_(parameter, std=0.15)
            made[name] = tmp_path_factory.mktemp("nets") / name
            net.save_pretrained(made[name])
        return made[name]

    return get


@pytest.fixture(scope="module")
def pair_of(tmp_path_factory: pytest.TempPathFactory, net_folder: Callable[[str], Path]) -> Nets:
    """(model, control model) of a row; both are made once."""
    models: dict[Any, Any] = {}
    nets: dict[str, Any] = {}

    def get(name: str) -> tuple[Any, Any]:
        row = NETS[name]
        key = (row.family, tuple(row.model))
        if key not in models:
            folder = make_flow_model(tmp_path_factory.mktemp("models") / "tiny", row.family, **row.model)
            models[key] = load_model(folder, row.family)
        if name not in nets:
            nets[name] = load_control(net_folder(name))
        return models[key], nets[name]

    return get


def ask(name: str, kind: str, model: Any, task: Task, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Latents of the diffusers pipeline, which looks at the middle of what the autoencoder says of the control map."""
    import inspect

    row = NETS[name]
    ending = {"img2img": "Img2Img", "inpaint": "Inpaint"}.get(kind, "")
    made = getattr(diffusers, f"{PIPELINES[row.family]}{ending}Pipeline")
    wanted = inspect.signature(made.__init__).parameters
    parts = {part: module for part, module in model.parts.items() if part in wanted}
    parts |= {part: None for part in ("image_encoder", "feature_extractor") if part in wanted}
    (layer,) = task.controls
    pipe = made(
        scheduler=schedules.make_scheduler(task.sampler, model.schedule_config), controlnet=layer.model.module, **parts
    )
    pipe.set_progress_bar_config(disable=True)
    prepare = pipe.prepare_image
    # Kernels round by batch and memory order: here the map is one picture, which lies as in the other pipelines.
    pipe.prepare_image = lambda *a, **b: prepare(*a, **b)[:1].contiguous(memory_format=torch.channels_last)
    sample = DiagonalGaussianDistribution.sample
    drawn: list[Any] = []

    def first_is_the_middle(self: Any, generator: Any = None) -> Any:
        looks = not drawn and "xlabs" not in name
        drawn.append(self)
        return self.mode() if looks else sample(self, generator)

    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", first_is_the_middle)
    inputs: dict[str, Any] = dict(row.arguments)
    if task.image is not None:
        inputs.update(image=Image.fromarray(task.image), strength=1.0 - task.start_step / task.total_steps)
    if task.mask is not None:
        inputs["mask_image"] = Image.fromarray(task.mask)
        inputs["masked_image_latents"] = torch.zeros(1, 16, 8, 8)
    known = inspect.signature(pipe.__call__).parameters
    if "negative_prompt" in known and row.family != "flux1":
        inputs["negative_prompt"] = task.negative
    # Z-Image's counts guidance from 0.
    guidance = task.guidance - 1.0 if row.family == "z-image" else task.guidance
    inputs["true_cfg_scale" if row.family == "qwen-image" else "guidance_scale"] = guidance
    if "control_guidance_end" in known:
        inputs |= {"control_guidance_start": layer.start, "control_guidance_end": layer.end}
    calls: list[None] = []

    def silent_after_its_share(module: Any, given: Any, found: Any) -> Any:
        calls.append(None)
        return found if "control_guidance_end" in known or len(calls) / task.total_steps <= layer.end else {}

    hook = pipe.controlnet.register_forward_hook(silent_after_its_share)
    latents = pipe(
        task.prompt,
        control_image=Image.fromarray(layer.image),
        controlnet_conditioning_scale=layer.weight,
        num_inference_steps=task.total_steps,
        width=task.width,
        height=task.height,
        generator=torch.Generator().manual_seed(task.seed),
        output_type="latent",
        **inputs,
    ).images
    hook.remove()
    return latents if row.family in ("sd3", "z-image") else unpack(latents, 8, 8)


@pytest.mark.parametrize(("name", "kind"), CELLS, ids=["/".join(cell) for cell in CELLS])
def test_equals_the_diffusers_pipeline(
    name: str, kind: str, pair_of: Nets, monkeypatch: pytest.MonkeyPatch, cell: Cell
) -> None:
    model, net = pair_of(name)
    layer = ControlLayer(net, picture(seed=21), 0.7, 0.0, 0.7, "depth")
    task = replace(KINDS[kind], controls=(layer,))
    found = run(model, task)[1]
    with monkeypatch.context() as patch:
        wanted = ask(name, kind, model, task, patch)
    cell({"flux1": "flux1-dev"}.get(NETS[name].family, NETS[name].family), "control", (found - wanted).abs().max())
    assert torch.equal(found, wanted)
    others = {"a step more": replace(layer, end=1.0), "another picture": replace(layer, image=picture(seed=22))}
    if kind == "txt2img":
        others["weight"] = replace(layer, weight=0.8)
        if net.kind == "flux_net" and net.module.union:
            others["another type"] = replace(layer, type="pose")
    for label, other in others.items():
        changed = run(model, replace(task, controls=(other,)))[1]
        assert not torch.allclose(changed, wanted, atol=1e-5), f"does not notice: {label}"


@pytest.mark.parametrize("name", NETS)
def test_a_single_file_is_the_folder(
    name: str, pair_of: Nets, net_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """What the shapes do not show (SD3's width of heads without a norm) is as in the published ones."""
    path = tmp_path / f"{name}.safetensors"
    shutil.copy(net_folder(name) / "diffusion_pytorch_model.safetensors", path)
    found, wanted = load_control(path), pair_of(name)[1]
    assert found.kind == wanted.kind
    hidden = {"sample_size", "attention_head_dim", "num_attention_heads"}
    if "-2." in name:
        hidden.add("control_layers_places")  # two are further apart in a model of full depth
    for key in NETS[name].config.keys() - hidden:
        assert _plain(found.module.config[key]) == _plain(wanted.module.config[key]), key
    if "attention_head_dim" in NETS[name].config and name not in ("sd3", "sd3.5-large"):
        assert found.module.config.attention_head_dim == wanted.module.config.attention_head_dim
    library = Library([tmp_path], None)
    library.scan()
    (entry,) = library.entries
    assert (entry.kind, entry.family, entry.problem) == ("controlnet", NETS[name].family, "")


def test_a_file_in_its_folder_is_described_by_the_folder(net_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """As the library lists it. A class that only its authors know does not stop the file from being read."""
    folder = tmp_path / "canny"
    shutil.copytree(net_folder("z-image-2.1"), folder)
    path, config = folder / "diffusion_pytorch_model.safetensors", folder / "config.json"
    described = load_control(path)
    assert described.name == "canny" and described.module.config.control_layers_places == [0, 1]
    for said in (config.read_text().replace("ZImageControlNetModel", "Another"), "{", '{"_class_name": []}'):
        config.write_text(said)
        assert load_control(path).module.config.control_layers_places == [0, 15]


def test_files_of_z_image_nets(pair_of: Nets, net_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """A refiner of zeros (version 2.0) must not run; how far apart the layers are, their number says."""
    folder = "diffusion_pytorch_model.safetensors"
    tensors, more = (load_file(net_folder(f"z-image-2.{minor}") / folder) for minor in (0, 1))
    refiner = {name: tensor for name, tensor in more.items() if name.startswith(control_flow_names.REFINER)}
    refiner[control_flow_names.REFINER_ENTRY] = torch.zeros(32, 32)
    save_file({**tensors, **refiner}, tmp_path / "second.safetensors")
    found, wanted = load_control(tmp_path / "second.safetensors").module, pair_of("z-image-2.0")[1].module
    assert found.config.add_control_noise_refiner == "control_layers"
    ours, theirs = found.state_dict(), wanted.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items()) and ours.keys() == tensors.keys()
    for layers, places in ((6, range(0, 30, 5)), (15, range(0, 30, 2)), (3, range(0, 30, 10))):
        shapes: dict[str, tuple[int, ...]] = {
            "control_all_x_embedder.2-1.weight": (3840, 132), "control_layers.0.attention.norm_q.weight": (128,),
            **{f"control_layers.{index}.after_proj.weight": (3840, 3840) for index in range(layers)},
        }  # fmt: skip
        kind, config = control_flow_names.flow_net(shapes)
        assert (kind, config["control_layers_places"], config["n_heads"]) == ("z_image_net", list(places), 30)


def test_z_image_lends_its_layers_for_a_call(net_folder: Callable[[str], Path], pair_of: Nets) -> None:
    """A control model keeps nothing of a model, and is as wide as a model that is run again in float32."""
    model, narrow = pair_of("z-image")[0], load_control(net_folder("z-image"), dtype=torch.bfloat16)
    before = set(narrow.module.state_dict())
    task = replace(KINDS["txt2img"], total_steps=1, controls=(ControlLayer(narrow, picture(seed=21)),))
    assert bool(torch.isfinite(run(model, task)[1]).all())
    assert not torch.equal(run(model, task)[1], run(model, replace(task, controls=()))[1])
    assert set(narrow.module.state_dict()) == before and narrow.module.dtype == torch.bfloat16
    assert narrow.module.t_embedder is None and narrow.module.x_pad_token is None


def test_lent_layers_come_from_where_they_wait(net_folder: Callable[[str], Path], tmp_path: Path) -> None:
    model: Any = load_model(make_flow_model(tmp_path / "model", "z-image"), "z-image")
    layer = ControlLayer(load_control(net_folder("z-image-2.1")), picture(seed=21))
    task = replace(KINDS["txt2img"], total_steps=1, controls=(layer,))
    wanted = run(model, task)[1]
    residency = Residency(parts_of(model), model.device)
    for rung in ("model", "groups"):
        residency.step_to(rung)
        assert torch.equal(run(model, task)[1], wanted)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize(("first", "second"), [("flux", "flux-xlabs"), ("z-image", "z-image-2.0")])
def test_two_nets_of_different_depth_add_up(first: str, second: str, pair_of: Nets) -> None:
    """The weights of two nets with equal pictures add up as those of one: what they add is linear in the weight."""
    model, one = pair_of(first)
    other = pair_of(second)[1]
    task, map = replace(KINDS["txt2img"], total_steps=1), picture(seed=21)
    whole = run(model, replace(task, controls=(ControlLayer(one, map, 0.7),)))[1]
    halves = (ControlLayer(one, map, 0.3), ControlLayer(one, map, 0.4))
    assert torch.allclose(run(model, replace(task, controls=halves))[1], whole, atol=1e-4)
    both = run(model, replace(task, controls=(ControlLayer(one, map, 0.7), ControlLayer(other, map, 0.7))))[1]
    assert not torch.allclose(both, whole, atol=1e-3)
    silent = (ControlLayer(one, map, 0.7), ControlLayer(other, map, 0.0))
    assert torch.equal(run(model, replace(task, controls=silent))[1], whole)


@pytest.mark.parametrize("name", ["flux", "z-image-2.1"])
def test_a_map_is_encoded_once_and_pieces_see_their_part(name: str, pair_of: Nets) -> None:
    model, net = pair_of(name)
    task = replace(KINDS["txt2img"], controls=(ControlLayer(net, picture(seed=23)),))
    before = model.canvases.computed
    run(model, task)
    run(model, replace(task, prompt="fog at night"))
    assert model.canvases.computed == before + 1
    whole = run(model, task)[1]
    assert torch.equal(run(model, replace(task, pieces=64))[1], whole)
    assert bool(torch.isfinite(run(model, replace(task, pieces=48))[1]).all())


@pytest.mark.parametrize("name", ["flux", "flux-xlabs"])
def test_the_map_moves_with_a_seamless_picture(name: str, pair_of: Nets) -> None:
    """It is rolled as the picture is, whether it is seen through the autoencoder or by the net's own convolutions."""
    model, net = pair_of(name)
    seen: list[torch.Tensor] = []
    hook = net.module.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["controlnet_cond"]), with_kwargs=True
    )
    try:
        layer = ControlLayer(net, picture(seed=21))
        run(model, replace(KINDS["txt2img"], wrap="xy", controls=(layer,)))
    finally:
        hook.remove()
    factor = 8 if "xlabs" in name else 1
    cells = seen if factor == 8 else [unpack(shown, 8, 8) for shown in seen]
    walks = [walk(call, (8, 8), "xy", 2) for call in range(3)]
    plain = [torch.roll(shown, [-factor * step for step in by], (2, 3)) for shown, by in zip(cells, walks)]
    assert len(set(walks)) == 2 and all(torch.equal(shown, plain[0]) for shown in plain)


def test_models_that_look_at_pictures_take_control_layers_too(
    pair_of: Nets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kontext's tokens of reference pictures are left as they are."""
    monkeypatch.setattr(kontext, "SIZES", ((64, 64),))
    assert LOOKING.items() <= MAKERS.items()
    model = load_model(make_flow_model(tmp_path / "kontext", "flux1-kontext"), "flux1-kontext")
    layers = (
        ControlLayer(pair_of("flux")[1], picture(seed=21)),
        ControlLayer(OwnEyes(), picture(seed=5), type="reference"),
    )
    task = replace(KINDS["txt2img"], total_steps=1)
    found = [run(model, replace(task, controls=some))[1] for some in (layers, layers[:1], layers[1:], ())]
    assert all(not torch.allclose(found[0], other, atol=1e-4) for other in found[1:])


def test_nets_that_do_not_fit_are_one_sentence(
    pair_of: Nets, net_folder: Callable[[str], Path], model_of: Loaded, tmp_path: Path
) -> None:
    flux, qwen = pair_of("flux")[0], pair_of("qwen")[0]
    inpainting = diffusers.QwenImageControlNetModel(**QWEN, extra_condition_channels=4)
    inpainting.save_pretrained(tmp_path / "inpainting")
    deep = net_folder("z-image-2.1") / "diffusion_pytorch_model.safetensors"
    shutil.copy(deep, tmp_path / "deep.safetensors")  # as a file: for a model of 30 layers
    cases = [
        (flux, pair_of("sd3")[1], "canny", "made for another kind"),
        (flux, pair_of("flux-union")[1], "segmentation", "does not know segmentation"),
        (qwen, load_control(tmp_path / "inpainting"), "canny", "for inpainting"),
        (pair_of("z-image")[0], load_control(tmp_path / "deep.safetensors"), "canny", "made for another kind"),
    ]
    for model, net, type, says in cases:
        with pytest.raises(WireError) as caught:
            generate(model, replace(KINDS["txt2img"], controls=(ControlLayer(net, picture(), type=type),)))
        assert caught.value.code is Code.MODEL_UNSUPPORTED and says in caught.value.message and caught.value.hint
    with pytest.raises(WireError, match="made for another kind"):
        check_fit(ControlLayer(pair_of("flux")[1], picture()), model_of("sd1"))  # as Live asks
    assert np.array_equal(
        generate(flux, KINDS["txt2img"]).image,
        generate(flux, replace(KINDS["txt2img"], controls=(ControlLayer(pair_of("flux")[1], picture(), 0.0),))).image,
    )
