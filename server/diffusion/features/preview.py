# SPDX-License-Identifier: GPL-3.0-or-later
"""Small pictures of an x0 estimate: a linear map to RGB, or the tiny decoder at half or full resolution."""

from __future__ import annotations

import torch

from server.diffusion.model import LoadedModel, tensor_to_pixels
from server.diffusion.task import Pixels

_SIDE = 64


class Previewer:
    """Makes previews of one model's latents. The linear map is fitted at its first use and kept."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._linear: tuple[torch.Tensor, torch.Tensor] | None = None

    @torch.inference_mode()
    def render(self, estimate: torch.Tensor, level: str) -> Pixels | None:
        """RGB bytes of scaled latents (1, channels, h, w): h x w pixels at "rgb", else half or all of the final size.

        Without a tiny decoder "half" and "full" fall back to "rgb". None at "off".
        """
        if level == "off":
            return None
        tiny = self._model.tiny_decoder
        if level == "rgb" or tiny is None:
            return self._rgb(estimate)
        if level == "half" and min(estimate.shape[-2:]) >= 2:
            estimate = torch.nn.functional.avg_pool2d(estimate, 2, ceil_mode=True, count_include_pad=False)
        weight = next(tiny.parameters())
        return tensor_to_pixels(tiny.decode(estimate.to(weight.dtype), return_dict=False)[0])

    def _rgb(self, estimate: torch.Tensor) -> Pixels:
        if self._linear is None:
            linear = fit_linear(self._model)
            self._linear = (linear[:-1] * 127.5, linear[-1] * 127.5 + 127.5)
        matrix, offset = self._linear
        # Few operations: after a step of the model nothing of them is in the caches, and each costs 20 us to begin.
        cells = estimate[0].to(torch.float32).flatten(1).T
        bytes = torch.addmm(offset, cells, matrix).clamp_(0.0, 255.0).round_().to(torch.uint8)
        return bytes.cpu().numpy().reshape(*estimate.shape[-2:], 3)


def fit_linear(model: LoadedModel) -> torch.Tensor:
    """The least-squares map float32 (channels + 1, 3) from latent cells (and 1) to their mean RGB, -1..1.

    Fitted on the model's own autoencoder with six pictures of 64 x 64 pixels, so that no constants per model are
    needed; the ridge keeps autoencoders with nearly dependent channels from giving wild colours.
    """
    cells, colours = [], []
    for picture in _pictures():
        mean, _ = model.encode_pixels(tensor_to_pixels(picture))
        small = torch.nn.functional.interpolate(picture, size=mean.shape[-2:], mode="area")
        cells.append(model.scaled(mean)[0].flatten(1).T.cpu())
        colours.append(small[0].flatten(1).T)
    known = torch.cat(cells).to(torch.float64)
    known = torch.cat([known, torch.ones(len(known), 1, dtype=torch.float64)], dim=1)
    wanted = torch.cat(colours).to(torch.float64)
    ridge = 1e-4 * len(known) * torch.eye(known.shape[1], dtype=torch.float64)
    ridge[-1, -1] = 0.0
    solution = torch.linalg.solve(known.T @ known + ridge, known.T @ wanted)
    return solution.to(torch.float32).to(model.device)


def _pictures() -> list[torch.Tensor]:
    """Pictures that hold many colours, flat and textured: float32 (1, 3, 64, 64), -1..1, the same every time."""
    generator = torch.Generator().manual_seed(1)
    ramp = torch.linspace(-1.0, 1.0, _SIDE)
    x, y = ramp[None, :].expand(_SIDE, _SIDE), ramp[:, None].expand(_SIDE, _SIDE)
    pictures = [torch.stack([x, y, -x])[None], torch.stack([-y, x, y])[None]]
    for cells in (2, 4, 8, 16):
        coarse = torch.rand(1, 3, cells, cells, generator=generator) * 2.0 - 1.0
        mode = "nearest" if cells < 8 else "bilinear"
        pictures.append(torch.nn.functional.interpolate(coarse, size=(_SIDE, _SIDE), mode=mode))
    return pictures
