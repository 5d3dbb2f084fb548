# SPDX-License-Identifier: GPL-3.0-or-later
"""Low-rank adapters (LoRA) of the UNet: beside every linear layer and convolution of its blocks, saved as kohya does.

Hu et al. 2021, arXiv 2106.09685.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

RANK = 8
BLOCKS = ("down_blocks.", "mid_block.", "up_blocks.")


class Branch(nn.Module):
    """One layer's adapter: what it adds to the layer's output. Adds nothing until it is trained."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        if isinstance(layer, nn.Conv2d):
            shape = {"kernel_size": layer.kernel_size, "stride": layer.stride, "padding": layer.padding}
            self.down: nn.Module = nn.Conv2d(layer.in_channels, RANK, bias=False, **shape)  # type: ignore[arg-type]
            self.up: nn.Module = nn.Conv2d(RANK, layer.out_channels, 1, bias=False)
        else:
            self.down = nn.Linear(layer.in_features, RANK, bias=False)
            self.up = nn.Linear(RANK, layer.out_features, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))


class Adapter(nn.Module):
    """The branches of a whole UNet, whose own weights are frozen; hooked into it as long as `active`."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        unet.requires_grad_(False)
        self.branches = nn.ModuleDict()
        self.active = True
        for name, layer in unet.named_modules():
            if name.startswith(BLOCKS) and isinstance(layer, (nn.Linear, nn.Conv2d)):
                branch = Branch(layer)
                self.branches[name.replace(".", "_")] = branch
                layer.register_forward_hook(self._hook(branch))

    def _hook(self, branch: Branch):
        def add(layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
            return out + branch(given[0]) if self.active else None

        return add

    @contextmanager
    def off(self) -> Iterator[None]:
        """The bare UNet inside this block."""
        self.active = False
        try:
            yield
        finally:
            self.active = True

    def save(self, file: Path, about: dict[str, str]) -> None:
        """Write fp16 kohya names (lora_unet_...) and metadata `about`; alpha is the rank: strength 1 is as trained."""
        tensors: dict[str, Tensor] = {}
        for name, branch in self.branches.items():
            assert isinstance(branch, Branch)
            tensors[f"lora_unet_{name}.lora_down.weight"] = branch.down.weight.detach().half().contiguous()  # type: ignore
            tensors[f"lora_unet_{name}.lora_up.weight"] = branch.up.weight.detach().half().contiguous()  # type: ignore
            tensors[f"lora_unet_{name}.alpha"] = torch.tensor(float(RANK), dtype=torch.float16)
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, file, {"ss_network_dim": str(RANK), "ss_network_module": "networks.lora", **about})
        file.chmod(0o644)


@contextmanager
@torch.no_grad()
def merged(unet: UNet2DConditionModel, file: Path, strength: float) -> Iterator[None]:
    """The UNet with a saved adapter in its weights inside this block."""
    tensors = load_file(file)
    before = {}
    for name, layer in unet.named_modules():
        key = f"lora_unet_{name.replace('.', '_')}.lora_"
        if f"{key}up.weight" in tensors and isinstance(layer, (nn.Linear, nn.Conv2d)):
            up, down = tensors[f"{key}up.weight"].float(), tensors[f"{key}down.weight"].float()
            before[layer] = layer.weight.detach().clone()
            layer.weight += strength * (up.flatten(1) @ down.flatten(1)).reshape(layer.weight.shape)
    try:
        yield
    finally:
        for layer, weight in before.items():
            layer.weight.copy_(weight)
