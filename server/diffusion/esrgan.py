# SPDX-License-Identifier: GPL-3.0-or-later
"""ESRGAN-type upscalers out of safetensors files: RRDB networks in their three layouts, and Real-ESRGAN's compact ones.

Wang et al., "ESRGAN", 2018; "Real-ESRGAN", 2021. What the file holds is read off tensor names and shapes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate, leaky_relu, pixel_unshuffle

from server.library.upscalers import bare

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class RrdbShape:
    """Sizes of an RRDB network: blocks, channels, growth, doublings, and pixels that the input folds into channels."""

    blocks: int
    channels: int
    growth: int
    doublings: int
    fold: int


class _DenseBlock(nn.Module):
    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        for number in range(1, 6):
            out = channels if number == 5 else growth
            setattr(self, f"conv{number}", nn.Conv2d(channels + (number - 1) * growth, out, 3, padding=1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        known = [inputs]
        for number in range(1, 5):
            known.append(leaky_relu(getattr(self, f"conv{number}")(torch.cat(known, 1)), 0.2))
        last: torch.Tensor = self.conv5(torch.cat(known, 1))
        return inputs + 0.2 * last


class _Block(nn.Module):
    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        for number in range(1, 4):
            setattr(self, f"rdb{number}", _DenseBlock(channels, growth))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.rdb3(self.rdb2(self.rdb1(inputs)))
        return inputs + 0.2 * out


class Rrdb(nn.Module):
    """Residual-in-residual dense blocks, then doublings by nearest neighbour, each followed by a convolution."""

    def __init__(self, shape: RrdbShape) -> None:
        super().__init__()
        width = shape.channels
        self.fold = shape.fold
        self.scale = 2**shape.doublings // shape.fold
        self.conv_first = nn.Conv2d(3 * shape.fold**2, width, 3, padding=1)
        self.body = nn.Sequential(*(_Block(width, shape.growth) for _ in range(shape.blocks)))
        self.conv_body = nn.Conv2d(width, width, 3, padding=1)
        self.ups = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(shape.doublings))
        self.conv_hr = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        inputs = self.conv_first(pixel_unshuffle(image, self.fold) if self.fold > 1 else image)
        out = inputs + self.conv_body(self.body(inputs))
        for up in self.ups:
            out = leaky_relu(up(interpolate(out, scale_factor=2.0, mode="nearest")), 0.2)
        finished: torch.Tensor = self.conv_last(leaky_relu(self.conv_hr(out), 0.2))
        return finished


class Compact(nn.Module):
    """A plain row of convolutions whose last one holds the fine pixels; added to the enlarged picture."""

    def __init__(self, convolutions: int, channels: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1)]
        for _ in range(convolutions - 2):
            layers += [nn.PReLU(channels), nn.Conv2d(channels, channels, 3, padding=1)]
        layers += [nn.PReLU(channels), nn.Conv2d(channels, 3 * scale**2, 3, padding=1)]
        self.body = nn.Sequential(*layers)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        fine: torch.Tensor = nn.functional.pixel_shuffle(self.body(image), self.scale)
        return fine + interpolate(image, scale_factor=float(self.scale), mode="nearest")


_TRUNK = {"trunk_conv": "conv_body", "HRconv": "conv_hr"}
_OLD_DENSE = re.compile(r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.(weight|bias)")


def network(shapes: Shapes) -> tuple[Any, dict[str, str]]:
    """(a function that makes the empty network, its tensor names -> names in the file).

    Raises KeyError or ValueError when the file holds no network of these kinds.
    """
    plain = bare(shapes)
    found = {name: shapes[stored] for name, stored in plain.items()}
    if "model.0.weight" in found and any(name.startswith("model.1.sub.") for name in found):
        renamed = {_from_old(name, _last(found)): stored for name, stored in plain.items()}
        return _rrdb(renamed, shapes)
    if "conv_first.weight" in found:
        renamed = {_from_new(name): stored for name, stored in plain.items()}
        return _rrdb(renamed, shapes)
    if len(found.get("body.0.weight", ())) == 4 and len(found.get("body.1.weight", ())) == 1:
        return _compact(plain, found)
    raise ValueError("not an upscaler")


def _rrdb(names: dict[str, str], shapes: Shapes) -> tuple[Any, dict[str, str]]:
    first = shapes[names["conv_first.weight"]]
    blocks = len({name.split(".")[1] for name in names if name.startswith("body.")})
    growth = shapes[names["body.0.rdb1.conv1.weight"]][0]
    doublings = sum(1 for name in names if re.fullmatch(r"ups\.\d+\.weight", name))
    fold = math.isqrt(first[1] // 3)
    if 3 * fold * fold != first[1] or fold not in (1, 2, 4) or 2**doublings < fold:
        raise ValueError("not an upscaler for RGB pictures")
    shape = RrdbShape(blocks, first[0], growth, doublings, fold)
    return lambda: Rrdb(shape), names


def _compact(names: dict[str, str], found: Shapes) -> tuple[Any, dict[str, str]]:
    convolutions = sum(1 for shape in found.values() if len(shape) == 4)
    last = max(int(name.split(".")[1]) for name in found)
    scale = math.isqrt(found[f"body.{last}.weight"][0] // 3)
    channels = found["body.0.weight"][0]
    return lambda: Compact(convolutions, channels, scale), names


def _last(found: Shapes) -> int:
    """Number of the last layer in the old layout: 4 without doubling, 3 more for each."""
    return max(int(name.split(".")[1]) for name in found)


def _from_old(name: str, last: int) -> str:
    if match := _OLD_DENSE.fullmatch(name):
        return f"body.{match[1]}.rdb{match[2]}.conv{match[3]}.{match[4]}"
    if match := re.fullmatch(r"model\.1\.sub\.\d+\.(weight|bias)", name):
        return f"conv_body.{match[1]}"
    match = re.fullmatch(r"model\.(\d+)\.(weight|bias)", name)
    if match is None:
        raise KeyError(name)
    number = int(match[1])
    places = {0: "conv_first", last: "conv_last", last - 2: "conv_hr"}
    return f"{places.get(number, f'ups.{number // 3 - 1}')}.{match[2]}"


def _from_new(name: str) -> str:
    """The names of BSRGAN and RealSR (`RRDB_trunk`, `trunk_conv`, ...) are taken too."""
    home, _, rest = name.partition(".")
    if home == "RRDB_trunk":
        return f"body.{rest.replace('RDB', 'rdb')}"
    if home in _TRUNK:
        return f"{_TRUNK[home]}.{rest}"
    return re.sub(r"^(?:conv_up|upconv)(\d)\.", lambda match: f"ups.{int(match[1]) - 1}.", name)
