# SPDX-License-Identifier: GPL-3.0-or-later
"""Loading: folders and single files give the same model."""

from __future__ import annotations

import itertools
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from server.diffusion import Cancelled, Task, generate, ldm, load_model
from server.diffusion.schedules import make_scheduler
from tests.engine.conftest import Loaded, picture, run
from tests.engine.test_contract import oracle
from tests.tiny import make_file, make_model, make_parts, original_layout

TASK = Task(prompt="a red boat", seed=3, total_steps=2, sampler="Euler a", width=64, height=64)
PARTS = ("unet", "vae", "text_encoder")


def assert_same_weights(one: Any, other: Any) -> None:
    for part in (*PARTS, "text_encoder_2"):
        if getattr(one, part, None) is None and part not in PARTS:
            continue
        first, second = getattr(one, part).state_dict(), getattr(other, part).state_dict()
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first), part


@pytest.mark.parametrize(
    ("family", "inpaint"),
    [("sd1", False), ("sd1", True), ("sd2", False), ("sd2", True), ("sdxl", False), ("sdxl", True)],
)
def test_single_file_is_the_folder(family: str, inpaint: bool, model_of: Loaded, tmp_path: Path) -> None:
    """The writer in tests.tiny walks modules, the loader translates names: neither knows the other."""
    path = make_file(tmp_path / "model.safetensors", family, inpaint)
    single = load_model(path, family)
    folder = model_of(family, inpaint=inpaint) if inpaint else model_of(family)
    assert_same_weights(single, folder)
    assert single.schedule_config["prediction_type"] == folder.schedule_config["prediction_type"]
    assert np.array_equal(generate(single, TASK).image, generate(folder, TASK).image)


def test_diffusers_own_loader_reads_what_the_tests_write(folder_of: Loaded, checkpoint: Path) -> None:
    """Guards the writer: a checkpoint that only our loader understands would prove nothing."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    parts = make_parts("sd1")
    for kind, name in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae")):
        module = kind.from_single_file(str(checkpoint), config=str(folder_of("sd1")), subfolder=name)
        wanted = parts[name].state_dict()
        assert all(torch.equal(wanted[key], value) for key, value in module.state_dict().items())


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_diffusers_own_converter_reads_the_text_encoder(family: str) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_clip_checkpoint, convert_open_clip_checkpoint

    parts = make_parts(family)
    tensors = original_layout(parts, family)
    encoder = parts["text_encoder"]
    if family == "sdxl":
        encoder = parts["text_encoder_2"]
        prefix = "conditioner.embedders.1.model."
        found = convert_open_clip_checkpoint(encoder, tensors, prefix=prefix)
    elif family == "sd2":
        del tensors["cond_stage_model.model.text_projection"]  # its width is that of the real encoder
        found = convert_open_clip_checkpoint(encoder, tensors)
    else:
        found = convert_ldm_clip_checkpoint(tensors)
    found = {name.removeprefix("text_model."): tensor for name, tensor in found.items()}
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(found[name.removeprefix("text_model.")], tensor)


def test_folder_is_what_diffusers_loads(folder_of: Loaded, model_of: Loaded) -> None:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(str(folder_of("sd2")), local_files_only=True)
    assert_same_weights(model_of("sd2"), pipe)
    text = "A photo of a Cat, 1.5x — naïve 漢字 🙂"
    assert model_of("sd2").tokenizer(text).input_ids == pipe.tokenizer(text).input_ids


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_load_into_the_wanted_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    path = make_file(tmp_path / "half.safetensors", dtype=dtype)
    model: Any = load_model(path, "sd1")
    assert model.dtype == torch.float32 and model.vae.dtype == torch.float32
    exact = make_parts("sd1")["unet"].state_dict()
    assert all(torch.equal(exact[name].to(dtype).float(), value) for name, value in model.unet.state_dict().items())
    assert load_model(path, "sd1", dtype=torch.bfloat16).dtype == torch.bfloat16


def test_encoder_without_text_model_in_its_names(checkpoint: Path, tmp_path: Path) -> None:
    path = make_file(tmp_path / "flat.safetensors", clip_prefix="")
    assert_same_weights(load_model(path, "sd1"), load_model(checkpoint, "sd1"))


def test_prediction_type_from_markers_in_the_file(checkpoint: Path, tmp_path: Path) -> None:
    tensors = load_file(checkpoint)
    save_file({**tensors, "v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}, tmp_path / "v.safetensors")
    config = load_model(tmp_path / "v.safetensors", "sd1").schedule_config
    assert config["prediction_type"] == "v_prediction" and config["rescale_betas_zero_snr"] is True
    assert config["timestep_spacing"] == "trailing", "or no step would begin at pure noise"
    assert load_model(checkpoint, "sd1").schedule_config["prediction_type"] == "epsilon"


@pytest.mark.parametrize(("sampler", "start"), [("Euler", 0), ("DPM++ 2M", 2)])
def test_sdxl_with_velocity_and_zero_snr_in_its_file_equals_the_pipeline(
    sampler: str, start: int, tmp_path: Path
) -> None:
    """The pipeline with a schedule written here, beginning at the last timestep of training."""
    tensors = load_file(make_file(tmp_path / "plain.safetensors", "sdxl"))
    save_file({**tensors, "v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)}, tmp_path / "v.safetensors")
    model: Any = load_model(tmp_path / "v.safetensors", "sdxl")
    task = Task("a red boat", "fog", 7, 4, guidance=5.0, sampler=sampler, width=64, height=64)
    task = replace(task, image=picture(), start_step=start) if start else task
    ours = run(model, task)[1]
    stated = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "interpolation_type": "linear",
    }
    model.schedule_config = stated
    assert make_scheduler(sampler, stated).alphas_cumprod[-1] < 1e-6
    assert torch.equal(ours, oracle(model, task)[0])
    model.schedule_config = {**stated, "rescale_betas_zero_snr": False}
    assert not torch.equal(ours, oracle(model, task)[0])


def test_sd2_file_that_does_not_say_is_asked_itself(tmp_path: Path) -> None:
    """An epsilon model answers the noisiest step with its input, a v model with something far below it."""
    from server.diffusion.load_file import predicts_velocity

    unet = make_parts("sd2")["unet"]
    honest = unet.forward
    for answer, wanted in ((lambda x: x * 0.99, False), (lambda x: x - 4.0, True)):
        unet.forward = lambda x, *_, answer=answer, **__: (answer(x),)
        assert predicts_velocity(unet) is wanted
    unet.forward = honest
    path = make_file(tmp_path / "silent.safetensors", "sd2", metadata={})
    assert load_model(path, "sd2").schedule_config["prediction_type"] in ("epsilon", "v_prediction")


def test_ema_copies_and_training_state_are_ignored(checkpoint: Path, tmp_path: Path) -> None:
    tensors = load_file(checkpoint)
    for name in list(tensors):
        if name.startswith("model.diffusion_model."):
            tensors["model_ema." + name.replace(".", "")] = torch.zeros_like(tensors[name])
    tensors["model_ema.decay"] = torch.tensor(0.99)
    tensors["first_stage_model.loss.logvar"] = torch.zeros(())
    save_file(tensors, tmp_path / "full.safetensors")
    assert_same_weights(load_model(tmp_path / "full.safetensors", "sd1"), load_model(checkpoint, "sd1"))


def test_older_folders_load(folder_of: Loaded, model_of: Loaded, tmp_path: Path) -> None:
    """fp16 names only, attention under its old names, the text encoder with and without its wrapper."""
    folder = tmp_path / "model"
    shutil.copytree(folder_of("sd1"), folder)
    vae = load_file(folder / "vae/diffusion_pytorch_model.safetensors")
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    old = {}
    for name, tensor in vae.items():
        for new, before in names.items():
            name = name.replace(new, before)
        old[name] = tensor
    assert old.keys() != vae.keys()
    save_file(old, folder / "vae/diffusion_pytorch_model.safetensors")
    unet = folder / "unet/diffusion_pytorch_model.safetensors"
    unet.rename(folder / "unet/diffusion_pytorch_model.fp16.safetensors")
    text = load_file(folder / "text_encoder/model.safetensors")
    other = {
        name.removeprefix("text_model.") if name.startswith("text_model.") else f"text_model.{name}": tensor
        for name, tensor in text.items()
    }
    other["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(other, folder / "text_encoder/model.safetensors")
    assert_same_weights(load_model(folder, "sd1"), model_of("sd1"))


def test_settings_of_the_model_itself(tmp_path: Path) -> None:
    native = {"min_side": 192, "max_side": 384, "min_pixels": 192 * 192, "max_pixels": 320 * 320, "multiple": 64}
    extra = {"native": native, "defaults": {"steps": 12, "guidance": 3.0}, "second_pass": False}
    model = load_model(make_model(tmp_path / "m", extra=extra, tiny_decoder=True), "sd1")
    assert model.native._asdict() == {**native, "second_pass": False, "pixels": 0}
    assert model.defaults == {"steps": 12, "guidance": 3.0}
    assert model.tiny_decoder is not None


def test_native_size_from_the_folder_and_from_the_family(model_of: Loaded, checkpoint: Path) -> None:
    assert model_of("sd1").native[:4] == (64, 96, 64 * 64, 64 * 96)
    assert load_model(checkpoint, "sd1").native[:4] == (512, 768, 512 * 512, 512 * 768)


def test_loading_can_be_cancelled_and_shows_progress(checkpoint: Path) -> None:
    heard: list[float] = []
    load_model(checkpoint, "sd1", progress=heard.append)
    assert heard == sorted(heard) and heard[-1] == 1.0 and len(heard) > 100
    for limit in (0, 50):
        answers = itertools.chain([False] * limit, itertools.repeat(True))
        with pytest.raises(Cancelled):
            load_model(checkpoint, "sd1", cancelled=answers.__next__)


def test_loading_needs_no_network(checkpoint: Path, folder_of: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for path in (checkpoint, folder_of("sd1")):
        generate(load_model(path, "sd1"), TASK)


def test_a_file_that_changes_later_does_not_change_the_model(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy.safetensors"
    shutil.copy(checkpoint, path)
    model = load_model(path, "sd1")
    before = generate(model, TASK).image
    with path.open("r+b") as file:
        file.truncate(100)
    assert np.array_equal(generate(model, TASK).image, before)


# Published sizes: UNet, autoencoder, text encoder (SD2.x: the 23 layers that are run).
FULL_SIZE: dict[str, tuple[dict[str, Any], int, int]] = {
    "sd1": ({"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768}, 859_520_964, 686),
    "sd2": (
        {
            "block_out_channels": (320, 640, 1280, 1280),
            "cross_attention_dim": 1024,
            "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True,
        },
        865_910_724,
        686,
    ),
    "sdxl": (
        {
            "block_out_channels": (320, 640, 1280),
            "cross_attention_dim": 2048,
            "attention_head_dim": [5, 10, 20],
            "use_linear_projection": True,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "transformer_layers_per_block": [1, 2, 10],
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        2_567_463_684,
        1680,
    ),
}


@pytest.mark.parametrize("family", FULL_SIZE)
def test_full_size_names_and_sizes(family: str) -> None:
    """On the meta device: every weight of the real UNet has a name in the original layout and back."""
    from diffusers import UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    stated, count, tensors = FULL_SIZE[family]
    config = {
        "layers_per_block": 2,
        "attention_head_dim": 8,
        "use_linear_projection": False,
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        **stated,
    }
    with torch.device("meta"):
        state = UNet2DConditionModel(**config).state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == count
    sources = ldm.unet_sources(state, config)
    original = {source.name: state[name] for name, source in sources.items()}
    assert len(original) == len(state) == tensors
    shapes = {name: tuple(tensor.shape) for name, tensor in original.items()}
    shapes[f"{ldm.XL_OPENCLIP}text_projection"] = (1280, 1280)
    found = ldm.unet_config(shapes, heads_of_64=family != "sd1")
    assert {key: found[key] for key in config} == {**config, "block_out_channels": list(config["block_out_channels"])}
    converted = convert_ldm_unet_checkpoint(dict(original), found)
    assert converted.keys() == state.keys()
    assert all(converted[name] is state[name] for name in state)
