# SPDX-License-Identifier: GPL-3.0-or-later
"""Loading a single safetensors file in the original layout, without any config from elsewhere."""

from __future__ import annotations

import json
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from krita_sd.geometry import NATIVE
from krita_sd.wire.errors import Code, WireError
from server.diffusion import ldm
from server.diffusion.families.sd import StableDiffusion
from server.diffusion.model import LoadedModel
from server.diffusion.tokenizer import CONFIGS, shipped_tokenizer
from server.diffusion.weights import LoadJob, TensorFiles, empty_module, incomplete, unsupported


def load_file(job: LoadJob) -> LoadedModel:
    """The model in the file `job.path`. Raises as `load_model` does."""
    return _File(job).load()


class _File:
    def __init__(self, job: LoadJob) -> None:
        self.job = job
        self.shipped = json.loads((CONFIGS / job.row.config).read_text("utf-8"))

    def load(self) -> LoadedModel:
        if self.job.path.suffix.lower() != ".safetensors":
            raise WireError(
                Code.MODEL_UNSAFE,
                f"The file {self.job.path.name} is in a format that is not safe to open.",
                "Convert it to safetensors first.",
            )
        openclip = self.job.row.text_layout == "openclip"
        with TensorFiles([self.job.path]) as files:
            shapes = files.shapes()
            self._refuse_other_layouts(shapes, openclip)
            try:
                unet_config = ldm.unet_config(shapes, heads_of_64=openclip)
                vae_config = ldm.vae_config(shapes)
                text_config = {**ldm.clip_config(shapes, openclip), **self.shipped["text_encoder"]}
                unet = empty_module(lambda: UNet2DConditionModel(**unet_config))
                vae = empty_module(lambda: AutoencoderKL(**vae_config))
                text = empty_module(lambda: CLIPTextModel(CLIPTextConfig(**text_config)))
                parts = {
                    "unet": (unet, ldm.unet_sources(unet.state_dict(), unet_config)),
                    "vae": (vae, ldm.vae_sources(vae.state_dict(), vae_config)),
                    "text_encoder": (text, ldm.clip_sources(text.state_dict(), shapes, openclip)),
                }
            except (KeyError, ValueError, IndexError) as error:
                raise incomplete(self.job.path.name, "network") from error
            used = [source for _, sources in parts.values() for source in sources.values()]
            if any(source.name not in shapes for source in used):
                raise incomplete(self.job.path.name, "network")
            dropped = f"{ldm.OPENCLIP}transformer.resblocks.{text_config['num_hidden_layers']}." if openclip else ""
            if ldm.unused(shapes, used, dropped):
                raise unsupported(self.job.path.name, "it holds weights that this program does not know")
            for part, (module, sources) in parts.items():
                self.job.loader(files, part).fill(module, part, sources)
            schedule = self._file_schedule(files, shapes, unet)
        return StableDiffusion(
            self.job.family,
            {"unet": unet, "vae": vae, "text_encoder": text, "tokenizer": shipped_tokenizer(self.shipped["pad_token"])},
            schedule,
            NATIVE[self.job.family],
            {},
        )

    def _refuse_other_layouts(self, shapes: ldm.Shapes, openclip: bool) -> None:
        """Sentences for the files that people really try: LoRAs, SDXL, parts of models, the other family."""
        name = self.job.path.name
        entry = shapes.get(f"{ldm.UNET}input_blocks.0.0.weight")
        if entry is None or len(entry) != 4:
            raise unsupported(name, f"it is not a complete {self.job.row.title} checkpoint")
        if any(key.startswith((f"{ldm.UNET}label_emb.", "conditioner.")) for key in shapes):
            raise unsupported(name, f"it is not a {self.job.row.title} checkpoint")
        if entry[1] not in (4, 9):
            raise unsupported(name, f"models with {entry[1]} input channels are not supported")
        if not any(key.startswith(ldm.VAE) for key in shapes):
            raise unsupported(name, "it has no autoencoder (VAE) inside")
        if not any(key.startswith(ldm.OPENCLIP if openclip else ldm.CLIP) for key in shapes):
            raise unsupported(name, f"it has no {self.job.row.title} text encoder inside")

    def _file_schedule(self, files: TensorFiles, shapes: ldm.Shapes, unet: Any) -> dict[str, Any]:
        schedule = dict(self.shipped["scheduler"])
        stated = files.metadata.get("modelspec.prediction_type", "")
        if "v_pred" in shapes or stated in ("v", "v_prediction"):
            schedule["prediction_type"] = "v_prediction"
        elif stated in ("epsilon", "eps"):
            schedule["prediction_type"] = "epsilon"
        elif self.job.row.text_layout == "openclip":
            schedule["prediction_type"] = "v_prediction" if predicts_velocity(unet) else "epsilon"
        if "ztsnr" in shapes:
            schedule["rescale_betas_zero_snr"] = True
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
