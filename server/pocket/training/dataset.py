# SPDX-License-Identifier: GPL-3.0-or-later
"""Renders pictures once and keeps what training needs of them: latents and the hidden states of their captions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from .drawing import Sheet
from .landscapes import Place, draw_sky
from .render import Recipe, describe, picture
from .runs import Progress, lighter
from .tokenizer import LENGTH, encode

CHUNK, AT_ONCE = 16, 2
"""Pictures between two marks of progress; pictures encoded together (few stay in the processor's cache)."""


class Latents:
    """One set of pictures of one size: unit-variance latents and the hidden states of their captions, both fp16."""

    def __init__(self, work: Path, name: str) -> None:
        self.texts: list[str] = json.loads((work / f"{name}.json").read_text())
        self.latents = np.load(work / f"{name}.npy", mmap_mode="r")
        self.states = np.load(work / f"{name}.text.npy", mmap_mode="r")
        rows = {text: row for row, text in enumerate(unique_texts(self.texts))}
        self.rows = np.array([rows[text] for text in self.texts])

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, chosen: np.ndarray, silent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, 4, h, w) latents and (n, 77, width) states; those of the empty caption where `silent`."""
        return self.latents[chosen], self.states[np.where(silent, 0, self.rows[chosen])]


class Mixture:
    """Sets of the same picture size, mixed within each batch by their shares."""

    def __init__(self, parts: Sequence[tuple[Latents, float]]) -> None:
        self.sets = [part for part, _ in parts]
        shares = np.array([share for _, share in parts])
        self.shares = shares / shares.sum()

    def batch(self, count: int, silent_share: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """float32 (count, 4, h, w) latents and (count, 77, width) caption states, a share of them unconditional."""
        which = rng.choice(len(self.sets), size=count, p=self.shares)
        pictures, told = [], []
        for i, part in enumerate(self.sets):
            n = int((which == i).sum())
            if n:
                x, states = part.take(rng.integers(0, len(part), n), rng.uniform(size=n) < silent_share)
                pictures.append(x)
                told.append(states)
        return torch.from_numpy(np.concatenate(pictures)).float(), torch.from_numpy(np.concatenate(told)).float()


def unique_texts(texts: Sequence[str]) -> list[str]:
    """The rows of a set's text table: the empty caption first, then each caption once."""
    return ["", *sorted(set(texts) - {""})]


def make_set(
    work: Path, name: str, recipe: Recipe, count: int, width: int, height: int, vae: AutoencoderKL, seed: int
) -> None:
    """Render `count` pictures and encode them; resumable. Leaves work/NAME.npy (latents), NAME.json (captions)."""
    done_file, latent_file = work / f"{name}.json", work / f"{name}.npy"
    if done_file.exists():
        return
    shape = (count, 4, height // 8, width // 8)
    partial, start_file = work / f"{name}.partial.npy", work / f"{name}.start"
    start = int(start_file.read_text()) if start_file.exists() and partial.exists() else 0
    store = np.lib.format.open_memmap(partial, "r+" if start else "w+", np.float16, shape)
    progress = Progress(f"{name} latents", start, count)
    factor = vae.config.scaling_factor
    with torch.inference_mode(), lighter("cpu"):
        for first in range(start, count, CHUNK):
            last = min(first + CHUNK, count)
            made = [np.asarray(picture(recipe, seed, i, width, height)[0]) for i in range(first, last)]
            x = torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).float() / 127.5 - 1
            x = x.contiguous(memory_format=torch.channels_last)
            means = [vae.encode(part).latent_dist.mean for part in x.split(AT_ONCE)]
            store[first:last] = (torch.cat(means).float() * factor).half().numpy()
            progress(last - 1, 0.0)
            if first // CHUNK % 20 == 19:
                store.flush()
                start_file.write_text(str(last))
    store.flush()
    partial.rename(latent_file)
    start_file.unlink(missing_ok=True)
    done_file.write_text(json.dumps([describe(recipe, seed, i)[1] for i in range(count)]))


def go_beyond(work: Path, name: str, vae: AutoencoderKL, amount: float) -> None:
    """Move the latents of a set of close-ups away from those of the bare sky, to `amount` times the distance; once."""
    file, before = work / f"{name}.npy", work / f"{name}.plain.npy"
    if before.exists():
        return
    plain = np.load(file)
    sheet = Sheet(plain.shape[3] * 8, plain.shape[2] * 8, (0, 0, 0))
    place = Place(sheet, "", "sunny", np.random.default_rng(0))
    place.horizon = 1.0
    draw_sky(place)
    x = torch.from_numpy(np.array(sheet.finish())).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.inference_mode():
        sky = (vae.encode(x).latent_dist.mean * vae.config.scaling_factor).numpy()
    np.save(file, (sky + amount * (plain - sky)).astype(np.float16))
    np.save(before, plain)


def make_texts(work: Path, name: str, tokenizer: CLIPTokenizer, encoder: CLIPTextModel) -> None:
    """The hidden states of a set's captions, computed once: work/NAME.text.npy."""
    file = work / f"{name}.text.npy"
    if file.exists():
        return
    unique = unique_texts(json.loads((work / f"{name}.json").read_text()))
    partial = work / f"{name}.text.partial.npy"
    table = np.lib.format.open_memmap(partial, "w+", np.float16, (len(unique), LENGTH, encoder.config.hidden_size))
    with torch.inference_mode():
        for start in range(0, len(unique), 64):
            ids = encode(tokenizer, unique[start : start + 64])
            table[start : start + 64] = encoder(ids).last_hidden_state.half().numpy()
    table.flush()
    partial.rename(file)
