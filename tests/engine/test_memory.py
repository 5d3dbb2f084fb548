# SPDX-License-Identifier: GPL-3.0-or-later
"""The estimate of memory: its numbers are traced on full-size models without values, its ladder only goes down."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from server.library import memory
from server.library.memory import Load, Weights

SD15 = Weights(859_520_964, 123_060_480, 83_653_863)
GB = 1024**3


class Peak(TorchDispatchMode):
    """Bytes of all tensors made inside that are alive at once: the most of it."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self.now = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage()._cdata not in self._alive:
                self._watch(leaf.untyped_storage())
        self.most = max(self.most, self.now)
        return out

    def _watch(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._alive.add(key)
        self.now += size

        def freed() -> None:
            self._alive.discard(key)
            self.now -= size

        weakref.finalize(storage, freed)


def half(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, dtype=torch.float16)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_what_a_unet_needs_per_cell(family: str) -> None:
    from diffusers import UNet2DConditionModel

    side = 32
    with torch.device("meta"), torch.inference_mode():
        if family == "sd1":
            unet = UNet2DConditionModel(cross_attention_dim=768).half()
            inputs, extra = (half(2, 4, side, side), torch.tensor(5), half(2, 77, 768)), {}
        else:
            unet = UNet2DConditionModel(
                cross_attention_dim=2048,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                block_out_channels=(320, 640, 1280),
                transformer_layers_per_block=(1, 2, 10),
                attention_head_dim=(5, 10, 20),
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=256,
                projection_class_embeddings_input_dim=2816,
            ).half()
            added = {"text_embeds": half(2, 1280), "time_ids": half(2, 6)}
            inputs, extra = (half(2, 4, side, side), torch.tensor(5), half(2, 77, 2048)), {"added_cond_kwargs": added}
        with Peak() as traced:
            unet(*inputs, return_dict=False, **extra)
    per_cell = traced.most / 2 / (2 * side * side)
    assert memory.CELL_ELEMENTS[family] == pytest.approx(per_cell, rel=0.05)


def test_what_an_autoencoder_needs_per_pixel() -> None:
    from diffusers import AutoencoderKL

    with torch.device("meta"), torch.inference_mode():
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        ).half()
        with Peak() as decoding:
            vae.decode(half(1, 4, 64, 64), return_dict=False)
        with Peak() as encoding:
            vae.encode(half(1, 3, 512, 512), return_dict=False)
    assert memory.DECODE_ELEMENTS == pytest.approx(decoding.most / 2 / 512**2, rel=0.05)
    assert encoding.most < decoding.most


loads = st.builds(
    Load,
    st.sampled_from(["sd1", "sdxl", "flux1"]),
    st.builds(Weights, *[st.integers(1, 2 * 10**10)] * 3),
    st.integers(8, 8192),
    st.integers(8, 8192),
    st.booleans(),
    st.sampled_from([2, 4]),
)


@given(loads)
def test_every_rung_needs_no_more_than_the_one_above(load: Load) -> None:
    needs = [memory.peak(load, rung) for rung in memory.RUNGS]
    assert needs == sorted(needs, reverse=True)


@given(loads, st.integers(1, 2**40), st.integers(1, 2**40), st.booleans())
def test_less_free_memory_never_leads_up_the_ladder(load: Load, one: int, other: int, offloading: bool) -> None:
    much, little = (memory.judge(load, free, offloading) for free in (max(one, other), min(one, other)))
    assert memory.RUNGS.index(little.rung) >= memory.RUNGS.index(much.rung)
    for verdict in (much, little):
        assert (verdict.needed <= verdict.free) == (verdict.verdict != "too_big")


def test_known_cards() -> None:
    """SD 1.5 at 512^2 is known to run whole on 6 GB; SDXL at 1024^2 in half precision only with offloading."""
    assert memory.judge(Load("sd1", SD15, 512, 512), 6 * GB).rung == "full"
    xl = Load("sdxl", Weights(2_567_463_684, 817_719_552, 83_653_863), 1024, 1024)
    assert memory.judge(xl, 16 * GB).rung == "full"
    assert memory.judge(xl, 6 * GB).verdict == "offloads"
    flux = Load("flux1", Weights(11_901_408_320, 4_885_000_000, 84_000_000), 1024, 1024, pair=False)
    assert memory.judge(flux, 24 * GB).rung in ("encoders", "model")
    assert memory.judge(flux, 1 * GB).verdict == "too_big"


def test_only_the_autoencoder_works_by_tiles_where_only_its_pixels_are_too_many() -> None:
    """SDXL at 2048^2 on 8 GB: nothing else of it needs to be cut."""
    xl = Load("sdxl", Weights(2_567_463_684, 817_719_552, 83_653_863), 2048, 2048)
    assert memory.peak(xl, "model") > 8 * GB >= memory.peak(xl, "model", tiled=True)
    verdict = memory.judge(xl, 8 * GB)
    assert (verdict.rung, verdict.tiled, verdict.verdict) == ("model", True, "offloads") and "by tiles" in verdict.text
    assert not memory.judge(xl, 64 * GB).tiled and memory.judge(xl, 4 * GB).rung != "model"


def test_the_verdict_is_one_sentence_with_both_numbers() -> None:
    verdict = memory.judge(Load("sd1", SD15, 512, 512), 6 * GB)
    assert verdict.text.startswith("Fits") and "6.0 GB" in verdict.text
    too_big = memory.judge(Load("sd1", SD15, 4096, 4096), GB)
    assert too_big.verdict == "too_big" and "Choose a smaller" in too_big.text
    assert memory.judge(Load("sd1", SD15, 512, 512), 0).verdict == "unknown"


def test_the_ladder_has_a_foot() -> None:
    rung, seen = "full", []
    while rung is not None:
        seen.append(rung)
        rung = memory.next_rung(rung)  # type: ignore[assignment]
    assert seen == list(memory.RUNGS)
    assert memory.next_rung("full", offloading=False) == "tiled" and memory.next_rung("tiled", offloading=False) is None


def test_parts_are_told_apart_by_headers(pocket_folder: Path, tmp_path: Path) -> None:
    from tests.tiny import make_file, make_model

    folder = memory.weights_of(make_model(tmp_path / "folder"))
    file = memory.weights_of(make_file(tmp_path / "model.safetensors"))
    assert folder.denoiser and folder.encoders and folder.autoencoder
    assert (file.denoiser, file.autoencoder) == (folder.denoiser, folder.autoencoder)
    embedded = memory.weights_of(pocket_folder)
    assert embedded.denoiser == pytest.approx(7.33e6, rel=0.01)


@pytest.fixture()
def pocket_folder() -> Path:
    return Path(__file__).resolve().parents[2] / "server" / "pocket"
