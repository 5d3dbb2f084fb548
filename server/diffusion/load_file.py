# SPDX-License-Identifier: GPL-3.0-or-later
"""Loading a single safetensors file in the original layout, without any config from elsewhere."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from krita_sd.geometry import NATIVE
from krita_sd.wire.errors import Code, WireError
from server.diffusion import ldm
from server.diffusion.model import LoadedModel
from server.diffusion.original.load import load_original
from server.diffusion.tokenizer import CONFIGS, shipped_tokenizer
from server.diffusion.weights import LoadJob, Source, TensorFiles, empty_module, incomplete, maker, unsupported


def load_file(job: LoadJob) -> LoadedModel:
    """The model in the file `job.path`. Raises as `load_model` does."""
    if job.path.suffix.lower() != ".safetensors":
        raise WireError(
            Code.MODEL_UNSAFE,
            f"The file {job.path.name} is in a format that is not safe to open.",
            "Convert it to safetensors first.",
        )
    if job.row.layout == "original":
        return load_original(job)
    if not job.row.layout:
        raise unsupported(job.path.name, f"{job.row.title} loads from its diffusers folder only")
    return _File(job).load()


class _File:
    def __init__(self, job: LoadJob) -> None:
        self.job = job
        self.shipped = json.loads((CONFIGS / job.row.config).read_text("utf-8"))

    def load(self) -> LoadedModel:
        row, name = self.job.row, self.job.path.name
        with TensorFiles([self.job.path]) as files:
            shapes = files.shapes()
            self._refuse_other_layouts(shapes)
            try:
                parts = self._parts(shapes)
            except (KeyError, ValueError, IndexError) as error:
                raise incomplete(name, "network") from error
            used = [source for _, sources in parts.values() for source in sources.values()]
            if any(source.name not in shapes for source in used):
                raise incomplete(name, "network")
            layers = parts["text_encoder"][0].config.num_hidden_layers
            dropped = f"{ldm.OPENCLIP}transformer.resblocks.{layers}." if row.layout == "openclip" else ""
            if ldm.unused(shapes, used, dropped):
                raise unsupported(name, "it holds weights that this program does not know")
            for part, (module, sources) in parts.items():
                self.job.loader(files, part).fill(module, part, sources)
            schedule = self._file_schedule(files, shapes, parts["unet"][0])
        modules: dict[str, Any] = {part: module for part, (module, _) in parts.items()}
        modules["tokenizer"] = shipped_tokenizer(self.shipped["pad_token"])
        if row.layout == "xl":
            modules["tokenizer_2"] = shipped_tokenizer(self.shipped["pad_token_2"])
            modules["zeros_for_empty"] = True
        family = self.job.family
        return maker(row.maker)(family, modules, schedule, NATIVE[family], {})

    def _parts(self, shapes: ldm.Shapes) -> dict[str, tuple[Any, dict[str, Source]]]:
        """The empty modules, and where in the file each of their weights is."""
        layout = self.job.row.layout
        unet_config = ldm.unet_config(shapes, heads_of_64=layout != "clip")
        vae_config = ldm.vae_config(shapes) | {"scaling_factor": self.shipped.get("scaling_factor", 0.18215)}
        unet = empty_module(lambda: UNet2DConditionModel(**unet_config))
        vae = empty_module(lambda: AutoencoderKL(**vae_config))
        parts = {
            "unet": (unet, ldm.unet_sources(unet.state_dict(), unet_config)),
            "vae": (vae, ldm.vae_sources(vae.state_dict(), vae_config)),
        }
        encoders: dict[str, tuple[bool, str, Any]] = {"text_encoder": (layout == "openclip", "", CLIPTextModel)}
        if layout == "xl":
            encoders["text_encoder"] = (False, ldm.XL_CLIP, CLIPTextModel)
            encoders["text_encoder_2"] = (True, ldm.XL_OPENCLIP, CLIPTextModelWithProjection)
        for part, (openclip, home, kind) in encoders.items():
            config = CLIPTextConfig(**ldm.clip_config(shapes, openclip, home), **self.shipped[part])
            text = empty_module(partial(kind, config))
            parts[part] = (text, ldm.clip_sources(text.state_dict(), shapes, openclip, home))
        return parts

    def _refuse_other_layouts(self, shapes: ldm.Shapes) -> None:
        """Sentences for the files that people really try: LoRAs, parts of models, the other families."""
        layout = self.job.row.layout
        name = self.job.path.name
        entry = shapes.get(f"{ldm.UNET}input_blocks.0.0.weight")
        if entry is None or len(entry) != 4:
            raise unsupported(name, f"it is not a complete {self.job.row.title} checkpoint")
        extra = any(key.startswith((f"{ldm.UNET}label_emb.", "conditioner.")) for key in shapes)
        if extra is not (layout == "xl"):
            raise unsupported(name, f"it is not a {self.job.row.title} checkpoint")
        if entry[1] not in (4, 9):
            raise unsupported(name, f"models with {entry[1]} input channels are not supported")
        if not any(key.startswith(ldm.VAE) for key in shapes):
            raise unsupported(name, "it has no autoencoder (VAE) inside")
        homes = {"clip": (ldm.CLIP,), "openclip": (ldm.OPENCLIP,), "xl": (ldm.XL_CLIP, ldm.XL_OPENCLIP)}[layout]
        if not all(any(key.startswith(home) for key in shapes) for home in homes):
            raise unsupported(name, f"it has no {self.job.row.title} text encoder inside")

    def _file_schedule(self, files: TensorFiles, shapes: ldm.Shapes, unet: Any) -> dict[str, Any]:
        schedule = dict(self.shipped["scheduler"])
        stated = files.metadata.get("modelspec.prediction_type", "")
        if "v_pred" in shapes or stated in ("v", "v_prediction"):
            schedule["prediction_type"] = "v_prediction"
        elif stated in ("epsilon", "eps"):
            schedule["prediction_type"] = "epsilon"
        elif self.job.row.layout == "openclip":
            schedule["prediction_type"] = "v_prediction" if predicts_velocity(unet) else "epsilon"
        if "ztsnr" in shapes:
            # Such a model knows pure noise; only steps that begin there make use of it (Lin et al. 2023).
            schedule |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        return schedule


@torch.inference_mode()
def predicts_velocity(unet: Any) -> bool:
    """Whether a UNet predicts v: SD2.x files do not say, and shapes do not show it.

    At the noisiest step the input is nearly pure noise: an epsilon model answers with its input, a v model with about
    minus the (unknown) picture, far from it. 9-channel SD2 models were only ever trained on epsilon.
    """
    if unet.config.in_channels != 4:
        return False
    inputs = torch.full((1, 4, 8, 8), 0.5, device=unet.device, dtype=unet.dtype)
    text = torch.zeros((1, 77, unet.config.cross_attention_dim), device=unet.device, dtype=unet.dtype)
    answer = unet(inputs, torch.tensor(999, device=unet.device), encoder_hidden_states=text, return_dict=False)[0]
    return bool((answer - inputs).float().mean() < -1.0)
