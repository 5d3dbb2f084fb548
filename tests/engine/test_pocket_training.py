# SPDX-License-Identifier: GPL-3.0-or-later
"""The recipe of the embedded model: its optimizer, adapters, teacher, lines and judges do what training relies on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image

from server.diffusion.features.lora import LoraWeights
from server.pocket.training import controlnet, curriculum, few_step, unet
from server.pocket.training.__main__ import averages
from server.pocket.training.adapter import Adapter, Branch
from server.pocket.training.captions import CLOSE_UPS, Item, Scene, landscape
from server.pocket.training.controlnet import lines_of
from server.pocket.training.dataset import Latents, Mixture
from server.pocket.training.judge import share_of_colour
from server.pocket.training.landscapes import STAR, SUN
from server.pocket.training.muon import orthogonal
from server.pocket.training.render import Recipe, describe, picture, render
from server.pocket.training.scenery import place_of, places
from server.pocket.training.unet import Schedule
from server.pocket.training.words import SKIES, TERRAINS

WIDTH = 8


def tiny_unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).eval()


def inputs(count: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(count, 4, 8, 8, generator=g), torch.tensor([500] * count), torch.randn(count, 77, WIDTH)


@pytest.mark.parametrize("shape", [(12, 12), (6, 40), (40, 6)])
def test_updates_of_the_optimizer_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    given = torch.randn(3, *shape, generator=torch.Generator().manual_seed(2))
    made = orthogonal(given)
    for before, after in zip(given, made, strict=True):
        values = torch.linalg.svdvals(after)
        assert values.max() < 1.25
        assert values.median() > 0.65
        u, _, v = torch.linalg.svd(before, full_matrices=False)
        assert torch.nn.functional.cosine_similarity((u @ v).ravel(), after.ravel(), 0) > 0.9


@torch.no_grad()
def test_an_adapter_file_does_in_the_server_what_it_did_in_training(tmp_path: Path) -> None:
    base, trained = tiny_unet(), tiny_unet()
    x, t, told = inputs()
    bare = base(x, t, told).sample
    adapter = Adapter(trained)
    assert torch.equal(trained(x, t, told).sample, bare)
    for branch in adapter.branches.values():
        assert isinstance(branch, Branch)
        branch.up.weight.normal_(std=0.05)  # type: ignore[operator, union-attr]
    adapted = trained(x, t, told).sample
    assert not torch.allclose(adapted, bare, atol=1e-2)
    with adapter.off():
        assert torch.equal(trained(x, t, told).sample, bare)
    adapter.save(tmp_path / "some.safetensors", {"modelspec.title": "some"})
    with LoraWeights(base, {}, ((tmp_path / "some.safetensors", 1.0),)):
        assert torch.allclose(base(x, t, told).sample, adapted, atol=5e-3)
    assert torch.equal(base(x, t, told).sample, bare)


def test_a_step_of_the_teacher_follows_the_noise_that_the_model_names() -> None:
    schedule = Schedule("cpu")
    clean, e, told = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.zeros(3, 77, WIDTH)
    t, later = torch.tensor([999, 499, 99]), torch.tensor([839, 339, -1])
    noisy, v = schedule.mix(clean, e, t)

    def knowing(x: Any, times: Any, states: Any) -> Any:
        return SimpleNamespace(sample=torch.cat([v, v]))

    adapter = Adapter(tiny_unet())
    teacher = few_step.Teacher(knowing, adapter, torch.zeros(1, 77, WIDTH))  # type: ignore[arg-type]
    made = teacher.step(noisy, t, later, told)
    wanted, _ = schedule.mix(clean, e, later.clamp(min=0))
    assert torch.allclose(made[:2], wanted[:2], atol=1e-4)
    assert torch.allclose(made[2], clean[2], atol=1e-4)


def test_the_times_of_the_few_step_adapter_are_those_of_the_sampler() -> None:
    from diffusers import LCMScheduler

    t, later = few_step.times(np.random.default_rng(0), 400)
    scheduler = LCMScheduler(original_inference_steps=few_step.LEVELS)
    scheduler.set_timesteps(few_step.LEVELS)
    assert set(t.tolist()) <= set(scheduler.timesteps.tolist())
    assert 999 in t
    assert bool((later < t).all())
    assert set(later[later < 0].tolist()) == {-1}


def fake_set(folder: Path) -> Latents:
    rng = np.random.default_rng(4)
    texts = ["a red circle", "a blue square", "a red circle"]
    np.save(folder / "some.npy", rng.normal(size=(3, 4, 8, 8)).astype(np.float16))
    np.save(folder / "some.text.npy", rng.normal(size=(3, 77, WIDTH)).astype(np.float16))
    (folder / "some.json").write_text(json.dumps(texts))
    return Latents(folder, "some")


def test_an_interrupted_stage_ends_with_the_same_weights(tmp_path: Path) -> None:
    mixtures = [(Mixture([(fake_set(tmp_path), 1.0)]), 1.0, 4)]
    whole = unet.train(tmp_path, "whole", tiny_unet(), mixtures, 4)
    unet.train(tmp_path, "parts", tiny_unet(), mixtures, 4, stop=2)
    parts = unet.train(tmp_path, "parts", tiny_unet(), mixtures, 4)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[name]), name
    assert not torch.equal(whole.conv_in.weight, tiny_unet().conv_in.weight)


def test_lines_are_white_on_black_where_colours_change() -> None:
    image = Image.new("RGB", (64, 64), (200, 40, 40))
    image.paste((40, 40, 200), (32, 0, 64, 64))
    for width in (1, 2, 3):
        lines = np.asarray(lines_of(image, width))
        assert lines[32, 31:34].max() > 120
        assert lines[:, :26].max() == lines[:, 40:].max() == 0


def test_a_look_changes_the_picture_and_no_word() -> None:
    plain, dressed = Recipe({"thing": 1.0}), Recipe({"thing": 1.0}, look="pixel art")
    for index in range(4):
        one, text = picture(plain, 3, index, 64, 64)
        two, same = picture(dressed, 3, index, 64, 64)
        assert text == same
        assert one.tobytes() != two.tobytes()
        cells = np.asarray(two).reshape(8, 8, 8, 8, 3)
        assert np.array_equal(cells.min((1, 3)), cells.max((1, 3)))


def test_drawn_landscapes_are_told_apart() -> None:
    for i, terrain in enumerate(TERRAINS):
        sky = SKIES[i % len(SKIES)]
        scene = landscape(np.random.default_rng(50 + i), terrain, sky)
        assert place_of(np.asarray(render(scene, 192, 192))) == (terrain, sky)
    assert {scene.terrain for scene in places(11, True)} == set(TERRAINS)


def test_what_fills_the_sky_is_called_by_its_bare_name() -> None:
    scenes = [describe(Recipe({"sky": 1.0}), 1, i) for i in range(60)]
    assert {scene.extras[0] for scene, _ in scenes} == set(CLOSE_UPS)
    assert sum(text in CLOSE_UPS for _, text in scenes) >= 15
    for scene, text in scenes:
        assert scene.extras[0] in text
    large = render(Scene("sky", sky="sunny", extras=("sun",)), 64, 64)
    small = render(Scene("landscape", terrain="hills", sky="sunny", extras=("sun",)), 64, 64)
    sizes = [share_of_colour(np.asarray(image)[:32], SUN, 30.0) for image in (large, small)]
    assert sizes[0] > 3 * sizes[1] > 0


def test_a_landscape_with_details_always_has_something_in_it() -> None:
    for index in range(40):
        scene, text = describe(Recipe({"detail": 1.0}), 2, index)
        assert scene.terrain
        assert 1 <= len(scene.extras) <= 3


def test_what_is_in_a_landscape_seen_from_nearby_is_larger() -> None:
    for sky, extra, colour in (("sunny", "sun", SUN), ("night", "stars", STAR)):
        seen = []
        for kind in ("landscape", "near"):
            scene = Scene(kind, terrain="hills", sky=sky, extras=(extra,), detail=3)
            seen.append(share_of_colour(np.asarray(render(scene, 128, 128)), colour, 30.0))
        assert seen[1] > 1.5 * seen[0] > 0
    scenes = [describe(Recipe({"near": 1.0}), 3, i)[0] for i in range(40)]
    assert all(scene.kind == "near" and scene.terrain for scene in scenes)
    assert 0.5 < np.mean([bool(scene.extras) for scene in scenes])


def test_by_moonlight_one_sees_more_and_the_stars_stand_in_four_patterns() -> None:
    light, skies = [], set()
    for detail in range(16):
        near, night = (
            np.asarray(render(Scene(kind, terrain="snow", sky="night", extras=("stars",), detail=detail), 64, 64))
            for kind in ("near", "night")
        )
        light.append((near[56:].mean(), night[56:].mean()))
        skies.add((night[:20] > 150).tobytes())
    assert all(bright > 1.1 * dark for dark, bright in light)
    assert len(skies) == 4
    scenes = [describe(Recipe({"night": 1.0}), 3, i)[0] for i in range(40)]
    assert {(scene.kind, scene.sky) for scene in scenes} == {("night", "night")}
    assert 0.5 < np.mean(["stars" in scene.extras for scene in scenes]) < 1


def test_objects_stand_on_the_grid_of_the_latents() -> None:
    def drawn(x: float, radius: float) -> bytes:
        return render(Scene("shape", (Item("star", "red", x=x, radius=radius),), "white"), 256, 256).tobytes()

    assert drawn(0.5, 0.3125) == drawn(0.51, 0.32)
    assert drawn(0.5, 0.3125) != drawn(0.5 + 1 / 32, 0.3125)


def test_a_new_controlnet_changes_nothing_and_lets_the_lines_in() -> None:
    base = tiny_unet()
    torch.manual_seed(3)
    control = controlnet.build(base)
    x, t, told = inputs()
    lines = torch.zeros(2, 3, 64, 64)
    lines[1, :, 20:24] = 1
    down, mid = control(x, t, told, lines, return_dict=False)
    assert not any(part.any() for part in (*down, mid))
    seen = control.controlnet_cond_embedding(lines)
    assert not torch.allclose(seen[0], seen[1], atol=1e-2)


def test_the_controlnet_learns_mostly_from_noise() -> None:
    times = controlnet.noisy_times(1000, torch.Generator().manual_seed(0))
    assert 0 <= int(times.min()) <= int(times.max()) == 999
    assert 0.7 < float((times >= 500).float().mean()) < 0.8


def test_a_later_stage_needs_its_own_pictures_and_the_weights_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stages = list(curriculum.STAGES)
    assert curriculum.SHIPPED == stages[-1]
    assert curriculum.before(["sets", stages[-1], "export"]) == stages[-2]
    assert curriculum.before(["export"]) == stages[0]
    assert curriculum.needed([stages[0]]) == ["shape"]
    assert curriculum.needed(["lora"]) == ["sepia"]
    assert set(curriculum.needed([*stages, "lora", "few_step", "controlnet"])) == set(curriculum.SETS)
    for name in ("SETS", "STAGES", "STEPS"):
        monkeypatch.setattr(curriculum, name, dict(getattr(curriculum, name)))
    curriculum.shorten(0.003)
    assert all(0 < part.count < 20 for part in curriculum.SETS.values())
    assert all(2 <= stage.steps < 8 and not stage.stop for stage in curriculum.STAGES.values())


def test_a_stage_can_keep_a_share_of_the_weights_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = {"one": curriculum.Stage((), 1), "two": curriculum.Stage((), 1, kept=0.25)}
    monkeypatch.setattr(curriculum, "STAGES", stages)
    torch.save({"average": {"some": torch.full((2,), 8.0)}}, tmp_path / "two.pt")
    assert averages(tmp_path, "two")["some"].tolist() == [8, 8]
    torch.save({"average": {"some": torch.full((2,), 4.0)}}, tmp_path / "one.pt")
    assert averages(tmp_path, "one")["some"].tolist() == [4, 4]
    assert averages(tmp_path, "two")["some"].tolist() == [7, 7]
