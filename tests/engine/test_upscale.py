# SPDX-License-Identifier: GPL-3.0-or-later
"""Enlarging: exact sizes, upscaler files in every layout against a plain computation, pieces without seams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import conv2d, interpolate, leaky_relu, pixel_shuffle, pixel_unshuffle, prelu

from krita_sd.wire.errors import Code, WireError
from server.diffusion import Cancelled
from server.diffusion.upscale import enlarge, load_upscaler
from tests.engine.conftest import picture

Tensors = dict[str, torch.Tensor]
WIDTH, GROWTH = 8, 4


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes.items()}


def rrdb_file(blocks: int = 2, doublings: int = 2, fold: int = 1, growth: int = GROWTH) -> Tensors:
    """Random weights in the newer layout (Real-ESRGAN)."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, inputs: int, outputs: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs, 3, 3), (outputs,)

    layer("conv_first", 3 * fold * fold, WIDTH)
    for block in range(blocks):
        for dense in (1, 2, 3):
            for conv in range(1, 6):
                outputs = WIDTH if conv == 5 else growth
                layer(f"body.{block}.rdb{dense}.conv{conv}", WIDTH + (conv - 1) * growth, outputs)
    for name in ("conv_body", *(f"conv_up{number + 1}" for number in range(doublings)), "conv_hr"):
        layer(name, WIDTH, WIDTH)
    layer("conv_last", WIDTH, 3)
    return random_tensors(shapes)


def old_names(tensors: Tensors, blocks: int, doublings: int) -> Tensors:
    """The same weights under ESRGAN's first names."""
    last = 4 + 3 * doublings
    places = {"conv_first": "model.0", "conv_body": f"model.1.sub.{blocks}"}
    places |= {"conv_hr": f"model.{last - 2}", "conv_last": f"model.{last}"}
    places |= {f"conv_up{number + 1}": f"model.{3 + 3 * number}" for number in range(doublings)}
    out: Tensors = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        if parts[0] == "body":
            out[f"model.1.sub.{parts[1]}.{parts[2].upper()}.{parts[3]}.0.{parts[4]}"] = tensor
        else:
            out[f"{places[parts[0]]}.{parts[1]}"] = tensor
    return out


def reference(tensors: Tensors, image: torch.Tensor, fold: int = 1) -> torch.Tensor:
    """The network written down a second time, with plain functions on the file's own names."""

    def conv(name: str, inputs: torch.Tensor) -> torch.Tensor:
        return conv2d(inputs, tensors[f"{name}.weight"], tensors[f"{name}.bias"], padding=1)

    first = conv("conv_first", pixel_unshuffle(image, fold) if fold > 1 else image)
    out = first
    blocks = len({name.split(".")[1] for name in tensors if name.startswith("body.")})
    for block in range(blocks):
        entering = out
        for dense in (1, 2, 3):
            home = f"body.{block}.rdb{dense}.conv"
            a = leaky_relu(conv(home + "1", out), 0.2)
            b = leaky_relu(conv(home + "2", torch.cat([out, a], 1)), 0.2)
            c = leaky_relu(conv(home + "3", torch.cat([out, a, b], 1)), 0.2)
            d = leaky_relu(conv(home + "4", torch.cat([out, a, b, c], 1)), 0.2)
            out = out + 0.2 * conv(home + "5", torch.cat([out, a, b, c, d], 1))
        out = entering + 0.2 * out
    out = first + conv("conv_body", out)
    number = 1
    while f"conv_up{number}.weight" in tensors:
        out = leaky_relu(conv(f"conv_up{number}", interpolate(out, scale_factor=2, mode="nearest")), 0.2)
        number += 1
    return conv("conv_last", leaky_relu(conv("conv_hr", out), 0.2))


def loaded_output(path: Path, image: torch.Tensor) -> tuple[int, torch.Tensor]:
    upscaler = load_upscaler(path)
    with torch.inference_mode():
        return upscaler.scale, upscaler.module(image)


@pytest.mark.parametrize(("doublings", "fold", "scale"), [(2, 1, 4), (1, 1, 2), (2, 2, 2), (2, 4, 1), (3, 1, 8)])
def test_rrdb_networks_in_both_layouts(doublings: int, fold: int, scale: int, tmp_path: Path) -> None:
    tensors = rrdb_file(2, doublings, fold)
    save_file(tensors, tmp_path / "new.safetensors")
    save_file(old_names(tensors, 2, doublings), tmp_path / "old.safetensors")
    save_file({f"params_ema.{name}": value for name, value in tensors.items()}, tmp_path / "wrapped.safetensors")
    image = torch.rand(1, 3, 12, 16, generator=torch.Generator().manual_seed(1))
    wanted = reference(tensors, image, fold)
    assert wanted.shape == (1, 3, 12 * scale, 16 * scale)
    for name in ("new", "old", "wrapped"):
        found, out = loaded_output(tmp_path / f"{name}.safetensors", image)
        assert found == scale and torch.allclose(out, wanted, atol=1e-6), name


def test_compact_networks(tmp_path: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {"body.0.weight": (WIDTH, 3, 3, 3), "body.0.bias": (WIDTH,)}
    shapes |= {"body.1.weight": (WIDTH,), "body.2.weight": (WIDTH, WIDTH, 3, 3), "body.2.bias": (WIDTH,)}
    shapes |= {"body.3.weight": (WIDTH,), "body.4.weight": (27, WIDTH, 3, 3), "body.4.bias": (27,)}
    tensors = random_tensors(shapes)
    save_file(tensors, tmp_path / "compact.safetensors")
    image = torch.rand(1, 3, 10, 8)
    out = conv2d(image, tensors["body.0.weight"], tensors["body.0.bias"], padding=1)
    out = prelu(out, tensors["body.1.weight"])
    out = prelu(conv2d(out, tensors["body.2.weight"], tensors["body.2.bias"], padding=1), tensors["body.3.weight"])
    out = pixel_shuffle(conv2d(out, tensors["body.4.weight"], tensors["body.4.bias"], padding=1), 3)
    wanted = out + image.repeat_interleave(3, 2).repeat_interleave(3, 3)
    scale, found = loaded_output(tmp_path / "compact.safetensors", image)
    assert scale == 3 and torch.allclose(found, wanted, atol=1e-6)


@pytest.fixture
def double(tmp_path: Path) -> Any:
    """An upscaler for twice the size that resembles its input: random weights on top of a copy."""
    tensors = rrdb_file(1, 2, 2)
    save_file(tensors, tmp_path / "double.safetensors")
    return load_upscaler(tmp_path / "double.safetensors")


@pytest.mark.parametrize("size", [(300, 300), (37, 91), (64, 64), (65, 20), (20, 30)], ids=str)
@pytest.mark.parametrize("with_model", [False, True])
def test_sizes_are_exact(size: tuple[int, int], with_model: bool, double: Any) -> None:
    out = enlarge(picture(31, 45), *size, double if with_model else None)
    assert out.shape == (size[1], size[0], 3) and out.dtype == np.uint8


def test_plain_enlarging_keeps_flat_colours_and_places() -> None:
    flat = np.full((20, 30, 3), (10, 200, 90), np.uint8)
    assert (enlarge(flat, 3000 // 10, 200) == (10, 200, 90)).all()
    half = np.zeros((40, 40, 3), np.uint8)
    half[:, 20:] = 255
    out = enlarge(half, 120, 120)[60, :, 0]
    assert out[55] < 10 and out[64] > 245 and abs(int(out[59]) + int(out[60]) - 255) <= 2
    same = picture()
    assert np.array_equal(enlarge(same, 64, 64), same)


def test_pieces_are_the_whole(double: Any) -> None:
    image = picture(150, 90)
    whole = enlarge(image, 300, 180, double)
    calls: list[int] = []
    handle = double.module.register_forward_pre_hook(lambda *_: calls.append(1))
    pieces = enlarge(image, 300, 180, double, side=64)
    assert len(calls) == 4 * 2
    handle.remove()
    # At their borders pieces see less of the picture; there they count least.
    assert np.abs(whole.astype(int) - pieces).max() <= 2
    with pytest.raises(Cancelled):
        enlarge(image, 300, 180, double, lambda: "cancel")


def test_an_upscaler_is_run_again_until_the_size_is_reached(double: Any) -> None:
    calls: list[int] = []
    handle = double.module.register_forward_pre_hook(lambda *_: calls.append(1))
    assert enlarge(picture(20, 20), 75, 75, double).shape == (75, 75, 3)
    handle.remove()
    assert len(calls) == 2


@pytest.mark.parametrize("damage", ["cut", "other", "gone", "unsafe", "missing"])
def test_upscalers_that_cannot_be_used_are_one_sentence(damage: str, tmp_path: Path) -> None:
    path = tmp_path / ("up.pth" if damage == "unsafe" else "up.safetensors")
    tensors = rrdb_file(1)
    if damage == "missing":
        del tensors["body.0.rdb2.conv3.bias"]
    save_file({"x": torch.zeros(2)} if damage == "other" else tensors, path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "gone":
        path.unlink()
    wanted = {
        "cut": Code.MODEL_CORRUPT,
        "missing": Code.MODEL_CORRUPT,
        "other": Code.MODEL_UNSUPPORTED,
        "gone": Code.MODEL_MISSING,
        "unsafe": Code.MODEL_UNSAFE,
    }
    with pytest.raises(WireError) as caught:
        load_upscaler(path)
    assert caught.value.code is wanted[damage] and path.name in caught.value.message
