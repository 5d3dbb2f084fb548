# SPDX-License-Identifier: GPL-3.0-or-later
"""What every test needs: no network library reaches out, and libraries do not fight over the cores."""

from __future__ import annotations

import os

# Set before any test imports torch or transformers; the suite must pass on a machine without a network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
