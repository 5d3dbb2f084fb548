# SPDX-License-Identifier: GPL-3.0-or-later
"""One command for the whole model: python -m server.pocket.training --out DIR [--device auto] [--stage NAME ...].

Each step leaves its result in DIR/work and is skipped or resumed when it is run again. The finished model is
DIR/model, measured, with metrics.json.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from . import curriculum, dataset, evaluate, export, text, tiny_decoder, tokenizer, unet, vae

VAE_STEPS, TEXT_STEPS, TINY_STEPS = 720, 700, 400
PARTS = ("tokenizer", "text", "vae", "sets", *curriculum.STAGES, "tiny", "export", "evaluate")


def load_vae(work: Path, name: str = "vae") -> AutoencoderKL:
    model = AutoencoderKL.from_pretrained(str((work / name).resolve()), local_files_only=True)
    return model.eval().to(memory_format=torch.channels_last)


def load_text(work: Path) -> tuple[CLIPTokenizer, CLIPTextModel]:
    root = work.resolve()
    encoder = CLIPTextModel.from_pretrained(str(root / "text_encoder"), local_files_only=True).eval()
    return CLIPTokenizer.from_pretrained(str(root / "tokenizer"), local_files_only=True), encoder


def load_unet(work: Path, stage: str) -> UNet2DConditionModel:
    """The averaged weights that a stage ended with."""
    model = unet.build()
    model.load_state_dict(torch.load(work / f"{stage}.pt", map_location="cpu", weights_only=True)["average"])
    return model.eval()


def make_sets(work: Path, names: list[str]) -> None:
    encoder = load_vae(work)
    words, reader = load_text(work)
    for name in names:
        chosen = curriculum.SETS[name]
        seed = 100 + curriculum.ORDER[name]
        dataset.make_set(work, name, chosen.recipe, chosen.count, chosen.width, chosen.height, encoder, seed)
        dataset.make_texts(work, name, words, reader)


def train_stage(work: Path, name: str, device: str) -> None:
    stages = list(curriculum.STAGES)
    stage = curriculum.STAGES[name]
    torch.manual_seed(7)
    before = stages.index(name) - 1
    model = load_unet(work, stages[before]) if before >= 0 else unet.build()
    sets = {part: dataset.Latents(work, part) for shares, _, _ in stage.mixtures for part in shares}
    mixtures = [
        (dataset.Mixture([(sets[part], share) for part, share in shares.items()]), often, batch)
        for shares, often, batch in stage.mixtures
    ]
    seed = 11 + stages.index(name)
    pace: dict[str, Any] = {"muon_lr": stage.muon_lr, "decay": stage.decay, "falling": stage.falling}
    model = unet.train(work, name, model, mixtures, stage.steps, seed, device=device, **pace)
    if "shape" in sets:
        print(f"{name}: a wrong shape word raises the loss by {unet.swap_gap(model.cpu(), sets['shape']):.0%}")


def write_model(work: Path, out: Path) -> None:
    tiny = None
    if (work / "taesd").exists():
        tiny = AutoencoderTiny.from_pretrained(str((work / "taesd").resolve()), local_files_only=True)
    chosen = load_unet(work, curriculum.SHIPPED)
    export.export(out, chosen, load_vae(work), load_text(work)[1], work / "tokenizer", tiny)


def run(part: str, out: Path, device: str) -> None:
    """One part of the recipe."""
    work = out / "work"
    work.mkdir(parents=True, exist_ok=True)
    if part == "tokenizer":
        tokenizer.build(work / "tokenizer")
    elif part == "text":
        words = CLIPTokenizer.from_pretrained(str((work / "tokenizer").resolve()), local_files_only=True)
        text.train(work, words, TEXT_STEPS)
    elif part == "vae":
        vae.train(work, VAE_STEPS)
    elif part == "sets":
        used = {n for s in curriculum.STAGES.values() for shares, _, _ in s.mixtures for n in shares}
        make_sets(work, [name for name in curriculum.SETS if name in used])
    elif part in curriculum.STAGES:
        train_stage(work, part, device)
    elif part == "tiny":
        tiny_decoder.train(work, load_vae(work), TINY_STEPS)
    elif part == "export":
        write_model(work, out / "model")
    elif part == "evaluate":
        evaluate.main(out / "model")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m server.pocket.training", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the work in progress and the model")
    parser.add_argument("--device", default="auto", help="where the UNet trains: auto, cpu, cuda, ...")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: as torch likes)")
    parser.add_argument("--stage", nargs="+", choices=PARTS, default=list(PARTS), help="only these parts, in order")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    for part in options.stage:
        began = time.monotonic()
        print(f"== {part}", flush=True)
        run(part, options.out, device)
        print(f"== {part}: {(time.monotonic() - began) / 60:.1f} min", flush=True)


if __name__ == "__main__":
    main()
