# SPDX-License-Identifier: GPL-3.0-or-later
"""Control layers against the diffusers pipelines, bit for bit; files in every layout; nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, MultiAdapter, T2IAdapter
from PIL import Image
from safetensors.torch import save_file

from krita_sd.wire.errors import Code, WireError
from server.diffusion import Cancelled, Task, generate, schedules
from server.diffusion.control_loading import ControlModel, load_control
from server.diffusion.task import ControlLayer
from tests.engine.cells import Cell
from tests.engine.conftest import Loaded, hard_mask, picture, run

TASK = Task(prompt="a red boat", negative="fog", seed=3, total_steps=4, guidance=4.0, width=64, height=64)
MAPS = [picture(seed=21), picture(seed=22)]


def randomised(module: Any, seed: int) -> Any:
    """Zero convolutions get values, or a control would change nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return module.eval().requires_grad_(False)


def make_net(model: Any, seed: int = 0) -> ControlNetModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = ControlNetModel.from_unet(model.unet, conditioning_embedding_out_channels=(8, 8, 16, 16))
    return randomised(net, seed)


def make_adapter(model: Any, seed: int = 0, depth: int = 3) -> T2IAdapter:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapter = T2IAdapter(depth, list(model.unet.config.block_out_channels), 1, 8, "full_adapter")
    return adapter.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def net_of(model_of: Loaded) -> Callable[..., ControlModel]:
    made: dict[Any, ControlModel] = {}

    def get(name: str = "sd1", seed: int = 0) -> ControlModel:
        if (name, seed) not in made:
            made[name, seed] = ControlModel(f"net {seed}", "controlnet", make_net(model_of(name), seed))
        return made[name, seed]

    return get


def pipeline(model: Any, task: Task, nets: list[Any]) -> Any:
    import diffusers

    kind = "Inpaint" if task.mask is not None else "Img2Img" if task.image is not None else ""
    pipe = getattr(diffusers, f"StableDiffusionControlNet{kind}Pipeline")(
        vae=model.vae,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        unet=model.unet,
        controlnet=nets if len(nets) > 1 else nets[0],
        scheduler=schedules.make_scheduler(task.sampler, model.schedule_config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def oracle(model: Any, task: Task) -> torch.Tensor:
    layers = task.controls
    pipe = pipeline(model, task, [layer.model.module for layer in layers])
    several = len(layers) > 1

    def each(values: list[Any]) -> Any:
        return values if several else values[0]

    shown = each([Image.fromarray(layer.image) for layer in layers])
    inputs: dict[str, Any] = {"image": shown} if task.image is None else {"control_image": shown}
    if task.image is not None:
        strength = 1.0 - task.start_step / task.total_steps
        inputs.update(image=Image.fromarray(task.image), strength=strength)
    if task.mask is not None:
        inputs.update(mask_image=Image.fromarray(task.mask))
    return pipe(
        task.prompt,
        negative_prompt=task.negative,
        num_inference_steps=task.total_steps,
        guidance_scale=task.guidance,
        width=task.width,
        height=task.height,
        controlnet_conditioning_scale=each([layer.weight for layer in layers]),
        control_guidance_start=each([layer.start for layer in layers]),
        control_guidance_end=each([layer.end for layer in layers]),
        generator=torch.Generator().manual_seed(task.seed),
        output_type="latent",
        **inputs,
    ).images


KINDS = {
    "txt2img": TASK,
    "img2img": replace(TASK, total_steps=6, start_step=2, image=picture()),
    "inpaint": replace(TASK, total_steps=6, start_step=2, image=picture(), mask=hard_mask()),
}


@pytest.mark.parametrize(
    ("kind", "name", "guidance"),
    [
        ("txt2img", "sd1", 4.0),
        ("txt2img", "sd1", 1.0),
        ("txt2img", "sd2", 4.0),
        ("img2img", "sd1", 4.0),
        ("inpaint", "sd1", 4.0),
    ],
)
@pytest.mark.parametrize("count", [1, 2])
def test_equals_the_diffusers_pipeline(
    kind: str,
    name: str,
    guidance: float,
    count: int,
    model_of: Loaded,
    net_of: Callable[..., ControlModel],
    cell: Cell,
) -> None:
    model = model_of(name)
    layers = (
        ControlLayer(net_of(name, 0), MAPS[0], 0.8, 0.0, 0.8 if count == 2 else 1.0),
        ControlLayer(net_of(name, 1), MAPS[1], 1.3, 0.25, 1.0),
    )[:count]
    task = replace(KINDS[kind], controls=layers, guidance=guidance)
    wanted = oracle(model, task)
    found = run(model, task)[1]
    cell(name, "control", (found - wanted).abs().max())
    assert torch.equal(found, wanted)
    others = {
        "weight": replace(layers[-1], weight=0.9),
        "picture": replace(layers[-1], image=np.roll(layers[-1].image, 8, axis=1)),
        "one step shorter": replace(layers[-1], end=0.7),
        "one step later": replace(layers[-1], start=0.5),
    }
    if kind != "txt2img" or name != "sd1":
        others = {"one step later": others["one step later"]}  # the rest does not depend on the kind
    for label, other in others.items():
        changed = replace(task, controls=(*layers[:-1], other))
        assert not torch.equal(run(model, changed)[1], wanted), f"does not notice: {label}"


@pytest.mark.parametrize("count", [1, 2])
def test_adapters_equal_the_diffusers_pipeline(count: int, model_of: Loaded) -> None:
    from diffusers import StableDiffusionAdapterPipeline

    model = model_of("sd1")
    adapters = [make_adapter(model, seed) for seed in range(count)]
    weights = [0.7, 1.2][:count]
    layers = tuple(
        ControlLayer(ControlModel("adapter", "t2i_adapter", adapter), MAPS[i], weights[i])
        for i, adapter in enumerate(adapters)
    )
    task = replace(TASK, controls=layers)
    pipe = StableDiffusionAdapterPipeline(
        vae=model.vae,
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        unet=model.unet,
        adapter=MultiAdapter(adapters) if count > 1 else adapters[0],
        scheduler=schedules.make_scheduler(task.sampler, model.schedule_config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    shown = [Image.fromarray(layer.image) for layer in layers]
    wanted = pipe(
        task.prompt,
        negative_prompt=task.negative,
        image=shown if count > 1 else shown[0],
        num_inference_steps=task.total_steps,
        guidance_scale=task.guidance,
        width=64,
        height=64,
        adapter_conditioning_scale=weights if count > 1 else weights[0],
        generator=torch.Generator().manual_seed(task.seed),
        output_type="latent",
    ).images
    latents = run(model, task)[1]
    assert torch.equal(latents, wanted)
    later = (*layers[:-1], replace(layers[-1], start=0.5))
    assert not torch.equal(run(model, replace(task, controls=later))[1], wanted)


def test_a_net_and_an_adapter_work_together_in_every_kind(
    model_of: Loaded, net_of: Callable[..., ControlModel]
) -> None:
    """diffusers has no such pipeline; each must change what the other alone gives, also with a soft mask."""
    model = model_of("sd1")
    both = (
        ControlLayer(net_of(), MAPS[0]),
        ControlLayer(ControlModel("adapter", "t2i_adapter", make_adapter(model, depth=1)), MAPS[1], 2.0),
    )
    soft = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
    for task in (*KINDS.values(), replace(KINDS["inpaint"], mask=soft)):
        chosen = ((), both[:1], both[1:], both)
        results = {generate(model, replace(task, controls=layers)).image.tobytes() for layers in chosen}
        assert len(results) == 4


def test_inpainting_models_take_control_layers(model_of: Loaded) -> None:
    """A 9-channel model: the control model sees the latents without the channels of the mask."""
    model, plain = model_of("sd1", inpaint=True), model_of("sd1")
    layer = ControlLayer(ControlModel("net", "controlnet", make_net(plain)), MAPS[0])
    task = replace(KINDS["inpaint"], controls=(layer,))
    assert not torch.equal(run(model, task)[1], run(model, KINDS["inpaint"])[1])
    assert torch.equal(run(model, task)[1], oracle(model, task))


def test_control_pictures_are_embedded_once_and_the_net_is_as_before(
    model_of: Loaded, net_of: Callable[..., ControlModel]
) -> None:
    model, control = model_of("sd1"), net_of(seed=7)
    home = control.module.controlnet_cond_embedding
    calls: list[int] = []
    handle = home.register_forward_pre_hook(lambda *_: calls.append(1))
    task = replace(TASK, controls=(ControlLayer(control, MAPS[0]), ControlLayer(control, MAPS[1], 0.5)))
    try:
        first = generate(model, task).image.tobytes()
        assert len(calls) == 2
        for seed in (4, 3):
            again = generate(model, replace(task, seed=seed)).image.tobytes()
        assert again == first and len(calls) == 2
        with pytest.raises(Cancelled):
            generate(model, task, control=lambda: "cancel")

        def fails(step: Any) -> None:
            raise RuntimeError("listener")

        with pytest.raises(RuntimeError, match="listener"):
            generate(model, task, on_step=fails)
    finally:
        handle.remove()
    assert control.module.controlnet_cond_embedding is home
    assert generate(model, TASK).image.tobytes() != first


def test_weight_zero_is_no_control(model_of: Loaded, net_of: Callable[..., ControlModel]) -> None:
    model = model_of("sd1")
    task = replace(TASK, controls=(ControlLayer(net_of(), MAPS[0], 0.0),))
    assert torch.equal(run(model, task)[1], run(model, TASK)[1])


def original_net(net: Any) -> dict[str, torch.Tensor]:
    """A ControlNet's weights under the names of its authors' code, found by walking the modules."""
    from tests.tiny import _put

    out: dict[str, torch.Tensor] = {}

    def resnet(home: str, block: Any) -> None:
        pairs = {"in_layers.0": block.norm1, "in_layers.2": block.conv1, "emb_layers.1": block.time_emb_proj}
        pairs |= {"out_layers.0": block.norm2, "out_layers.3": block.conv2}
        if block.conv_shortcut is not None:
            pairs["skip_connection"] = block.conv_shortcut
        for name, module in pairs.items():
            _put(out, f"{home}.{name}", module)

    _put(out, "time_embed.0", net.time_embedding.linear_1)
    _put(out, "time_embed.2", net.time_embedding.linear_2)
    _put(out, "input_blocks.0.0", net.conv_in)
    _put(out, "zero_convs.0.0", net.controlnet_down_blocks[0])
    number = 0
    for block in net.down_blocks:
        for layer, unit in enumerate(block.resnets):
            number += 1
            resnet(f"input_blocks.{number}.0", unit)
            if getattr(block, "attentions", None) is not None:
                _put(out, f"input_blocks.{number}.1", block.attentions[layer])
            _put(out, f"zero_convs.{number}.0", net.controlnet_down_blocks[number])
        if block.downsamplers is not None:
            number += 1
            _put(out, f"input_blocks.{number}.0.op", block.downsamplers[0].conv)
            _put(out, f"zero_convs.{number}.0", net.controlnet_down_blocks[number])
    resnet("middle_block.0", net.mid_block.resnets[0])
    _put(out, "middle_block.1", net.mid_block.attentions[0])
    resnet("middle_block.2", net.mid_block.resnets[1])
    _put(out, "middle_block_out.0", net.controlnet_mid_block)
    hint = net.controlnet_cond_embedding
    for place, module in zip(range(0, 16, 2), [hint.conv_in, *hint.blocks, hint.conv_out]):
        _put(out, f"input_hint_block.{place}", module)
    return {f"control_model.{name}": tensor.contiguous() for name, tensor in out.items()}


@pytest.mark.parametrize("name", ["sd1", "sd2"])
def test_every_layout_of_a_controlnet_is_the_same_net(name: str, model_of: Loaded, tmp_path: Path) -> None:
    net = make_net(model_of(name), 5)
    net.save_pretrained(tmp_path / "folder")
    save_file({key: value.clone() for key, value in net.state_dict().items()}, tmp_path / "named.safetensors")
    original = original_net(net)
    save_file(original, tmp_path / "original.safetensors")
    bare = {key.removeprefix("control_model."): value for key, value in original.items()}
    save_file(bare, tmp_path / "bare.safetensors")
    half = {key: value.half() for key, value in original.items()}
    save_file(half, tmp_path / "half.safetensors")
    layer = ControlLayer(ControlModel("net", "controlnet", net), MAPS[0])
    task = replace(TASK, total_steps=2)
    wanted = run(model_of(name), replace(task, controls=(layer,)))[1]
    for kind in ("folder", "named.safetensors", "original.safetensors", "bare.safetensors"):
        loaded = load_control(tmp_path / kind)
        assert loaded.kind == "controlnet"
        latents = run(model_of(name), replace(task, controls=(replace(layer, model=loaded),)))[1]
        assert torch.equal(latents, wanted), kind
    halved = load_control(tmp_path / "half.safetensors", dtype=torch.float16)
    assert halved.module.dtype == torch.float16


def test_every_layout_of_an_adapter_is_the_same_adapter(model_of: Loaded, tmp_path: Path) -> None:
    adapter = make_adapter(model_of("sd1"), 5)
    adapter.save_pretrained(tmp_path / "folder")
    state = {key: value.clone() for key, value in adapter.state_dict().items()}
    save_file(state, tmp_path / "named.safetensors")
    # The authors number the residual blocks through; there is one per level in this tiny one.
    flat = {key.removeprefix("adapter.").replace(".resnets.0.", "."): value for key, value in state.items()}
    save_file(flat, tmp_path / "original.safetensors")
    for kind in ("folder", "named.safetensors", "original.safetensors"):
        loaded = load_control(tmp_path / kind)
        assert loaded.kind == "t2i_adapter"
        assert all(torch.equal(state[key], value) for key, value in loaded.module.state_dict().items())
        assert loaded.module.config.adapter_type == "full_adapter"


@pytest.mark.parametrize("damage", ["cut", "missing tensor", "not a control model", "gone", "other shape"])
def test_control_models_that_cannot_be_used_are_one_sentence(damage: str, model_of: Loaded, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    tensors = original_net(make_net(model_of("sd1")))
    if damage == "missing tensor":
        del tensors["control_model.middle_block_out.0.weight"]
    elif damage == "not a control model":
        tensors = {"lora_unet_x.lora_up.weight": torch.zeros(2, 2)}
    elif damage == "other shape":
        tensors["control_model.middle_block_out.0.weight"] = torch.zeros(8, 8, 1, 1)
    save_file(tensors, path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "gone":
        path.unlink()
    with pytest.raises(WireError) as caught:
        load_control(path)
    wanted = {"gone": Code.MODEL_MISSING, "not a control model": Code.MODEL_UNSUPPORTED}
    assert caught.value.code is wanted.get(damage, Code.MODEL_CORRUPT)
    assert "net.safetensors" in caught.value.message and caught.value.hint


def test_a_control_model_of_another_family_is_refused(model_of: Loaded, net_of: Callable[..., ControlModel]) -> None:
    from diffusers import ControlNetModel as Net

    other = Net.from_config({**make_net(model_of("sd1")).config, "cross_attention_dim": 48})
    layer = ControlLayer(ControlModel("wide net", "controlnet", other), MAPS[0])
    with pytest.raises(WireError, match="wide net") as caught:
        generate(model_of("sd1"), replace(TASK, controls=(layer,)))
    assert caught.value.code is Code.MODEL_UNSUPPORTED
    with pytest.raises(WireError):
        generate(model_of("sd1"), replace(TASK, controls=(ControlLayer(net_of(), picture(72, 64)),)))


@pytest.mark.parametrize("union", [False, True])
def test_sdxl_equals_the_diffusers_pipeline(union: bool, model_of: Loaded, tmp_path: Path, cell: Cell) -> None:
    """With sizes and pooled words for the control model too; a union net is told the type of the map."""
    import diffusers

    model = model_of("sdxl")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        net: Any = ControlNetModel.from_unet(model.unet, conditioning_embedding_out_channels=(8, 8, 16, 16))
        if union:
            width = model.unet.config.block_out_channels[0]
            more = {"num_control_type": 6, "num_trans_channel": width, "num_proj_channel": width, "num_trans_head": 8}
            net = diffusers.ControlNetUnionModel.from_config({**net.config, **more})
    net = randomised(net, 4)
    net.save_pretrained(tmp_path / "net")
    loaded = load_control(tmp_path / "net")
    assert loaded.kind == ("union" if union else "controlnet")
    task = replace(TASK, controls=(ControlLayer(loaded, MAPS[0], 0.8, type="canny"),))
    pipe = getattr(diffusers, f"StableDiffusionXLControlNet{'Union' if union else ''}Pipeline")(
        vae=model.vae,
        text_encoder=model.text_encoder,
        text_encoder_2=model.text_encoder_2,
        tokenizer=model.tokenizer,
        tokenizer_2=model.tokenizer_2,
        unet=model.unet,
        controlnet=net,
        scheduler=schedules.make_scheduler(task.sampler, model.schedule_config),
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    shown: dict[str, Any] = {"image": Image.fromarray(MAPS[0])}
    if union:
        shown = {"control_image": Image.fromarray(MAPS[0]), "control_mode": 3}
    wanted = pipe(
        task.prompt,
        negative_prompt=task.negative,
        num_inference_steps=task.total_steps,
        guidance_scale=task.guidance,
        width=64,
        height=64,
        controlnet_conditioning_scale=0.8,
        generator=torch.Generator().manual_seed(task.seed),
        output_type="latent",
        **shown,
    ).images
    found = run(model, task)[1]
    cell("sdxl", "control", (found - wanted).abs().max())
    assert torch.equal(found, wanted)
    other = replace(task.controls[0], type="depth", weight=0.8 if union else 0.7)
    assert not torch.equal(run(model, replace(task, controls=(other,)))[1], wanted)
    if not union:
        return  # how long the six numbers are embedded stands in no tensor of a plain net; published ones have 256
    single = tmp_path / "single.safetensors"
    save_file({key: value.clone() for key, value in net.state_dict().items()}, single)
    again = replace(task.controls[0], model=load_control(single))
    assert torch.equal(run(model, replace(task, controls=(again,)))[1], wanted)
