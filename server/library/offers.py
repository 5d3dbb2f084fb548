# SPDX-License-Identifier: GPL-3.0-or-later
"""The models that can be fetched from the Hugging Face hub: one row each. Nothing here is fetched by itself.

A row names a repository and which of its files; sizes, revision and checksums are asked of the hub when the painter
asks for the size. To offer another model, add a row; a test checks it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

DIFFUSERS = (
    "model_index.json",
    "scheduler/*.json",
    "tokenizer*/*",
    "text_encoder*/*",
    "unet/*",
    "transformer/*",
    "vae/*",
)
"""The parts of a diffusers folder that the engine reads."""

CONTROL_REPO = "comfyanonymous/ControlNet-v1-1_fp16_safetensors"


@dataclass(frozen=True)
class Offer:
    """One row. files: names or patterns in the repository. strip: a folder of the repository that is left away here.
    checksums: name -> sha256 of files that are known to never change; the hub's own are used for the others.
    account: the hub gives it only to those who have accepted its licence. note: what it is good for.
    """

    id: str
    title: str
    kind: str
    family: str
    repo: str
    files: tuple[str, ...]
    licence: str
    note: str = ""
    strip: str = ""
    account: bool = False
    checksums: dict[str, str] = field(default_factory=dict)


def _control(id: str, what: str, file: str, note: str) -> Offer:
    name = f"{file}_fp16.safetensors"
    return Offer(id, f"ControlNet for SD 1.5: {what}", "controlnet", "sd1", CONTROL_REPO, (name,), "OpenRAIL", note)


OFFERS: tuple[Offer, ...] = (
    Offer(
        "stable-diffusion-1.5", "Stable Diffusion 1.5", "checkpoint", "sd1",
        "stable-diffusion-v1-5/stable-diffusion-v1-5", ("v1-5-pruned-emaonly.safetensors",),
        "CreativeML OpenRAIL-M", "Small and quick, 512 pixels; most LoRAs and ControlNets are made for it.",
        checksums={
            "v1-5-pruned-emaonly.safetensors": "6ce0161689b3853acaa03779ec93eafe75a02f4ced659bee03f50797806fa2fa"
        },
    ),
    Offer(
        "stable-diffusion-xl", "Stable Diffusion XL", "checkpoint", "sdxl",
        "stabilityai/stable-diffusion-xl-base-1.0", ("sd_xl_base_1.0.safetensors",),
        "CreativeML OpenRAIL++-M", "1024 pixels; wants 8 GB of graphics memory.",
        checksums={"sd_xl_base_1.0.safetensors": "31e35c80fc4829d14f90153f4c74cd59c90b779f6afe05a74cd6120b893f7e5b"},
    ),
    Offer(
        "z-image-turbo", "Z-Image Turbo", "checkpoint", "z-image", "Tongyi-MAI/Z-Image-Turbo", DIFFUSERS, "Apache 2.0",
        "Few steps, photographic, reads long sentences; wants 16 GB of graphics memory or is offloaded.",
    ),
    Offer(
        "chroma", "Chroma 1 HD", "checkpoint", "chroma", "lodestones/Chroma1-HD", DIFFUSERS, "Apache 2.0",
        "Reads long sentences, takes a negative prompt; large.",
    ),
    Offer(
        "flux.1-schnell", "Flux 1 schnell", "checkpoint", "flux1", "black-forest-labs/FLUX.1-schnell", DIFFUSERS,
        "Apache 2.0", "Four steps, reads long sentences; large.", account=True,
    ),
    Offer(
        "stable-diffusion-3.5-medium", "Stable Diffusion 3.5 Medium", "checkpoint", "sd3",
        "stabilityai/stable-diffusion-3.5-medium", DIFFUSERS, "Stability AI Community",
        "Reads sentences and short texts in pictures.", account=True,
    ),
    Offer(
        "qwen-image", "Qwen-Image", "checkpoint", "qwen-image", "Qwen/Qwen-Image", DIFFUSERS, "Apache 2.0",
        "Writes texts into pictures; very large.",
    ),
    Offer(
        "sdxl-vae-fp16", "VAE for SDXL in half precision", "vae", "sdxl", "madebyollin/sdxl-vae-fp16-fix",
        ("sdxl.vae.safetensors",), "MIT", "Saves memory and time with SDXL; the pictures stay the same.",
    ),
    Offer(
        "lcm-lora-sd15", "LCM LoRA for SD 1.5", "lora", "sd1", "latent-consistency/lcm-lora-sdv1-5",
        ("pytorch_lora_weights.safetensors",), "OpenRAIL++", "Pictures in 4 to 8 steps, for Live.",
        checksums={
            "pytorch_lora_weights.safetensors": "8f90d840e075ff588a58e22c6586e2ae9a6f7922996ee6649a7f01072333afe4"
        },
    ),
    Offer(
        "lcm-lora-sdxl", "LCM LoRA for SDXL", "lora", "sdxl", "latent-consistency/lcm-lora-sdxl",
        ("pytorch_lora_weights.safetensors",), "OpenRAIL++", "Pictures in 4 to 8 steps, for Live.",
    ),
    _control("control-scribble-sd15", "scribble", "control_v11p_sd15_scribble", "Rough lines become a picture."),
    _control("control-lineart-sd15", "line art", "control_v11p_sd15_lineart", "Clean lines are kept and filled."),
    _control("control-softedge-sd15", "soft edge", "control_v11p_sd15_softedge", "Outlines are kept loosely."),
    _control("control-canny-sd15", "canny", "control_v11p_sd15_canny", "Edges are kept exactly."),
    _control("control-depth-sd15", "depth", "control_v11f1p_sd15_depth", "Near and far stay where they are."),
    _control("control-openpose-sd15", "pose", "control_v11p_sd15_openpose", "Figures stand as the stick figure does."),
    _control("control-tile-sd15", "tile", "control_v11f1e_sd15_tile", "Adds detail and keeps what is there."),
    Offer(
        "ip-adapter-sd15", "Reference pictures for SD 1.5 (IP-Adapter)", "ip_adapter", "sd1", "h94/IP-Adapter",
        ("models/ip-adapter_sd15.safetensors", "models/image_encoder/config.json",
         "models/image_encoder/model.safetensors"),
        "Apache 2.0", "Pictures that look like a layer of yours.", strip="models/",
    ),
    Offer(
        "real-esrgan-x4plus", "Real-ESRGAN x4", "upscaler", "", "Comfy-Org/Real-ESRGAN_repackaged",
        ("RealESRGAN_x4plus.safetensors",), "BSD 3-Clause", "Enlarges pictures with sharp detail.",
        checksums={
            "RealESRGAN_x4plus.safetensors": "37f9a931c215f040aa6d50f711f2cb115f713c46df1d0d6469a8bd7bfe9a60bb"
        },
    ),
)  # fmt: skip
