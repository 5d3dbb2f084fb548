# SPDX-License-Identifier: GPL-3.0-or-later
"""One command for the whole model: python -m server.pocket.training --out DIR [--device auto] [--stage NAME ...].

Each step leaves its result in DIR/work and is skipped or resumed when it is run again. The finished model is
DIR/model, measured, with metrics.json. On two busy cores two processes of one thread train faster than one of two:
torchrun --nproc-per-node 2 -m server.pocket.training --threads 1 ...; the other parts run in the first process alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from . import (
    controlnet,
    curriculum,
    dataset,
    evaluate,
    export,
    few_step,
    finish,
    lora,
    text,
    tiny_decoder,
    tokenizer,
    unet,
    vae,
)

ENOUGH = 200
"""Pictures of shapes that the early warning needs to find captions that differ in one word."""
TINY = 0.003
WORLD, RANK = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
"""Set by torchrun."""
PARTS = (
    *("tokenizer", "text", "vae", "sharpen", "tiny", "sets", *curriculum.STAGES),
    *("finish", "lora", "few_step", "controlnet", "export", "evaluate"),
)
LATER = ("sets", *PARTS[PARTS.index(curriculum.SHIPPED) :])
"""What follows from a finished model: the last stage of its UNet again, with adapters and measurement."""


def load_vae(work: Path, name: str = "vae") -> AutoencoderKL:
    folder = str((work / name).resolve())
    model = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
    return model.eval().to(memory_format=torch.channels_last)


def load_tiny(work: Path, name: str = "taesd") -> AutoencoderTiny:
    return AutoencoderTiny.from_pretrained(str((work / name).resolve()), local_files_only=True).float()


def load_text(work: Path) -> tuple[CLIPTokenizer, CLIPTextModel]:
    root = work.resolve()
    folder = str(root / "text_encoder")
    encoder = CLIPTextModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    return CLIPTokenizer.from_pretrained(str(root / "tokenizer"), local_files_only=True), encoder


def averages(work: Path, stage: str) -> dict[str, torch.Tensor]:
    """The averaged weights that a stage ended with, or their mean with those before it if it keeps a share of these."""
    found = torch.load(work / f"{stage}.pt", map_location="cpu", weights_only=True)["average"]
    kept, stages = curriculum.STAGES[stage].kept, list(curriculum.STAGES)
    if not kept or not (work / f"{stages[stages.index(stage) - 1]}.pt").exists():  # taken from a finished model
        return found
    before = averages(work, stages[stages.index(stage) - 1])
    return {name: value.lerp(before[name], kept) for name, value in found.items()}


def load_unet(work: Path, stage: str) -> UNet2DConditionModel:
    """The UNet with the weights that a stage resulted in."""
    model = unet.build()
    model.load_state_dict(averages(work, stage))
    return model.eval()


def begin_from(folder: Path, work: Path, before: str) -> None:
    """Take tokenizer, text encoder and both autoencoders from a finished model, its UNet for that of stage `before`."""
    taken = {name: name for name in ("tokenizer", "text_encoder", "vae", "taesd")} | {"vae_sharp": "vae"}
    for name, source in taken.items():
        if not (work / name).exists():
            shutil.copytree(folder / source, work / name)
    if not (work / f"{before}.pt").exists():
        weights = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
        torch.save({"average": {name: value.float() for name, value in weights.items()}}, work / f"{before}.pt")


def make_sets(work: Path, names: list[str]) -> None:
    encoder = load_vae(work)
    words, reader = load_text(work)
    for name in names:
        chosen = curriculum.SETS[name]
        seed = 100 + curriculum.ORDER[name]
        dataset.make_set(work, name, chosen.recipe, chosen.count, chosen.width, chosen.height, encoder, seed)
        if chosen.beyond != 1:
            dataset.go_beyond(work, name, encoder, chosen.beyond)
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
    pace |= {"world": WORLD, "rank": RANK, "stop": stage.stop}
    model = unet.train(work, name, model, mixtures, stage.steps, seed, device=device, **pace)
    if "shape" in sets and RANK == 0 and len(sets["shape"]) >= ENOUGH:
        print(f"{name}: a wrong shape word raises the loss by {unet.swap_gap(model.cpu(), sets['shape']):.0%}")


def train_extra(work: Path, part: str) -> None:
    """The decoder once more, an adapter or the ControlNet, on the finished UNet."""
    base = load_unet(work, curriculum.SHIPPED)
    if part == "finish":
        parts = []
        for name, count in curriculum.FINISH.items():
            chosen, seed = curriculum.SETS[name], 100 + curriculum.ORDER[name]
            parts.append(finish.Finished(work, name, chosen.recipe, seed, (chosen.width, chosen.height), count))
        finish.train(work, base, load_vae(work, "vae_sharp"), load_tiny(work), parts, curriculum.STEPS["finish"])
    elif part == "lora":
        lora.train(work, base, dataset.Latents(work, "sepia"), curriculum.STEPS["lora"])
    elif part == "few_step":
        mixture = dataset.Mixture([(dataset.Latents(work, n), share) for n, share in curriculum.FEW_STEP.items()])
        silent = torch.from_numpy(mixture.sets[0].states[:1].astype("float32"))
        few_step.train(work, base, silent, mixture, curriculum.STEPS["few_step"])
    else:
        drawn = []
        for name in curriculum.CONTROL:
            chosen, seed = curriculum.SETS[name], 100 + curriculum.ORDER[name]
            latents = dataset.Latents(work, name)
            drawn.append(controlnet.Drawn(latents, chosen.recipe, seed, chosen.width, chosen.height))
        controlnet.train(work, base, drawn, curriculum.STEPS["controlnet"])


def write_model(work: Path, out: Path) -> None:
    done = (work / "vae_finished").exists()
    decoder, tiny = (
        load_vae(work, "vae_finished" if done else "vae_sharp"),
        load_tiny(work, "taesd_finished" if done else "taesd"),
    )
    chosen, encoder = load_unet(work, curriculum.SHIPPED), load_text(work)[1]
    export.export(out, chosen, decoder, encoder, work / "tokenizer", tiny, work)


def run(part: str, options: argparse.Namespace, device: str) -> None:
    """One part of the recipe, as the command line's `options` want it."""
    out = options.out
    work = out / "work"
    work.mkdir(parents=True, exist_ok=True)
    if part == "tokenizer":
        tokenizer.build(work / "tokenizer")
    elif part == "text":
        words = CLIPTokenizer.from_pretrained(str((work / "tokenizer").resolve()), local_files_only=True)
        text.train(work, words, curriculum.STEPS["text"])
    elif part == "vae":
        vae.train(work, curriculum.STEPS["vae"])
    elif part == "sets":
        make_sets(work, curriculum.needed(options.stage))
    elif part in curriculum.STAGES:
        train_stage(work, part, device)
    elif part == "sharpen":
        vae.sharpen(work, load_vae(work), curriculum.STEPS["sharpen"])
    elif part == "tiny":
        tiny_decoder.train(work, load_vae(work), curriculum.STEPS["tiny"])
    elif part in ("finish", "lora", "few_step", "controlnet"):
        train_extra(work, part)
    elif part == "export":
        write_model(work, out / "model")
    elif part == "evaluate":
        evaluate.main(out / "model", TINY if options.tiny else 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m server.pocket.training", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the work in progress and the model")
    parser.add_argument("--device", default="auto", help="where the UNet trains: auto, cpu, cuda, ...")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: as torch likes)")
    parser.add_argument(
        "--start", type=Path, help="a finished model whose parts, and UNet as that before the first stage, are taken"
    )
    parser.add_argument("--stage", nargs="+", choices=PARTS, help="only these parts, in order")
    parser.add_argument("--tiny", action="store_true", help="a few steps of every part, to see that all of it runs")
    options = parser.parse_args()
    options.stage = options.stage or list(LATER if options.start else PARTS)
    if options.tiny:
        curriculum.shorten(TINY)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    if WORLD > 1:
        torch.distributed.init_process_group("gloo", timeout=timedelta(days=1))
    if options.start and RANK == 0:
        (options.out / "work").mkdir(parents=True, exist_ok=True)
        begin_from(options.start, options.out / "work", curriculum.before(options.stage))
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    for part in options.stage:
        began = time.monotonic()
        if RANK == 0 or part in curriculum.STAGES:
            run(part, options, device)
        if WORLD > 1:
            torch.distributed.barrier()
        if RANK == 0:
            print(f"== {part}: {(time.monotonic() - began) / 60:.1f} min", flush=True)


if __name__ == "__main__":
    main()
