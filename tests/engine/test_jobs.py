# SPDX-License-Identifier: GPL-3.0-or-later
"""What a job promises: the same bytes, stopping at once, zeros kept, nothing left behind by a failure."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from krita_sd.wire.errors import Code, WireError
from server.diffusion import MAX_SEED, Cancelled, Step, Task, generate, load_model
from server.diffusion.task import Command
from tests.engine.conftest import Loaded, hard_mask, picture, run
from tests.tiny_flow import make_flow_model

TASK = Task(prompt="a red boat", negative="fog", seed=11, total_steps=5, guidance=4.0, width=64, height=64)
TASKS = {
    "txt2img": TASK,
    "img2img": replace(TASK, total_steps=7, start_step=2, image=picture()),
    "inpaint": replace(TASK, total_steps=7, start_step=2, image=picture(), mask=hard_mask()),
}


class Calls:
    """How often the denoiser, the decoder and the encoders ran."""

    def __init__(self) -> None:
        self.unet = self.decode = self.text = self.encode = 0


@contextmanager
def counted(model: Any) -> Iterator[Calls]:
    calls = Calls()
    handles = [
        model.unet.register_forward_pre_hook(lambda *_: setattr(calls, "unet", calls.unet + 1)),
        model.text_encoder.register_forward_pre_hook(lambda *_: setattr(calls, "text", calls.text + 1)),
        model.vae.decoder.register_forward_pre_hook(lambda *_: setattr(calls, "decode", calls.decode + 1)),
        model.vae.encoder.register_forward_pre_hook(lambda *_: setattr(calls, "encode", calls.encode + 1)),
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def after_steps(count: int, command: Command) -> tuple[Callable[[Step], None], Callable[[], Command | None]]:
    """Listeners that give a command as soon as `count` steps are done."""
    done = 0

    def on_step(step: Step) -> None:
        nonlocal done
        done = step.k

    return on_step, lambda: command if done >= count else None


@pytest.mark.parametrize("kind", TASKS)
def test_same_bytes_again_after_a_cancel_and_after_a_failure(kind: str, model_of: Loaded) -> None:
    model, task = model_of("sd1"), replace(TASKS[kind], sampler="Euler a")
    first = generate(model, task).image.tobytes()
    assert generate(model, task).image.tobytes() == first
    on_step, control = after_steps(2, "cancel")
    with pytest.raises(Cancelled):
        generate(model, task, on_step=on_step, control=control)
    assert generate(model, task).image.tobytes() == first

    def fails(step: Step) -> None:
        raise RuntimeError("listener")

    with pytest.raises(RuntimeError, match="listener"):
        generate(model, task, on_step=fails)
    assert generate(model, task).image.tobytes() == first


@pytest.mark.parametrize("kind", TASKS)
def test_cancel_at_every_step_runs_no_further_step_and_no_decode(kind: str, model_of: Loaded) -> None:
    model, task = model_of("sd1"), TASKS[kind]
    steps = task.total_steps - task.start_step
    for count in range(steps + 1):
        on_step, control = after_steps(count, "cancel")
        with counted(model) as calls, pytest.raises(Cancelled):
            generate(model, task, on_step=on_step, control=control)
        assert (calls.unet, calls.decode) == (count, 0)


def test_cancel_before_the_start_encodes_nothing(model_of: Loaded) -> None:
    model = model_of("sd1")
    with counted(model) as calls, pytest.raises(Cancelled):
        generate(model, replace(TASK, prompt="never seen before"), control=lambda: "cancel")
    assert (calls.text, calls.unet, calls.encode, calls.decode) == (0, 0, 0, 0)


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_finish_decodes_the_estimate_that_was_previewed(kind: str, count: int, model_of: Loaded) -> None:
    model, task = model_of("sd1", tiny_decoder=False), TASKS[kind]
    estimates: list[Any] = []
    on_step, control = after_steps(count, "finish")

    def both(step: Step) -> None:
        estimates.append(step.preview())
        on_step(step)

    output, latents = run(model, task, on_step=both, control=control)
    assert output.partial and output.steps_run == max(1, count)
    assert output.image.shape == (64, 64, 3)
    assert np.array_equal(model.previewer.render(latents, "rgb"), estimates[-1])


def test_finish_after_the_last_step_is_an_ordinary_end(model_of: Loaded) -> None:
    model = model_of("sd1")
    on_step, control = after_steps(TASK.total_steps, "finish")
    output = generate(model, TASK, on_step=on_step, control=control)
    assert not output.partial and np.array_equal(output.image, generate(model, TASK).image)


def test_steps_and_phases_are_reported_in_order(model_of: Loaded) -> None:
    model, task = model_of("sd1"), TASKS["img2img"]
    heard: list[Any] = []
    output = generate(
        model, task, on_phase=heard.append, on_step=lambda step: heard.append((step.k, step.total, step.executed))
    )
    steps: list[Any] = [(k, 5, k) for k in range(1, 6)]
    assert heard == ["encoding", "sampling", *steps, "decoding"]
    assert set(output.ms) == {"encoding", "sampling", "decoding"} and all(value >= 0 for value in output.ms.values())


def test_batch_image_i_is_the_single_image_with_seed_plus_i(model_of: Loaded) -> None:
    """Image by image with a generator each, so i changes nothing but the seed; the pipeline's batch agrees closely."""
    from tests.engine.test_contract import pipeline

    model = model_of("sd1")
    pipe = pipeline(model, TASK)
    generators = [torch.Generator().manual_seed(TASK.seed + i) for i in range(3)]
    batch = pipe(
        [TASK.prompt] * 3,
        negative_prompt=[TASK.negative] * 3,
        num_inference_steps=TASK.total_steps,
        guidance_scale=TASK.guidance,
        width=64,
        height=64,
        generator=generators,
        output_type="latent",
    ).images
    for i in range(3):
        _, latents = run(model, replace(TASK, seed=TASK.seed + i))
        # Not bit for bit: a batch of six takes other kernels than a pair. Measured 2e-6.
        assert torch.allclose(latents[0], batch[i], atol=5e-5)


def test_zeros_and_the_largest_seed_are_real_values(model_of: Loaded) -> None:
    model = model_of("sd1")
    images = {
        "seed 0": generate(model, replace(TASK, seed=0)).image,
        "seed 1": generate(model, replace(TASK, seed=1)).image,
        "largest": generate(model, replace(TASK, seed=MAX_SEED)).image,
        "one below": generate(model, replace(TASK, seed=MAX_SEED - 1)).image,
        "empty": generate(model, replace(TASK, prompt="", negative="", seed=0)).image,
        "guidance 0": generate(model, replace(TASK, guidance=0.0, seed=0)).image,
    }
    assert len({image.tobytes() for image in images.values()}) == len(images)
    without = replace(TASK, guidance=0.0)
    assert np.array_equal(generate(model, without).image, generate(model, replace(without, guidance=1.0)).image)


@pytest.mark.parametrize("mask", [None, hard_mask()])
def test_strength_zero_is_an_exact_copy(mask: np.ndarray | None, model_of: Loaded) -> None:
    model, source = model_of("sd1"), picture()
    with counted(model) as calls:
        output = generate(model, replace(TASK, image=source, mask=mask, total_steps=20, start_step=20))
    assert np.array_equal(output.image, source) and output.image is not source
    assert output.steps_run == 0 and not output.partial and calls.unet == calls.encode == 0


def test_a_single_step_of_a_plan_runs(model_of: Loaded) -> None:
    output = generate(model_of("sd1"), replace(TASK, image=picture(), total_steps=20, start_step=19))
    assert output.steps_run == 1


def test_repeated_prompt_and_canvas_are_encoded_once(model_of: Loaded) -> None:
    model = model_of("sd1")
    task = replace(TASKS["inpaint"], prompt="an unseen prompt", negative="unseen too", image=picture(seed=99))
    with counted(model) as calls:
        generate(model, task)
    assert calls.text == 2 and calls.encode == 1
    with counted(model) as calls:
        generate(model, replace(task, seed=12, start_step=3))
    assert calls.text == 0 and calls.encode == 0


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux1", "qwen-image"])
def test_so_it_is_in_the_other_families(family: str, model_of: Loaded, tmp_path: Path) -> None:
    """With several encoders, with T5 and language models, with an autoencoder of another build."""
    model: Any = (
        model_of("sdxl") if family == "sdxl" else load_model(make_flow_model(tmp_path / "model", family), family)
    )
    task = replace(
        TASKS["inpaint"], prompt="an unseen prompt", negative="unseen too", image=picture(seed=98), sampler="Euler"
    )
    calls = {"text": 0, "encode": 0}

    def count(name: str) -> Callable[..., None]:
        return lambda *_: calls.__setitem__(name, calls[name] + 1)

    hooks = [encoder.register_forward_pre_hook(count("text")) for encoder in model.encoders.values()]
    hooks.append(model.vae.encoder.register_forward_pre_hook(count("encode")))
    try:
        first = generate(model, task).image
        assert calls["text"] >= len(model.encoders) and calls["encode"] >= 1
        calls.update(text=0, encode=0)
        assert not np.array_equal(generate(model, replace(task, seed=12, start_step=3)).image, first)
        assert calls == {"text": 0, "encode": 0}
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize(
    "change",
    [
        {"width": 60},
        {"height": 0},
        {"seed": -1},
        {"seed": MAX_SEED + 1},
        {"total_steps": 0},
        {"start_step": 6},
        {"start_step": 1},
        {"sampler": "Euler b"},
        {"preview": "huge"},
        {"guidance": float("nan")},
        {"guidance": -1.0},
        {"clip_skip": 13},
        {"mask": hard_mask()},
        {"image": picture(72, 64)},
        {"image": picture(), "mask": hard_mask(72, 64)},
        {"image": picture().astype(np.float32)},
    ],
    ids=str,
)
def test_impossible_tasks_are_refused_in_a_sentence(change: dict[str, Any], model_of: Loaded) -> None:
    with pytest.raises(WireError) as caught:
        generate(model_of("sd1"), replace(TASK, **change))
    assert caught.value.code is Code.BAD_REQUEST and caught.value.message.endswith(".")


@contextmanager
def broken(parameter: torch.Tensor, value: float) -> Iterator[None]:
    kept = parameter.clone()
    try:
        parameter.fill_(value)
        yield
    finally:
        parameter.copy_(kept)


@pytest.mark.parametrize("part", ["unet", "vae decoder", "vae encoder", "text encoder"])
def test_invalid_numbers_are_an_error_and_the_next_job_works(part: str, model_of: Loaded) -> None:
    model, task = model_of("sd1"), TASKS["img2img"]
    good = generate(model, task).image.tobytes()
    parameter = {
        "unet": model.unet.conv_in.weight,
        "vae decoder": model.vae.decoder.conv_in.weight,
        "vae encoder": model.vae.encoder.conv_in.weight,
        "text encoder": model.text_encoder.final_layer_norm.weight,
    }[part]
    fresh = replace(task, prompt=f"a prompt for the {part}", image=picture(seed=sum(map(ord, part))))
    with broken(parameter, float("nan")), pytest.raises(WireError) as caught:
        generate(model, fresh)
    assert caught.value.code is Code.NAN_OUTPUT
    assert generate(model, fresh).image.shape == (64, 64, 3)
    assert generate(model, task).image.tobytes() == good


def test_invalid_numbers_in_the_first_step_end_the_job_there(model_of: Loaded) -> None:
    model = model_of("sd1")
    with broken(model.unet.conv_in.weight, float("nan")), counted(model) as calls, pytest.raises(WireError):
        generate(model, TASK)
    assert calls.unet == 1 and calls.decode == 0


def test_views_and_read_only_arrays_are_taken(model_of: Loaded) -> None:
    model, task = model_of("sd1"), TASKS["inpaint"]
    assert task.image is not None and task.mask is not None
    frozen_image, turned_mask = task.image.copy(), task.mask[::-1].copy()[::-1]
    frozen_image.setflags(write=False)
    again = replace(task, image=frozen_image, mask=turned_mask)
    assert np.array_equal(generate(model, again).image, generate(model, task).image)


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_overflow_in_half_precision_is_repaired_in_float32(part: str, folder_of: Loaded) -> None:
    """The last norm of a part is set so that its activations pass 65504, and the layer after it takes that back."""
    model: Any = load_model(folder_of("sd1"), "sd1", dtype=torch.float16)
    network = model.unet if part == "unet" else model.vae.decoder
    network.conv_norm_out.weight.fill_(60000.0)
    network.conv_out.weight.mul_(1 / 60000.0)
    steps: list[int] = []
    task = replace(TASK, total_steps=3, width=32, height=32)  # half precision is slow on processors
    output = generate(model, task, on_step=lambda step: steps.append(step.k))
    assert output.image.std() > 1.0
    assert steps == [1, 2, 3], "progress never goes back, also when steps run again"
    assert model.unet.dtype == model.vae.dtype == torch.float16
    assert np.array_equal(generate(model, task).image, output.image)


def test_the_engine_writes_no_file(folder_of: Loaded) -> None:
    """Neither loading nor painting: watched by an audit hook, which stays but looks away after the test."""
    written: list[str] = []
    folder = folder_of("sd1")
    watching = True

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if watching and event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR):
            written.append(str(args[0]))
        elif watching and event in ("os.mkdir", "os.rename", "os.remove", "socket.connect"):
            written.append(f"{event} {args[0]}")

    sys.addaudithook(hook)
    try:
        generate(load_model(folder, "sd1"), TASKS["inpaint"])
        Path(os.devnull).write_text("the hook works")
    finally:
        watching = False
    assert written == [os.devnull]
