# SPDX-License-Identifier: GPL-3.0-or-later
"""Upscalers of the extra package: bit for bit what spandrel itself makes of a file, and our own networks as spandrel's.

The tests need spandrel (with einops, without torchvision); `install.py --test` brings it.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from krita_sd.wire.errors import Code, WireError
from server.diffusion import Cancelled, upscale_spandrel
from server.diffusion.upscale import enlarge, load_upscaler, precision
from server.library import upscalers
from server.library.family import detect
from server.library.header import Header
from server.library.memory import WORKSPACE
from tests.engine.conftest import picture
from tests.engine.test_memory import Peak
from tests.engine.test_upscale import Tensors, old_names, random_tensors, rrdb_file

spandrel = upscale_spandrel.package()


def _transformer(**settings: Any) -> dict[str, Any]:
    return {"img_size": 16, "embed_dim": 12, "num_heads": (2,), "mlp_ratio": 2, "window_size": 4, **settings}


NETWORKS: dict[str, Callable[[Any], Any]] = {
    "HAT": lambda of: of.HAT.HAT(
        **_transformer(depths=(2,), upscale=2, upsampler="pixelshuffle", compress_ratio=3, squeeze_factor=4)
    ),
    "SwinIR": lambda of: of.SwinIR.SwinIR(**_transformer(depths=[2], upscale=4, upsampler="nearest+conv")),
    "Swin2SR": lambda of: of.Swin2SR.Swin2SR(**_transformer(depths=[2], upscale=2, upsampler="pixelshuffle")),
    "DAT": lambda of: of.DAT.DAT(
        img_size=16, embed_dim=16, depth=[2], split_size=[4, 8], num_heads=[2], expansion_factor=2, upscale=3
    ),
    "DRCT": lambda of: of.DRCT.DRCT(**_transformer(depths=(2,), upscale=2, upsampler="pixelshuffle", gc=4)),
    "ATD": lambda of: of.ATD.ATD(
        **_transformer(depths=(2,), upscale=2, upsampler="pixelshuffle"),
        num_tokens=8, category_size=32, reducted_dim=4,
    ),
    "OmniSR": lambda of: of.OmniSR.OmniSR(up_scale=2, num_feat=16, res_num=1),
    "PLKSR": lambda of: of.PLKSR.PLKSR(upscaling_factor=2, dim=16, n_blocks=2),
    "SPAN": lambda of: of.SPAN.SPAN(num_in_ch=3, num_out_ch=3, feature_channels=16, upscale=2),
    "SAFMN": lambda of: of.SAFMN.SAFMN(dim=16, n_blocks=1, upscaling_factor=2),
    "SCUNet": lambda of: of.SCUNet.SCUNet(in_nc=3, config=[0, 1, 0, 1, 0, 1, 0], dim=64),
    "CRAFT": lambda of: of.CRAFT.CRAFT(
        embed_dim=12, depths=[2], num_heads=[2], split_size_0=4, split_size_1=4, mlp_ratio=2.0, upscale=2
    ),
    "RGT": lambda of: of.RGT.RGT(
        img_size=16, upscale=2, embed_dim=16, depth=[2], num_heads=[2], mlp_ratio=2, split_size=[4, 8]
    ),
    "ESRGAN+": lambda of: of.ESRGAN.ESRGAN(num_filters=8, num_blocks=1, scale=2, plus=True),
    "RCAN": lambda of: of.RCAN.RCAN(scale=2, n_resgroups=1, n_resblocks=1, n_feats=16),
    "MoSR": lambda of: of.MoSR.MoSR(upscale=2, n_block=2, dim=16),
    "FDAT": lambda of: of.FDAT.FDAT(scale=2, embed_dim=16, num_groups=1, depth_per_group=2, num_heads=2),
    "SwiftSRGAN": lambda of: of.SwiftSRGAN.SwiftSRGAN(num_channels=8, num_blocks=1, upscale_factor=2),
    "SAFMN-BCIE": lambda of: of.SAFMNBCIE.SAFMNBCIE(dim=16),
    "DnCNN": lambda of: of.DnCNN.DnCNN(in_nc=3, out_nc=3, nc=8, nb=17, act_mode="R"),
    "DRUNet": lambda of: of.DRUNet.DRUNet(in_nc=4, out_nc=3, nc=[8, 16, 16, 16], nb=2),
    "NAFNet": lambda of: of.NAFNet.NAFNet(width=8, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1]),
    "KBNet": lambda of: of.KBNet.KBNet_s(width=8, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1]),
    "FFTformer": lambda of: of.FFTformer.FFTformer(dim=8, num_blocks=[1, 1, 1], num_refinement_blocks=1),
}  # fmt: skip


def tensors_of(name: str) -> Tensors:
    """A tiny network of this kind with the random weights that it begins its training with."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = NETWORKS[name](spandrel.architectures)
    return {key: value.detach().clone().contiguous() for key, value in module.state_dict().items()}


def oracle(path: Path, image: np.ndarray) -> np.ndarray:
    """What spandrel's own reader and its own call make of a picture."""
    found = spandrel.ModelLoader().load_from_file(path).eval()
    tensor = torch.from_numpy(image)[None].permute(0, 3, 1, 2).to(torch.float32) / 255.0
    with torch.inference_mode():
        out = found(tensor)[0].permute(1, 2, 0)
    return (out * 255.0).round().to(torch.uint8).numpy()


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_bit_for_bit_what_the_package_makes_of_them(name: str, tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    tensors = tensors_of(name)
    save_file(tensors, path)
    upscaler = load_upscaler(path)
    assert not upscaler.own and upscaler.dtype is torch.float32
    assert upscalers.network_of({key: tuple(value.shape) for key, value in tensors.items()}).title == name  # type: ignore[union-attr]
    image = picture(30, 21)
    out = enlarge(image, 30 * upscaler.scale, 21 * upscaler.scale, upscaler)
    assert out.std() > 1 and np.array_equal(out, oracle(path, image))


@pytest.mark.parametrize("layout", ["new", "old", "trunk", "folded", "compact"])
def test_our_own_networks_are_bit_for_bit_the_packages(layout: str, tmp_path: Path) -> None:
    fold = 2 if layout == "folded" else 1
    tensors = rrdb_file(2, 2, fold, growth=32)  # the package knows no other
    if layout == "old":
        tensors = old_names(tensors, 2, 2)
    elif layout == "trunk":
        names = {"conv_body": "trunk_conv", "conv_hr": "HRconv", "conv_up": "upconv", "body.": "RRDB_trunk."}
        tensors = {_renamed(name, names): value for name, value in tensors.items()}
    elif layout == "compact":
        shapes: dict[str, tuple[int, ...]] = {"body.0.weight": (8, 3, 3, 3), "body.0.bias": (8,)}
        shapes |= {"body.1.weight": (8,), "body.2.weight": (12, 8, 3, 3), "body.2.bias": (12,)}
        tensors = random_tensors(shapes)
    path = tmp_path / "own.safetensors"
    save_file(tensors, path)
    upscaler = load_upscaler(path)
    assert upscaler.own
    image = picture(28, 20)
    tensor = torch.from_numpy(image)[None].permute(0, 3, 1, 2).to(torch.float32) / 255.0
    found = spandrel.ModelLoader().load_from_file(path).eval()
    with torch.inference_mode():
        assert torch.equal(upscaler.run(tensor), found.model(tensor))
    assert np.array_equal(enlarge(image, 28 * found.scale, 20 * found.scale, upscaler), oracle(path, image))


def _renamed(name: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        if name.startswith(old):
            name = new + name.removeprefix(old)
            return name.replace(".rdb", ".RDB")
    return name


def test_wrapped_names_and_progress(tmp_path: Path) -> None:
    tensors = tensors_of("SwinIR")
    save_file(tensors, tmp_path / "plain.safetensors")
    both = {f"params_ema.{name}": value for name, value in tensors.items()}
    both |= {f"params.{name}": torch.zeros_like(value) for name, value in tensors.items()}
    save_file(both, tmp_path / "wrapped.safetensors")
    image, told = picture(16, 16), list[float]()
    plain = enlarge(image, 64, 64, load_upscaler(tmp_path / "plain.safetensors", progress=told.append))
    assert told == sorted(told) and told[-1] == 1.0 and len(told) == len(tensors)
    assert np.array_equal(plain, enlarge(image, 64, 64, load_upscaler(tmp_path / "wrapped.safetensors")))
    with pytest.raises(Cancelled):
        load_upscaler(tmp_path / "plain.safetensors", cancelled=lambda: True)


def test_pieces_progress_and_cancel(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    save_file(tensors_of("SAFMN"), path)
    upscaler, image = load_upscaler(path), picture(100, 60)
    sizes: list[tuple[int, ...]] = []
    run, told = upscaler.run, list[float]()

    def counted(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tuple(tensor.shape[2:]))
        return run(tensor)

    upscaler.run = counted
    out = enlarge(image, 200, 120, upscaler, progress=told.append, side=64)
    # 60 x 100 is 64 x 104 for a network that wants multiples of 8, and one piece is 64 x 64.
    assert out.shape == (120, 200, 3) and sizes == [(64, 64)] * 3 and told == [1 / 3, 2 / 3, 1.0]
    padded = np.pad(image, ((0, 4), (0, 4), (0, 0)), "edge")
    first, last = oracle(path, padded[:, :64]), oracle(path, padded[:, 40:])
    # Between these the neighbours count too.
    assert np.array_equal(out[:, :48], first[:120, :48]) and np.array_equal(out[:, 144:], last[:120, 64:120])
    orders = iter(["", "cancel"])
    with pytest.raises(Cancelled):
        enlarge(image, 200, 120, upscaler, lambda: next(orders), side=64)  # type: ignore[arg-type,return-value]
    assert len(sizes) == 4
    assert enlarge(image, 400, 240, upscaler, progress=told.append, side=64).shape == (240, 400, 3)
    assert told[3:] == sorted(told[3:]) and told[-1] == 1.0


def test_only_tensors_reach_the_package_and_torchvision_stays_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a path was handed on")

    save_file(tensors_of("PLKSR"), tmp_path / "network.safetensors")
    monkeypatch.setattr(torch, "load", never)
    monkeypatch.setattr(spandrel.ModelLoader, "load_from_file", never)
    monkeypatch.setattr(spandrel.ModelLoader, "load_state_dict_from_file", never)
    load_upscaler(tmp_path / "network.safetensors")
    assert all(sys.modules.get(name) is None for name in ("torchvision", "torchvision.transforms"))
    pickled = tmp_path / "network.pth"
    pickled.write_bytes(b"\x80\x04.")
    with pytest.raises(WireError) as caught:
        load_upscaler(pickled)
    assert caught.value.code is Code.MODEL_UNSAFE


@pytest.mark.parametrize("damage", ["missing", "other shape", "made-up number", "grey", "unknown", "absent", "broken"])
def test_files_that_cannot_run_are_one_sentence(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = tensors_of("HAT")
    if damage == "missing":
        del tensors["layers.0.residual_group.blocks.1.mlp.fc2.weight"]
    elif damage == "other shape":
        tensors["conv_after_body.weight"] = torch.zeros(3, 3, 3, 3)
    elif damage == "made-up number":
        tensors["layers.2000000000.norm.weight"] = torch.zeros(1)
    elif damage == "grey":
        tensors["conv_first.weight"] = tensors["conv_first.weight"][:, :1].contiguous()
    elif damage == "unknown":
        tensors = {"conv_first.weight": torch.zeros(4, 3, 3, 3), "own.weight": torch.zeros(4)}
    elif damage == "absent":
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    else:  # it is there, and cannot be imported
        monkeypatch.setattr(upscalers, "extra_present", lambda: True)
        monkeypatch.setitem(sys.modules, "einops", None)
        for module in [name for name in sys.modules if name.partition(".")[0] == "spandrel"]:
            monkeypatch.delitem(sys.modules, module)
    save_file(tensors, tmp_path / "network.safetensors")
    with pytest.raises(WireError) as caught:
        load_upscaler(tmp_path / "network.safetensors")
    corrupt = damage in ("missing", "other shape", "made-up number")
    assert caught.value.code is (Code.MODEL_CORRUPT if corrupt else Code.MODEL_UNSUPPORTED)
    assert "network.safetensors" in caught.value.message
    if damage in ("absent", "broken"):
        assert "is a HAT network" in caught.value.message
        assert "install.py --with upscalers" in caught.value.message


@pytest.mark.parametrize("kind", ["face", "hole", "grey"])
def test_networks_for_other_purposes_are_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real ones are large: the package's description of one, around a small module."""
    module = torch.nn.Conv2d(3, 3, 1)
    about: dict[str, Any] = {"tags": [], "supports_half": True, "supports_bfloat16": True, "architecture": None}
    about |= {"input_channels": 1 if kind == "grey" else 3, "output_channels": 3}
    if kind == "hole":
        found = spandrel.MaskedImageModelDescriptor(module, module.state_dict(), purpose="Inpainting", **about)
    else:
        purpose = "FaceSR" if kind == "face" else "SR"
        found = spandrel.ImageModelDescriptor(module, module.state_dict(), purpose=purpose, scale=1, **about)
    monkeypatch.setattr(spandrel.ModelLoader, "load_from_state_dict", lambda *_: found)
    path = tmp_path / "other.safetensors"
    save_file(tensors_of("SAFMN"), path)
    with pytest.raises(WireError, match="1 channels" if kind == "grey" else "holes or faces") as caught:
        load_upscaler(path)
    assert caught.value.code is Code.MODEL_UNSUPPORTED


def test_noise_of_a_network_is_the_same_every_time() -> None:
    run = upscale_spandrel._run_of(lambda image: image + torch.randn_like(image))
    image = torch.zeros(1, 3, 4, 4)
    first = run(image)
    torch.rand(3)
    state = torch.random.get_rng_state()
    assert torch.equal(run(image), first) and first.std() > 0
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("wanted", "device", "half", "runs"),
    [
        (None, "cpu", True, torch.float32),
        (None, "cuda", True, torch.float16),
        (None, "cuda", False, torch.float32),
        (torch.float16, "cuda", True, torch.float16),
        (torch.bfloat16, "cuda", True, torch.float16),
        (torch.bfloat16, "cuda", False, torch.float32),
        (torch.bfloat16, "cpu", True, torch.float32),
        (torch.float32, "cuda", True, torch.float32),
    ],
)
def test_precisions(wanted: Any, device: str, half: bool, runs: torch.dtype) -> None:
    assert precision(wanted, torch.device(device), half) is runs


def test_networks_run_in_half_precision_where_they_can_and_again_in_full(tmp_path: Path) -> None:
    for name, runs in (("PLKSR", torch.float16), ("SAFMN", torch.float32)):
        save_file(tensors_of(name), tmp_path / f"{name}.safetensors")
        assert load_upscaler(tmp_path / f"{name}.safetensors", dtype=torch.float16).dtype is runs
    # Numbers that float16 cannot hold: the same picture as in float32, instead of none.
    tensors = rrdb_file(1)
    for name, factor in (("conv_up1", 1e4), ("conv_up2", 1e4), ("conv_hr", 1e-3), ("conv_last", 1e-3)):
        tensors[f"{name}.weight"] *= factor
    save_file(tensors, tmp_path / "large.safetensors")
    save_file({name: value.half().float() for name, value in tensors.items()}, tmp_path / "rounded.safetensors")
    upscaler = load_upscaler(tmp_path / "large.safetensors", dtype=torch.float16)
    assert upscaler.dtype is torch.float16
    out = enlarge(picture(20, 20), 80, 80, upscaler)
    assert upscaler.dtype is torch.float32 and out.std() > 0
    assert np.array_equal(out, enlarge(picture(20, 20), 80, 80, load_upscaler(tmp_path / "rounded.safetensors")))


def _alternatives(condition: Any) -> Iterator[tuple[str, ...]]:
    """Every set of tensor names that meets a condition of the package."""
    parts = [[(key,)] if isinstance(key, str) else list(_alternatives(key)) for key in condition._keys]
    if condition._kind == "any":
        yield from itertools.chain(*parts)
    else:
        yield from (tuple(itertools.chain(*chosen)) for chosen in itertools.product(*parts))


NO_UPSCALERS = {"GFPGAN", "RestoreFormer", "LaMa"}
"""For faces and for holes."""


def test_the_library_knows_every_network_of_the_package_by_its_names() -> None:
    titles: dict[str, set[str]] = {}
    for row in spandrel.MAIN_REGISTRY:
        for names in _alternatives(row.architecture._detect):
            shapes: dict[str, tuple[int, ...]] = dict.fromkeys(names, (64, 3, 3, 3))
            network = upscalers.network_of(shapes)
            assert (network is None) is (row.architecture.id in NO_UPSCALERS), row.architecture.id
            if network is not None:
                assert network.title and detect(Header(shapes)).kind == "upscaler", row.architecture.id
                titles.setdefault(row.architecture.id, set()).add(network.title)
    own = {id for id, found in titles.items() if found & {"ESRGAN", "Real-ESRGAN compact"}}
    assert own == {"ESRGAN", "Compact"} and len(titles) == len(spandrel.MAIN_REGISTRY) - len(NO_UPSCALERS)
    # Nobody's name is on two architectures.
    every = [title for found in titles.values() for title in found]
    assert len(every) == len(set(every))


def test_what_a_piece_needs() -> None:
    """Traced on full-size networks without values; blocks beyond the second repeat it."""
    side = 128
    most = 0.0
    of = spandrel.architectures
    large: dict[str, Any] = {"img_size": 64, "embed_dim": 180, "window_size": 16, "mlp_ratio": 2, "upscale": 4}
    hat = of.HAT.HAT(**large, depths=(2, 2), num_heads=(6, 6), compress_ratio=3, squeeze_factor=30,
                     upsampler="pixelshuffle")  # fmt: skip
    for module, own in ((hat, False), (of.ESRGAN.ESRGAN(num_blocks=1, scale=4), True)):
        module = module.eval().to("meta")
        with torch.device("meta"), torch.inference_mode(), Peak() as traced:
            module(torch.empty(1, 3, side, side))
        needed = upscalers.piece_bytes(side, 4, own, 4) / WORKSPACE
        assert 0.9 * needed < traced.most < 1.02 * needed
        most = max(most, needed)
    assert upscalers.piece_side(0, 4, False, 4) == 256 == upscalers.piece_side(2**40, 4, False, 4)
    sides = [upscalers.piece_side(upscalers.piece_bytes(side, 4, False, 4), 4, False, 4) for side in upscalers.SIDES]
    assert sides == list(upscalers.SIDES) and upscalers.piece_side(1, 4, False, 4) == 64
