# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a model's parts are: the rungs of the memory ladder, from everything on the device to a block at a time.

Parts are brought by hooks on their modules, so families and features call them as if they were always there; on the
rung "full" there are no hooks at all. Blocks and 8-bit storage are diffusers' own (group offloading, layerwise
casting). server/library/memory.py estimates which rung a job needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from server.library.memory import RUNGS, TILE_SIDE

Parts = Mapping[str, Sequence[Any]]
"""encoders, denoiser, autoencoder: the modules of each."""

_OUTSIDE = torch.device("cpu")


class Residency:
    """The parts of one loaded model and the rung they are on. `brought` counts moves to the device, per part."""

    def __init__(self, parts: Parts, device: torch.device, outside: bool = False) -> None:
        """`outside`: the parts were loaded beside the device, which cannot hold them all; they start on "model"."""
        self._parts = {name: [module for module in modules if module is not None] for name, modules in parts.items()}
        self._device = device
        self._hooks: list[Any] = []
        self._here: set[str] = set(self._parts)
        self._tiled = False
        self.rung = "full"
        self.floor = "full"
        self.brought: dict[str, int] = dict.fromkeys(self._parts, 0)
        if outside:
            self._here.clear()
            self.step_to("model")

    @property
    def here(self) -> frozenset[str]:
        """The parts whose weights are on the device now."""
        return frozenset(self._here)

    def step_to(self, rung: str, tiled: bool = False) -> None:
        """Go to `rung`; `tiled`: with the autoencoder by tiles, also above the rung of that name. Down to "groups" and
        "fp8" there is no way back up but loading the model again."""
        step = RUNGS.index(rung)
        if step < RUNGS.index(self.rung) and RUNGS.index(self.rung) >= RUNGS.index("groups"):
            raise ValueError(f"cannot go from {self.rung} back to {rung}")
        before, self.rung = RUNGS.index(self.rung), rung
        self._unhook()
        self._tile(tiled or step >= RUNGS.index("tiled"))
        if step == 0:
            for part in self._parts:
                self._bring(part)
            return
        if step >= RUNGS.index("groups") > before:
            self._leave("denoiser")
        if rung == "fp8":
            self._store_in_8_bits()
        if step >= RUNGS.index("groups") > before:
            self._offload_groups()
        self._hook(alone=step >= RUNGS.index("model"), skip="denoiser" if step >= RUNGS.index("groups") else "")
        for part in self._parts:
            if step >= RUNGS.index("model") or part == "encoders":
                self._leave(part)

    def settle(self, rung: str, tiled: bool = False) -> None:
        """Go to the rung of an estimate, but never above `floor` (where memory ran out once) nor up from "groups"."""
        target = max(RUNGS.index(rung), RUNGS.index(self.floor))
        if target > RUNGS.index(self.rung) or RUNGS.index("groups") > RUNGS.index(self.rung) > target:
            self.step_to(RUNGS[target], tiled)
        self._tile(tiled or RUNGS.index(self.rung) >= RUNGS.index("tiled"))

    def _hook(self, alone: bool, skip: str) -> None:
        for part, modules in self._parts.items():
            away = [other for other in self._parts if other != part and (alone or other == "encoders")]

            def before(module: Any, args: Any, part: str = part, away: list[str] = away) -> None:
                for other in away:
                    self._leave(other)
                if part != skip:
                    self._bring(part)

            for module in modules:
                # An autoencoder is entered by its encoder or decoder, never by its own forward.
                for entrance in (module, *module.children()):
                    self._hooks.append(entrance.register_forward_pre_hook(before))

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _bring(self, part: str) -> None:
        if part not in self._here:
            self._move(part, self._device)
            self._here.add(part)
            self.brought[part] += 1

    def _leave(self, part: str) -> None:
        if part in self._here:
            self._move(part, _OUTSIDE)
            self._here.discard(part)

    def _move(self, part: str, device: torch.device) -> None:
        # Parameters made in inference mode could not be written to by a later LoRA.
        with torch.inference_mode(False), torch.no_grad():
            for module in self._parts[part]:
                module.to(device)

    def _tile(self, wanted: bool) -> None:
        for module in self._parts["autoencoder"]:
            if hasattr(module, "enable_tiling") and wanted != self._tiled:
                (module.enable_tiling if wanted else module.disable_tiling)()
                if wanted and hasattr(module, "tile_sample_min_size"):
                    factor = module.tile_sample_min_size // module.tile_latent_min_size
                    module.tile_sample_min_size, module.tile_latent_min_size = TILE_SIDE, TILE_SIDE // factor
        self._tiled = wanted

    def _offload_groups(self) -> None:
        from diffusers.hooks import apply_group_offloading

        for module in self._parts["denoiser"]:
            apply_group_offloading(
                module,
                onload_device=self._device,
                offload_device=_OUTSIDE,
                offload_type="leaf_level",
                use_stream=self._device.type == "cuda",
            )

    def _store_in_8_bits(self) -> None:
        for module in self._parts["denoiser"]:
            module.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=module.dtype)
