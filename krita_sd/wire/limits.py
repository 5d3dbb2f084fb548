# SPDX-License-Identifier: GPL-3.0-or-later
"""Every bound of the wire, with its unit. Both ends read them from here, so they cannot disagree."""

CHUNK = 256 * 1024
"""Bytes of payload in one binary frame. Small enough that a control message waits little behind a picture, and that
masking a frame in Python never holds the interpreter lock for 2 ms."""

MAX_MESSAGE = 1024 * 1024
"""Bytes of one websocket message (`max_size` on both ends). One byte more closes the connection with code 1009."""

MAX_HEADER = 64 * 1024
"""Bytes of the JSON header inside a binary frame."""

MAX_SIDE = 16384
"""Pixels along one side of a picture on the wire."""

MAX_PICTURE = 8192 * 8192 * 4
"""Bytes of one picture. Above it the answer is `too_large`; the connection lives."""

MAX_OPEN_UPLOADS = 16
"""Pictures of one peer that may be half received at the same time."""

MAX_OPEN_BYTES = 2 * MAX_PICTURE
"""Bytes that half received pictures of one peer may occupy together."""

MAX_PROMPT = 20_000
"""Characters of a prompt or negative prompt."""

MAX_NAME = 256
"""Characters of an identifier (model, LoRA, job, session, client name)."""

MAX_LORAS = 16
"""LoRAs in one recipe."""

MAX_CONTROLS = 12
"""Control layers of one recipe."""

MAX_COUNT = 200
"""Images in one job."""

MAX_STEPS = 150
MAX_GUIDANCE = 30.0
MAX_SEED = 2**63 - 1
MAX_LORA_WEIGHT = 2.0
MAX_CONTROL_WEIGHT = 2.0
MAX_FEATHER = 4096
"""Pixels of feather or grow, in document space."""

MAX_JSON_DEPTH = 16
"""Levels of nesting in a control message or frame header."""

MAX_HASHES = 256
"""Hashes in one `have` or `blob_missing`."""

PING_SECONDS = 8.0
"""Interval of websocket pings; with the timeout below a half-open socket is noticed within 25 s."""

PING_TIMEOUT_SECONDS = 12.0
