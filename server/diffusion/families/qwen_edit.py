# SPDX-License-Identifier: GPL-3.0-or-later
"""Qwen-Image Edit and Edit Plus: the language model reads the instruction with the pictures before its eyes, and the
transformer has their latents beside those of the new picture.

Edit reads the first picture at full size; Plus reads all of them, small, and calls them "Picture 1", "Picture 2".
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from server.diffusion.families.common import Moments
from server.diffusion.families.flow import whole_text
from server.diffusion.families.qwen_image import QwenImage
from server.diffusion.features.looks import reference_layers, resized
from server.diffusion.model import Condition
from server.diffusion.task import Pixels, Task

LATENT_AREA = 1024 * 1024
READ_AREA = 384 * 384
"""Pixels at which Plus reads a picture."""

# What the models were trained with, around every instruction; its first tokens are dropped from the states.
_BEFORE = (
    "<|im_start|>system\nDescribe the key features of the input image (color, shape, size, texture, objects, "
    "background), then explain how the user's text instruction should alter or modify the image. Generate a new image "
    "that meets the user's requirements while maintaining consistency with the original input where appropriate."
    "<|im_end|>\n<|im_start|>user\n"
)
_AFTER = "<|im_end|>\n<|im_start|>assistant\n"
_DROPPED = 64
_PAD = "<|image_pad|>"
_SEEN = f"<|vision_start|>{_PAD}<|vision_end|>"


class QwenImageEdit(QwenImage):
    """A loaded Qwen-Image Edit model; see LoadedModel for the interface."""

    looks_itself = True
    image_reader: Any

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.is_plus = self.parts.get("pipeline") == "QwenImageEditPlusPipeline"

    def moments(self, image: torch.Tensor) -> Moments:
        # The pipelines take the middle of the distribution and draw nothing.
        return super().moments(image)[0], None

    def scaled(self, latents: torch.Tensor) -> torch.Tensor:
        # Divided, where Qwen-Image multiplies by the inverse: the last bit differs.
        deviation = torch.tensor(self.vae.config.latents_std, dtype=torch.float32, device=self.device)
        return (latents - self.latent_mean) / deviation.view(1, -1, 1, 1)

    def sees_canvas(self, task: Task) -> bool:
        return True

    def reference_pixels(self, picture: Pixels) -> Pixels:
        return scaled_to(picture, LATENT_AREA)

    def condition(self, task: Task) -> Condition:
        canvas = [task.image] if task.image is not None else []
        pictures = [*canvas, *(layer.image for layer in reference_layers(task))]
        pictures = [scaled_to(picture, READ_AREA if self.is_plus else LATENT_AREA) for picture in pictures]
        positive = self._read(whole_text(task.prompt), pictures, task)
        if task.guidance <= 1.0:
            return positive
        return replace(positive, negative=self._read(whole_text(task.negative), pictures, task))

    def _read(self, text: str, pictures: Sequence[Pixels], task: Task) -> Condition:
        if self.is_plus:
            shown = "".join(f"Picture {number + 1}: {_SEEN}" for number in range(len(pictures)))
        else:
            pictures = pictures[:1]
            shown = _SEEN if pictures else ""
        digest = hashlib.blake2b(digest_size=16)
        for picture in pictures:
            digest.update(repr(picture.shape).encode() + picture.tobytes())

        def compute() -> Condition:
            said, seen = _BEFORE + shown + text + _AFTER, {}
            if pictures:
                patches = self.image_reader(images=list(pictures), return_tensors="pt")
                seen = {name: patches[name].to(self.device) for name in ("pixel_values", "image_grid_thw")}
                # One token per square of patches that are merged.
                for count in (patches["image_grid_thw"].prod(dim=1) // self.image_reader.merge_size**2).tolist():
                    said = said.replace(_PAD, "\0" * count, 1)
                said = said.replace("\0", _PAD)
            words = self.tokenizer([said], return_tensors="pt").to(self.device)
            if seen:
                ids = words.input_ids
                seen["mm_token_type_ids"] = (ids == self.text_encoder.config.image_token_id).to(ids.dtype)
            states = self.text_encoder(
                input_ids=words.input_ids, attention_mask=words.attention_mask, output_hidden_states=True, **seen
            ).hidden_states[-1]
            return Condition(states[:, _DROPPED:].to(self.dtype))

        return self.read_once((text, digest.digest()), task, compute)


def scaled_to(picture: Pixels, area: int) -> Pixels:
    """The picture at about `area` pixels, its sides multiples of 32."""
    ratio = picture.shape[1] / picture.shape[0]
    width = math.sqrt(area * ratio)
    size = (round(width / 32) * 32, round(width / ratio / 32) * 32)
    return np.ascontiguousarray(resized(picture, max(32, size[0]), max(32, size[1])))
