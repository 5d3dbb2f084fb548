# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of the embedded model's recipe: few and clear pictures, and a decoder for latents that the UNet leaves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel

from server.pocket.training import curriculum, dataset, finish
from server.pocket.training.captions import Scene, scene_held_out
from server.pocket.training.judge import share_of_colour
from server.pocket.training.landscapes import CLOUD
from server.pocket.training.render import LAYOUTS, Recipe, describe, render
from server.pocket.training.scenery import place_of
from server.pocket.training.styles import line_art
from server.pocket.training.unet import Schedule
from server.pocket.training.words import SKIES, TERRAINS


def test_of_a_clear_scene_there_are_few_pictures_and_it_is_recognised() -> None:
    for i, terrain in enumerate(TERRAINS):
        sky = SKIES[(i + 2) % len(SKIES)]
        drawn = [render(Scene("clear", terrain=terrain, sky=sky, detail=detail), 96, 96) for detail in range(12)]
        assert 1 <= len({image.tobytes() for image in drawn}) <= LAYOUTS
        assert place_of(np.asarray(drawn[0])) == (terrain, sky)


def test_what_else_is_in_a_clear_landscape_moves_nothing() -> None:
    scene = Scene("clear", terrain="snowy mountains", sky="night", extras=("stars",), detail=2)
    one, two = (
        np.asarray(render(replace(scene, extras=extras), 96, 96)) for extras in (("stars",), ("stars", "house"))
    )
    same = (one == two).all(2)
    assert same[:40].all()
    assert 0.05 < 1 - same.mean() < 0.4


def test_posed_objects_are_large_and_in_the_middle_and_no_combination_is_held_out() -> None:
    scenes = [describe(Recipe({"posed": 1.0}, styled=1.0), 5, i) for i in range(40)]
    for scene, text in scenes:
        (item,) = scene.items
        assert (item.x, item.y, item.angle) == (0.5, 0.5, 0.0)
        assert item.word in text
        assert not scene_held_out(scene)
    assert {scene.style for scene, _ in scenes} == {"pixel art", "watercolour", "line art", "pencil", "oil"}


def test_bold_lines_are_wider() -> None:
    image = render(Scene("clear", terrain="sea", sky="sunny"), 96, 96)
    dark = [float((np.asarray(line_art(image, bold)) < 128).mean()) for bold in (False, True)]
    assert dark[1] > 1.5 * dark[0] > 0


def test_a_cloudy_sky_is_mostly_clouds_and_called_so() -> None:
    shares = []
    for kind in ("sky", "cloudy"):
        scenes = [s for s in (describe(Recipe({kind: 1.0}), 1, i) for i in range(60)) if s[0].extras == ("clouds",)]
        drawn = [render(s, 64, 64) for s, _ in scenes if s.sky == "sunny"][:8]
        shares.append(np.mean([share_of_colour(np.asarray(d), CLOUD, 20.0) for d in drawn]))
        assert all("clouds" in text for _, text in scenes)
    assert shares[1] > 2 * shares[0] > 0


def test_a_unet_that_knows_the_picture_leaves_it_as_it_is() -> None:
    schedule = Schedule("cpu")
    x, e = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    told = torch.zeros(3, 77, 8)
    asked = []

    def knowing(given: torch.Tensor, t: torch.Tensor, states: torch.Tensor) -> Any:
        asked.append(int(t[0]))
        signal, noise = schedule.signal[t[0]], schedule.noise[t[0]]
        here = (given[:3] - signal * x) / noise
        assert torch.allclose(here, e, atol=1e-3)
        v = signal * here - noise * x
        return SimpleNamespace(sample=torch.cat([v, v]))

    made = finish.left(knowing, x, told, told, 400, e)  # type: ignore[arg-type]
    assert torch.allclose(made, x, atol=1e-3)
    assert asked == [400, 300, 200, 100]


def small_parts() -> tuple[UNet2DConditionModel, AutoencoderKL, AutoencoderTiny]:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=2,
        mid_block_add_attention=False,
    )
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(4,) * 4,
        decoder_block_out_channels=(4,) * 4,
        num_encoder_blocks=(1,) * 4,
        num_decoder_blocks=(1,) * 4,
    )
    return unet.eval(), vae, tiny


def small_set(folder: Path) -> finish.Finished:
    recipe = Recipe({"shape": 1.0})
    rng = np.random.default_rng(4)
    np.save(folder / "some.npy", rng.normal(size=(3, 4, 4, 4)).astype(np.float16))
    np.save(folder / "some.text.npy", rng.normal(size=(4, 77, 8)).astype(np.float16))
    (folder / "some.json").write_text(json.dumps([describe(recipe, 6, i)[1] for i in range(3)]))
    return finish.Finished(folder, "some", recipe, 6, (32, 32), 2)


def test_finishing_teaches_the_decoders_alone_and_is_not_done_twice(tmp_path: Path) -> None:
    results = []
    for _ in range(2):
        unet, vae, tiny = small_parts()
        decoders = (vae, tiny)
        before = [{key: value.clone() for key, value in model.state_dict().items()} for model in decoders]
        finish.train(tmp_path, unet, vae, tiny, [small_set(tmp_path)], 2)
        for model, old, wanted in zip(decoders, before, ({"decoder", "post_quant_conv"}, {"decoder"}), strict=True):
            changed = {
                key.split(".")[0] for key, value in model.state_dict().items() if not torch.equal(value, old[key])
            }
            assert changed == wanted
        results.append({**decoders[0].state_dict(), **decoders[1].state_dict()})
    assert np.load(tmp_path / "some.left.npy").shape == (2, 4, 4, 4)
    assert torch.load(tmp_path / "vae_finished.pt", weights_only=True)["step"] == 2
    assert all(torch.equal(results[0][key], value) for key, value in results[1].items())


def test_errors_at_the_edge_count_more_and_clean_latents_are_squared() -> None:
    x = torch.zeros(1, 3, 64, 64)
    found = []
    for row, column in ((0, 30), (30, 30)):
        y = torch.zeros(2, 3, 64, 64)
        y[1, :, row, column] = 1
        found.append(float(finish.apart(y, x)))
    assert found[0] == pytest.approx(finish.EDGE_WEIGHT * found[1])
    assert found[1] > 0
    assert float(finish.apart(torch.zeros(2, 3, 64, 64), x)) == 0


def test_what_the_decoder_is_finished_on_is_drawn_before() -> None:
    assert set(curriculum.needed(["finish"])) == set(curriculum.FINISH)


def test_the_latents_of_a_glaring_sun_go_beyond_those_of_its_picture_once(tmp_path: Path) -> None:
    _, vae, _ = small_parts()
    recipe = Recipe({"sun": 1.0})
    dataset.make_set(tmp_path, "some", recipe, 2, 64, 64, vae, 5)
    plain = np.load(tmp_path / "some.npy").astype(np.float32)
    dataset.go_beyond(tmp_path, "some", vae, 1.6)
    dataset.go_beyond(tmp_path, "some", vae, 1.6)
    made = np.load(tmp_path / "some.npy").astype(np.float32)
    sky = (made - 1.6 * plain) / -0.6
    assert np.abs(sky[0] - sky[1]).max() < 0.05
    assert np.abs(made - plain).max() > 0.01
