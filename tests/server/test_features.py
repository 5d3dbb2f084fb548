# SPDX-License-Identifier: GPL-3.0-or-later
"""Control layers, maps, enlarging, tiling and variations through the real server, and from the command line."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from krita_sd.geometry import NATIVE, Extent, plan_render
from krita_sd.wire.errors import Code
from krita_sd.wire.frames import Picture
from krita_sd.wire.recipe import Control, Recipe
from server.worker.controls import PartCache, control_layers, map_of
from server.worker.upscale import sizes
from tests.engine import test_inversions as words
from tests.engine import test_lora_forms as forms
from tests.engine.conftest import picture
from tests.engine.test_control import make_net, original_net
from tests.engine.test_learned_maps import saved, segmentation_model
from tests.engine.test_reference import make_adapter
from tests.engine.test_upscale import rrdb_file
from tests.server.harness import Painter, ServerProcess, run_cli, running, tiny
from tests.tiny import make_model, make_parts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, a ControlNet for line art and an IP-Adapter that fit it, an upscaler for twice the size, another
    autoencoder, a textual inversion, a LoHa, and a model that finds segments."""
    from server.diffusion import load_model

    root = tmp_path_factory.mktemp("features")
    model: Any = load_model(make_model(root / "a tiny model", tiny_decoder=True), "sd1")
    (root / "more").mkdir()
    save_file(original_net(make_net(model)), root / "more" / "tiny_lineart.safetensors")
    save_file(rrdb_file(1, 1), root / "more" / "tiny_double.safetensors")
    save_file(dict(make_parts(seed=9)["vae"].state_dict()), root / "more" / "warm.safetensors")
    words.write(root / "more" / "moodboard.safetensors", "a1111", 3)
    shape = tuple(model.unet.get_submodule(forms.MATRIX).weight.shape)
    forms.save(root / "more" / "inky.safetensors", forms.MATRIX, forms.loha(shape)[0])
    make_adapter(root / "adapters", model)
    saved(segmentation_model(), root / "segments", 64)
    return root


@pytest.fixture(scope="module")
def home(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running(tmp_path_factory.mktemp("home") / "state", "--models", folder, "--dtype", "float32") as process:
        yield process


@pytest.fixture
async def painter(home: ServerProcess) -> AsyncIterator[Painter]:
    async with home.client() as client:
        yield Painter(client)


def bgra(rgb: np.ndarray, alpha: int | np.ndarray = 255) -> Picture:
    pixels = np.empty((*rgb.shape[:2], 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = rgb[..., ::-1], alpha
    return Picture("bgra8", rgb.shape[1], rgb.shape[0], pixels.tobytes())


def lines(width: int = 64, height: int = 64) -> np.ndarray:
    """White lines on black."""
    out = np.zeros((height, width, 3), np.uint8)
    out[20:23], out[:, 40:43] = 255, 255
    return out


async def made(painter: Painter, recipe: Recipe, *pictures: Picture, **more: Any) -> list[np.ndarray]:
    """The pictures of a job, (height, width, 4) BGRA."""
    job = painter.submit(recipe, pictures, **more)
    outcome = await painter.ended(job)
    assert outcome.last.state == "done", outcome.last.error
    out = [event.picture for event in outcome.results]
    return [np.frombuffer(item.data, np.uint8).reshape(item.height, item.width, 4) for item in out]


async def test_a_control_layer_steers_the_picture(painter: Painter) -> None:
    drawn = bgra(lines())
    control = Control("line_art", drawn.hash, 1.0)
    plain = await made(painter, tiny())
    steered = await made(painter, tiny(controls=(control,)), drawn)
    again = await made(painter, tiny(controls=(control,)), drawn)
    weak = await made(painter, tiny(controls=(Control("line_art", drawn.hash, 0.0),)), drawn)
    assert np.array_equal(steered[0], again[0]) and np.array_equal(weak[0], plain[0])
    assert not np.array_equal(steered[0], plain[0])
    # Dark on paper, as painters draw, is the same drawing.
    dark = bgra(255 - lines())
    assert np.array_equal((await made(painter, tiny(controls=(Control("line_art", dark.hash),)), dark))[0], steered[0])
    start = bgra(picture())
    for changes in ({"kind": "img2img", "strength": 0.7}, {"kind": "inpaint", "mask": full().hash}):
        recipe = tiny(image=start.hash, **changes)
        with_control = await made(painter, recipe.replace(controls=(control,)), start, drawn, full())
        assert not np.array_equal(with_control[0], (await made(painter, recipe, start, full()))[0])


def full() -> Picture:
    return Picture("grey8", 64, 64, b"\xff" * 4096)


async def test_control_layers_that_cannot_be_used_are_refused_in_a_sentence(painter: Painter) -> None:
    drawn, small = bgra(lines()), bgra(lines(32, 32))
    missing = painter.submit(tiny(controls=(Control("depth", drawn.hash),)), (drawn,))
    error = (await painter.ended(missing)).last.error
    assert error is not None and error.code is Code.UNSUPPORTED and "depth" in error.message and "depth" in error.hint
    outcome = await painter.ended(painter.submit(tiny(controls=(Control("line_art", small.hash),)), (small,)))
    assert outcome.last.error is not None and outcome.last.error.code is Code.BAD_REQUEST


@pytest.mark.parametrize("kind", ["line_art", "scribble", "canny"])
def test_lines_are_white_on_black_however_they_were_drawn(kind: str) -> None:
    wanted = lines()
    drawn = wanted[..., 0] > 0
    ways = {
        "white on black": bgra(wanted),
        "black on white": bgra(255 - wanted),
        "white on nothing": bgra(wanted, np.where(drawn, 255, 0)),
        "black on nothing": bgra(255 - wanted, np.where(drawn, 255, 0)),
    }
    for name, way in ways.items():
        assert np.array_equal(map_of(way, kind), wanted), name
    assert map_of(bgra(wanted, 0), kind).max() == 0


def test_other_maps_are_laid_on_their_background() -> None:
    grey = np.full((4, 4, 3), 200, np.uint8)
    assert (map_of(bgra(grey), "depth") == 200).all() and (map_of(bgra(grey, 0), "depth") == 0).all()
    assert (map_of(bgra(grey, 0), "tile") == 255).all()


async def test_a_control_map_is_a_picture(painter: Painter) -> None:
    from server.diffusion.preprocess import control_map

    source = np.zeros((70, 90, 3), np.uint8)
    source[20:50, 30:60] = (250, 240, 230)
    recipe = Recipe(kind="preprocess", map="canny", width=90, height=70, image=bgra(source).hash)
    found = (await made(painter, recipe, bgra(source)))[0]
    assert np.array_equal(found[..., 2::-1], control_map(source, "canny")) and (found[..., 3] == 255).all()
    refused = await painter.ended(painter.submit(recipe.replace(map="pose"), (bgra(source),)))
    assert refused.last.error is not None and refused.last.error.code is Code.UNSUPPORTED and refused.last.error.hint


async def test_a_trained_model_makes_the_maps_that_need_one(painter: Painter, folder: Path) -> None:
    from server.diffusion.preprocess import control_map
    from server.diffusion.preprocess.learned import load_preprocessor

    source = picture(90, 70)
    recipe = Recipe(kind="preprocess", map="segmentation", width=90, height=70, image=bgra(source).hash)
    found = (await made(painter, recipe, bgra(source)))[0]
    model = load_preprocessor(folder / "segments" / "model.safetensors")
    assert np.array_equal(found[..., 2::-1], control_map(source, "segmentation", model))


async def test_references_style_and_composition_are_looked_at_by_an_adapter(painter: Painter) -> None:
    shown = bgra(picture(70, 90, seed=8))
    plain = (await made(painter, tiny()))[0]
    seen = []
    for type in ("reference", "style", "composition"):
        seen.append((await made(painter, tiny(controls=(Control(type, shown.hash),)), shown))[0])
    assert len({item.tobytes() for item in (plain, *seen)}) == 4


def test_a_model_that_looks_itself_needs_no_file() -> None:
    """The picture of a reference layer reaches the engine as it is, whatever its size."""
    shown = bgra(picture(70, 90, seed=8))
    recipe = tiny(controls=(Control("reference", shown.hash, 0.5, 0.1, 0.9),))
    settings = {"controls": [{"path": "", "kind": "own", "name": "an edit model"}]}
    (layer,) = control_layers(recipe, settings, {shown.hash: shown}, PartCache("cpu"), lambda: False)
    plan = plan_render(Extent(64, 64), NATIVE["sd1"])
    rendered = layer.rendered(plan)
    assert (rendered.model.kind, rendered.weight, rendered.start, rendered.end) == ("own", 0.5, 0.1, 0.9)
    assert np.array_equal(rendered.image, picture(70, 90, seed=8))


async def test_enlarging_is_exact_and_refines_in_pieces(painter: Painter) -> None:
    source = picture(70, 50)
    start = bgra(source)
    base = tiny(kind="upscale", width=70, height=50, image=start.hash, target_width=301, target_height=215)
    plain = (await made(painter, base.replace(strength=0.0), start))[0]
    assert plain.shape == (215, 301, 4)
    wanted = Image.fromarray(source).resize((301, 215), Image.Resampling.LANCZOS)
    assert np.array_equal(plain[..., 2::-1], np.asarray(wanted))
    job = painter.submit(base.replace(strength=0.5, steps=4), (start,))
    outcome = await painter.ended(job)
    result = outcome.results[0]
    assert (result.picture.width, result.picture.height) == (301, 215)
    # 70 -> 145 -> 301 are two passes of two steps, and one run to the painter.
    assert result.result.steps_run == 4
    assert outcome.names.count("sampling") == 1
    steps = [(progress.step, progress.total) for progress in outcome.progress if progress.state == "sampling"]
    assert all(total == 4 for _, total in steps) and steps == sorted(steps)
    refined = np.frombuffer(result.picture.data, np.uint8).reshape(215, 301, 4)
    assert not np.array_equal(refined, plain)
    clear = bgra(source, np.arange(70, dtype=np.uint8) * 3)
    see = (await made(painter, base.replace(strength=0.0, image=clear.hash), clear))[0]
    assert see[..., 3].min() < 10 and see[..., 3].max() > 190


async def test_enlarging_is_cancelled_between_pieces(painter: Painter) -> None:
    start = bgra(picture(64, 64))
    recipe = tiny(kind="upscale", width=64, height=64, image=start.hash, target_width=1200, target_height=1200)
    job = painter.submit(recipe.replace(strength=1.0, steps=100), (start,))
    await painter.reaches(job, "sampling")
    painter.cancel(job)
    outcome = await painter.ended(job)
    assert [state.state for state in outcome.terminals] == ["cancelled"] and not outcome.results
    await made(painter, tiny())


async def test_another_vae_words_that_were_learned_and_a_loha(painter: Painter, folder: Path) -> None:
    """Each changes the picture of its own job to what the engine alone makes of it, and leaves nothing behind."""
    from server.diffusion import Task, generate, load_model

    assert painter.client.core.welcome is not None
    ids = {entry["name"]: entry["id"] for entry in painter.client.core.welcome.models}
    assert [entry["words"] for entry in painter.client.core.welcome.models if "words" in entry] == [["moodboard"]]
    plain = await made(painter, tiny())
    engine: Any = load_model(folder / "a tiny model", "sd1")
    task = Task("a red circle", "", 5, 3, 0, 2.0, width=64, height=64)
    more = folder / "more"
    learned = (("moodboard", more / "moodboard.safetensors"),)
    for recipe, same in (
        (tiny(vae=ids["warm"]), replace(task, vae=more / "warm.safetensors")),
        (
            tiny(prompt="a red circle, Moodboard"),
            replace(task, prompt="a red circle, moodboard", inversions=learned),
        ),
        (
            tiny(negative="(moodboard:1.2)"),
            replace(task, negative="(moodboard:1.2)", inversions=learned),
        ),
        (tiny(prompt="a red circle<lora:inky:0.5>"), replace(task, loras=((more / "inky.safetensors", 0.5),))),
    ):
        found = (await made(painter, recipe))[0]
        # Another process with other threads rounds differently now and then.
        away = np.abs(found[..., 2::-1].astype(int) - generate(engine, same).image).mean()
        changed = np.abs(found.astype(int) - plain[0]).mean()
        assert away < 0.02 and changed > 10 * away, (recipe, away, changed)
    assert np.array_equal((await made(painter, tiny()))[0], plain[0])
    job = painter.submit(tiny(prompt="moodboard", vae="gone"))
    assert (error := (await painter.ended(job)).last.error) is not None and error.code is Code.MODEL_MISSING


def test_passes_of_an_enlargement() -> None:
    assert sizes(Extent(768, 768), Extent(3000, 3000)) == [Extent(1518, 1518), Extent(3000, 3000)]
    assert sizes(Extent(1500, 1000), Extent(3000, 2000)) == [Extent(3000, 2000)]
    assert sizes(Extent(100, 100), Extent(60, 60)) == [Extent(60, 60)]
    assert len(sizes(Extent(64, 64), Extent(1024, 1024))) == 4


async def test_variations_of_one_seed_and_textures(painter: Painter) -> None:
    plain = await made(painter, tiny(seed=7))
    varied = await made(painter, tiny(seed=7, variation=0.2, variation_seed=50), count=3)
    alone = await made(painter, tiny(seed=7, variation=0.2, variation_seed=52))
    assert np.array_equal(varied[2], alone[0]) and len({image.tobytes() for image in varied}) == 3
    other = await made(painter, tiny(seed=8))

    def distance(image: np.ndarray) -> float:
        return float(np.abs(image.astype(float) - plain[0]).mean())

    assert all(0 < distance(image) < distance(other[0]) for image in varied)
    texture = await made(painter, tiny(seed=7, tile="xy", width=60, height=52))
    assert texture[0].shape == (52, 60, 4)


def test_the_command_line_has_all_of_it(folder: Path, tmp_path: Path, home: ServerProcess) -> None:
    drawing, out = tmp_path / "lines.png", tmp_path / "out.png"
    Image.fromarray(lines(96, 80)).save(drawing)
    common = ("--server", home.url, "--token-file", home.state / "token", "--out", out, "--json")
    painted = ("generate", *common, "--model", "a tiny model", "--prompt", "x", "--steps", 2, "--seed", 1)
    done = run_cli(
        *painted, "--width", 64, "--height", 64, "--control", f"line_art:{drawing}:0.8", "--tile", "x",
        "--variation", "0.1:9", "--clip-skip", 2, "--vae", "warm",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    recipe = json.loads(done.stdout)["recipe"]
    assert recipe["controls"][0]["type"] == "line_art" and recipe["controls"][0]["weight"] == 0.8
    assert (recipe["tile"], recipe["variation"], recipe["variation_seed"]) == ("x", 0.1, 9)
    assert recipe["clip_skip"] == 2 and recipe["vae"].startswith("warm-")
    for arguments, size in ((("--upscale", "2x", "--strength", "0.3"), (192, 160)), (("--map", "canny"), (96, 80))):
        done = run_cli(*painted, "--image", drawing, *arguments)
        assert done.returncode == 0, done.stderr
        assert Image.open(out).size == size
    done = run_cli(*painted, "--lora", "gone:0.5")
    assert done.returncode == 2 and "gone" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--upscale", "2x"),
        ("--map", "canny"),
        ("--control", "magic:x.png"),
        ("--lora", "x:9"),
        ("--upscale", "0x"),
        ("--tile", "z"),
        ("--variation", "2"),
    ],
    ids=" ".join,
)
def test_bad_arguments_are_one_sentence(arguments: tuple[str, ...], tmp_path: Path, capsys: Any) -> None:
    from server.cli.arguments import parse

    with pytest.raises(SystemExit) as left:
        parse(["generate", "--out", str(tmp_path / "x.png"), *arguments])
    assert left.value.code == 2 and capsys.readouterr().err.count("\n") == 1


def test_arguments_with_colons() -> None:
    from server.cli.arguments import parse

    found = parse(
        ["generate", "--out", "x.png", "--lora", "my:style", "--lora", "ink:-0.5", "--control", "depth:C:/a.png:0.5"]
    )
    assert found.lora == [("my:style", 1.0), ("ink", -0.5)]
    assert found.control == [("depth", Path("C:/a.png"), 0.5)]
