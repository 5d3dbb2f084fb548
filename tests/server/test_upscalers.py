# SPDX-License-Identifier: GPL-3.0-or-later
"""Upscalers of the extra on the server: what the list says of them."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest

from krita_sd.wire.errors import WireError
from server.library import Library
from tests.server.test_library import pack


def test_upscalers_are_usable_only_where_something_runs_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hat = ("conv_first.weight", "layers.0.residual_group.overlap_attn.qkv.weight")
    headers: dict[str, dict[str, tuple[int, ...]]] = {
        "hat": dict.fromkeys(hat, (12, 3, 3, 3)),
        "averaged": {f"params_ema.{name}": (12, 3, 3, 3) for name in hat},
        "grey": dict.fromkeys(hat, (12, 1, 3, 3)),
        "strange": {"conv_first.weight": (12, 3, 3, 3), "groups.0.weight": (1,)},
        "esrgan": {"conv_first.weight": (8, 3, 3, 3), "body.0.rdb1.conv1.weight": (4, 8, 3, 3)},
    }
    for name, shapes in headers.items():
        table, position = {}, 0
        for tensor_name, shape in shapes.items():
            size = math.prod(shape)
            table[tensor_name] = {"dtype": "U8", "shape": list(shape), "data_offsets": [position, position + size]}
            position += size
        (tmp_path / f"{name}.safetensors").write_bytes(pack(table, bytes(position)))
    library = Library([tmp_path], None)

    def listed(present: bool) -> dict[str, str]:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: present or None)
        library.scan()
        assert {entry.kind for entry in library.entries} == {"upscaler"}
        return {entry.name: entry.problem for entry in library.entries}

    without = listed(False)
    assert without["esrgan"] == "" and "install.py --with upscalers" in without["hat"]
    assert without["averaged"] == without["hat"].replace("hat.", "averaged.")
    with pytest.raises(WireError, match="is a HAT network"):
        library.find(next(entry.id for entry in library.entries if entry.name == "hat"), "upscaler")
    # Installed since: the same files, scanned again.
    after = listed(True)
    assert {name for name, problem in after.items() if not problem} == {"esrgan", "hat", "averaged"}
    assert "1 channels" in after["grey"] and "not known here" in after["strange"]
    assert listed(False) == without
