# SPDX-License-Identifier: GPL-3.0-or-later
"""The state folder: one server at a time in it, its token, and `server.json` that says where it listens."""

from __future__ import annotations

import json
import os
import secrets
import sys
from pathlib import Path
from typing import IO, Any

from krita_sd.wire.errors import Code, WireError

MAX_TOKEN = 512


class StateFolder:
    """`open` takes the lock and makes the token; `close` gives both back. Files are made with mode 0600."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[bytes] | None = None

    @property
    def pictures(self) -> Path:
        return self.path / "pictures"

    @property
    def journal(self) -> Path:
        return self.path / "journal.db"

    def open(self) -> None:
        """Make the folder and lock it. Raises WireError with one sentence when that cannot be done."""
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.pictures.mkdir(exist_ok=True, mode=0o700)
            # Not truncated: another server may hold it.
            self._lock = open(self.path / "lock", "ab")
        except OSError as error:
            raise WireError(
                Code.DISK_FULL if error.errno == 28 else Code.BAD_REQUEST,
                f"The state folder {self.path} cannot be used ({error.strerror}).",
                "Name another one with --state.",
            ) from None
        if not _lock_file(self._lock):
            self._lock.close()
            self._lock = None
            other = read_server_file(self.path)
            where = f" (process {other['pid']}, port {other['port']})" if other else ""
            raise WireError(
                Code.PORT_TAKEN,
                f"Another server is already running with the state folder {self.path}{where}.",
                "Use that one, stop it, or name another folder with --state.",
            )

    def token(self, file: Path | None = None) -> str:
        """The bearer token: read from the file, which is made with a new one when it is missing or empty."""
        file = file or self.path / "token"
        try:
            existing = file.read_text("ascii").strip() if file.exists() else ""
        except (OSError, UnicodeDecodeError):
            raise WireError(
                Code.BAD_REQUEST, f"The token file {file} cannot be read.", "Delete it; a new one is made."
            ) from None
        if existing:
            if len(existing) > MAX_TOKEN or not existing.isprintable() or " " in existing:
                raise WireError(
                    Code.BAD_REQUEST,
                    f"The token file {file} does not hold a token.",
                    "Delete it; a new one is made.",
                )
            _make_private(file)
            return existing
        token = secrets.token_urlsafe(32)
        write_private(file, token + "\n")
        return token

    def publish(self, information: dict[str, Any]) -> None:
        """Write server.json."""
        write_private(self.path / "server.json", json.dumps(information) + "\n")

    def close(self) -> None:
        """Remove server.json and release the lock."""
        if self._lock is not None:
            (self.path / "server.json").unlink(missing_ok=True)
            self._lock.close()
            self._lock = None


def read_server_file(folder: Path) -> dict[str, Any] | None:
    """What server.json says, or None when it is missing or unreadable. It may be stale: its server may be gone."""
    try:
        data = json.loads((folder / "server.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(data, dict) and isinstance(data.get("pid"), int) and isinstance(data.get("port"), int)
    return data if known else None


def write_private(file: Path, text: str) -> None:
    """Replace `file` in one step; readable by its owner only from its first byte on. Raises WireError."""
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(temporary, file)
    except OSError as error:
        raise WireError(
            Code.BAD_REQUEST, f"The file {file} cannot be written ({error.strerror}).", "Name another folder."
        ) from None


def _make_private(file: Path) -> None:
    if os.name == "posix" and file.stat().st_mode & 0o077:
        try:
            file.chmod(0o600)
        except OSError:
            pass  # somebody else's file, deliberately shared; the token is theirs to protect


def _lock_file(stream: IO[bytes]) -> bool:
    if sys.platform == "win32":
        import msvcrt

        try:
            stream.seek(0)
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
