# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m server generate` and `models`: flags, files, exit statuses, and pictures of every kind as input."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from krita_sd.wire.recipe import Recipe
from server.cli import images
from tests.server.harness import ROOT, ServerProcess, alive, children, environment, run_cli, wait_for

SMALL = ("--width", "64", "--height", "64", "--steps", "3", "--seed", "5")


class Shell:
    """Runs `generate` against the shared server in a folder of its own."""

    def __init__(self, server: ServerProcess, folder: Path) -> None:
        self.server = server
        self.folder = folder

    @property
    def remote(self) -> tuple[str, ...]:
        return "--server", self.server.url, "--token-file", str(self.server.state / "token")

    def generate(self, *arguments: str | Path, out: str = "out.png") -> subprocess.CompletedProcess[str]:
        model = () if "--model" in arguments else ("--model", "tiny")
        return run_cli("generate", "--out", self.folder / out, *self.remote, *model, *arguments)

    def pixels(self, name: str = "out.png") -> np.ndarray:
        return np.asarray(Image.open(self.folder / name))


@pytest.fixture
def shell(server: ServerProcess, tmp_path: Path) -> Shell:
    return Shell(server, tmp_path)


def save(folder: Path, name: str, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(folder / name)
    return folder / name


def noise(width: int = 64, height: int = 64, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height, width, channels), np.uint8)


def one_sentence(done: subprocess.CompletedProcess[str], status: int) -> str:
    assert done.returncode == status, done.stderr
    assert done.stdout == "" and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr
    return done.stderr


def test_a_picture_with_its_recipe_inside(shell: Shell) -> None:
    done = shell.generate(
        *SMALL, "--prompt", "a lighthouse, ünïcode", "--negative", "blue", "--guidance", "0", "--json"
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert done.stdout.count("\n") == 1
    assert report["files"] == [str(shell.folder / "out.png")] and report["steps_run"] == 3 and report["previews"] == 0
    assert report["images"][0]["computed"]["prompts"] <= 1 and report["images"][0]["computed"]["maps"] == 0
    assert {"loading", "encoding", "sampling", "decoding"} <= set(report["phases"])
    image = Image.open(shell.folder / "out.png")
    assert isinstance(image, PngImagePlugin.PngImageFile)
    assert image.size == (64, 64) and image.mode == "RGB"
    recipe = Recipe.from_json(json.loads(image.text["krita_sd"])["recipe"])
    assert recipe.to_json() == report["recipe"]
    assert (recipe.prompt, recipe.seed, recipe.guidance) == ("a lighthouse, ünïcode", 5, 0.0)
    lines = image.text["parameters"].split("\n")
    assert lines[0] == recipe.prompt and lines[1] == "Negative prompt: blue"
    assert lines[2].startswith("Steps: 3, Sampler: Euler, CFG scale: 0, Seed: 5, Size: 64x64, Model: tiny")


def test_count_names_files_by_number_and_touches_no_other(shell: Shell) -> None:
    (shell.folder / "out-9.png").write_text("mine")
    assert shell.generate(*SMALL, "--count", "3").returncode == 0
    names = sorted(path.name for path in shell.folder.iterdir())
    assert names == ["out-1.png", "out-2.png", "out-3.png", "out-9.png"]
    assert (shell.folder / "out-9.png").read_text() == "mine"
    assert shell.generate(*SMALL[:-1], "6", out="single.png").returncode == 0
    assert (shell.pixels("single.png") == shell.pixels("out-2.png")).all()


def test_previews_come_after_every_step(shell: Shell) -> None:
    done = shell.generate(*SMALL, "--count", "2", "--previews", shell.folder / "new" / "folder", "--json")
    assert done.returncode == 0, done.stderr
    files = sorted(path.name for path in (shell.folder / "new" / "folder").iterdir())
    assert files == [f"00{image}-00{step}.png" for image in (1, 2) for step in (1, 2, 3)]
    assert json.loads(done.stdout)["previews"] == 6


def test_an_image_keeps_its_size_unless_told(shell: Shell) -> None:
    file = save(shell.folder, "in.png", noise(50, 30))
    assert shell.generate("--image", file, "--steps", "4", "--strength", "0.5", "--seed", "1").returncode == 0
    assert shell.pixels().shape == (30, 50, 3)
    assert shell.generate("--image", file, "--steps", "4", "--width", "100", "--seed", "1").returncode == 0
    assert shell.pixels().shape == (60, 100, 3)


def test_strength_zero_gives_the_image_itself(shell: Shell) -> None:
    file = save(shell.folder, "in.png", noise(50, 30))
    assert shell.generate("--image", file, "--strength", "0").returncode == 0
    assert (shell.pixels() == noise(50, 30)).all()


@pytest.mark.parametrize("strength", ["1", "0.6"])
def test_outside_the_mask_not_a_bit_changes(shell: Shell, strength: str) -> None:
    before = noise(150, 90)
    mask = np.zeros((90, 150), np.uint8)
    mask[20:60, 30:90] = 255
    mask[60:64, 30:90] = 80
    image_file, mask_file = save(shell.folder, "in.png", before), save(shell.folder, "mask.png", mask)
    done = shell.generate("--image", image_file, "--mask", mask_file, "--strength", strength, "--seed", "3", "--json")
    assert done.returncode == 0, done.stderr
    after = shell.pixels()
    assert (after[mask == 0] == before[mask == 0]).all()
    assert (after[mask == 255] != before[mask == 255]).any(axis=-1).mean() > 0.9
    recipe = json.loads(done.stdout)["recipe"]
    assert recipe["kind"] == "inpaint" and recipe["strength"] == float(strength)


def test_outside_the_mask_transparency_stays_too(shell: Shell) -> None:
    before = noise(64, 64, 4)
    mask = np.zeros((64, 64), np.uint8)
    mask[10:30, 10:30] = 255
    files = save(shell.folder, "in.png", before), save(shell.folder, "mask.png", mask)
    assert shell.generate("--image", files[0], "--mask", files[1], "--seed", "3").returncode == 0
    after = shell.pixels()
    assert after.shape[2] == 4 and (after[mask == 0] == before[mask == 0]).all()


def make_inputs(folder: Path) -> dict[str, Path]:
    """One file per kind of picture that people have."""
    rgb = Image.fromarray(noise())
    exif = rgb.getexif()
    exif[0x0112] = 6  # rotated by 90 degrees
    wide = Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16))
    saved: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "palette.png": (rgb.convert("P"), {}),
        "palette-transparent.gif": (rgb.convert("P"), {"transparency": 0}),
        "grey.png": (rgb.convert("L"), {}),
        "bits.png": (rgb.convert("1"), {}),
        "grey-alpha.png": (rgb.convert("LA"), {}),
        "sixteen.png": (wide, {}),
        "float.tiff": (rgb.convert("F"), {}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "rotated.jpg": (rgb.resize((64, 32)), {"exif": exif}),
        "animated.gif": (rgb, {"save_all": True, "append_images": [rgb.rotate(90)]}),
        "lossy.webp": (rgb, {}),
    }
    for name, (image, options) in saved.items():
        image.save(folder / name, **options)
    return {name: folder / name for name in saved}


def test_every_kind_of_picture_is_read(tmp_path: Path) -> None:
    files = make_inputs(tmp_path)
    for name, file in files.items():
        pixels = images.read_image(file)
        assert pixels.shape[2] == 4 and pixels.dtype == np.uint8, name
    assert images.read_image(files["rotated.jpg"]).shape[:2] == (64, 32)
    wide = images.read_image(files["sixteen.png"])
    assert wide[..., 0].min() == 0 and wide[..., 0].max() == 255 and len(np.unique(wide[..., 0])) == 256
    assert images.read_image(files["palette-transparent.gif"])[..., 3].min() == 0
    grey = np.asarray(Image.fromarray(noise()).convert("L"))
    assert (images.read_image(files["grey.png"])[..., 1] == grey).all()


def bomb(file: Path, side: int) -> Path:
    """A PNG of a few kB whose header promises side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return file


def test_bad_inputs_are_one_sentence(shell: Shell) -> None:
    good = save(shell.folder, "in.png", noise())
    cut = shell.folder / "cut.png"
    cut.write_bytes(good.read_bytes()[:2000])
    text = shell.folder / "text.png"
    text.write_text("not a picture")
    black = save(shell.folder, "black.png", np.zeros((64, 64), np.uint8))
    narrow = save(shell.folder, "narrow.png", np.full((64, 32), 255, np.uint8))
    cases: list[tuple[tuple[str | Path, ...], str]] = [
        (("--image", cut), "damaged"),
        (("--image", text), "not a picture"),
        (("--image", shell.folder / "nothing.png"), "no file"),
        (("--image", shell.folder), "not a picture"),
        (("--image", bomb(shell.folder / "a.png", 13_000)), "too large"),
        (("--image", bomb(shell.folder / "b.png", 60_000)), "too large"),
        (("--image", good, "--mask", black), "mask is empty"),
        (("--image", good, "--mask", narrow), "same size"),
    ]
    for arguments, words in cases:
        assert words in one_sentence(shell.generate(*arguments), 2), arguments
    assert not (shell.folder / "out.png").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--steps", "0"], "--steps"),
        (["--width", "0"], "--width"),
        (["--height", "100000"], "--height"),
        (["--guidance", "31"], "--guidance"),
        (["--guidance", "nan"], "--guidance"),
        (["--strength", "2"], "--strength"),
        (["--seed", "-1"], "--seed"),
        (["--seed", str(2**63)], "--seed"),
        (["--count", "0"], "--count"),
        (["--count", "201"], "--count"),
        (["--sampler", "magic"], "--sampler"),
        (["--mask", "x.png"], "--image"),
        (["--strength", "0.5"], "--image"),
        (["--token-file", "x"], "--server"),
        (["--device", "tpu"], "--device"),
        (["--models", "/does/not/exist"], "does not exist"),
        (["--prompt", "a" * 20_001], "prompt"),
    ],
)
def test_bad_arguments_are_one_sentence(
    server: ServerProcess, tmp_path: Path, arguments: list[str], words: str
) -> None:
    own = "--token-file" in arguments
    remote = [] if own else ["--server", server.url, "--token-file", str(server.state / "token")]
    assert words in one_sentence(run_cli("generate", "--out", tmp_path / "x.png", *remote, *arguments), 2)


@pytest.mark.parametrize("out", ["x.jpg", "missing/x.png", "."])
def test_a_bad_place_for_the_picture_is_found_before_anything_runs(tmp_path: Path, out: str) -> None:
    one_sentence(run_cli("generate", "--out", tmp_path / out), 2)


def test_out_is_required() -> None:
    assert "--out" in one_sentence(run_cli("generate", "--prompt", "x"), 2)


def test_what_the_server_refuses_is_one_sentence(shell: Shell) -> None:
    assert "There are: Pocket, tiny." in one_sentence(shell.generate("--model", "../etc/passwd"), 2)
    assert "not safe" in one_sentence(shell.generate("--model", "evil.ckpt"), 1)
    assert "not safe" in one_sentence(shell.generate("--model", "Evil"), 1)
    assert "cut off" in one_sentence(shell.generate("--model", "truncated"), 1)
    wrong = shell.folder / "token"
    wrong.write_text("wrong")
    done = run_cli("generate", "--out", shell.folder / "x.png", "--server", shell.server.url, "--token-file", wrong)
    assert "token" in one_sentence(done, 1)
    for url in ("ws://127.0.0.1:1/v1", "http://x", "nonsense", "ws://127.0.0.1:99999/v1"):
        done = run_cli("generate", "--out", shell.folder / "x.png", "--server", url, "--token-file", wrong)
        assert url in one_sentence(done, done.returncode) and done.returncode in (1, 2)


def test_a_model_may_be_named(shell: Shell) -> None:
    assert shell.generate(*SMALL, "--model", "tiny").returncode == 0


def test_what_is_ignored_in_a_prompt_is_said(shell: Shell) -> None:
    done = shell.generate(*SMALL, "--prompt", "a boat <lora:gone:1>", "--count", "2", "--json")
    assert done.returncode == 0 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("Ignored in the prompt: <lora:gone> (there is no LoRA of that name)")
    reading = json.loads(done.stdout)["images"][0]["reading"]["prompt"]
    assert reading["loras"] == [["gone", 1.0, False]]


def test_a_server_of_its_own_comes_and_goes(models: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "server", "generate", "--out", str(tmp_path / "x.png"), "--models", str(models)]
    command += ["--model", "tiny"]
    home = {"TMPDIR": str(tmp_path / "tmp"), "XDG_STATE_HOME": str(tmp_path / "home")}
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [*command, *SMALL, "--device", "cpu"], cwd=ROOT, env=environment(**home), stdout=subprocess.PIPE, text=True
    )
    (server,) = wait_for(lambda: children(process.pid), "the server")
    workers = wait_for(lambda: children(server), "the worker")
    assert process.wait(120) == 0
    assert not alive(server) and not any(alive(pid) for pid in workers)
    assert (tmp_path / "x.png").exists()
    assert not list((tmp_path / "tmp").iterdir()) and not (tmp_path / "home").exists()


def test_ctrl_c_cancels_and_leaves_nothing(models: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "server", "generate", "--out", str(tmp_path / "x.png"), "--models", str(models)]
    command += ["--model", "tiny"]
    command += ["--previews", str(tmp_path / "p"), *SMALL, "--steps", "150", "--count", "50", "--device", "cpu"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    (server,) = wait_for(lambda: children(process.pid), "the server")
    wait_for(lambda: list((tmp_path / "p").glob("*.png")), "the first preview")
    os.killpg(process.pid, signal.SIGINT)
    started = time.monotonic()
    assert process.wait(60) == 130
    assert time.monotonic() - started < 30
    assert not alive(server)
    assert not list(tmp_path.glob("*.png")) and not list(tmp_path.glob(".*.tmp"))


def test_models_lists_what_there_is(models: Path) -> None:
    done = run_cli("models", "--json", "--models", models)
    assert done.returncode == 0
    found = {model["name"]: model for model in json.loads(done.stdout)["models"]}
    assert found["tiny"]["usable"] and found["tiny"]["family"] == "sd1" and found["tiny"]["bytes"] > 1000
    assert not found["evil.ckpt"]["usable"] and "convert" in found["evil.ckpt"]["problem"]
    assert "not a model" in found["page"]["problem"] and "cut off" in found["truncated"]["problem"]
    assert run_cli("models", "--models", models).stdout.count("\n") == len(found)
