# SPDX-License-Identifier: GPL-3.0-or-later
"""What models exist: folders are scanned, safetensors headers read, families told apart. Imports no torch."""

from __future__ import annotations

from .scan import Library, ModelEntry

__all__ = ["Library", "ModelEntry"]
