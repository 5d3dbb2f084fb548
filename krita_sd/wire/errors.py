# SPDX-License-Identifier: GPL-3.0-or-later
"""The closed set of error codes and the one exception that carries them across the wire.

    WireError            code, message (a plain sentence for a painter), hint (what to do next), retryable, job, ref

There is no tree of subclasses: callers decide by `code`, which survives the wire; a class would not.
"""

from __future__ import annotations

from enum import Enum
from typing import Any


class Code(str, Enum):
    """What went wrong. Closed: a peer that meets an unknown code treats it as `INTERNAL`."""

    BAD_REQUEST = "bad_request"
    UNSUPPORTED = "unsupported"
    UNAUTHORIZED = "unauthorized"
    VERSION = "version"
    TOO_LARGE = "too_large"
    BLOB_MISSING = "blob_missing"
    UNKNOWN_JOB = "unknown_job"
    QUEUE_FULL = "queue_full"
    MODEL_MISSING = "model_missing"
    MODEL_CORRUPT = "model_corrupt"
    MODEL_UNSAFE = "model_unsafe"
    MODEL_UNSUPPORTED = "model_unsupported"
    DEVICE_FAILED = "device_failed"
    OUT_OF_MEMORY = "out_of_memory"
    NAN_OUTPUT = "nan_output"
    FILTERED = "filtered"
    WORKER_DIED = "worker_died"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    DISK_FULL = "disk_full"
    PORT_TAKEN = "port_taken"
    INTERNAL = "internal"


class WireError(Exception):
    """An error with a code, a sentence for a painter and what to do next.

    `retryable` says whether the same request may succeed later; `job` names the job it belongs to; `ref` is the key
    under which the server's log has the traceback; `details` are extra JSON values of one code (for example
    `missing` of `blob_missing`).
    """

    def __init__(
        self,
        code: Code,
        message: str,
        hint: str = "",
        *,
        retryable: bool = False,
        job: str | None = None,
        ref: str | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.retryable = retryable
        self.job = job
        self.ref = ref
        self.details = dict(details or {})

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def to_json(self) -> dict[str, Any]:
        """JSON values of this error, without a `type`: used in the `error` message and in failed states."""
        out: dict[str, Any] = {"code": self.code.value, "message": self.message, "hint": self.hint}
        out["retryable"] = self.retryable
        if self.job is not None:
            out["job"] = self.job
        if self.ref is not None:
            out["ref"] = self.ref
        if self.details:
            out["details"] = self.details
        return out

    @classmethod
    def from_json(cls, data: Any) -> WireError:
        """Read what `to_json` wrote; tolerant, because an error must never be lost to another error."""
        if not isinstance(data, dict):
            return cls(Code.INTERNAL, "The server reported an error that could not be read.")
        try:
            code = Code(data.get("code"))
        except ValueError:
            code = Code.INTERNAL

        def text(key: str) -> str:
            value = data.get(key)
            return value if isinstance(value, str) else ""

        details = data.get("details")
        return cls(
            code,
            text("message") or "The server reported an error without a message.",
            text("hint"),
            retryable=data.get("retryable") is True,
            job=text("job") or None,
            ref=text("ref") or None,
            details=details if isinstance(details, dict) else None,
        )


def bad_request(message: str, hint: str = "", job: str | None = None) -> WireError:
    """The request itself is wrong; sending it again unchanged fails again."""
    return WireError(Code.BAD_REQUEST, message, hint, job=job)
