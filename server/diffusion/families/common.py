# SPDX-License-Identifier: GPL-3.0-or-later
"""What the families share: parts in memory, prompts and canvases that are read once, an autoencoder with KL latents."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping
from contextlib import ExitStack
from typing import Any

import torch

from krita_sd.geometry import NativeRange
from server.diffusion.checks import in_float32, is_finite, nan_output
from server.diffusion.features.autoencoder import OtherAutoencoder
from server.diffusion.features.lora import LoraWeights, fingerprint
from server.diffusion.features.preview import Previewer
from server.diffusion.inversions import Vectors, read_inversions
from server.diffusion.model import Condition, Hole, LoadedModel, Recent, pixels_to_tensor
from server.diffusion.sampling import Feature
from server.diffusion.task import Pixels, Task
from server.library.capabilities import defaults_of

_CONDITIONS_KEPT = 16
_AUTOENCODERS_KEPT = 1  # beside the model's own
_INVERSIONS_KEPT = 16
_CANVASES_KEPT = 16  # half a megabyte each at 1024 x 1024; the previews' fit takes six

Moments = tuple[torch.Tensor, torch.Tensor | None]


class PartsModel(LoadedModel):
    """A model out of parts named as in its diffusers folder: unet or transformer, vae, text_encoder, tokenizer, ...

    Each part is an attribute of that name; see LoadedModel for the interface.
    """

    DENOISER = "transformer"
    ENCODERS: tuple[str, ...] = ("text_encoder",)

    def __init__(
        self,
        family: str,
        parts: Mapping[str, Any],
        schedule_config: Mapping[str, Any],
        native: NativeRange,
        defaults: dict[str, Any],
    ) -> None:
        self.family = family
        self.native = native
        self.defaults = {**defaults_of(family, self.is_few_step(parts)), **defaults}
        self.schedule_config = dict(schedule_config)
        self.parts = dict(parts)
        self.vae: Any = parts["vae"]
        for name, part in parts.items():
            setattr(self, name, part)
        self.device = self.denoiser.device
        self.dtype = self.denoiser.dtype
        self.inpainting = False
        self.embeddings: Recent[Condition] = Recent(_CONDITIONS_KEPT)
        self.canvases: Recent[Moments] = Recent(_CANVASES_KEPT)
        self.inversions: Recent[list[Vectors]] = Recent(_INVERSIONS_KEPT)
        self.autoencoders: Recent[Any] = Recent(_AUTOENCODERS_KEPT)
        self.measure_autoencoder()
        self.multiple = self.factor
        self.previewer = Previewer(self)

    def measure_autoencoder(self) -> None:
        """Set factor, latent_channels, latent_scale and latent_shift from the autoencoder's configuration."""
        config = self.vae.config
        self.factor = 2 ** (len(config.block_out_channels) - 1)
        self.latent_channels = config.latent_channels
        self.latent_scale = float(config.scaling_factor)
        self.latent_shift = float(config.shift_factor or 0.0)

    def compute_on(self, device: torch.device) -> None:
        """Compute on `device`, though the parts were loaded elsewhere: whoever moves them brings them there."""
        self.device = device
        self.measure_autoencoder()

    def is_few_step(self, parts: Mapping[str, Any]) -> bool:
        """Whether a model out of these parts was distilled for a few steps without guidance."""
        return False

    @property
    def denoiser(self) -> Any:
        return getattr(self, self.DENOISER)

    @property
    def autoencoder(self) -> Any:
        return self.vae

    @property
    def tiny_decoder(self) -> Any | None:
        return self.parts.get("tiny")

    @property
    def encoders(self) -> dict[str, Any]:
        """The text encoders by the names of their parts."""
        return {name: self.parts[name] for name in self.ENCODERS if self.parts.get(name) is not None}

    def vectors(self, task: Task) -> list[Vectors]:
        """The vectors of the job's textual inversions for each text encoder. Raises WireError(model_*)."""
        widths = [encoder.get_input_embeddings().embedding_dim for encoder in self.encoders.values()]
        return self.inversions.get(_stamps(task), lambda: read_inversions(task.inversions, widths))

    def learned(self, task: Task) -> dict[str, int]:
        """The job's textual inversions with their numbers of vectors."""
        return {name: len(vectors) for name, vectors in self.vectors(task)[0].items()} if task.inversions else {}

    def read_once(self, key: Hashable, task: Task, compute: Callable[[], Condition]) -> Condition:
        """`compute()` for a prompt, kept by `key` and the job's LoRAs and textual inversions; again in float32 when it
        gives invalid numbers.

        Raises WireError(nan_output).
        """

        def checked() -> Condition:
            out = compute()
            if not is_finite(out.embeds):
                with ExitStack() as undo:
                    widened = [undo.enter_context(in_float32(encoder)) for encoder in self.encoders.values()]
                    out = compute() if any(widened) else out
                if not is_finite(out.embeds):
                    raise nan_output("reading the prompt")
            return out

        return self.embeddings.get((key, fingerprint(task.loras), _stamps(task)), checked)

    def encode_pixels(self, pixels: Pixels, hole: Hole | None = None) -> Moments:
        digest = hashlib.blake2b(pixels.tobytes(), digest_size=16)
        digest.update(b"" if hole is None else hole.tobytes())
        return self.canvases.get((self.encoding, pixels.shape, digest.digest()), lambda: self._encode(pixels, hole))

    def _encode(self, pixels: Pixels, hole: Hole | None) -> Moments:
        image = pixels_to_tensor(pixels, self.device)
        if hole is not None:
            image = image * torch.from_numpy(~hole).to(self.device)
        found = self.moments(image)
        if not _finite(found):
            with in_float32(self.vae) as widened:
                if widened:
                    found = self.moments(image)
            if not _finite(found):
                raise nan_output("reading the picture")
        return found

    def moments(self, image: torch.Tensor) -> Moments:
        """Mean and deviation, float32, of the latents of float32 pixels (1, 3, h, w), -1..1."""
        spread = self.vae.encode(image.to(self.vae.dtype), return_dict=False)[0]
        return spread.mean.to(torch.float32), spread.std.to(torch.float32)

    def scaled(self, latents: torch.Tensor) -> torch.Tensor:
        return (latents - self.latent_shift) * self.latent_scale

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        latents = latents / self.latent_scale + self.latent_shift
        return self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0]

    def weight_features(self, task: Task) -> list[Feature]:
        features: list[Feature] = [OtherAutoencoder(self, task.vae)] if task.vae is not None else []
        return [*features, LoraWeights(self.denoiser, self.encoders, task.loras)] if task.loras else features

    def unload(self) -> None:
        self.embeddings.clear()
        self.canvases.clear()
        self.autoencoders.clear()
        self.inversions.clear()
        for name in self.parts:
            setattr(self, name, None)
        self.parts.clear()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _stamps(task: Task) -> tuple[object, ...]:
    """The job's textual inversions as they lie on disk now."""
    files = fingerprint(tuple((path, 1.0) for _, path in task.inversions))
    return (tuple(name for name, _ in task.inversions), files)


def _finite(moments: Moments) -> bool:
    return all(is_finite(part) for part in moments if part is not None)
